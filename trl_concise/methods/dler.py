# SPDX-License-Identifier: Apache-2.0
"""
DLER: doing length penalty right (Liu et al., 2025, https://huggingface.co/papers/2510.15110).

The simplest length penalty, truncation, with a suitable optimization: reward 0 beyond the limit, advantages
normalized over the batch instead of the group, a higher upper clip, and no prompts that are always or never solved.

All of it except the normalization is a TRL setting: `max_completion_length`, `epsilon_high` and `scale_rewards="none"`.
TRL's `scale_rewards="batch"` divides by the standard deviation of the rewards; DLER whitens the advantages, weighted by
tokens, which [`BatchWhitening`] does.

Dynamic sampling draws until the batch is full of prompts that some but not all completions solve (section 3.3). In a batch of
fixed size the other groups are left out of the statistics instead, and get no advantage.

Differences from the authors' code (NVlabs/DLER @ ea7d4f7):
  1. Theirs multiplies the reward of a truncated completion by 0.1 and adds 0.1 to the advantage where the score is at least
     1. Neither is in the paper, nor here.
  2. Theirs chooses the groups to replace by the score before the length penalty.
  3. Theirs whitens with the unbiased variance and divides by the square root of the variance plus 1e-8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import Advantage, Paper, TrainerView


DLER_PAPER = Paper(
    title="DLER: Doing Length pEnalty Right - Incentivizing More Intelligence per Token via Reinforcement Learning",
    id="2510.15110",
    # docstyle-ignore
    citation="""\
@article{liu2025dler,
    title        = {{DLER: Doing Length pEnalty Right - Incentivizing More Intelligence per Token via Reinforcement Learning}},
    author       = {Shih-Yang Liu and others},
    year         = 2025,
    eprint       = {arXiv:2510.15110}
}""",  # noqa: E501
    reconstructed="Zero-variance groups are left out of the batch instead of replaced.",
)


def whiten(advantages: Tensor, weights: Tensor) -> Tensor:
    r"""
    Shift and scale to weighted mean 0 and weighted (population) variance 1.

    $$ \hat A_i = \frac{A_i - \mu}{\sigma + 10^{-8}}, \qquad \mu = \frac{\sum_i w_i A_i}{\sum_i w_i}, \qquad
       \sigma^2 = \frac{\sum_i w_i (A_i - \mu)^2}{\sum_i w_i} $$

    Args:
        advantages (`torch.Tensor`): `(B,)`, $A$.
        weights (`torch.Tensor`): `(B,)`, $w \ge 0$: tokens of each completion, or ones.

    Returns:
        `torch.Tensor`: `(B,)`; 0 where the weight is 0.

    Examples:
        >>> import torch
        >>> whiten(torch.tensor([0.75, -0.25, -0.25, -0.25]), torch.ones(4))
        tensor([ 1.7321, -0.5774, -0.5774, -0.5774])
    """
    weights = weights.to(advantages)
    total = weights.sum().clamp(min=1e-8)
    centered = advantages - (weights * advantages).sum() / total
    std = ((weights * centered.square()).sum() / total).sqrt()
    return torch.where(weights > 0, centered / (std + 1e-8), 0.0)


class BatchWhitening(Advantage):
    """
    Normalizes advantages over the whole batch, as DLER does. Needs `scale_rewards="none"`.

    Args:
        token_weighted (`bool`, *optional*, defaults to `True`):
            Whether a completion is weighted by its tokens in mean and variance, as in the authors' code, or counts once.
        skip_zero_variance (`bool`, *optional*, defaults to `True`):
            Whether groups of equal rewards are left out, and get no advantage.
    """

    name = "dler"
    paper = DLER_PAPER
    needs_correctness = False

    def __init__(self, token_weighted: bool = True, skip_zero_variance: bool = True):
        self.token_weighted = token_weighted
        self.skip_zero_variance = skip_zero_variance

    def attach(self, trainer: TrainerView) -> None:
        if trainer.args.scale_rewards != "none":
            raise ValueError(
                f"BatchWhitening normalizes advantages itself, but scale_rewards={trainer.args.scale_rewards!r} divides "
                'them first. Set scale_rewards="none".'
            )
        if trainer.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                "BatchWhitening normalizes advantages itself, but multi_objective_aggregation="
                f"{trainer.multi_objective_aggregation!r} normalizes each reward. Set it to 'sum_then_normalize'."
            )

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        weights = rollouts.loss_lengths.to(advantages) if self.token_weighted else torch.ones_like(advantages)
        if rollouts.rewards:  # if every function has abstained, the advantage is 0 for another reason
            unknown = torch.stack(list(rollouts.rewards.values())).isnan().all(dim=0)
            weights = weights.masked_fill(unknown, 0)
        if self.skip_zero_variance:
            informative = (rollouts.by_group(advantages).abs() > 1e-6).any(dim=1)
            weights = weights * informative.repeat_interleave(rollouts.num_generations)
        return whiten(advantages, weights)
