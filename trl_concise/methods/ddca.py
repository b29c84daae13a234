# SPDX-License-Identifier: Apache-2.0
"""
DDCA: dynamic decoupled conditional advantage (Peng et al., 2026, https://huggingface.co/papers/2602.02099).

Two advantages instead of one reward: one for the reward, over the whole group, and one for length, among the correct completions only,
scaled by the pass rate of the group. Wrong completions never enter a statistic of lengths.

The equations and their defaults are those of the authors' code (alphadl/DDCA @ 75382a3), which has no training loop: loss, clip and KL
are the trainer's. The full text of the paper was not available to us.

Differences from the authors' code:
  1. The set of correct completions comes from the correctness function, not from rewards above 0.5. The first advantage uses the
     weighted sum of all rewards, which is the correctness without other reward functions.
  2. A completion of unknown correctness is left out of the pass rate and has no length term.
  3. `min_std` is ours, and off by default: without it, 1,000 and 1,001 tokens differ as much as 100 and 10,000.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import Advantage, Paper, TrainerView
from ..components.reward_functions import check_rewards_are_summed


DDCA_PAPER = Paper(
    title="Think Dense, Not Long: Dynamic Decoupled Conditional Advantage for Efficient Reasoning",
    id="2602.02099",
    # docstyle-ignore
    citation="""\
