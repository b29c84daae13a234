# SPDX-License-Identifier: Apache-2.0
"""
DLER: doing length penalty right (Liu et al., 2025, https://huggingface.co/papers/2510.15110).

The simplest length penalty, truncation, with a suitable optimization: reward 0 beyond the limit, groups without a signal replaced,
advantages normalized over the batch instead of the group, and a higher upper clip.

TRL's `scale_rewards="batch"` divides by the standard deviation of the rewards; DLER whitens the advantages, weighted by tokens, which
[`BatchWhitening`] does.

Differences from the authors' code (NVlabs/DLER @ ea7d4f7):
  1. By default the paper's form: a truncated completion earns 0, and no advantage is boosted. The code keeps 0.1 of the reward of a
     truncated completion and adds 0.1 to the advantage of correct ones. Both are options.
  2. By default the population variance, and 1e-8 added to the standard deviation. The code has the unbiased variance of N tokens, plus
     1e-8; for N tokens the two differ by a factor of about 1 + 1 / (2 N). An option too.
  3. Refills are limited, and draw exactly the missing groups. See [`DynamicSampling`].

DA-DLER, whose limit depends on how many completions of a group are correct, has no public code. Reconstructed: the share is that of the
same group under the generation limit, the limit is applied to the reward afterwards, and a share equal to a threshold keeps the longer limit.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import Advantage, GroupReward, Paper, TrainerView
from ..components.reward_functions import check_rewards_are_summed
from ..trainer import ConciseGRPOTrainer
from .dler_config import DLERConfig
from .dynamic_sampling import DynamicSampling
from .siri import truncation_penalty


logger = logging.getLogger(__name__)

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
    reconstructed=(
        "Exactly the missing groups are drawn, and the number of refills is limited. In DA-DLER, how the limit of a group is chosen and "
        "applied."
    ),
)


def truncation_factor_reward(correct: Tensor, truncated: Tensor, *, factor: float = 0.0) -> Tensor:
    r"""
    Return what DLER adds to the correctness, so that the sum is the reward $R' = f c$ where truncated, and $c$ otherwise.

    Args:
        correct (`torch.Tensor`): `(B,)`, $c$: 1 correct, 0 wrong, NaN unknown.
        truncated (`torch.Tensor`): `(B,)` bool.
        factor (`float`, *optional*, defaults to `0.0`): $f$, in `[0, 1]`.

    Returns:
        `torch.Tensor`: `(B,)`, 0 or $f - 1$; NaN where the correctness is unknown.

    Examples:
        >>> import torch
        >>> truncation_factor_reward(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([False, True, True]), factor=0.25)
        tensor([ 0.0000, -0.7500,  0.0000])
    """
    return truncation_penalty(correct, truncated, coefficient=factor) + 0.0  # without -0.0


def difficulty_limit(
    correct: Tensor, *, limits: Sequence[int] = (4000, 2000), thresholds: Sequence[float] = (0.5,)
) -> Tensor:
    """
    Return DA-DLER's limit of each group: the more of its completions are correct, the shorter.

    Args:
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.
        limits (`Sequence[int]`, *optional*, defaults to `(4000, 2000)`): Limits in tokens, longest first, one more than thresholds.
        thresholds (`Sequence[float]`, *optional*, defaults to `(0.5,)`): Shares of correct completions above which the next limit applies.

    Returns:
        `torch.Tensor`: `(groups,)` int64, in tokens. The first limit where no correctness is known.

    Examples:
        >>> import torch
        >>> difficulty_limit(torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]))
        tensor([2000, 4000])
    """
    share = correct.nanmean(dim=1)
    level = (share[:, None] > torch.tensor(list(thresholds)).to(share)).sum(dim=1)
    return torch.tensor(list(limits), device=correct.device)[level]


def whiten(advantages: Tensor, weights: Tensor, *, unbiased: bool = False) -> Tensor:
    r"""
    Shift and scale to weighted mean 0 and weighted variance 1.

    $$ \hat A_i = \frac{A_i - \mu}{\sigma + 10^{-8}}, \qquad \mu = \frac{\sum_i w_i A_i}{\sum_i w_i}, \qquad
       \sigma^2 = \frac{\sum_i w_i (A_i - \mu)^2}{\sum_i w_i} $$

    With `unbiased`, as in the authors' code: $(A_i - \mu) / \sqrt{\sigma^2 N / (N - 1) + 10^{-8}}$, where $N = \sum_i w_i$.

    Args:
        advantages (`torch.Tensor`): `(B,)`, $A$.
        weights (`torch.Tensor`): `(B,)`, $w \ge 0$: tokens of each completion, or ones.
        unbiased (`bool`, *optional*, defaults to `False`): Whether the variance is the unbiased one, or the population's.

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
    squares = (weights * centered.square()).sum()
    divisor = (squares / (total - 1).clamp(min=1e-8) + 1e-8).sqrt() if unbiased else (squares / total).sqrt() + 1e-8
    return torch.where(weights > 0, centered / divisor, 0.0)


