# SPDX-License-Identifier: Apache-2.0
"""Which rows are visited: the steps of ScaleBiO's trainer, and [`SourceMixture`], which chooses prompts by shares in GRPO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from ..components import Paper, PromptSelector, TrainerView
from .scale_bio_data import DIGITS, SOURCE, check_shares, shuffled


SOURCE_ID = "scale_bio_source"  # column with the index of a row's source, -1 for the validation set

SCALE_BIO_PAPER = Paper(
    title="ScaleBiO: Scalable Bilevel Optimization for LLM Data Reweighting",
    id="2406.19976",
    # docstyle-ignore
    citation="""\
@inproceedings{pan2025scalebio,
    title        = {{ScaleBiO: Scalable Bilevel Optimization for LLM Data Reweighting}},
    author       = {Rui Pan and Dylan Zhang and Hanning Zhang and Xingyuan Pan and Minrui Xu and Jipeng Zhang and Renjie Pi and Xiaoyu Wang and Tong Zhang},
    year         = 2025,
    booktitle    = {Annual Meeting of the Association for Computational Linguistics},
    eprint       = {arXiv:2406.19976}
}""",
    reconstructed="one loss for all gradients, stratified batches, largest remainder, and the deficit rule",
)


@dataclass
class SourceCollator:
    """
    Data collator that adds the index of each row's source to another collator's batch.

    Args:
        collator (`Callable`): The other collator.
    """

    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        plain = [{name: value for name, value in row.items() if name != SOURCE_ID} for row in rows]
        return {**self.collator(plain), SOURCE_ID: torch.tensor([row.get(SOURCE_ID, -1) for row in rows])}


class StratifiedSampler(Sampler[int]):
    """
    Yields optimizer steps: rows of the validation set, and of every source the same number, up to one.

    Each source is visited in a random order of its own, without replacement; when it is used up, in another one. The remaining rows of a
    step go to the sources in turn. A step is a function of its number, so a resumed run continues exactly.

    Args:
        groups (`Mapping[str, Sequence[int]]`): Rows of each source, by name; and of the validation set, named `""`.
        validation_rows (`int`): Rows of the validation set per step.
        training_rows (`int`): Rows of the sources per step, at least one for each.
        step (`Callable[[], int]`): Returns the optimizer steps done.
        seed (`int`): Seed of the orders.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[int]],
        validation_rows: int,
        training_rows: int,
        step: Callable[[], int],
        seed: int,
    ):
        self.groups = groups
        self.names = [name for name in groups if name]
        self.validation_rows = validation_rows
        self.training_rows = training_rows
        self.step = step
        self.seed = seed
        rows = sum(len(groups[name]) for name in self.names)
        self.steps_per_epoch = max(rows // training_rows, 1)
        self._orders: dict[str, tuple[int, list[int]]] = {}  # by group: the current round and its order

    def __len__(self) -> int:
        return self.steps_per_epoch * (self.validation_rows + self.training_rows)

    def __iter__(self) -> Iterator[int]:
        first = self.step() // self.steps_per_epoch * self.steps_per_epoch
        for step in range(first, first + self.steps_per_epoch):
            yield from self.rows_of_step(step)

    def rows_of_step(self, step: int) -> list[int]:
        """Return the rows of an optimizer step, numbered from 0. Micro-batches get validation and training rows in similar numbers."""
        draws = {"": range(step * self.validation_rows, (step + 1) * self.validation_rows)}
        draws |= {name: range(self._drawn(k, step), self._drawn(k, step + 1)) for k, name in enumerate(self.names)}
        placed = [
            ((place + 0.5) / len(numbers), index, self._row(name, number))
            for index, (name, numbers) in enumerate(draws.items())
            for place, number in enumerate(numbers)
        ]
        return [row for *_, row in sorted(placed)]

    def _drawn(self, k: int, steps: int) -> int:
        """Return how many rows of source `k` the first steps take: the rows of all sources are dealt in turn."""
        return (steps * self.training_rows - k + len(self.names) - 1) // len(self.names)

    def _row(self, name: str, number: int) -> int:
        rows = self.groups[name]
        round_, place = divmod(number, len(rows))
        if name not in self._orders or self._orders[name][0] != round_:
            self._orders[name] = (round_, shuffled(len(rows), f"{self.seed} {name} {round_}"))
        return rows[self._orders[name][1][place]]


class SourceMixture(PromptSelector):
    r"""
    Chooses prompts by the shares of their sources: the next one is of the source with the largest deficit.

    $$ \arg\max_k \; p_k t - n_k $$

    for the shares $p_k$, the number $t$ of this draw, and $n_k$ prompts of source k drawn so far. Equal deficits: the first source. A source without a
    row among the candidates is drawn later, when there is one.

    Args:
        shares (`Mapping[str, float]`): Share of each source, by name, with the sum 1; see [`read_shares`].
        column (`str`, *optional*, defaults to `"source"`): Column of the dataset with the name of the source.
        candidates_per_prompt (`int`, *optional*, defaults to `32`): Rows among which a prompt is chosen, per prompt of the batch. A rare source with a
            large share needs more.

    Attributes:
        drawn (`dict[str, int]`): $n_k$, by name.

    Raises:
        `ValueError`: If the shares are not at least 0 with the sum 1. When the trainer is built: if the dataset lacks the column, a row's
            source has no share, or a source with a share has no row.
    """

    name = "source_mixture"
    paper = SCALE_BIO_PAPER
    card_settings = ("shares", "column", "candidates_per_prompt")
    needs_correctness = False

    def __init__(self, shares: Mapping[str, float], column: str = SOURCE, candidates_per_prompt: int = 32):
        check_shares(list(shares.values()))
        if candidates_per_prompt < 1:
            raise ValueError(f"candidates_per_prompt must be at least 1, got {candidates_per_prompt}.")
        self.shares = dict(shares)
        self.column = column
        self.candidates_per_prompt = candidates_per_prompt
        self.drawn = dict.fromkeys(self.shares, 0)

    def attach(self, trainer: TrainerView) -> None:
        rows: Any = trainer.train_dataset
        columns = getattr(rows, "column_names", None) or list(rows[0])  # a list of rows has none
        if self.column not in columns:
            raise ValueError(
                f"SourceMixture needs the column {self.column!r} with the source of each row; the dataset has {columns}. mix_sources adds it."
            )
        names = set(rows[self.column]) if isinstance(rows, Dataset) else {row[self.column] for row in rows}
        if unknown := sorted(map(str, names - set(self.shares))):
            raise ValueError(
                f"The sources {unknown} of the dataset have no share. Add them to the shares, with 0 to leave them out."
            )
        if absent := sorted(name for name, share in self.shares.items() if share > 0 and name not in names):
            raise ValueError(
                f"The sources {absent} have a share, but the dataset has no row of them. Add rows or remove the shares."
            )

    def choose(self, candidates: list[dict[str, Any]], count: int, step: int) -> list[int]:
        waiting: dict[str, list[int]] = {name: [] for name in self.shares}
        for position, row in enumerate(candidates):
            waiting[row[self.column]].append(position)
        chosen: list[int] = []
        for _ in range(count):
            total = sum(self.drawn.values()) + 1
            deficits = {
                name: round(share * total - self.drawn[name], DIGITS)
                for name, share in self.shares.items()
                if share > 0 and len(waiting[name])
            }
            if not deficits:
                raise ValueError(
                    f"Only {len(chosen)} of {count} prompts could be chosen: no other of the {len(candidates)} candidates is of a source "
                    "with a share. Raise candidates_per_prompt, or remove the rows of sources with share 0."
                )
            name = max(deficits, key=deficits.__getitem__)  # the first of equal ones
            chosen.append(waiting[name].pop(0))
            self.drawn[name] += 1
        return chosen

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = dict.fromkeys(self.shares, 0) | state["drawn"]