@article{peng2026think,
    title        = {{Think Dense, Not Long: Dynamic Decoupled Conditional Advantage for Efficient Reasoning}},
    author       = {Keqin Peng and Yuanxin Ouyang and Xuebo Liu and Zhiliang Tian and Ruijian Han and Yancheng Yuan and Liang Ding},
    year         = 2026,
    eprint       = {arXiv:2602.02099}
}""",  # noqa: E501
)
BASELINES = ("grpo", "rloo")


def length_scores(lengths: Tensor, correct: Tensor, *, min_std: float = 0) -> Tensor:
    r"""
    Return the length of each correct completion, standardized among the correct ones of its group, between 0 and 1.

    $$ s_i = \sigma(\operatorname{clip}(z_i, -20, 20)), \qquad
       z_i = \frac{\ell_i - \operatorname{mean}_{c=1} \ell}{\max(\operatorname{std}_{c=1} \ell, m)} $$

    with the population standard deviation (eqs. 12 and 13 in the authors' code).

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.
        min_std (`float`, *optional*, defaults to `0`): $m$, smallest divisor, in tokens.

    Returns:
        `torch.Tensor`: `(groups, G)` float32, 0.5 where all lengths are equal; NaN if not correct.

    Examples:
        >>> import torch
        >>> length_scores(torch.tensor([[800, 1500, 2600, 500]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
        tensor([[0.2451, 0.4551, 0.7866,    nan]])
    """
    is_correct = correct == 1
    shortest = lengths.float().masked_fill(~is_correct, torch.inf).amin(dim=1, keepdim=True)
    excess = (lengths.float() - shortest).masked_fill(~is_correct, torch.nan)  # exactly 0 where lengths are equal
    centered = excess - excess.nanmean(dim=1, keepdim=True)
    std = centered.square().nanmean(dim=1, keepdim=True).sqrt()
    return torch.sigmoid((centered / std.clamp(min=max(min_std, 1e-8))).clamp(-20, 20))


def length_advantages(
    lengths: Tensor, correct: Tensor, *, baseline: str = "grpo", use_pass_rate: bool = True, min_std: float = 0
) -> Tensor:
    r"""
    Return DDCA's advantage for length.

    $$ A^{\text{len}}_i = -\rho \, (s_i - \operatorname{mean}_{c=1} s) \text{ if correct}, \quad 0 \text{ otherwise} $$

    with $\rho$ the pass rate of the group. `"rloo"` has the mean of the other correct completions.

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, in tokens.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.
        baseline (`str`, *optional*, defaults to `"grpo"`): `"grpo"`, or `"rloo"` for a leave-one-out mean.
        use_pass_rate (`bool`, *optional*, defaults to `True`): Whether to scale by $\rho$.
        min_std (`float`, *optional*, defaults to `0`): See [`length_scores`].

    Returns:
        `torch.Tensor`: `(groups, G)` float32 between -1 and 1; 0 where fewer than two completions of the group are correct.
    """
    is_correct = correct == 1
    scores = length_scores(lengths, correct, min_std=min_std)
    advantages = scores.nanmean(dim=1, keepdim=True) - scores
    if baseline == "rloo":
        advantages = advantages * _leave_one_out(is_correct.sum(dim=1, keepdim=True))
    if use_pass_rate:
        advantages = advantages * correct.nanmean(dim=1, keepdim=True)
    return advantages.masked_fill(~is_correct, 0.0)


def reward_advantages(rewards: Tensor, *, baseline: str = "grpo") -> Tensor:
    r"""
    Return DDCA's advantage for the reward.

    $$ A^{\text{acc}}_i = \frac{r_i - \operatorname{mean} r}{\operatorname{std} r + 10^{-8}} \text{ (grpo)}, \qquad
       A^{\text{acc}}_i = r_i - \operatorname{mean}_{j \ne i} r_j \text{ (rloo)} $$

    with the population standard deviation.

    Args:
        rewards (`torch.Tensor`): `(groups, G)`, NaN unknown.
        baseline (`str`, *optional*, defaults to `"grpo"`): `"grpo"` or `"rloo"`.

    Returns:
        `torch.Tensor`: `(groups, G)` float32, 0 where the reward is unknown or all rewards are equal.
    """
    largest = rewards.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    centered = rewards.float() - largest  # exactly 0 where rewards are equal
    centered = centered - centered.nanmean(dim=1, keepdim=True)
    if baseline == "rloo":
        advantages = centered * _leave_one_out((~rewards.isnan()).sum(dim=1, keepdim=True))
    else:
        advantages = centered / (centered.square().nanmean(dim=1, keepdim=True).sqrt() + 1e-8)
    return advantages.masked_fill(rewards.isnan(), 0.0)


def _leave_one_out(count: Tensor) -> Tensor:
    """Return the ratio of a difference from the mean of the others to a difference from the mean of all."""
    return count / (count - 1).clamp(min=1)


class DDCA(Advantage):
    r"""
    DDCA's advantage: that of the reward, plus `beta` times that of length among the correct completions of the group.

    It replaces TRL's advantages, so `scale_rewards` has no effect. See [`reward_advantages`] and [`length_advantages`].

    Args:
        beta (`float`, *optional*, defaults to `0.2`):
            Weight of the length term, at least 0. 0 is GRPO, or RLOO.
        baseline (`str`, *optional*, defaults to `"grpo"`):
            `"grpo"`: the mean of the group, and rewards divided by their standard deviation. `"rloo"`: the mean of the other
            completions, without a division.
        use_pass_rate (`bool`, *optional*, defaults to `True`):
            Whether the length term is scaled by the pass rate of the group. `False` is the paper's ablation, DCA.
        min_std (`float`, *optional*, defaults to `0`):
            Smallest standard deviation of lengths that is divided by, in tokens. The authors have none.

    Raises:
        `ValueError`: If a setting is out of range, or the trainer normalizes each reward separately.
    """

    name = "ddca"
    paper = DDCA_PAPER

    def __init__(self, beta: float = 0.2, baseline: str = "grpo", use_pass_rate: bool = True, min_std: float = 0):
        if not beta >= 0:
            raise ValueError(f"beta must be at least 0, got {beta}: a negative value would reward length.")
        if baseline not in BASELINES:
            raise ValueError(f"baseline must be one of {BASELINES}, got {baseline!r}.")
        if not min_std >= 0:
            raise ValueError(f"min_std must be at least 0 tokens, got {min_std}.")
        self.beta = beta
        self.baseline = baseline
        self.use_pass_rate = use_pass_rate
        self.min_std = min_std

    def attach(self, trainer: TrainerView) -> None:
        check_rewards_are_summed(self, trainer)

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        lengths, correct = rollouts.by_group(rollouts.lengths), rollouts.by_group(rollouts.correct)
        rewards = rollouts.total_rewards() if rollouts.rewards else rollouts.correct
        length_term = self.beta * length_advantages(
            lengths, correct, baseline=self.baseline, use_pass_rate=self.use_pass_rate, min_std=self.min_std
        )
        self._metrics = {
            "length_term": length_term[correct == 1].abs().mean().item(),
            "comparable_groups": (length_term != 0).any(dim=1).float().mean().item(),
        }
        total = reward_advantages(rollouts.by_group(rewards), baseline=self.baseline) + length_term
        return total.flatten().to(advantages)