def judge_truncated(reward: Callable[..., list[float | None]]) -> Callable[..., list[float | None]]:
    """
    Return a reward function that judges truncated completions by their text.

    [`math_accuracy_reward`] counts a completion that was truncated as wrong. Where a truncated completion may keep a part of its
    reward, it has to be judged first: it is correct if its reasoning is closed and its answer is complete.

    Args:
        reward (`Callable`): A reward function that reads `completion_finished`.

    Examples:
        >>> from trl_concise import math_accuracy_reward
        >>> row = {"completions": [r"\\boxed{4} is the answer, because"], "solution": ["4"], "completion_finished": [False]}
        >>> math_accuracy_reward(**row), judge_truncated(math_accuracy_reward)(**row)
        ([0.0], [1.0])
    """

    @functools.wraps(reward)
    def judged(
        completions: list[Any], *args: Any, completion_finished: Any = None, **kwargs: Any
    ) -> list[float | None]:
        return reward(completions, *args, **kwargs)

    setattr(judged, _JUDGES_TRUNCATED, True)
    return judged


_JUDGES_TRUNCATED = "judges_truncated"


class TruncationFactor(GroupReward):
    """
    Multiplies the reward of a truncated correct completion by a factor. See [`truncation_factor_reward`].

    It belongs to training: in evaluation it is 0.

    Args:
        factor (`float`, *optional*, defaults to `0.0`):
            What a truncated completion keeps of its reward, in `[0, 1]`. 0 in the paper, 0.1 in the authors' code. Above 0, the
            correctness function must judge truncated completions: see [`judge_truncated`].

    Raises:
        `ValueError`: If the factor is out of range.
    """

    name = "dler_truncation"
    paper = DLER_PAPER

    def __init__(self, factor: float = 0.0):
        if not 0 <= factor <= 1:
            raise ValueError(f"factor must be between 0 and 1, got {factor}. In DLERConfig it is truncation_factor.")
        self.factor = factor

    def attach(self, trainer: TrainerView) -> None:
        if trainer.args.mask_truncated_completions:
            raise ValueError(
                "mask_truncated_completions=True removes truncated completions from the loss, but DLER shortens completions only "
                "through them. Leave it False."
            )
        assert trainer.correctness_column is not None  # needed, see `needs_correctness`
        correctness = trainer.reward_funcs[trainer.correctness_column]
        name = getattr(correctness, "__name__", "")
        if self.factor > 0 and name == "math_accuracy_reward" and not hasattr(correctness, _JUDGES_TRUNCATED):
            logger.warning(
                "A truncated completion keeps %g of its reward, but math_accuracy_reward gives it 0. Pass "
                "judge_truncated(math_accuracy_reward), which judges it by its text.",
                self.factor,
            )

    def truncated(self, rollouts: Rollouts) -> Tensor:
        """Return which completions count as truncated: `(B,)` bool."""
        return rollouts.truncated

    def score(self, rollouts: Rollouts) -> Tensor:
        if not rollouts.training:
            return torch.zeros_like(rollouts.correct)
        return truncation_factor_reward(rollouts.correct, self.truncated(rollouts), factor=self.factor)

    def observe(self, rollouts: Rollouts) -> None:
        truncated = self.truncated(rollouts)
        self._metrics = {
            "truncated_fraction": truncated.float().mean().item(),
            "truncated_correct_fraction": (truncated & (rollouts.correct == 1)).float().mean().item(),
        }


class DifficultyTruncation(TruncationFactor):
    """
    DA-DLER: completions that reach the limit of their group count as truncated. See [`difficulty_limit`].

    Partly reconstructed, because the code is not public: the paper says that the limit depends on how many completions of the group are
    correct, and gives two limits and one threshold, which are the defaults.

    Args:
        limits (`Sequence[int]`, *optional*, defaults to `(4000, 2000)`):
            Limits in tokens, from the most difficult groups to the easiest.
        thresholds (`Sequence[float]`, *optional*, defaults to `(0.5,)`):
            Shares of correct completions above which the next limit applies, one less than limits.
        factor (`float`, *optional*, defaults to `0.0`):
            See [`TruncationFactor`]. A completion between the limits has ended by itself, and is judged in any case.

    Raises:
        `ValueError`: If limits do not fall, thresholds do not rise, or their numbers do not match.
    """

    def __init__(
        self, limits: Sequence[int] = (4000, 2000), thresholds: Sequence[float] = (0.5,), factor: float = 0.0
    ):
        super().__init__(factor)
        self.limits, self.thresholds = list(limits), list(thresholds)
        if len(self.limits) != len(self.thresholds) + 1:
            raise ValueError(
                f"limits must have one more value than thresholds, got {self.limits} and {self.thresholds}. In DLERConfig they are "
                "difficulty_limits and difficulty_thresholds."
            )
        if self.limits != sorted(self.limits, reverse=True) or self.limits[-1] < 1:
            raise ValueError(
                f"limits must be at least 1 token and must not rise, got {self.limits}: the first is that of the most difficult groups. "
                "In DLERConfig they are difficulty_limits."
            )
        if self.thresholds != sorted(set(self.thresholds)) or not all(0 <= share < 1 for share in self.thresholds):
            raise ValueError(
                f"thresholds must rise and lie in [0, 1), got {self.thresholds}. In DLERConfig they are difficulty_thresholds."
            )

    def config(self) -> dict[str, Any]:
        return {**super().config(), "limits": self.limits, "thresholds": self.thresholds}

    def truncated(self, rollouts: Rollouts) -> Tensor:
        limits = difficulty_limit(
            rollouts.by_group(rollouts.correct), limits=self.limits, thresholds=self.thresholds
        ).repeat_interleave(rollouts.num_generations)
        # Lengths exclude EOS: with it, a completion of `limit` tokens would not fit.
        return rollouts.truncated | (rollouts.lengths >= limits)


