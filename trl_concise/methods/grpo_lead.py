# SPDX-License-Identifier: Apache-2.0
"""
GRPO-LEAD: a difficulty-aware approach for concise mathematical reasoning (Zhang and Zuo, 2025,
https://huggingface.co/papers/2504.09696).

Two parts that are used together: a reward that favours short correct completions and charges for wrong ones, and a weight on
the advantage that makes rare successes on hard prompts, and failures on easy ones, count more.

Read in third-party code that quotes the paper. Reconstructed here: alpha, and the flavour of the standard deviation (n - 1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..components import GroupReward, Paper, TokenCredit
from ..rollouts import Rollouts


GRPO_LEAD_PAPER = Paper(
    title="GRPO-LEAD: A Difficulty-Aware Reinforcement Learning Approach for Concise Mathematical Reasoning in Language "
    "Models",
    id="2504.09696",
    # docstyle-ignore
    citation="""\
@article{zhang2025grpolead,
    title        = {{GRPO-LEAD: A Difficulty-Aware Reinforcement Learning Approach for Concise Mathematical Reasoning in Language Models}},
    author       = {Jixiao Zhang and Chunsheng Zuo},
    year         = 2025,
    eprint       = {arXiv:2504.09696}
}""",  # noqa: E501
    reconstructed="alpha = 0.05, and the n - 1 standard deviation of the lengths.",
)


def grpo_lead_reward(lengths: Tensor, correct: Tensor, *, alpha: float = 0.05) -> Tensor:
    r"""
    Reward correct completions by how short they are among the correct ones of their group.

    $$ r_i = e^{-\alpha z_i} \text{ if correct}, \quad -1 \text{ otherwise}, \qquad
       z_i = \frac{\ell_i - \operatorname{mean}_{c=1} \ell}{\operatorname{std}_{c=1} \ell} $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.
        alpha (`float`, *optional*, defaults to `0.05`): Strength of the length term.

    Returns:
        `torch.Tensor`: `(groups, G)` float32, above 0 if correct (1 if its group has one correct length only), -1 if
        wrong; NaN where `correct` is.

    Examples:
        >>> import torch
        >>> grpo_lead_reward(torch.tensor([[800, 1500, 2600, 500]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
        tensor([[ 1.0470,  1.0074,  0.9481, -1.0000]])
    """
    solved = torch.where(correct == 1, lengths.float(), torch.nan)
    mean = solved.nanmean(dim=1, keepdim=True)
    freedom = (correct == 1).sum(dim=1, keepdim=True) - 1
    std = ((solved - mean).square().nansum(dim=1, keepdim=True) / freedom.clamp(min=1)).sqrt()
    z = torch.where(std > 0, (lengths - mean) / std, 0.0)
    return torch.where(correct == 1, torch.exp(-alpha * z), -1.0).masked_fill(correct.isnan(), torch.nan)


def difficulty_weight(success_rate: Tensor) -> Tensor:
    r"""
    Return GRPO-LEAD's weight of an advantage, which falls with the success rate of the prompt.

    $$ w(\rho) = 0.4 + \frac{1.1}{1 + e^{10 (\rho - 0.75)}} $$

    Args:
        success_rate (`torch.Tensor`): $\rho$, share of correct completions, in `[0, 1]`.

    Returns:
        `torch.Tensor`: Between 0.48 (always solved) and 1.5 (never).
    """
    return 0.4 + 1.1 * torch.sigmoid(-10 * (success_rate - 0.75))


class GRPOLEADReward(GroupReward):
    """
    What GRPO-LEAD's reward adds to a correctness of 1 or 0; with weights of 1 the sum is the paper's reward.

    Args:
        alpha (`float`, *optional*, defaults to `0.05`):
            Strength of the length term, at least 0.
    """

    name = "grpo_lead"
    paper = GRPO_LEAD_PAPER

    def __init__(self, alpha: float = 0.05):
        if alpha < 0:
            raise ValueError(f"alpha must be at least 0, got {alpha}: a negative one would pay for length.")
        self.alpha = alpha

    def score(self, rollouts: Rollouts) -> Tensor:
        lengths, correct = rollouts.by_group(rollouts.lengths), rollouts.by_group(rollouts.correct)
        return (grpo_lead_reward(lengths, correct, alpha=self.alpha) - correct).flatten()


class DifficultyWeighting(TokenCredit):
    r"""
    Weigh advantages by the success rate of their prompt, as GRPO-LEAD does.

    $$ A' = A \, w(\rho) \text{ if } A > 0, \quad A \, w(1 - \rho) \text{ otherwise} $$

    See [`difficulty_weight`]. Advantages of a prompt of unknown correctness stay as they are.
    """

    name = "difficulty_weighting"
    paper = GRPO_LEAD_PAPER

    def assign(self, rollouts: Rollouts, batch: dict[str, Any], advantages: Tensor) -> tuple[Tensor, None]:
        by_group = rollouts.by_group(rollouts.correct).nanmean(dim=1)
        success_rate = by_group.repeat_interleave(rollouts.num_generations)[rollouts.local]
        if advantages.dim() == 2:
            success_rate = success_rate[:, None]
        weight = difficulty_weight(torch.where(advantages > 0, success_rate, 1 - success_rate))
        return advantages * weight.nan_to_num(nan=1.0), None
