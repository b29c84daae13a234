# SPDX-License-Identifier: Apache-2.0
"""
Prompts in sampling order, taken as many at a time as a trainer needs.

TRL's data loader returns a fixed number of prompts per generation batch, and reads ahead. A [`GroupFilter`] that refills needs
further prompts for the current batch, and the next batch continues after them. With such a filter, the trainer takes its prompts
from a queue; the data loader then only counts batches and epochs.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..batch.rollouts import prompt_key
from .sampling import EpochRepeatSampler, candidate_count, choose_positions


if TYPE_CHECKING:
    from datasets import IterableDataset

    from ..components import PromptSelector

logger = logging.getLogger(__name__)


class PromptQueue:
    """
    The rows of a dataset, pass after pass, in the order of the sampler of TRL.

    Pass p has the order of epoch p in a run without a queue. All state is one number: how many rows were taken or skipped.

    Args:
        sampler ([`EpochRepeatSampler`]): Gives the rows and their order in each pass.
        selector ([`PromptSelector`], *optional*): Chooses among the next rows; must make the same choice on every process.

    Attributes:
        position (`int`): Rows taken or skipped since the beginning of the run.
    """

    name = "prompt_queue"  # key in the saved state

    def __init__(self, sampler: EpochRepeatSampler, selector: PromptSelector | None = None):
        self.sampler = sampler
        self.selector = selector
        self.position = 0
        self._orders: dict[int, list[int]] = {}  # of the passes in use

    def take(self, count: int, *, is_batch: bool = False) -> list[dict[str, Any]]:
        """
        Return the next rows and move on. Every process calls this.

        Args:
            count (`int`): How many rows, at most the length of the dataset. They are distinct.
            is_batch (`bool`, *optional*, defaults to `False`): Whether the rows are a whole generation batch. Such a batch does
                not continue in the next pass: like TRL, it skips the end of a pass that has too few rows. With a selector, no row
                is skipped for this reason.

        Returns:
            `list[dict[str, Any]]`: Rows of the dataset.
        """
        rows = self.sampler.sampler.data_source
        if is_batch and self.selector is None and self.position % len(rows) + count > len(rows):
            self.position += -self.position % len(rows)
        window = candidate_count(self.selector, count, len(rows)) if self.selector is not None else count
        places: dict[int, int] = {}  # row -> its position; distinct, also where a pass ends
        for position in itertools.count(self.position):
            if len(places) == window:
                break
            places.setdefault(self._row_at(position), position)
        if self.selector is None:
            chosen = list(places)
        else:
            candidates = [{**rows[row], "prompt_key": prompt_key(rows[row])} for row in places]
            positions = choose_positions(self.selector, candidates, count, self.sampler.step())
            chosen = [list(places)[position] for position in positions]
        self.position = 1 + max(places[row] for row in chosen)
        return [rows[row] for row in chosen]

    def _row_at(self, position: int) -> int:
        rows = len(self.sampler.sampler.data_source)
        index, place = divmod(position, rows)
        if index not in self._orders:
            first = self.position // rows
            self._orders = {known: order for known, order in self._orders.items() if known >= first}
            self._orders[index] = self.sampler.order(index)
        return self._orders[index][place]

    def state_dict(self) -> dict[str, Any]:
        return {"num_rows": len(self.sampler.sampler.data_source), "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows = len(self.sampler.sampler.data_source)
        self.position = state["position"]
        if state["num_rows"] != rows:
            logger.warning(
                "The checkpoint's prompts are from a dataset of %d rows, this one has %d: the pass over the dataset begins again.",
                state["num_rows"],
                rows,
            )
            self.position = self.position // state["num_rows"] * rows


class StreamQueue:
    """
    The rows of a streamed dataset, pass after pass. The main process reads them and sends them to the others.

    Args:
        dataset (`IterableDataset`): Read again from the beginning in each pass, in another order if it is shuffled.

    Attributes:
        passes (`int`): Complete passes.
        place (`int`): Rows taken or skipped in the current pass.
    """

    name = "prompt_queue"

    def __init__(self, dataset: IterableDataset):
        self.dataset = dataset
        self.passes = self.place = 0
        self._rows: Iterator[dict[str, Any]] | None = None

    def take(self, count: int, *, is_batch: bool = False) -> list[dict[str, Any]]:
        """As [`PromptQueue.take`]. Rows are distinct within a pass only."""
        sent: list[Any] = [self._read(count, is_batch), self.passes, self.place]
        broadcast_object_list(sent)
        rows, self.passes, self.place = sent
        return rows

    def _read(self, count: int, is_batch: bool) -> list[dict[str, Any]]:
        if not PartialState().is_main_process:
            return []
        if self._rows is None:
            self._rows = self._read_pass()
        taken: list[dict[str, Any]] = []
        while len(taken) < count:
            row = next(self._rows, None)
            if row is not None:
                self.place += 1
                taken.append(row)
                continue
            if is_batch and self.place <= len(taken) or self.place == 0:
                raise ValueError(
                    f"The streamed train dataset has {self.place} rows, but {count} prompts are rolled out at a time. Lower "
                    "per_device_train_batch_size, steps_per_generation or gradient_accumulation_steps, or add rows."
                )
            if is_batch:
                taken = []
            self.passes, self.place = self.passes + 1, 0
            self._rows = self._read_pass()
        return taken

    def _read_pass(self) -> Iterator[dict[str, Any]]:
        self.dataset.set_epoch(self.passes)
        return itertools.islice(iter(self.dataset), self.place, None)

    def state_dict(self) -> dict[str, Any]:
        return {"passes": self.passes, "place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.passes, self.place = state["passes"], state["place"]
        self._rows = None
