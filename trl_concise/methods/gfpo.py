# SPDX-License-Identifier: Apache-2.0
"""
GFPO: group filtered policy optimization (Shrivastava et al., 2025, https://huggingface.co/papers/2508.09726).

Samples a large group, keeps the k completions that are shortest, or that have the most reward per token, and learns from those only.
Shortness is a selection rule, not a reward.

We found no public code of the authors. TRL had a port (trl/experimental/gfpo before #6309), which filters overlapping windows of a batch
instead of its groups. These details are reconstructed:
  1. Ties are broken by the order of completions in the group. A standard deviation of 0 gives the advantage 0, and 1e-8 is added to others.
  2. The adaptive variant reads quartiles of a t-digest. Here all group means are kept, quartiles are interpolated linearly, and the first
     8 groups are treated as very hard. The paper gives neither the digest's parameters nor when it is ready.
  3. A completion of unknown reward is kept only if fewer than k are known.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ..batch.rollouts import Rollouts
from ..components import DIVISORS, Advantage, GroupFilter, Paper, TrainerView
from ..components.reward_functions import check_rewards_are_summed
from .ddca import reward_advantages


logger = logging.getLogger(__name__)

GFPO_PAPER = Paper(
    title="Sample More to Think Less: Group Filtered Policy Optimization for Concise Reasoning",
    id="2508.09726",
    # docstyle-ignore
    citation="""\
@article{shrivastava2025sample,
    title        = {{Sample More to Think Less: Group Filtered Policy Optimization for Concise Reasoning}},
    author       = {Vaishnavi Shrivastava and Ahmed Awadallah and Vidhisha Balachandran and Shivam Garg and Harkirat Behl and Dimitris Papailiopoulos},
    year         = 2025,
    eprint       = {arXiv:2508.09726}
}""",  # noqa: E501
    reconstructed="Ties, groups of equal rewards, and when and how the adaptive variant reads its quartiles.",
)
METRICS = ("length", "efficiency")


def filter_scores(rewards: Tensor, lengths: Tensor, *, metric: str = "length") -> Tensor:
    r"""
    Return the score by which completions are kept, higher is better: $-\ell_i$, or $R_i / \ell_i$.

    Args:
        rewards (`torch.Tensor`): `(groups, G)`, $R$, NaN unknown.
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens. An empty completion counts as one token.
        metric (`str`, *optional*, defaults to `"length"`): `"length"` or `"efficiency"`, the reward per token.

    Returns:
        `torch.Tensor`: `(groups, G)` float32, minus infinity where the reward is unknown.

    Raises:
        `ValueError`: If `metric` is unknown.
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}, got {metric!r}.")
    lengths = lengths.float()
    scores = -lengths if metric == "length" else rewards.float() / lengths.clamp(min=1)
    return scores.masked_fill(rewards.isnan(), -torch.inf)


def best_k(scores: Tensor, k: int | Tensor) -> Tensor:
    """
    Return which completions of each group are kept: exactly k with the highest scores, of equal ones the first.

    Args:
        scores (`torch.Tensor`): `(groups, G)`.
        k (`int` or `torch.Tensor`): Completions to keep: a number, or `(groups,)`.

    Returns:
        `torch.Tensor`: `(groups, G)` bool.

    Examples:
        >>> import torch
        >>> best_k(torch.tensor([[-300.0, -100.0, -300.0, -200.0]]), 3)
        tensor([[ True,  True, False,  True]])
    """
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < (k if isinstance(k, int) else k[:, None])


def kept_advantages(rewards: Tensor, kept: Tensor) -> Tensor:
    r"""
    Return GFPO's advantages (eq. 2 of the paper), relative to the kept completions only.

    $$ A_i = m_i \frac{R_i - \operatorname{mean}_S R}{\operatorname{std}_S R + 10^{-8}} $$

    with the population standard deviation, and $m_i = 1$ for the completions in $S$, which are kept.

    Args:
        rewards (`torch.Tensor`): `(groups, G)`, $R$, NaN unknown.
        kept (`torch.Tensor`): `(groups, G)` bool.

    Returns:
        `torch.Tensor`: `(groups, G)`, 0 where not kept, unknown, or all kept rewards are equal.

    Examples:
        >>> import torch
        >>> rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]])
        >>> kept_advantages(rewards, torch.arange(8)[None] < 4)
        tensor([[-1.,  1.,  1., -1.,  0.,  0.,  0.,  0.]])
    """
    return reward_advantages(rewards.masked_fill(~kept, torch.nan))


