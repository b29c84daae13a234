# SPDX-License-Identifier: Apache-2.0
"""Mixin for TRL trainers that writes the model card and decides what is uploaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from ..config import pickled_as_settings
from ..evaluation.runs import FACTS_FILE
from ..state.checkpoint import save_components, write_atomically
from .card import copy_card, write_card
from .facts import write_facts


if TYPE_CHECKING:
    from transformers import Trainer as _Mixed  # what the methods below find in the classes that they are mixed into

    from ..components import Component
    from ..state.history import PromptHistory
else:
    _Mixed = object


class WritesCard(_Mixed):
    """
    Completes the model card that a TRL trainer writes, and keeps private settings out of the files that transformers uploads
    with the model. It precedes that trainer among the bases.

    While transformers uploads the output folder in the background, the card and what goes with it stay as they are: the
    upload fails as a whole if a large file is not the one that it has hashed. They are written before the next upload.

    Attributes:
        components (`Sequence[Component]`): Components whose papers, settings and state belong to the model.
        history ([`PromptHistory`], *optional*): What they remember about each prompt.
    """

    components: Sequence[Component] = ()
    _card_arguments: Mapping[str, Any] = MappingProxyType({})  # of the last call of create_model_card
    _late_card: LateCard | None = None

    @property
    def history(self) -> PromptHistory | None:
        """Lengths and visits per prompt; `None` if no component remembers them."""
        return None

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        self._card_arguments = {"model_name": model_name, "dataset_name": dataset_name, "tags": tags}
        if self._is_uploading():
            if self._late_card is None:
                self._late_card = LateCard(self)
                self.add_callback(self._late_card)
            self._late_card.waits = True
            return
        if self._late_card is not None:
            self._late_card.waits = False
        super().create_model_card(model_name=model_name, dataset_name=dataset_name, tags=tags)
        if not self.is_world_process_zero():
            return
        # TRL and transformers call this before every push of the output folder, so files to be pushed are written there.
        self._save_public_state()
        if self.components:
            save_components(self.components, self.args.output_dir)
        write_facts(self)
        write_card(self.args.output_dir)

    def save_model(self, output_dir=None, _internal_call=False):
        run = Path(self.args.output_dir)
        folder = Path(output_dir) if output_dir is not None else run
        card = folder / "README.md"
        in_run = folder.resolve().is_relative_to(run.resolve())
        is_ours = in_run or not card.exists() or (folder / FACTS_FILE).exists()  # else the user's
        super().save_model(output_dir, _internal_call)
        if not self.is_world_process_zero() or not card.exists() or not is_ours:
            return
        # PEFT writes a card wherever it saves an adapter, or edits ours: with the path of a local base model, without tags.
        self.create_model_card(**self._card_arguments)
        copy_card(run, folder)

    def _save(self, output_dir=None, state_dict=None):
        with pickled_as_settings(self.args):
            super()._save(output_dir, state_dict)

    def _push_from_checkpoint(self, checkpoint_folder):
        with pickled_as_settings(self.args):
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_public_state(self) -> None:
        """Save the log and the step into the output folder, without the path of the folder."""
        self.save_state()
        best = self.state.best_model_checkpoint
        if best is not None:
            path = Path(self.args.output_dir, TRAINER_STATE_NAME)
            state = json.loads(path.read_text(encoding="utf-8")) | {"best_model_checkpoint": Path(best).name}
            write_atomically(path, (json.dumps(state, indent=2, sort_keys=True) + "\n").encode())

    def push_to_hub(self, *args, **kwargs):
        if getattr(self, "push_in_progress", None) is not None:
            self.push_in_progress.wait_until_done()  # transformers does so only after it has written into the folder
        return super().push_to_hub(*args, **kwargs)

    def _is_uploading(self) -> bool:
        push = getattr(self, "push_in_progress", None)
        return push is not None and not push.is_done() and not self.args.hub_always_push


class LateCard(TrainerCallback):
    """
    Writes the card that could not be written during an upload, when the next one begins or training ends.

    Args:
        trainer ([`WritesCard`]): Whose card it is.
    """

    def __init__(self, trainer: WritesCard):
        self.trainer = trainer
        self.waits = False

    def on_push_begin(self, args, state, control, **kwargs):
        if self.waits:
            self.trainer.create_model_card(**self.trainer._card_arguments)

    def on_train_end(self, args, state, control, **kwargs):
        if self.waits:
            self.trainer.push_in_progress.wait_until_done()  # as transformers does next
            self.trainer.create_model_card(**self.trainer._card_arguments)
