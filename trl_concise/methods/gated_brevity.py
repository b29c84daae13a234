# SPDX-License-Identifier: Apache-2.0
r"""
Five length rewards that compare the completions of a group: gated brevity, the pass-rate penalty, GR3, Long2Short and JET.

Each is a function of lengths and rewards that returns an addition to the reward, and one component, [`BrevityReward`], applies the
one that its `rule` names. Sources:

- gated brevity: prime-rl (PrimeIntellect-ai/prime-rl @ f8a146063, orchestrator/advantage.py);
- pass-rate penalty: prime-rl (@ 559b447, orchestrator/algo/grpo.py, `LinearLengthPenaltyConfig`);
- GR3 (Li et al., 2026, https://huggingface.co/papers/2603.10535), reconstructed from secondary sources;
- Long2Short, of VibeThinker-3B (Xu et al., 2026, https://huggingface.co/papers/2606.16140, section 2.2);
- JET, "Your Models Have Thought Enough" (Han et al., 2025, https://huggingface.co/papers/2509.23392; JinyiHan99/Just-Enough-Think @ 89cf33e,
  EasyR1/examples/reward_function/math.py).

docs/gated_brevity.md numbers the differences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import GroupReward, Paper, TrainerView
from ..components.reward_functions import check_rewards_are_summed
from .kimi import shortness


GR3_PAPER = Paper(
    title="Tackling Length Inflation Without Trade-offs: Group Relative Reward Rescaling for Reinforcement Learning",
    id="2603.10535",
    # docstyle-ignore
    citation="""\
@article{li2026gr3,
    title        = {{Tackling Length Inflation Without Trade-offs: Group Relative Reward Rescaling for Reinforcement Learning}},
    author       = {Zichao Li and Jie Lou and Fangchen Dong and Zhiyuan Fan and Mengjie Ren and others},
    year         = 2026,
    eprint       = {arXiv:2603.10535}
}""",
    reconstructed="the formula and alpha, from secondary sources; the paper's calibration of advantages is left out",
)
LONG2SHORT_PAPER = Paper(
    title="VibeThinker-3B: Exploring the Frontier of Verifiable Reasoning in Small Language Models",
    id="2606.16140",
    # docstyle-ignore
    citation="""\
@article{xu2026vibethinker3b,
    title        = {{VibeThinker-3B: Exploring the Frontier of Verifiable Reasoning in Small Language Models}},
    author       = {Sen Xu and Shixi Liu and Wei Wang and Jixin Min and Yingwei Dai and others},
    year         = 2026,
    eprint       = {arXiv:2606.16140}
}""",
)
JET_PAPER = Paper(
    title="Your Models Have Thought Enough: Training Large Reasoning Models to Stop Overthinking",
    id="2509.23392",
    # docstyle-ignore
    citation="""\