def adaptive_k(
    means: Tensor,
    quartiles: Tensor | None,
    *,
    easy: int = 4,
    medium: int = 6,
    hard: int = 8,
    very_hard: int = 8,
) -> Tensor:
    """
    Return how many completions each group keeps (algorithm 2 of the paper): the lower its mean reward, the more.

    Args:
        means (`torch.Tensor`): `(groups,)`, mean rewards, NaN unknown.
        quartiles (`torch.Tensor`, *optional*): `(3,)`, of the mean rewards so far; `None` while there are too few.
        easy, medium, hard, very_hard (`int`, *optional*): Completions to keep for means of at least the third quartile, below it,
            below the median, and below the first quartile. The last is also that of unknown means, and of all without quartiles.

    Returns:
        `torch.Tensor`: `(groups,)` int64.

    Examples:
        >>> import torch
        >>> adaptive_k(torch.tensor([0.0, 0.4, 0.5, 0.9]), torch.tensor([0.25, 0.5, 0.75]))
        tensor([8, 8, 6, 4])
    """
    if quartiles is None:
        return torch.full_like(means, very_hard, dtype=torch.int64)
    choices = torch.tensor([very_hard, hard, medium, easy], device=means.device)
    quarter = (means[:, None] >= quartiles.to(means)).sum(dim=1)  # an unknown mean is in the first
    return choices[quarter]


class GFPO(GroupFilter):
    """
    Keeps the k best completions of each group. Pass [`KeptBaseline`] as `advantage=` too, as in the paper.

    Completions that are not kept have advantage 0. No group is replaced.

    Args:
        k (`int`):
            Completions to keep, from 1 to `num_generations`. With all of them kept, it is neutral.
        metric (`str`, *optional*, defaults to `"length"`):
            `"length"` keeps the shortest, `"efficiency"` those with the most reward per token. With rewards of 0 and 1 the latter
            selects correct completions first, whose rewards are equal: give wrong ones a negative reward.
        divisor (`str`, *optional*, defaults to `"all"`):
            What the loss divides by: `"all"` sampled tokens, as in the paper; or `"kept"`, which leaves other completions out of the
            loss altogether, also out of its KL term. See [`GroupFilter`].

    Raises:
        `ValueError`: If an argument is out of range. When the trainer is built, if `k` exceeds `num_generations`.
    """

    name = "gfpo"
    paper = GFPO_PAPER
    needs_correctness = False

    def __init__(self, k: int, metric: str = "length", divisor: str = "all"):
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a whole number of completions, at least 1, got {k}.")
        self._set(metric, divisor)
        self.k = k

    def _set(self, metric: str, divisor: str) -> None:
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {METRICS}, got {metric!r}.")
        if divisor not in DIVISORS:
            raise ValueError(f"divisor must be one of {DIVISORS}, got {divisor!r}.")
        self.metric = metric
        self.divisor = divisor
        self._has_warned = False

    def attach(self, trainer: TrainerView) -> None:
        check_rewards_are_summed(self, trainer)
        if not any(isinstance(component, Advantage) for component in trainer.components):
            logger.warning(
                "%s keeps some completions of each group, but their advantages are relative to all of them. Pass "
                "advantage=KeptBaseline() to compare kept completions with each other, as in the paper.",
                type(self).__name__,
            )
        self._check_k(trainer.num_generations)

    def _check_k(self, num_generations: int) -> None:
        if self.k > num_generations:
            raise ValueError(
                f"GFPO(k={self.k}) cannot keep more than num_generations={num_generations} completions. Set k to at most "
                "num_generations."
            )

    def _choose_k(self, rewards: Tensor) -> int | Tensor:
        """Return how many completions each group keeps, for rewards `(groups, G)`."""
        return self.k

    def keep(self, rollouts: Rollouts) -> Tensor:
        rewards = rollouts.by_group(rollouts.total_rewards())
        scores = filter_scores(rewards, rollouts.by_group(rollouts.lengths), metric=self.metric)
        return best_k(scores, self._choose_k(rewards)).flatten()

    def observe(self, rollouts: Rollouts) -> None:
        assert rollouts.kept is not None  # set by the trainer
        rewards, kept = rollouts.by_group(rollouts.total_rewards()), rollouts.by_group(rollouts.kept)
        lost = has_spread(rewards) & ~has_spread(rewards.masked_fill(~kept, torch.nan))
        self._metrics = {
            "k": kept.sum(dim=1).float().mean().item(),
            "kept_length": rollouts.lengths[rollouts.kept].float().mean().item(),
            "lost_groups": lost.float().mean().item(),
        }
        if self.metric == "efficiency" and lost.any() and not (rewards < 0).any() and not self._has_warned:
            self._has_warned = True
            logger.warning(
                '%s(metric="efficiency") has selected completions of equal reward in %.0f %% of the groups, which then have no gradient. '
                'Give wrong completions a negative reward, or set metric="length".',
                type(self).__name__,
                100 * self._metrics["lost_groups"],
            )


