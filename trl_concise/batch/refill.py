# SPDX-License-Identifier: Apache-2.0
"""
Replacement of the groups that a [`GroupFilter`] does not keep.

A generation batch is drawn in rounds: first the whole batch, then replacements for the groups that keep nothing. The trainer
generates and judges each round; this module contains what needs no trainer: which group is in which place of the batch, and the
rows of several rounds joined into one batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .generation import Chunk, Generated
from .rollouts import Rollouts


@dataclass
class Places:
    """
    Which of the groups drawn so far is in which place of the batch.

    Args:
        is_kept (`Sequence[bool]`): For each group of the first round, whether any of its completions is kept.

    Attributes:
        groups (`list[int]`): For each place of the batch, the number of its group, in the order in which groups were drawn.

    Examples:
        >>> places = Places([True, False, False, True])
        >>> places.missing
        [1, 2]
        >>> places.replace([False, True])
        >>> places.groups, places.missing, places.dropped
        ([0, 4, 5, 3], [1], [1, 2])
    """

    is_kept: list[bool]
    groups: list[int] = field(init=False)

    def __post_init__(self):
        self.is_kept = list(self.is_kept)
        self.groups = list(range(len(self.is_kept)))

    @property
    def missing(self) -> list[int]:
        """Places whose group keeps nothing."""
        return [place for place, group in enumerate(self.groups) if not self.is_kept[group]]

    @property
    def dropped(self) -> list[int]:
        """Groups that were drawn and are not in the batch."""
        return sorted(set(range(len(self.is_kept))) - set(self.groups))

    @property
    def replaced_fraction(self) -> float:
        """Share of places whose first group was replaced."""
        return sum(group != place for place, group in enumerate(self.groups)) / len(self.groups)

    def replace(self, is_kept: Sequence[bool]) -> None:
        """
        Put one newly drawn group into each missing place, in order.

        Args:
            is_kept (`Sequence[bool]`): For each new group, whether any of its completions is kept.

        Raises:
            `ValueError`: If there is not one group per missing place.
        """
        for place, group in zip(self.missing, range(len(self.is_kept), len(self.is_kept) + len(is_kept)), strict=True):
            self.groups[place] = group
        self.is_kept += is_kept


@dataclass(frozen=True)
class Completion:
    """
    One completion with what TRL needs to train on it.

    Attributes:
        row (`dict[str, Any]`): The dataset row, with the fields that a `rollout_func` has added.
        prompt_ids, completion_ids (`list[int]`): Token ids.
        tool_mask (`list[int]`, *optional*): 1 where the model wrote the token.
        logps (`list[float]`, *optional*): Log-probabilities under the sampler.
        logged (`dict[str, Any]`): What reward functions passed to `log_extra`, by column.
        measured (`dict[str, dict[str, torch.Tensor]]`): `(T,)` each, what components measured per token, by component name.
        old_logps, tensors, chunks: What [`Generated`] has of this completion.
    """

    row: dict[str, Any]
    prompt_ids: list[int]
    completion_ids: list[int]
    tool_mask: list[int] | None
    logps: list[float] | None
    logged: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    old_logps: list[float] | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    chunks: list[Chunk] | None = None


@dataclass(frozen=True)
class Draw:
    """
    One round: whole groups that were generated and judged.

    Attributes:
        rollouts ([`Rollouts`]): The B gathered completions with all rewards, and the verdict of the filter.
        rewards (`torch.Tensor`): `(B, functions)`, gathered.
        completions (`dict[int, Completion]`): Completions that this process has, by row of `rollouts`.
        surplus_tokens (`int`): Tokens of completions that were generated only to give every process the same number of rows.
    """

    rollouts: Rollouts
    rewards: Tensor
    completions: dict[int, Completion]
    surplus_tokens: int = 0

    @property
    def kept_groups(self) -> list[bool]:
        """For each group, whether any of its completions is kept."""
        assert self.rollouts.kept is not None
        return self.rollouts.by_group(self.rollouts.kept).any(dim=1).tolist()


def draw_batch(draw: Callable[[int, bool], Draw], num_groups: int, max_refills: int) -> tuple[list[Draw], Places]:
    """
    Draw a batch, then replacements for the groups that keep nothing.

    Args:
        draw (`Callable[[int, bool], Draw]`): Generates and scores this many groups; the second argument says whether they are a
            whole batch.
        num_groups (`int`): Groups in the batch.
        max_refills (`int`): How many times missing groups are replaced at most.

    Returns:
        `tuple[list[Draw], Places]`: All rounds, and which group is in which place.
    """
    draws = [draw(num_groups, True)]
    places = Places(draws[0].kept_groups)
    while places.missing and len(draws) <= max_refills:
        draws.append(draw(len(places.missing), False))
        places.replace(draws[-1].kept_groups)
    return draws, places


@dataclass(frozen=True)
class RefilledBatch:
    """
    The batch to train on after all rounds, and the completions that it does not contain.

    Attributes:
        rollouts ([`Rollouts`]): The B completions of the batch.
        dropped ([`Rollouts`], *optional*): The completions of the groups that were replaced.
        rewards (`torch.Tensor`): `(B, functions)`.
        completions (`list[Completion]`): The b completions of this process.
        metrics (`dict[str, float]`): Figures to log.
    """

    rollouts: Rollouts
    dropped: Rollouts | None
    rewards: Tensor
    completions: list[Completion]
    metrics: dict[str, float]

    @classmethod
    def of(cls, draws: Sequence[Draw], places: Places, local: slice) -> RefilledBatch:
        """
        Join the rounds.

        Args:
            draws (`Sequence[Draw]`): All rounds, the whole batch first.
            places ([`Places`]): Which group is in which place.
            local (`slice`): This process's rows of the batch.
        """
        rollouts = [draw.rollouts for draw in draws]
        size = rollouts[0].num_generations
        rows = _rows_of(places.groups, size)
        starts = [0]
        for one in rollouts:
            starts.append(starts[-1] + len(one))
        held = {
            start + row: one
            for start, draw in zip(starts, draws, strict=False)
            for row, one in draw.completions.items()
        }
        dropped = join_rows(rollouts, _rows_of(places.dropped, size)) if places.dropped else None
        tokens = sum(draw.surplus_tokens for draw in draws)
        if dropped is not None:
            tokens += int(dropped.lengths.sum())
        return cls(
            rollouts=dataclasses.replace(join_rows(rollouts, rows), local=local),
            dropped=dropped,
            rewards=torch.cat([draw.rewards for draw in draws])[rows],
            completions=[held[row] for row in rows[local]],
            metrics={
                "refill/rounds": len(draws) - 1.0,
                "refill/replaced_fraction": places.replaced_fraction,
                "refill/missing_fraction": len(places.missing) / len(places.groups),
                "refill/tokens": float(tokens),
            },
        )

    def observed(self, rollouts: Rollouts) -> Rollouts:
        """
        Return every completion that was generated, once: the batch first, then the dropped ones.

        Args:
            rollouts ([`Rollouts`]): The batch, with everything added to it since.
        """
        if self.dropped is None:
            return rollouts
        joined = join_rows([rollouts, self.dropped], range(len(rollouts) + len(self.dropped)))
        own = {name: getattr(rollouts, name) for name in _LOCAL}
        return dataclasses.replace(joined, **own)

    def generated(self) -> dict[str, Any]:
        """Return this process's completions as a `rollout_func` does."""
        output: dict[str, Any] = {
            "prompt_ids": [one.prompt_ids for one in self.completions],
            "completion_ids": [one.completion_ids for one in self.completions],
            "logprobs": [one.logps for one in self.completions],
        }
        if output["logprobs"][0] is None:
            output["logprobs"] = None
        if self.completions[0].tool_mask is not None:
            output["env_mask"] = [one.tool_mask for one in self.completions]
        return output

    def rollout_output(self, device: torch.device) -> Generated:
        """Return what the loss reads of the completions of a [`Rollout`]. Tensors of different lengths are padded with zeros."""
        old_logps = [one.old_logps for one in self.completions]
        tensors = {name: [one.tensors[name] for one in self.completions] for name in self.completions[0].tensors}
        chunks = [one.chunks for one in self.completions if one.chunks is not None]
        return Generated(
            completion_ids=[one.completion_ids for one in self.completions],
            old_logps=None
            if all(row is None for row in old_logps)
            else [
                one.old_logps if one.old_logps is not None else [math.nan] * len(one.completion_ids)
                for one in self.completions
            ],
            tensors={
                name: (pad_sequence(values, batch_first=True) if values[0].ndim else torch.stack(values)).to(device)
                for name, values in tensors.items()
            },
            chunks=chunks or None,
        )


