# SPDX-License-Identifier: Apache-2.0
"""[`ScoresRewards`], the mixin of the GRPO trainers for rewards: correctness, group rewards and what components observe."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather

from ..checks import describe
from ..components.reward_functions import needs_correctness
from ..verification.finished import is_finished
from ..verification.reward import completion_text
from .generated import gather_numbers


if TYPE_CHECKING:
    from trl import GRPOTrainer as _Mixed  # attributes of the class that this mixin is used with

    from ..components import Component, GroupReward, Rollout
    from .batch import GenerationBatch
    from .rollouts import LocalRollouts, Rollouts
    from .warnings import BatchWarnings
else:
    _Mixed = object


class ScoresRewards(_Mixed):
    """
    Mixin for [`~trl.GRPOTrainer`]: fills the columns of group rewards once the batch is gathered, and lets every component observe
    it. Comes before the trainer among the bases.
    """

    components: Sequence[Component]
    group_rewards: dict[int, GroupReward]
    rollout: Rollout | None
    correctness_column: int | None
    _batch: GenerationBatch | None
    _warnings: BatchWarnings
    _shortest_limit: float

    def _add_to_evaluation(self, correct: torch.Tensor, completions: list, batch: GenerationBatch) -> None:
        """Add a batch of completions to the evaluation in progress."""
        raise NotImplementedError

    def _observes_late(self, component: Component) -> bool:
        """Return whether a component acts after the rewards, so that its metrics are not known yet."""
        raise NotImplementedError

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = self._score(inputs, prompts, completions, completion_ids_list)
        batch = self._batch
        assert batch is not None
        self._finish_scoring(batch.correct, completions, batch.rollouts)
        return rewards

    def _score(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        """Return the gathered rewards `(B, F)`, those of group rewards included. With components, add `rollouts` to the batch."""
        batch = self._batch
        assert batch is not None  # set by `_generate_and_score_completions`
        marked = mark_finished(
            inputs,
            completions,
            completion_ids_list,
            batch.reasoning_opened,
            limit=self._shortest_limit,
            end_ids=batch.end_ids,
            lengths=batch.limited_lengths,
        )
        rewards = super()._calculate_rewards(marked, prompts, completions, completion_ids_list)  # (B, F), gathered
        _check_rewards(rewards, self.reward_func_names)
        batch.correct = self._judge(rewards)
        if self.components:
            names = self.reward_func_names
            plain = {name: rewards[:, i] for i, name in enumerate(names) if i not in self.group_rewards}
            local = batch.local_rollouts(inputs, prompts, completions)
            weights = dict(zip(names, self.reward_weights.tolist(), strict=True))
            rollouts = batch.gather(local, batch.correct, plain, weights)
            for component in self.components if batch.training else self.group_rewards.values():
                add_measures(component, local, rollouts)
            if batch.generated is not None and self.rollout is not None:
                numbers = gather_numbers(batch.generated, batch.device)
                rollouts.measured.setdefault(self.rollout.name, {}).update(numbers)
            if batch.surplus:
                rewards = rewards[: -batch.surplus]
                rollouts = batch.without_surplus(rollouts)
            batch.rollouts = self._score_groups(rollouts, rewards)
        return rewards

    def _judge(self, rewards: torch.Tensor) -> torch.Tensor:
        """Return 1 correct, 0 wrong, NaN unknown, for the gathered rewards `(B, F)`: `(B,)`."""
        if self.correctness_column is None:
            return torch.full_like(rewards[:, 0], torch.nan)
        judgments = rewards[:, self.correctness_column]
        if needs_correctness(self.components):
            self._warnings.check_verdicts(judgments, self.reward_func_names[self.correctness_column])
        return verdicts(judgments)

    def _score_groups(self, rollouts: Rollouts, rewards: torch.Tensor) -> Rollouts:
        """Fill the columns of the group rewards in `rewards`, `(B, F)`, and return the batch with them."""
        for column, group_reward in self.group_rewards.items():
            scores = group_reward.score(rollouts)
            if not isinstance(scores, torch.Tensor) or scores.shape != (len(rollouts),):
                raise ValueError(
                    f"{type(group_reward).__name__}.score returned {describe(scores)} for {len(rollouts)} completions. Return a "
                    f"tensor of the shape ({len(rollouts)},)."
                )
            rewards[:, column] = scores.to(rewards)
        _check_rewards(rewards, self.reward_func_names)
        by_name = {name: rewards[:, i] for i, name in enumerate(self.reward_func_names)}
        return dataclasses.replace(rollouts, rewards=by_name)

    def _finish_scoring(self, correct: torch.Tensor, completions: list, observed: Rollouts | None) -> None:
        """
        Log what is known after the rewards, and let every component observe.

        Args:
            correct (`torch.Tensor`): `(B,)`, the judgments of the batch.
            completions (`list`): As reward functions receive them.
            observed ([`Rollouts`], *optional*): What components observe in training; `None` without components.
        """
        batch = self._batch
        assert batch is not None
        if not batch.training:
            self._add_to_evaluation(correct, completions, batch)
        elif self.correctness_column is not None:
            self._metrics["train"]["accuracy"].append(correct.nanmean().item())
        rollouts = batch.rollouts
        if rollouts is None or observed is None:
            return
        if self.log_completions:
            for component in self.components:
                for name, values in component.columns(rollouts).items():
                    own = [round(value, 3) for value in values[rollouts.local].tolist()]  # TRL gathers them
                    self._log_completion_extra(f"{component.name}/{name}", own)
        if not rollouts.training:
            return
        self._warnings.observe(observed, needs_correctness(self.components))
        # Every component has scored by now: what a component learns here is the past only for the next batch.
        for component in self.components:
            component.observe(observed)
            if not self._observes_late(component):
                for name, value in component.metrics().items():
                    if not math.isnan(value):  # unknown in this batch
                        self._metrics["train"][f"{component.name}/{name}"].append(float(value))


def verdicts(rewards: torch.Tensor) -> torch.Tensor:
    """Return 1 correct, 0 wrong, NaN unknown, for the rewards of the correctness function: `(B,)`."""
    return torch.where(rewards.isnan(), rewards, (rewards >= 0.5).float())


def mark_finished(
    rows: Sequence[dict[str, Any]],
    completions: list,
    completion_ids: list[list[int]],
    reasoning_opened: list[bool],
    *,
    limit: float,
    end_ids: set[int],
    lengths: list[int] | None = None,
) -> list[dict[str, Any]]:
    """
    Return the rows with the column `completion_finished`, because TRL does not tell reward functions what is truncated.

    Args:
        rows (`Sequence[dict[str, Any]]`): Dataset rows, one per completion.
        completions (`list`): Strings or lists of messages.
        completion_ids (`list[list[int]]`): Their token ids.
        reasoning_opened (`list[bool]`): Whether the prompt ends with an open `<think>`.
        limit (`float`): The generation limit, in tokens.
        end_ids (`set[int]`): Tokens that end a completion.
        lengths (`list[int]`, *optional*): Tokens that the limit bounds. Default: those of `completion_ids`.
    """
    lengths = lengths if lengths is not None else [len(ids) for ids in completion_ids]
    return [
        {
            **row,
            "completion_finished": is_finished(
                completion_text(completion),
                truncated=length >= limit and ids[-1] not in end_ids,  # a shorter one met a stop string
                reasoning_opened=is_opened,
            ),
        }
        for row, completion, ids, is_opened, length in zip(
            rows, completions, completion_ids, reasoning_opened, lengths, strict=True
        )
    ]


def add_measures(component: Component, local: LocalRollouts, rollouts: Rollouts) -> None:
    """
    Add what a component measures to `rollouts`: numbers per completion from all processes, numbers per token from this one.

    Raises:
        `ValueError`: If a measure has another shape.
    """
    measures, count = component.measure(local), len(local.lengths)
    longest = max(map(len, local.completion_ids))
    for name, values in measures.items():
        is_measure = isinstance(values, torch.Tensor) and values.ndim in (1, 2) and len(values) == count
        if not is_measure or (values.ndim == 2 and values.size(1) < longest):
            raise ValueError(
                f"{type(component).__name__}.measure returned {describe(values)} as {name!r} for {count} completions. Return a "
                f"tensor of the shape ({count},), or ({count}, T) with T at least {longest}, the longest completion."
            )
    device = local.lengths.device
    rollouts.measured[component.name] = {
        name: gather(measures[name].to(device, torch.float32)) for name in sorted(measures) if measures[name].ndim == 1
    }
    rollouts.measured_tokens[component.name] = {
        name: values.to(device) for name, values in measures.items() if values.ndim == 2
    }


def _check_rewards(rewards: torch.Tensor, names: Sequence[str]) -> None:
    """
    Check that no reward is infinite.

    Args:
        rewards (`torch.Tensor`): `(B, F)`, NaN where a function abstained.
        names (`Sequence[str]`): The F functions.

    Raises:
        `ValueError`: If there are any: one of them makes the loss NaN.
    """
    infinite = rewards.isinf().any(dim=0)
    if infinite.any():
        found = [name for name, bad in zip(names, infinite.tolist(), strict=True) if bad]
        raise ValueError(f"The reward functions {found} returned an infinite reward. Return None to abstain.")
