# SPDX-License-Identifier: Apache-2.0
"""Samplers: which dataset rows a training run visits, and in which order."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Sampler

from ..batch.rollouts import prompt_key


if TYPE_CHECKING:
    from trl.trainer.utils import RepeatSampler

    from ..components import PromptSelector

logger = logging.getLogger(__name__)


class EpochRepeatSampler(Sampler[int]):
    """
    TRL's `RepeatSampler`, whose order in epoch e is the same whether the run started at epoch 0 or resumed there.

    TRL draws one permutation after the other from one generator, which a resumed run starts again. Here the generator
    is reset and advanced by e draws, so every epoch has TRL's order, also after a restart.

    Args:
        sampler (`RepeatSampler`): TRL's sampler.
        step (`Callable[[], int]`): Returns the optimizer steps done. The epoch is computed from it, because `set_epoch`
            does not reach the sampler when several processes resume within an epoch.
        gradient_accumulation_steps (`int`, *optional*, defaults to `1`): Batches of the loader per optimizer step.

    Raises:
        `ValueError`: If there are fewer rows than prompts in a generation batch: no step would be trained.
    """

    def __init__(self, sampler: RepeatSampler, step: Callable[[], int], gradient_accumulation_steps: int = 1):
        if sampler.num_samples < sampler.batch_size:
            raise ValueError(
                f"The train dataset has {sampler.num_samples} rows, but {sampler.batch_size} prompts are rolled out at a time "
                "(generation_batch_size // num_generations): no step would be trained. Lower per_device_train_batch_size, "
                "steps_per_generation or gradient_accumulation_steps, or repeat rows (repeat_example)."
            )
        self.sampler = sampler
        self.step = step
        batches = len(sampler) // (sampler.batch_size * sampler.mini_repeat_count)
        self.steps_per_epoch = max(math.ceil(batches / gradient_accumulation_steps), 1)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        self._rewind(self.step() // self.steps_per_epoch)
        return iter(self.sampler)

    def order(self, epoch: int) -> list[int]:
        """Return every row in the order of an epoch, including those that an incomplete last batch leaves out."""
        self._rewind(epoch)
        rows = self.sampler.num_samples
        if not self.sampler.shuffle:
            return list(range(rows))
        return torch.randperm(rows, generator=self.sampler.generator).tolist()

    def _rewind(self, epoch: int) -> None:
        if self.sampler.shuffle:
            self.sampler.generator.manual_seed(self.sampler.seed)
            for _ in range(epoch):
                torch.randperm(self.sampler.num_samples, generator=self.sampler.generator)


class SelectingSampler(EpochRepeatSampler):
    """
    Yields the same number of generation batches as TRL's sampler, of prompts that a [`PromptSelector`] chooses.

    Each batch is chosen among the next rows in TRL's order. Rows that are not chosen are skipped, and later rows replace
    them; when an epoch runs out of rows, its order begins again.

    The rows chosen so far in the epoch are saved with the checkpoint. The loader reads ahead, so some of them are not
    trained on yet; they are neither lost nor chosen again when the run is resumed.

    Args:
        sampler, step, gradient_accumulation_steps: As for [`EpochRepeatSampler`].
        selector ([`PromptSelector`]): Chooses among rows; must make the same choice on every process.
    """

    name = "prompt_order"  # key in the saved state

    def __init__(
        self,
        sampler: RepeatSampler,
        selector: PromptSelector,
        step: Callable[[], int],
        gradient_accumulation_steps: int = 1,
    ):
        super().__init__(sampler, step, gradient_accumulation_steps)
        self.selector = selector
        self.epoch = 0
        self.cursor = 0  # place in the epoch's order of the next row to be considered
        self.chosen: list[int] = []  # rows chosen in this epoch
        self._resumed = False

    def __iter__(self) -> Iterator[int]:
        rows, count = self.sampler.data_source, self.sampler.batch_size
        epoch = self.step() // self.steps_per_epoch
        if not self._resumed or epoch != self.epoch:
            self.epoch, self.cursor, self.chosen = epoch, 0, []
        self._resumed = False
        order = self.order(epoch)
        window = candidate_count(self.selector, count, len(rows))
        candidates: list[dict[str, Any]] = []
        for start in range(0, len(rows) // count * count, count):
            if start == len(self.chosen):  # a resumed epoch has chosen some already
                for place in range(self.cursor + len(candidates), self.cursor + window):
                    row = rows[order[place % len(rows)]]
                    candidates.append({**row, "prompt_key": prompt_key(row)})
                positions = choose_positions(self.selector, candidates, count, self.step())
                self.chosen += [order[(self.cursor + position) % len(rows)] for position in positions]
                self.cursor += max(positions) + 1
                del candidates[: max(positions) + 1]
            for _ in range(self.sampler.repeat_count):
                for row in self.chosen[start : start + count]:
                    yield from itertools.repeat(row, self.sampler.mini_repeat_count)

    def state_dict(self) -> dict[str, Any]:
        return {
            "num_rows": len(self.sampler.data_source),
            "epoch": self.epoch,
            "cursor": self.cursor,
            "chosen": torch.tensor(self.chosen, dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        num_rows = len(self.sampler.data_source)
        if state["num_rows"] != num_rows:
            logger.warning(
                "The checkpoint's prompts were chosen from %d rows, this dataset has %d: the epoch's prompts are chosen "
                "again.",
                state["num_rows"],
                num_rows,
            )
            return
        self.epoch, self.cursor, self.chosen = state["epoch"], state["cursor"], state["chosen"].tolist()
        # Another number of processes may use other batches: an incomplete batch is chosen again.
        del self.chosen[len(self.chosen) // self.sampler.batch_size * self.sampler.batch_size :]
        self._resumed = True


def candidate_count(selector: PromptSelector, count: int, rows: int) -> int:
    """
    Return how many rows a selector chooses from.

    Args:
        selector ([`PromptSelector`]): The selector.
        count (`int`): How many rows it has to choose.
        rows (`int`): Rows of the dataset.
    """
    each = selector.candidates_per_prompt
    if each is None:
        return rows
    return min(each * count, rows)


def choose_positions(selector: PromptSelector, candidates: list[dict[str, Any]], count: int, step: int) -> list[int]:
    """
    Ask a selector and check its answer. The arguments are those of [`PromptSelector.choose`].

    Raises:
        `ValueError`: If the selector did not return `count` distinct positions of candidates.
    """
    positions = selector.choose(candidates, count, step)
    if len(positions) != count or len(set(positions) & set(range(len(candidates)))) != count:
        raise ValueError(
            f"{type(selector).__name__}.choose returned {positions}; expected {count} distinct positions "
            f"among {len(candidates)} candidates."
        )
    return positions