def _rows_of(groups: Sequence[int], size: int) -> list[int]:
    return [group * size + i for group in groups for i in range(size)]


# Fields of `Rollouts` that concern this process's rows only.
_LOCAL = ("local", "tokens", "measured_tokens")


def join_rows(rollouts: Sequence[Rollouts], rows: Sequence[int]) -> Rollouts:
    """
    Return some rows of several gathered batches as one batch.

    Args:
        rollouts (`Sequence[Rollouts]`): Batches with the same reward functions and measures.
        rows (`Sequence[int]`): Rows, counted through all batches one after the other: whole groups.

    Returns:
        [`Rollouts`]: These rows in this order, without what concerns the rows of one process only.
    """

    def join(values: list[Any]) -> Any:
        if isinstance(values[0], Tensor):
            return torch.cat(values)[list(rows)]
        if isinstance(values[0], Mapping):
            return {key: join([value[key] for value in values]) for key in values[0]}
        if isinstance(values[0], tuple):
            together = [item for value in values for item in value]
            return tuple(together[row] for row in rows)
        return values[0]

    names = [field.name for field in dataclasses.fields(Rollouts) if field.name not in _LOCAL]
    return Rollouts(**{name: join([getattr(one, name) for one in rollouts]) for name in names})


def split_measures(
    measured: Mapping[str, Mapping[str, Tensor]], completion_ids: Sequence[Sequence[int]]
) -> list[dict[str, dict[str, Tensor]]]:
    """Return the measures per token, `(b, T)` each, of each completion: `(its length,)` each, on the CPU."""
    return [
        {
            component: {name: values[row, : len(ids)].cpu() for name, values in measures.items()}
            for component, measures in measured.items()
        }
        for row, ids in enumerate(completion_ids)
    ]


def pad_measures(
    measured: Sequence[Mapping[str, Mapping[str, Tensor]]], device: torch.device
) -> dict[str, dict[str, Tensor]]:
    """Return the measures of several completions, `(length,)` each, as `(b, T)`, zeros after the end of a completion."""
    return {
        component: {
            name: pad_sequence([one[component][name] for one in measured], batch_first=True).to(device)
            for name in measures
        }
        for component, measures in measured[0].items()
    }


def whole_shares(num_groups: int, num_generations: int, num_processes: int) -> int:
    """
    Return how many groups to generate so that every process has the same number of rows.

    Args:
        num_groups (`int`): Groups that are needed.
        num_generations (`int`): Completions per group.
        num_processes (`int`): Number of processes.

    Returns:
        `int`: At least `num_groups`.

    Examples:
        >>> whole_shares(3, num_generations=4, num_processes=2), whole_shares(3, num_generations=4, num_processes=8)
        (3, 4)
    """
    step = num_processes // math.gcd(num_generations, num_processes)
    return math.ceil(num_groups / step) * step