def has_spread(rewards: Tensor) -> Tensor:
    """Return which groups, rows of `(groups, G)`, have known rewards that differ by more than 1e-6."""
    highest = rewards.nan_to_num(nan=-torch.inf).amax(dim=1)
    lowest = rewards.nan_to_num(nan=torch.inf).amin(dim=1)
    return highest - lowest > 1e-6


class AdaptiveGFPO(GFPO):
    """
    GFPO with a k per group, larger for groups whose mean reward is low compared with all groups so far. See [`adaptive_k`].

    The mean rewards of all groups so far are saved with the checkpoint: four bytes each.

    Args:
        easy, medium, hard, very_hard (`int`, *optional*, defaults to `4`, `6`, `8` and `8`):
            Completions to keep in a group whose mean reward is in the highest, third, second and lowest quarter. The paper's values,
            for groups of 16. In smaller groups, at most all completions are kept.
        metric, divisor (`str`, *optional*):
            See [`GFPO`].
        min_groups (`int`, *optional*, defaults to `8`):
            Number of group means from which quartiles are read. Until then, every group counts as very hard.

    Raises:
        `ValueError`: If an argument is out of range.
    """

    def __init__(
        self,
        easy: int = 4,
        medium: int = 6,
        hard: int = 8,
        very_hard: int = 8,
        metric: str = "length",
        divisor: str = "all",
        min_groups: int = 8,
    ):
        levels = {"easy": easy, "medium": medium, "hard": hard, "very_hard": very_hard}
        for name, value in (*levels.items(), ("min_groups", min_groups)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}.")
        self._set(metric, divisor)
        self.easy, self.medium, self.hard, self.very_hard = easy, medium, hard, very_hard
        self.min_groups = min_groups
        self._means = torch.empty(0)

    def _check_k(self, num_generations: int) -> None:
        pass  # `best_k` keeps at most the whole group

    def _means_with(self, rewards: Tensor) -> Tensor:
        """Return the mean rewards of all groups so far and of these, without unknown ones."""
        means = rewards.nanmean(dim=1).cpu()
        return torch.cat([self._means, means[~means.isnan()]])

    def _quartiles(self, means: Tensor) -> Tensor | None:
        if len(means) < self.min_groups:
            return None
        return torch.quantile(means.double(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))

    def _choose_k(self, rewards: Tensor) -> Tensor:
        # The batch counts in its own quartiles, but becomes part of the state only when it is observed.
        quartiles = self._quartiles(self._means_with(rewards))
        levels = {"easy": self.easy, "medium": self.medium, "hard": self.hard, "very_hard": self.very_hard}
        return adaptive_k(rewards.nanmean(dim=1), quartiles, **levels)

    def observe(self, rollouts: Rollouts) -> None:
        super().observe(rollouts)
        self._means = self._means_with(rollouts.by_group(rollouts.total_rewards()))
        quartiles = self._quartiles(self._means)
        values = quartiles.tolist() if quartiles is not None else [torch.nan] * 3
        self._metrics = {**self._metrics, **dict(zip(("q25", "q50", "q75"), values, strict=True))}

    def state_dict(self) -> dict[str, Any]:
        return {"means": self._means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._means = state["means"].cpu()


class KeptBaseline(Advantage):
    """
    Computes advantages relative to the completions that a [`GroupFilter`] keeps. See [`kept_advantages`].

    It replaces TRL's advantages, so `scale_rewards` has no effect. Without a filter it is GRPO with the population standard deviation.
    """

    name = "kept_baseline"
    paper = GFPO_PAPER
    needs_correctness = False

    def attach(self, trainer: TrainerView) -> None:
        check_rewards_are_summed(self, trainer)

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        kept = rollouts.kept if rollouts.kept is not None else torch.ones_like(rollouts.truncated)
        rewards = rollouts.by_group(rollouts.total_rewards())
        return kept_advantages(rewards, rollouts.by_group(kept)).flatten().to(advantages)
