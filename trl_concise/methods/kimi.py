# SPDX-License-Identifier: Apache-2.0
"""
The length reward of Kimi k1.5 (Kimi Team, 2025, https://huggingface.co/papers/2501.12599).

The shortest completion of a group gets 0.5 and the longest -0.5; a wrong one never gets a positive reward. The formula is
from a third party's code (hkust-nlp/Laser, length_penalty.py), the warm-up in secondary
sources.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import GroupReward, Paper


KIMI_PAPER = Paper(
    title="Kimi k1.5: Scaling Reinforcement Learning with LLMs",
    id="2501.12599",
    # docstyle-ignore
    citation="""\
@article{kimi2025k15,
    title        = {{Kimi k1.5: Scaling Reinforcement Learning with LLMs}},
    author       = {{Kimi Team}},
    year         = 2025,
    eprint       = {arXiv:2501.12599}
}""",
    reconstructed="the formula, from third-party code (hkust-nlp/Laser), and the warm-up, from secondary sources",
)


def shortness(lengths: Tensor, included: Tensor) -> Tensor:
    r"""
    Place completions between the longest and the shortest of their group.

    $$ \frac{\ell_{\max} - \ell_i}{\ell_{\max} - \ell_{\min}} $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        included (`torch.Tensor`): `(groups, G)` bool, the completions over which minimum and maximum are taken.

    Returns:
        `torch.Tensor`: `(groups, G)` float64 from 0 for the longest to 1 for the shortest; NaN for the others, and if all lengths are
        equal.

    Examples:
        >>> import torch
        >>> shortness(torch.tensor([[800, 1500, 500, 1000]]), torch.tensor([[True, True, True, False]])).float()
        tensor([[0.7000, 0.0000, 1.0000,    nan]])
    """
    own = torch.where(included, lengths.double(), torch.nan)
    shortest = own.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    longest = own.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    return (longest - own) / (longest - shortest)


def kimi_length_reward(lengths: Tensor, correct: Tensor) -> Tensor:
    r"""
    Reward a completion by its length relative to the shortest and the longest of its group.

    $$ v_i = 0.5 - \frac{\ell_i - \ell_{\min}}{\ell_{\max} - \ell_{\min}}, \qquad
       r_i = v_i \text{ if correct}, \quad \min(v_i, 0) \text{ otherwise} $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens. Shortest and longest are taken over correct and
            wrong completions.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.

    Returns:
        `torch.Tensor`: `(groups, G)` float32 in `[-0.5, 0.5]`; 0 in a group of equal lengths, NaN where `correct` is.

    Examples:
        >>> import torch
        >>> kimi_length_reward(torch.tensor([[800, 1500, 500]]), torch.tensor([[1.0, 1.0, 0.0]]))
        tensor([[ 0.2000, -0.5000,  0.0000]])
    """
    place = shortness(lengths, torch.ones_like(lengths, dtype=torch.bool)).float() - 0.5
    reward = torch.where(correct == 1, place, place.clamp(max=0))
    return reward.nan_to_num(nan=0.0).masked_fill(correct.isnan(), torch.nan)


class KimiLengthReward(GroupReward):
    """
    The length reward of Kimi k1.5, added to the correctness; its weight is that of its column in `reward_weights`.

    Args:
        warmup_steps (`int`, *optional*, defaults to `0`):
            Optimizer steps at the beginning during which the reward is 0. The paper has a warm-up of unknown length.
    """

    name = "kimi"
    paper = KIMI_PAPER

    def __init__(self, warmup_steps: int = 0):
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}.")
        self.warmup_steps = warmup_steps

    def score(self, rollouts: Rollouts) -> Tensor:
        reward = kimi_length_reward(rollouts.by_group(rollouts.lengths), rollouts.by_group(rollouts.correct)).flatten()
        return reward if rollouts.step >= self.warmup_steps else reward * 0
