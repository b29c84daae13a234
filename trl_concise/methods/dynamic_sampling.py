# SPDX-License-Identifier: Apache-2.0
"""
Dynamic sampling of [DAPO](https://huggingface.co/papers/2503.14476): every trained group has a learning signal.

The completions of a group that all have the same score have advantage 0. Such groups are replaced by groups of other prompts, so
that every step trains on a full batch of groups that differ.
"""

from __future__ import annotations

from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import GroupFilter, Paper


DAPO_PAPER = Paper(
    title="DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    id="2503.14476",
    citation="""@article{yu2025dapo,
    title        = {{DAPO: An Open-Source LLM Reinforcement Learning System at Scale}},
    author       = {Qiying Yu and Zheng Zhang and Ruofei Zhu and Yufeng Yuan and Xiaochen Zuo and others},
    year         = 2025,
    eprint       = {arXiv:2503.14476},
}""",
    reconstructed=(
        "Exactly the missing groups are drawn, in sampling order; the authors draw whole batches. The number of refills is "
        "limited, and groups that are still missing have advantage 0."
    ),
)


def differing_groups(scores: Tensor, num_generations: int, tolerance: float = 1e-6) -> Tensor:
    """
    Return whether the scores of a group differ, for each completion.

    A group is kept if its largest and its smallest score differ by more than `tolerance` (DAPO, Eq. 11, for 0/1 scores:
    `0 < number correct < G`). A group with an unknown score is not kept.

    Args:
        scores (`torch.Tensor`): `(B,)`, groups in consecutive rows; NaN is unknown.
        num_generations (`int`): Completions per group.
        tolerance (`float`, *optional*, defaults to `1e-6`): Scores that differ by at most this are equal.

    Returns:
        `torch.Tensor`: `(B,)` bool.

    Examples:
        >>> import torch
        >>> differing_groups(torch.tensor([1.0, 0.0, 1.0, 1.0]), num_generations=2)
        tensor([ True,  True, False, False])
    """
    groups = scores.view(-1, num_generations)
    spread = groups.amax(dim=1) - groups.amin(dim=1)  # NaN if a score is
    return (spread > tolerance).repeat_interleave(num_generations)


class DynamicSampling(GroupFilter):
    """
    Trains on groups whose scores differ, and replaces the others.

    Args:
        max_refills (`int`, *optional*, defaults to `10`):
            How often missing groups are replaced per generation batch. The paper has no limit; verl's documentation stops
            after 10 generation batches.
        score (`str`, *optional*, defaults to `"correct"`):
            What must differ: `"correct"`, as in the paper; `"reward"`, the weighted sum of all rewards; or the name of a reward
            function.
        tolerance (`float`, *optional*, defaults to `1e-6`):
            Scores that differ by at most this are equal.

    Raises:
        `ValueError`: If an argument is out of range. When the trainer is built, if `score` names no reward function.
    """

    name = "dynamic_sampling"
    paper = DAPO_PAPER

    def __init__(self, max_refills: int = 10, score: str = "correct", tolerance: float = 1e-6):
        if max_refills < 0:
            raise ValueError(f"max_refills must be at least 0, got {max_refills}. 0 replaces no group.")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {tolerance}.")
        self.max_refills = max_refills
        self.score = score
        self.tolerance = tolerance

    def attach(self, trainer) -> None:
        names = list(trainer.reward_func_names)
        if self.score not in ("correct", "reward", *names):
            raise ValueError(
                f"DynamicSampling(score={self.score!r}): the score is 'correct', 'reward' or one of the reward functions {names}."
            )

    def keep(self, rollouts: Rollouts) -> Tensor:
        if self.score == "correct":
            scores = rollouts.correct
        elif self.score == "reward":
            scores = rollouts.total_rewards()
        else:
            scores = rollouts.rewards[self.score]
        return differing_groups(scores, rollouts.num_generations, self.tolerance)
