# SPDX-License-Identifier: Apache-2.0
"""
Training language models to reason efficiently (Arora and Zanette, 2025, https://huggingface.co/papers/2502.04463).

A correct completion earns between 1 - alpha and 1, and more if it is shorter than the other correct ones of its group.
Other names are TLMRE and RLOO-LP.

The authors optimize it with RLOO, without dividing by the group's standard deviation. With the division alpha has no
meaning in a group that is all correct, so pass `scale_rewards="none"` to the config.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import GroupReward, Paper, TrainerView


EFFICIENT_REASONING_PAPER = Paper(
    title="Training Language Models to Reason Efficiently",
    id="2502.04463",
    # docstyle-ignore
    citation="""\
@article{arora2025training,
    title        = {{Training Language Models to Reason Efficiently}},
    author       = {Daman Arora and Andrea Zanette},
    year         = 2025,
    eprint       = {arXiv:2502.04463}
}""",
)


def efficient_reasoning_reward(lengths: Tensor, correct: Tensor, *, alpha: float = 0.1) -> Tensor:
    r"""
    Reward correct completions by how short they are among the correct ones of their group.

    $$ r_i = c_i \left(1 - \alpha \, \sigma\!\left(
       \frac{\ell_i - \operatorname{mean}_{c=1} \ell}{\operatorname{std}_{c=1} \ell + 10^{-7}}\right)\right) $$

    with the population standard deviation, as in the authors' code.

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        correct (`torch.Tensor`): `(groups, G)`, $c$: 1 correct, 0 wrong, NaN unknown.
        alpha (`float`, *optional*, defaults to `0.1`): Largest penalty for length, one of the paper's (0.05, 0.1, 0.2,
            0.4).

    Returns:
        `torch.Tensor`: `(groups, G)` float32, in `[1 - alpha, 1]` if correct, 0 if wrong; NaN where `correct` is.

    Examples:
        >>> import torch
        >>> lengths = torch.tensor([[800, 1500, 2600, 500]])
        >>> efficient_reasoning_reward(lengths, torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
        tensor([[0.9755, 0.9545, 0.9213, 0.0000]])
    """
    solved = torch.where(correct == 1, lengths.float(), torch.nan)
    mean = solved.nanmean(dim=1, keepdim=True)
    std = (solved - mean).square().nanmean(dim=1, keepdim=True).sqrt()
    return torch.where(correct == 1, 1 - alpha * torch.sigmoid((lengths - mean) / (std + 1e-7)), correct)


class EfficientReasoningReward(GroupReward):
    """
    The reward of Arora and Zanette minus the correctness (1 or 0); with weights of 1, the two add up to the paper's reward.

    A truncated completion counts as wrong. Needs `scale_rewards="none"`.

    Args:
        alpha (`float`, *optional*, defaults to `0.1`):
            Largest penalty for the length of a correct completion, in `[0, 1)`.

    Raises:
        `ValueError`: If the trainer divides rewards by the standard deviation of a group.
    """

    name = "efficient_reasoning"
    paper = EFFICIENT_REASONING_PAPER

    def __init__(self, alpha: float = 0.1):
        if not 0 <= alpha < 1:
            raise ValueError(
                f"alpha must lie in [0, 1), so that a correct completion earns more than a wrong one; got {alpha}."
            )
        self.alpha = alpha

    def attach(self, trainer: TrainerView) -> None:
        if trainer.args.scale_rewards != "none":
            raise ValueError(
                f"EfficientReasoningReward keeps its scale, but scale_rewards={trainer.args.scale_rewards!r} divides by the "
                'deviation of a group. Set scale_rewards="none".'
            )
        if trainer.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                "EfficientReasoningReward keeps its scale, but multi_objective_aggregation="
                f"{trainer.multi_objective_aggregation!r} normalizes each reward. Set it to 'sum_then_normalize'."
            )

    def score(self, rollouts: Rollouts) -> Tensor:
        correct = torch.where(rollouts.truncated & (rollouts.correct == 1), 0.0, rollouts.correct)
        lengths = rollouts.by_group(rollouts.lengths)
        reward = efficient_reasoning_reward(lengths, rollouts.by_group(correct), alpha=self.alpha)
        return reward.flatten() - rollouts.correct