@article{han2025jet,
    title        = {{Your Models Have Thought Enough: Training Large Reasoning Models to Stop Overthinking}},
    author       = {Jinyi Han and Ying Huang and Ying Liao and Zishang Jiang and Xikun Lu and others},
    year         = 2025,
    eprint       = {arXiv:2509.23392}
}""",
)


def gated_brevity(lengths: Tensor, rewards: Tensor, *, strength: float = 1.0) -> Tensor:
    r"""
    Give the best completions of a group a bonus for being shorter than their mean (prime-rl).

    $$ b_i = [R_i = \max R > 0], \qquad
       \text{bonus}_i = \alpha \, b_i R_i \operatorname{clip}\!\left(1 - \frac{\ell_i}{\operatorname{mean}_{b} \ell},\, 0,\, 1\right) $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        rewards (`torch.Tensor`): `(groups, G)`, $R$; NaN unknown.
        strength (`float`, *optional*, defaults to `1.0`): $\alpha$, at least 0. prime-rl has 1.

    Returns:
        `torch.Tensor`: `(groups, G)` float32 in $[0, \alpha R]$, 0 for all but the best; NaN where `rewards` is.

    Examples:
        >>> import torch
        >>> gated_brevity(torch.tensor([[800, 1500, 2600, 500]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
        tensor([[0.5102, 0.0816, 0.0000, 0.0000]])
    """
    best = rewards.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True).clamp(min=0)
    is_best = (rewards == best) & (rewards > 0)
    mean = torch.where(is_best, lengths.float(), torch.nan).nanmean(dim=1, keepdim=True)
    bonus = torch.where(mean > 0, (1 - lengths / mean).clamp(0, 1), 0.0)
    return torch.where(is_best, strength * rewards * bonus, 0.0).masked_fill(rewards.isnan(), torch.nan)


def pass_rate_penalty(lengths: Tensor, rewards: Tensor, *, strength: float = 0.25) -> Tensor:
    r"""
    Charge every completion, also wrong ones, for its length, in proportion to the mean reward of its group (prime-rl).

    $$ -\alpha \max(\operatorname{mean} R,\, 0) \, \frac{\ell_i}{\max \ell} $$

    With rewards of 1 and 0 the mean is the pass rate. prime-rl adds the same term for the tokens that the model reads and for its
    turns, each with a strength of 0.1: call the function once for each of them.

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        rewards (`torch.Tensor`): `(groups, G)`, $R$; NaN unknown.
        strength (`float`, *optional*, defaults to `0.25`): $\alpha$, at least 0. Below 1, a correct completion (1) stays above a wrong
            one (0).

    Returns:
        `torch.Tensor`: `(groups, G)` float32, at most 0; NaN where `rewards` is.

    Examples:
        >>> import torch
        >>> pass_rate_penalty(torch.tensor([[100, 200, 400]]), torch.tensor([[1.0, 0.0, 0.0]]))
        tensor([[-0.0208, -0.0417, -0.0833]])
    """
    mean = rewards.nanmean(dim=1, keepdim=True).clamp(min=0)
    share = lengths / lengths.amax(dim=1, keepdim=True).clamp(min=1)
    return (-strength * mean * share).masked_fill(rewards.isnan(), torch.nan)


def gr3_rescaling(lengths: Tensor, rewards: Tensor, *, strength: float = 0.33) -> Tensor:
    r"""
    Divide positive rewards by relative length (GR3).

    $$ \frac{R_i}{1 + \alpha \, \ell_i / \operatorname{mean} \ell} - R_i \text{ if } R_i > 0, \quad 0 \text{ otherwise} $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens; the mean is over the whole group.
        rewards (`torch.Tensor`): `(groups, G)`, $R$; NaN unknown.
        strength (`float`, *optional*, defaults to `0.33`): $\alpha$, at least 0.

    Returns:
        `torch.Tensor`: `(groups, G)` float32 in $(-R, 0]$; NaN where `rewards` is.

    Examples:
        >>> import torch
        >>> gr3_rescaling(torch.tensor([[100, 200, 300]]), torch.tensor([[1.0, 1.0, 0.0]]))
        tensor([[-0.1416, -0.2481,  0.0000]])
    """
    mean = lengths.float().mean(dim=1, keepdim=True)
    relative = torch.where(mean > 0, lengths / mean, 1.0)
    change = rewards * (1 / (1 + strength * relative) - 1)
    return torch.where(rewards <= 0, 0.0, change)


def long2short(lengths: Tensor, correct: Tensor, *, strength: float = 0.2) -> Tensor:
    r"""
    Move reward from the long correct completions of a group to the short ones (VibeThinker-3B, section 2.2).

    $$ \alpha \, \frac{s_i - \operatorname{mean}_{c=1} s}{\max_{c=1} |s - \operatorname{mean}_{c=1} s|}, \qquad s_i = 1 / \ell_i $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens; 0 counts as 1.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.
        strength (`float`, *optional*, defaults to `0.2`): $\alpha$, at least 0.

    Returns:
        `torch.Tensor`: `(groups, G)` float32 in $[-\alpha, \alpha]$, whose sum over the correct completions is 0; 0 if wrong, or if the
        correct completions have one length; NaN where `correct` is.

    Examples:
        >>> import torch
        >>> long2short(torch.tensor([[100, 200, 400, 50]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
        tensor([[ 0.2000, -0.0400, -0.1600,  0.0000]])
    """
    own = torch.where(correct == 1, lengths.clamp(min=1).double(), torch.nan)
    shortest = own.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)
    relative = shortest / own  # exactly 1 where lengths are equal
    centered = relative - relative.nanmean(dim=1, keepdim=True)
    largest = centered.nan_to_num().abs().amax(dim=1, keepdim=True)
    differ = relative.nan_to_num(nan=1.0).amin(dim=1, keepdim=True) < 1
    shares = torch.where((correct == 1) & differ, centered / largest, 0.0)
    return (strength * shares.float()).masked_fill(correct.isnan(), torch.nan)


def jet_length_reward(lengths: Tensor, correct: Tensor, *, strength: float = 1.2, delta: float = 0.05) -> Tensor:
    r"""
    Place correct completions between the shortest and the longest correct one of their group (JET).

    $$ \alpha (1 - \delta) \, \frac{\ell_{\max} - \ell_i}{\ell_{\max} - \ell_{\min} + 10^{-8}} + \delta
       \text{ if correct}, \quad 0 \text{ otherwise} $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.
        strength (`float`, *optional*, defaults to `1.2`): $\alpha$, at least 0.
        delta (`float`, *optional*, defaults to `0.05`): $\delta$, the reward of the longest correct completion, and of all if they have
            one length.

    Returns:
        `torch.Tensor`: `(groups, G)` float32 in $[\delta, \alpha (1 - \delta) + \delta]$ if correct, 0 if wrong; NaN where `correct` is.

    Examples:
        >>> import torch
        >>> jet_length_reward(torch.tensor([[100, 200, 300, 50]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
        tensor([[1.1900, 0.6200, 0.0500, 0.0000]])
    """
    place = shortness(lengths, correct == 1).nan_to_num(nan=0.0)
    reward = torch.where(correct == 1, strength * (1 - delta) * place + delta, 0.0)
    return reward.float().masked_fill(correct.isnan(), torch.nan)


class _Rule(NamedTuple):
    function: Callable[..., Tensor]
    strength: float  # the published one
    limit: float  # from this strength on a correct completion can fall below a wrong one
    scales: bool  # whether it scales a reward, which then must not be divided by a standard deviation
    paper: Paper | None


RULES = {
    "gated": _Rule(gated_brevity, 1.0, torch.inf, True, None),
    "pass-rate": _Rule(pass_rate_penalty, 0.25, 1.0, True, None),
    "gr3": _Rule(gr3_rescaling, 0.33, torch.inf, True, GR3_PAPER),
    "long2short": _Rule(long2short, 0.2, 1.0, False, LONG2SHORT_PAPER),
    "jet": _Rule(jet_length_reward, 1.2, torch.inf, False, JET_PAPER),
}


class BrevityReward(GroupReward):
    """
    One of five length rewards, added to the correctness or to other rewards.

    With a correctness of 1 or 0 and a weight of 1, no correct completion earns less than a wrong one of its group.

    Args:
        rule (`str`, *optional*, defaults to `"gated"`):
            `"gated"` ([`gated_brevity`]), `"pass-rate"` ([`pass_rate_penalty`]), `"gr3"` ([`gr3_rescaling`]), `"long2short"`
            ([`long2short`]) or `"jet"` ([`jet_length_reward`]).
        strength (`float`, *optional*):
            How much length counts: at least 0, and below 1 for `"pass-rate"` and `"long2short"`. Defaults to the published value of the
            rule: 1, 0.25, 0.33, 0.2 and 1.2.
        use_rewards (`bool`, *optional*, defaults to `False`):
            Whether `"gated"`, `"pass-rate"` and `"gr3"` scale the weighted sum of the reward functions, as prime-rl does, instead of the
            correctness.

    Raises:
        `ValueError`: If a setting is out of range. When the trainer is built, if `"gated"`, `"pass-rate"` or `"gr3"` is used with rewards
            that are divided by a standard deviation.
    """

    name = "brevity"

    def __init__(self, rule: str = "gated", strength: float | None = None, use_rewards: bool = False):
        if rule not in RULES:
            raise ValueError(f"rule must be one of {tuple(RULES)}, got {rule!r}.")
        published = RULES[rule]
        if strength is not None and not 0 <= strength < published.limit:
            bound = f" and below {published.limit:g}" if published.limit < torch.inf else ""
            raise ValueError(f"strength must be at least 0{bound} for the rule {rule!r}, got {strength}.")
        if use_rewards and not published.scales:
            raise ValueError(
                f"use_rewards=True is for the rules that scale rewards; {rule!r} uses correctness. Leave it False."
            )
        self.rule = rule
        self.strength = strength if strength is not None else published.strength
        self.use_rewards = use_rewards
        self.needs_correctness = not use_rewards
        self.paper = published.paper

    def attach(self, trainer: TrainerView) -> None:
        if not RULES[self.rule].scales:
            return
        check_rewards_are_summed(self, trainer)
        if trainer.args.scale_rewards != "none":
            raise ValueError(
                f"BrevityReward({self.rule!r}) keeps its scale, but scale_rewards={trainer.args.scale_rewards!r} divides rewards by "
                'a standard deviation. Set scale_rewards="none".'
            )

    def score(self, rollouts: Rollouts) -> Tensor:
        rewards = rollouts.total_rewards() if self.use_rewards else rollouts.correct
        function = RULES[self.rule].function
        lengths, rewards = rollouts.by_group(rollouts.lengths), rollouts.by_group(rewards)
        return function(lengths, rewards, strength=self.strength).flatten()
