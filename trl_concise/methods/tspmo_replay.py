# SPDX-License-Identifier: Apache-2.0
"""
Replay: new groups that start inside a completion of the batch, as further rows.

A plain group shares prefixes near the prompt only, so late tokens never branch. The prompt of a replayed group is a prompt
of the batch and the beginning of one of its completions, so its tree branches directly after that beginning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..batch.rollouts import CompletionTokens, LocalRollouts, weighted_sum
from ..components import TrainerView
from .tspmo_prefix_tree import PrefixTable, prefix_advantages


@dataclass(frozen=True)
class ReplayedGroup:
    """
    Completions of one prompt and prefix.

    Attributes:
        prompt_ids (`list[list[int]]`): Prompt and prefix of each completion, all the same.
        completion_ids (`list[list[int]]`): Token ids generated after the prefix.
        rewards (`list[float]`): Rewards of the whole completions, prefix included; NaN where unknown.
        mask (`list[list[int]]`): 0 for the tokens of a completion that is left out as truncated, 1 for all others.
        logps (`list[list[float]]`, *optional*): Log-probabilities under the sampler, with vLLM.
    """

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    rewards: list[float]
    mask: list[list[int]]
    logps: list[list[float]] | None

    def table(self, baseline: str) -> PrefixTable:
        """Return the group's prefix tree, rooted at its prefix."""
        return prefix_advantages(self.completion_ids, self.rewards, self.mask, baseline=baseline)


def check_replay(trainer: TrainerView) -> None:
    """Raise an error for a trainer whose prompts cannot be continued."""
    if trainer.environment_factories is not None or trainer.tools:
        raise ValueError(
            "Replay does not combine with tools or environments, which it does not call. Set replay_per_prompt=0."
        )


def replay(
    trainer: TrainerView,
    local: LocalRollouts,
    tokens: CompletionTokens,
    *,
    per_prompt: int,
    size: int,
    seed: int,
) -> list[ReplayedGroup]:
    """
    Start new groups at tokens of the batch's completions, chosen uniformly.

    A group of the batch that straddles processes is continued by the process of its first row.

    Args:
        trainer ([`TrainerView`]): Generates and rewards.
        local ([`LocalRollouts`]): The rows of this process.
        tokens ([`CompletionTokens`]): Whole groups of completions.
        per_prompt (`int`): New groups per prompt.
        size (`int`): Completions per new group.
        seed (`int`): Seed of the choice, which also depends on step and row.

    Returns:
        `list[ReplayedGroup]`: The groups that started on this process.
    """
    first_own, starts = tokens.local.start or 0, []
    for first in range(0, len(tokens.ids), tokens.num_generations):
        row = tokens.start + first - first_own  # of the group's first completion, on this process
        if not 0 <= row < len(local.completion_ids):
            continue
        rng = np.random.default_rng([seed, tokens.step, tokens.earlier + tokens.start + first])
        for _ in range(per_prompt):
            ids = tokens.ids[first + int(rng.integers(tokens.num_generations))]
            starts.append((row, ids[: int(rng.integers(1, len(ids)))] if len(ids) > 1 else []))
    # Every process generates, also one on which no group starts; the result of that one is not used.
    chosen = starts or [(0, [])]
    rows = [local.row(row) for row, _ in chosen]
    generated = trainer.generate_rollouts(rows, size, prefix_ids=[prefix for _, prefix in chosen])
    rewards = weighted_sum(trainer.reward_rollouts(rows, generated), trainer.reward_weights).tolist()
    left_out = (generated.truncated & trainer.mask_truncated_completions).tolist()
    groups = []
    for i in range(len(starts)):
        span = slice(i * size, (i + 1) * size)
        groups.append(
            ReplayedGroup(
                prompt_ids=[
                    [*prompt, *prefix]
                    for prompt, prefix in zip(generated.prompt_ids[span], generated.prefix_ids[span], strict=True)
                ],
                completion_ids=generated.completion_ids[span],
                rewards=rewards[span],
                mask=[
                    [int(not out)] * len(ids)
                    for ids, out in zip(generated.completion_ids[span], left_out[span], strict=True)
                ],
                logps=generated.logps[span] if generated.logps is not None else None,
            )
        )
    return groups
