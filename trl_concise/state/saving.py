# SPDX-License-Identifier: Apache-2.0
"""[`SavesState`], the mixin of the GRPO trainers: what a checkpoint holds in addition to that of transformers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpoint import load_components, save_components
from .reference_model import load_reference_model, save_reference_model
from .resume import clear_checkpoint, explain_disk_full
from .rollout_block import drop_rollout_block, load_rollout_block, save_rollout_block
from .step_start import StepStart


if TYPE_CHECKING:
    from transformers import Trainer as _Mixed  # attributes of the classes that this mixin is used with

    from ..components import Component, Stateful
    from ..evaluation.watch import WatchSet
else:
    _Mixed = object

logger = logging.getLogger(__name__)


class SavesState(_Mixed):
    """
    Mixin for a trainer with components: saves and restores their state, the order of the prompts, the completions that are not yet
    trained on, and a reference model that moves. Comes before the trainer among the bases.
    """

    components: Sequence[Component]
    watch_set: WatchSet | None
    _step_start: StepStart
    _keeps_reference: bool  # whether the reference moves, so that checkpoints hold it
    _reference_tensors: Callable[[], dict[str, torch.Tensor]]

    def _saved_components(self) -> list[Stateful]:
        """Return every object whose state is saved."""
        raise NotImplementedError

    def _unfinished_block(self) -> tuple[int, list[dict[str, Any]]] | None:
        """Return the micro-steps done and the batches of a generation block that is not finished, or `None`."""
        raise NotImplementedError

    def _continue_block(self, micro_step: int, batches: list[dict[str, Any]]) -> None:
        """Restore what [`~SavesState._unfinished_block`] returned."""
        raise NotImplementedError

    def _save_checkpoint(self, model, trial):
        # DeepSpeed updates the weights in the backward pass of the last micro-step.
        is_updated = self.is_deepspeed_enabled and self.accelerator.sync_gradients
        with self._step_start.restored(is_updated):
            if self.args.should_save:
                folder = Path(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
                clear_checkpoint(folder)
            self.accelerator.wait_for_everyone()  # before another process writes its file
            with explain_disk_full(self.args.output_dir):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # callbacks find what each process writes

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        # Here rather than after the checkpoint: the push to the Hub starts before `_save_checkpoint` returns.
        if self.args.should_save:
            save_components(self._step_start.states or self._saved_components(), output_dir)
            if self._keeps_reference:
                save_reference_model(output_dir, self._reference_tensors())
            if self.watch_set is not None:
                self.watch_set.save(output_dir)
        if (block := self._unfinished_block()) is not None:
            micro_step, batches = block
            save_rollout_block(
                output_dir,
                batches,
                micro_step=micro_step,
                process_index=self.accelerator.process_index,
                num_processes=self.accelerator.num_processes,
            )
        else:  # in a folder that is written anew
            drop_rollout_block(output_dir, self.accelerator.process_index)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        fresh = load_components(self._saved_components(), checkpoint)
        if self.components and fresh is None:
            logger.warning(
                "%s was written by a trainer without components, or with save_only_model=True: %s start with an empty state.",
                checkpoint,
                [component.name for component in self.components],
            )
        elif fresh:
            logger.warning("%s holds no state of %s: they start with an empty one.", checkpoint, fresh)
        if self._keeps_reference:
            load_reference_model(checkpoint, self._reference_tensors())
        if self.watch_set is not None:
            self.watch_set.load(checkpoint)
        block = load_rollout_block(
            checkpoint,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            block_steps=self.args.steps_per_generation,
            device=self.accelerator.device,
        )
        # A process that lacks its file, for example on a local disk, generates: then the others have to do so too.
        have = gather(torch.tensor([block is not None], device=self.accelerator.device))
        if block is not None and have.all():
            self._continue_block(*block)
        elif have.any():
            logger.warning(
                "%s holds the rollouts of some processes only: all prompts are rolled out again.", checkpoint
            )