class BatchWhitening(Advantage):
    """
    Normalizes advantages over the whole batch, as DLER does. Needs `scale_rewards="none"`.

    Args:
        token_weighted (`bool`, *optional*, defaults to `True`):
            Whether a completion is weighted by its tokens in mean and variance, as in the authors' code, or counts once.
        skip_zero_variance (`bool`, *optional*, defaults to `True`):
            Whether groups of equal rewards are left out, and get no advantage.
        unbiased (`bool`, *optional*, defaults to `False`):
            Whether the variance is the unbiased one, as in the authors' code, or the population's. See [`whiten`].
        boost (`float`, *optional*, defaults to `0.0`):
            Added to the advantages of correct completions, after the normalization. 0 in the paper, 0.1 in the authors' code. With
            [`DynamicSampling`], groups that are all correct get none.
        boost_truncated (`bool`, *optional*, defaults to `True`):
            Whether correct completions that were truncated get the boost too, as in the authors' code.

    Raises:
        `ValueError`: If `boost` is negative.
    """

    name = "dler"
    paper = DLER_PAPER

    def __init__(
        self,
        token_weighted: bool = True,
        skip_zero_variance: bool = True,
        unbiased: bool = False,
        boost: float = 0.0,
        boost_truncated: bool = True,
    ):
        if not 0 <= boost < math.inf:
            raise ValueError(
                f"boost must be at least 0 and finite, got {boost}: a negative value would lower the advantages of correct completions. "
                "In DLERConfig it is advantage_boost."
            )
        self.token_weighted = token_weighted
        self.skip_zero_variance = skip_zero_variance
        self.unbiased = unbiased
        self.boost = boost
        self.boost_truncated = boost_truncated
        self.needs_correctness = boost > 0

    def attach(self, trainer: TrainerView) -> None:
        if trainer.args.scale_rewards != "none":
            raise ValueError(
                f"BatchWhitening normalizes advantages itself, but scale_rewards={trainer.args.scale_rewards!r} divides "
                'them first. Set scale_rewards="none".'
            )
        check_rewards_are_summed(self, trainer)

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        weights = rollouts.loss_lengths.to(advantages) if self.token_weighted else torch.ones_like(advantages)
        if rollouts.rewards:  # if every function has abstained, the advantage is 0 for another reason
            unknown = torch.stack(list(rollouts.rewards.values())).isnan().all(dim=0)
            weights = weights.masked_fill(unknown, 0)
        if self.skip_zero_variance:
            informative = (rollouts.by_group(advantages).abs() > 1e-6).any(dim=1)
            weights = weights * informative.repeat_interleave(rollouts.num_generations)
        whitened = whiten(advantages, weights, unbiased=self.unbiased)
        boosted = rollouts.correct == 1 if self.boost_truncated else (rollouts.correct == 1) & ~rollouts.truncated
        return whitened + self.boost * boosted


class DLERTrainer(ConciseGRPOTrainer):
    """
    Drop-in [`~trl.GRPOTrainer`] with the length penalty and the optimization of [DLER](https://huggingface.co/papers/2510.15110).

    Takes the arguments of [`ConciseGRPOTrainer`], without `group_filter` and `advantage`. The first reward function (or
    `args.correctness`) says with 1 or 0 whether a completion is correct. `args.max_completion_length` is the length penalty.

    Example:

    ```python
    >>> from trl_concise import DLERConfig, DLERTrainer, load_problems, math_accuracy_reward

    >>> trainer = DLERTrainer(
    ...     model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    ...     reward_funcs=math_accuracy_reward,
    ...     args=DLERConfig(output_dir="dler", max_completion_length=4000),
    ...     train_dataset=load_problems("agentica-org/DeepScaleR-Preview-Dataset"),
    ... )
    >>> trainer.train()
    ```
    """

    config_class = DLERConfig
    _tag_names = ["trl", "grpo", "trl-concise", "dler"]
    _name = "DLER"
    _paper = DLER_PAPER.as_card()

    def _own_rewards(self, args):
        if args.difficulty_limits is None:
            return [(TruncationFactor(args.truncation_factor), 1.0)]
        return [
            (DifficultyTruncation(args.difficulty_limits, args.difficulty_thresholds, args.truncation_factor), 1.0)
        ]

    def _own_slots(self, args):
        return {
            "group_filter": DynamicSampling(args.max_refills),
            "advantage": BatchWhitening(
                unbiased=args.unbiased_variance, boost=args.advantage_boost, boost_truncated=args.boost_truncated
            ),
        }
