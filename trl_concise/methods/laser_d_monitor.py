# SPDX-License-Identifier: Apache-2.0
"""Regular sampling of the policy on a fixed set of training prompts, for methods that adapt to the results."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback


if TYPE_CHECKING:
    from ..components import TrainerView


class PolicyMonitor(TrainerCallback):
    """
    Samples completions of a fixed set of prompts every few steps, before the step generates its own.

    The prompts are split between the processes, and every process receives all figures. The random state of the run
    does not change, so a run draws the same training completions with and without a monitor.

    Args:
        trainer ([`TrainerView`]):
            Trainer whose policy is sampled and whose correctness function judges.
        prompts (`int`):
            Size of the set, drawn once from the training dataset with `args.seed`; at most the size of the dataset.
        generations (`int`):
            Completions per prompt.
        every (`int`):
            Optimizer steps between two samplings; the first is before the first step.
        receive (`Callable[[Tensor, Tensor], None]`):
            Called with lengths (int64 tokens, EOS excluded) and correctness (float32: 1, 0, NaN), both
            `(prompts, generations)`, the same on every process.

    Raises:
        `ValueError`: If the training dataset cannot be indexed, or has fewer prompts than there are processes; if the
            trainer has tools or environments.
    """

    def __init__(
        self,
        trainer: TrainerView,
        prompts: int,
        generations: int,
        every: int,
        receive: Callable[[Tensor, Tensor], None],
    ):
        if not isinstance(trainer.train_dataset, Dataset):
            raise ValueError(
                "A monitor set is drawn from the training dataset, which a streamed one does not allow. Load it as a "
                "Dataset (streaming=False)."
            )
        if trainer.tools or trainer.environment_factories is not None:
            raise ValueError(
                "A monitor generates without tools and environments, so it would judge another policy than the one that is "
                "trained. Train without them."
            )
        processes, index = trainer.accelerator.num_processes, trainer.accelerator.process_index
        size = min(prompts, len(trainer.train_dataset)) // processes * processes  # the same number on every process
        if not size:
            raise ValueError(
                f"A monitor set needs a prompt per process: got {prompts} prompts on {processes} processes."
            )
        chosen = random.Random(trainer.args.seed).sample(range(len(trainer.train_dataset)), size)
        self.rows: list[Mapping[str, Any]] = [trainer.train_dataset[row] for row in chosen[index::processes]]
        self.trainer = trainer
        self.generations = generations
        self.every = every
        self.receive = receive

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            self.receive(*self.sample())

    def sample(self) -> tuple[Tensor, Tensor]:
        """Generate completions and return lengths and correctness of the whole set, `(prompts, generations)` each."""
        lengths, correct = sample_rows(self.trainer, self.rows, self.generations)
        return gather(lengths), gather(correct)


def sample_rows(trainer: TrainerView, rows: Sequence[Mapping[str, Any]], generations: int) -> tuple[Tensor, Tensor]:
    """
    Sample completions of some rows, at most as many at once as in training. Every process calls this, with equally many rows.

    Args:
        trainer ([`TrainerView`]): Trainer whose policy is sampled and whose correctness function judges.
        rows (`Sequence[Mapping[str, Any]]`): The rows of this process.
        generations (`int`): Completions per row.

    Returns:
        `tuple[Tensor, Tensor]`: Lengths (int64 tokens, EOS excluded) and correctness (float32: 1, 0, NaN), both
        `(len(rows), generations)`.
    """
    at_once = (
        trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation
    )  # completions, as in training
    rows_at_once = max(at_once // generations, 1)
    samples = []
    for start in range(0, len(rows), rows_at_once):
        some = rows[start : start + rows_at_once]
        rollouts = trainer.generate_rollouts(some, generations)
        samples.append((rollouts.lengths, trainer.judge_rollouts(some, rollouts)))
    lengths, correct = (torch.cat(column).view(-1, generations) for column in zip(*samples, strict=True))
    return lengths, correct
