# SPDX-License-Identifier: Apache-2.0
"""Which dataset rows a training run visits, in which order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Sampler

from .rollouts import prompt_key


if TYPE_CHECKING:
    from trl.trainer.utils import RepeatSampler

    from .components import PromptSelector

# How many rows a selector may choose from, per row that it must choose.
_CANDIDATES_PER_PROMPT = 4


class EpochRepeatSampler(Sampler[int]):
    """
    TRL's `RepeatSampler`, whose order in epoch e is the same whether the run started at epoch 0 or resumed there.

    TRL draws one permutation after the other from one generator, which a resumed run starts anew. Here the generator
    is set back and moved on by e draws, so every epoch has TRL's own order and is found again after a restart.

    Args:
        sampler (`RepeatSampler`): TRL's sampler.
    """

    def __init__(self, sampler: RepeatSampler):
        self.sampler = sampler
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        self._rewind()
        return iter(self.sampler)

    def _rewind(self) -> None:
        if self.sampler.shuffle:
            self.sampler.generator.manual_seed(self.sampler.seed)
            for _ in range(self.epoch):
                torch.randperm(self.sampler.num_samples, generator=self.sampler.generator)


class SelectingSampler(EpochRepeatSampler):
    """
    As many generation batches as TRL's sampler gives, of prompts that a [`PromptSelector`] chooses.

    Each batch is chosen among the next rows in TRL's order. The rows passed over are skipped, and rows that follow take
    their place; once an epoch has used up its rows, its order begins again.

    Args:
        sampler (`RepeatSampler`): TRL's sampler.
        selector ([`PromptSelector`]): Chooses among rows; must decide alike on every process.
        step (`Callable[[], int]`): Tells the optimizer steps done.
    """

    def __init__(self, sampler: RepeatSampler, selector: PromptSelector, step: Callable[[], int]):
        super().__init__(sampler)
        self.selector = selector
        self.step = step

    def __iter__(self) -> Iterator[int]:
        self._rewind()
        rows, count = self.sampler.data_source, self.sampler.batch_size
        order = range(len(rows))
        if self.sampler.shuffle:
            order = torch.randperm(len(rows), generator=self.sampler.generator).tolist()
        following = itertools.cycle(order)
        window = min(_CANDIDATES_PER_PROMPT * count, len(rows))
        upcoming: list[int] = []
        for _ in range(len(rows) // count):
            while len(upcoming) < window:
                row = next(following)
                if row not in upcoming:
                    upcoming.append(row)
            candidates = [{**rows[row], "prompt_key": prompt_key(rows[row])} for row in upcoming]
            chosen = self.selector.choose(candidates, count, self.step())
            if len(chosen) != count or len(set(chosen) & set(range(window))) != count:
                raise ValueError(
                    f"{type(self.selector).__name__}.choose returned {chosen}; expected {count} distinct positions "
                    f"among {window} candidates."
                )
            for _ in range(self.sampler.repeat_count):
                for position in chosen:
                    yield from itertools.repeat(upcoming[position], self.sampler.mini_repeat_count)
            upcoming = upcoming[max(chosen) + 1 :]
