# SPDX-License-Identifier: Apache-2.0
"""
MGPO: MaxEnt-guided policy optimization of VibeThinker-1.5B (Xu et al., 2025, https://huggingface.co/papers/2511.06221).

The advantages of a group count more the closer its success rate is to one half.

Differences from the paper:
  1. The strength is not public in what we read. The default, 1, is ours.
  2. The weight applies to whatever loss and clip the config sets; the paper has GRPO's mean over the tokens of each completion.
  3. A completion of unknown correctness is left out of the success rate; a group without a known one keeps its advantages.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import Advantage, Paper


MGPO_PAPER = Paper(
    title="Tiny Model, Big Logic: Diversity-Driven Optimization Elicits Large-Model Reasoning Ability in VibeThinker-1.5B",
    id="2511.06221",
    # docstyle-ignore
    citation="""\
@article{xu2025tiny,
    title        = {{Tiny Model, Big Logic: Diversity-Driven Optimization Elicits Large-Model Reasoning Ability in VibeThinker-1.5B}},
    author       = {Sen Xu and Yi Zhou and Wei Wang and Jixin Min and others},
    year         = 2025,
    eprint       = {arXiv:2511.06221}
}""",  # noqa: E501
    reconstructed="The strength of the weight is not public.",
)


def entropy_weight(success_rate: Tensor, *, strength: float = 1.0) -> Tensor:
    r"""
    Return the weight of a group's advantages, which is largest at a success rate of one half.

    $$ w(p) = e^{-\lambda D(p)}, \qquad D(p) = p \log \frac{p}{1/2} + (1 - p) \log \frac{1 - p}{1/2} $$

    Args:
        success_rate (`torch.Tensor`): $p$, share of correct completions, in `[0, 1]`.
        strength (`float`, *optional*, defaults to `1.0`): $\lambda$; 0 weighs all alike.

    Returns:
        `torch.Tensor`: From $2^{-\lambda}$ (never or always solved) to 1 (solved half of the time).

    Examples:
        >>> import torch
        >>> entropy_weight(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
        tensor([0.5000, 0.8774, 1.0000, 0.8774, 0.5000])
    """
    entropy = torch.special.entr(success_rate) + torch.special.entr(1 - success_rate)
    return torch.exp(-strength * (math.log(2) - entropy).clamp(min=0))


class MGPO(Advantage):
    """
    Weights advantages by how close the success rate of their group is to one half. See [`entropy_weight`].

    It multiplies TRL's advantages, or those of the component before it, so they still sum to 0 in each group.

    Args:
        strength (`float`, *optional*, defaults to `1.0`):
            How much less groups count that are solved rarely or mostly, at least 0. 0 changes nothing.

    Raises:
        `ValueError`: If the strength is negative.
    """

    name = "mgpo"
    paper = MGPO_PAPER

    def __init__(self, strength: float = 1.0):
        if not 0 <= strength < math.inf:
            raise ValueError(
                f"strength must be at least 0 and finite, got {strength}: a negative value would prefer prompts that are always or never "
                "solved."
            )
        self.strength = strength

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        success_rate = rollouts.by_group(rollouts.correct).nanmean(dim=1)
        weights = entropy_weight(success_rate, strength=self.strength)
        self._metrics = {"weight": weights[(success_rate > 0) & (success_rate < 1)].mean().item()}
        weights = weights.nan_to_num(nan=1.0).repeat_interleave(rollouts.num_generations)
        return advantages * weights.to(advantages)
