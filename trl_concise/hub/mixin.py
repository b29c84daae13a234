# SPDX-License-Identifier: Apache-2.0
"""How a trainer of TRL's comes to leave our model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint import save_components
from .card import copy_card, write_card
from .facts import FACTS_FILE, write_facts


if TYPE_CHECKING:
    from ..components import Component
    from ..history import PromptHistory


class WritesCard:
    """
    Completes the model card that a trainer of TRL's writes. Stands before that trainer among the bases.

    Attributes:
        components (`Sequence[Component]`): Parts whose papers, settings and state belong to the model.
        history ([`PromptHistory`], *optional*): What they remember about each prompt.
    """

    components: Sequence[Component] = ()
    history: PromptHistory | None = None

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        super().create_model_card(model_name=model_name, dataset_name=dataset_name, tags=tags)
        if not self.is_world_process_zero():
            return
        # TRL and transformers call this before every push, and push the output folder: what is to go with it gets there.
        self.save_state()
        if self.components:
            save_components(self.components, self.args.output_dir)
        write_facts(self)
        write_card(self.args.output_dir)

    def save_model(self, output_dir=None, _internal_call=False):
        super().save_model(output_dir, _internal_call)
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        if not self.is_world_process_zero() or not (folder / "README.md").exists():
            return
        # PEFT writes a card wherever it saves an adapter, or edits ours: with the path of a local base model, without tags.
        if Path(self.args.output_dir, FACTS_FILE).exists():
            write_card(self.args.output_dir)
        else:
            self.create_model_card()
        copy_card(self.args.output_dir, folder)
