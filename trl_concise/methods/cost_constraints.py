# SPDX-License-Identifier: Apache-2.0
"""
Limits on mean length and on accuracy that hold during training: the first step of HC-RLHF (2025,
https://huggingface.co/papers/2506.08266). The second step, the test of the finished model, is `trl-concise accept`.

Each limit has a multiplier, which grows while a pessimistic estimate of the mean cost is above the limit, and shrinks while it is
below. The advantage weighs reward and costs by the multipliers. The pessimistic estimate, the step of the multiplier and the cost with
the gradient of the standard deviation are read in the authors' code (UMass-SCALAR-Lab/HC-RLHF @ 729793c, built on Safe-RLHF); the
paper's body was not read.

Differences from the authors' code:
  1. The cost is length, or correctness, in place of a learned harm score (reconstructed).
  2. The authors subtract the cost from the reward, and use a leave-one-out baseline. Here TRL's advantages stay as they are, and the costs
     have advantages of their own, centered in the group and divided by their standard deviation; the sum is divided by 1 plus the
     multipliers (reconstructed). As part of the reward, GRPO's division by the standard deviation of the group would cancel the
     multiplier in every group whose completions are all correct.
  3. Mean, standard deviation and multiplier are those before the batch. The authors include the batch.
  4. The step of a multiplier's logarithm is clipped to 1, and the multiplier is at least 1e-6: the authors' can become 0 for good.
  5. Several limits, and a limit that follows the watch set (reconstructed).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import Advantage, Paper, TrainerView
from ..evaluation.bounds import check_delta, t_quantile


HC_RLHF_PAPER = Paper(
    title="Reinforcement Learning from Human Feedback with High-Confidence Safety Constraints",
    id="2506.08266",
    # docstyle-ignore
    citation="""\
@article{chittepu2025reinforcement,
    title        = {{Reinforcement Learning from Human Feedback with High-Confidence Safety Constraints}},
    author       = {Yaswanth Chittepu and Blossom Metevier and Will Schwarzer and Austin Hoag and Scott Niekum and Philip S. Thomas},
    year         = 2025,
    eprint       = {arXiv:2506.08266}
}""",
    reconstructed="costs of length and accuracy, their advantages, several limits, limits on the watch set",
)
SMALLEST = 1e-6  # of a multiplier and of a standard deviation
LARGEST_STEP = 1.0  # of the logarithm of a multiplier


def margin_factor(n: int, *, delta: float = 0.1, test_size: int = 1000, c1: float = 1.0, c2: float = 1.0) -> float:
    r"""
    Return how many standard deviations the pessimistic estimate of a mean lies above the mean.

    $$ \kappa(n) = C_1 \frac{t_{1-\delta, n-1}}{\sqrt n} + C_2 \frac{t_{1-\delta, S-1}}{\sqrt S} $$

    with quantiles $t$ of Student's distribution: the first term for the uncertainty of the mean, the second for that of the later test.

    Args:
        n (`int`): Costs of which the mean is taken, at least 2.
        delta (`float`, *optional*, defaults to `0.1`): $\delta$, between 0 and 0.5.
        test_size (`int`, *optional*, defaults to `1000`): $S$, problems of the later test, at least 2.
        c1 (`float`, *optional*, defaults to `1.0`): $C_1$, at least 0.
        c2 (`float`, *optional*, defaults to `1.0`): $C_2$, at least 0.

    Examples:
        >>> round(margin_factor(32), 6)
        0.272036
    """
    own = c1 * t_quantile(1 - delta, n - 1) / math.sqrt(n)
    return own + c2 * t_quantile(1 - delta, test_size - 1) / math.sqrt(test_size)


def next_multiplier(
    multiplier: float, violation: float, *, learning_rate: float = 0.01, largest: float = 1e6
) -> float:
    r"""
    Return a multiplier after a step of gradient ascent on its logarithm.

    $$ \log \lambda \leftarrow \log \lambda + \operatorname{clip}(\eta \lambda g, -1, 1) $$

    Args:
        multiplier (`float`): $\lambda$, at least 0.
        violation (`float`): $g$, the pessimistic estimate of the mean cost minus the limit: positive if the limit is not kept.
        learning_rate (`float`, *optional*, defaults to `0.01`): $\eta$.
        largest (`float`, *optional*, defaults to `1e6`): Largest multiplier.

    Returns:
        `float`: Between 1e-6 and `largest`; 0 if it was 0.

    Examples:
        >>> round(next_multiplier(1.0, -0.110422), 6)
        0.998896
    """
    if multiplier == 0:
        return 0.0
    step = learning_rate * multiplier * violation
    return min(max(multiplier * math.exp(min(max(step, -LARGEST_STEP), LARGEST_STEP)), SMALLEST), largest)


def augmented_costs(costs: Tensor, mean: float, std: float, factor: float) -> Tensor:
    r"""
    Return the costs whose score-function gradient is that of the mean plus `factor` standard deviations.

    $$ \tilde C = C + \kappa \frac{C^2 - 2 C \mu}{2 \sigma} $$

    because $d\sigma = (d E[C^2] - 2 \mu \, d E[C]) / 2 \sigma$.

    Args:
        costs (`torch.Tensor`): $C$, any shape.
        mean (`float`): $\mu$, of the costs so far.
        std (`float`): $\sigma$, of the costs so far, positive.
        factor (`float`): $\kappa$, see [`margin_factor`].
    """
    return costs + factor * (costs.square() - 2 * costs * mean) / (2 * std)


def cost_advantages(costs: Tensor, std: float) -> Tensor:
    """
    Return costs, centered in their groups and divided by the standard deviation of the costs so far.

    Args:
        costs (`torch.Tensor`): `(groups, G)`, augmented, NaN unknown.
        std (`float`): Of the costs so far; at least 1e-6 is divided by.

    Returns:
        `torch.Tensor`: `(groups, G)`, with a sum of 0 per group; 0 if unknown.
    """
    centered = costs - costs.nanmean(dim=1, keepdim=True)
    return (centered / max(std, SMALLEST)).nan_to_num(nan=0.0)


@dataclass(frozen=True)
class LengthLimit:
    """
    At most `max_tokens` tokens per completion on average. The cost is the number of tokens, divided by it, minus 1.

    Args:
        max_tokens (`float`): Positive. Tokens count as in `completions/mean_length`, without the end of the turn.

    Raises:
        `ValueError`: If `max_tokens` is not positive and finite.
    """

    max_tokens: float
    name = "length"
    largest_cost = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.max_tokens < math.inf:
            raise ValueError(f"max_tokens must be a positive number of tokens, got {self.max_tokens}.")

    def costs(self, rollouts: Rollouts, base: Tensor | None) -> Tensor:
        """Return the cost of each completion: `(B,)` float64."""
        return rollouts.lengths.double() / self.max_tokens - 1


@dataclass(frozen=True)
class AccuracyLimit:
    """
    At most `max_loss` less accuracy than the base model. The cost is the base's accuracy minus the correctness.

    It needs a reward for shortness. With correctness as the only reward, it has nothing to add.

    Args:
        max_loss (`float`): In [0, 1): 0.02 are 2 points.
        base (`float` or `str`, *optional*): Accuracy of the base model on the training problems, in [0, 1]; or the dataset column with
            its accuracy on each problem, such as `trl-concise filter` writes. Not needed with `on="watch"`.
        on (`str`, *optional*, defaults to `"train"`): Where accuracy is measured. `"train"`: on the completions of training. `"watch"`: on the
            trainer's `watch_dataset`, against the start, so that the multiplier follows the accuracy on harder problems.

    Raises:
        `ValueError`: If an argument is out of range, or the base's accuracy is missing or given in vain.
    """

    max_loss: float
    base: float | str | None = None
    on: str = "train"

    def __post_init__(self) -> None:
        if not 0 <= self.max_loss < 1:
            raise ValueError(f"max_loss must be a fraction in [0, 1), such as 0.02 for 2 points, got {self.max_loss}.")
        if self.on not in ("train", "watch"):
            raise ValueError(f"on must be 'train' or 'watch', got {self.on!r}.")
        if self.on == "watch" and self.base is not None:
            raise ValueError(
                f"AccuracyLimit(on='watch') compares with the accuracy at the start of training, but got base={self.base!r}. Leave "
                "base out."
            )
        if self.on == "train" and self.base in (None, ""):
            raise ValueError(
                "AccuracyLimit needs base: the accuracy of the base model on the training problems, or the name of the dataset "
                "column that has it for each problem. Or measure it during training: on='watch'."
            )
        if isinstance(self.base, (int, float)) and not 0 <= self.base <= 1:
            raise ValueError(f"base must be an accuracy in [0, 1], got {self.base}.")

    @property
    def name(self) -> str:
        return "accuracy" if self.on == "train" else "watch_accuracy"

    @property
    def largest_cost(self) -> float:
        return self.max_loss

    def costs(self, rollouts: Rollouts, base: Tensor | None) -> Tensor:
        """Return the cost of each completion, NaN if its correctness is unknown: `(B,)` float64."""
        if base is None:
            base = torch.tensor(
                float(self.base) if isinstance(self.base, (int, float)) else 0.0
            )  # a constant cancels in the group
        return base.to(rollouts.correct.device).double() - rollouts.correct.double()


class CostConstraints(Advantage):
    r"""
    Keeps limits on mean length and accuracy while the rewards are maximized.

    For the limits $j$, with multipliers $\lambda_j$ and cost advantages $A_j$ (see [`cost_advantages`]),

    $$ A = \frac{A_r - \sum_j \lambda_j A_j}{1 + \sum_j \lambda_j} $$

    where $A_r$ are the advantages of the rewards. A limit does not count while its multiplier is 0, or as long as all costs so far
    are equal. See [`augmented_costs`], [`margin_factor`] and [`next_multiplier`].

    Args:
        limits ([`LengthLimit`], [`AccuracyLimit`] or a list of these):
            What is to be kept, each kind at most once.
        delta (`float`, *optional*, defaults to `0.1`):
            How pessimistic the estimate of a cost is: the true mean exceeds it with about this probability. Between 0 and 0.5.
        test_size (`int`, *optional*, defaults to `1000`):
            Problems of the later test, at least 2.
        c1 (`float`, *optional*, defaults to `1.0`):
            Weight of the uncertainty of the costs so far, at least 0.
        c2 (`float`, *optional*, defaults to `1.0`):
            Weight of the uncertainty of the later test, at least 0.
        multiplier (`float`, *optional*, defaults to `1.0`):
            Multiplier of every limit at the start, at least 0. 0 leaves the advantages as they are, for good.
        multiplier_learning_rate (`float`, *optional*, defaults to `0.01`):
            Step size of the multipliers, positive.
        max_multiplier (`float`, *optional*, defaults to `1e6`):
            Largest multiplier, positive.
        window (`int`, *optional*, defaults to `256`):
            Number of the newest costs of which mean and standard deviation are taken, at least 2.

    Raises:
        `ValueError`: If an argument is out of range, `limits` is empty or has two of a kind, or a limit needs a watch set.
    """

    name = "cost_constraints"
    paper = HC_RLHF_PAPER
    card_settings = ("limits",)

    def __init__(
        self,
        limits: LengthLimit | AccuracyLimit | list[LengthLimit | AccuracyLimit],
        delta: float = 0.1,
        test_size: int = 1000,
        c1: float = 1.0,
        c2: float = 1.0,
        multiplier: float = 1.0,
        multiplier_learning_rate: float = 0.01,
        max_multiplier: float = 1e6,
        window: int = 256,
    ):
        self.limits = limits if isinstance(limits, list) else [limits]
        if not self.limits or not all(isinstance(limit, (LengthLimit, AccuracyLimit)) for limit in self.limits):
            raise ValueError(f"limits must be LengthLimit or AccuracyLimit, one or several, got {limits!r}.")
        names = [limit.name for limit in self.limits]
        if len(set(names)) < len(names):
            raise ValueError(f"limits has two of one kind: {', '.join(names)}. Give each once.")
        check_delta(delta)
        if test_size < 2 or window < 2:
            raise ValueError(f"test_size and window must be at least 2, got {test_size} and {window}.")
        if not (0 <= c1 < math.inf and 0 <= c2 < math.inf):
            raise ValueError(f"c1 and c2 must be at least 0, got {c1} and {c2}.")
        if not (0 < multiplier_learning_rate < math.inf and 0 < max_multiplier < math.inf):
            raise ValueError(
                f"multiplier_learning_rate and max_multiplier must be positive, got {multiplier_learning_rate} and {max_multiplier}."
            )
        if not (multiplier == 0 or SMALLEST <= multiplier <= max_multiplier):
            raise ValueError(
                f"multiplier must be 0, or between {SMALLEST:g} and max_multiplier={max_multiplier:g}, got {multiplier}."
            )
        self.delta = delta
        self.test_size = test_size
        self.c1 = c1
        self.c2 = c2
        self.multiplier = multiplier
        self.multiplier_learning_rate = multiplier_learning_rate
        self.max_multiplier = max_multiplier
        self.window = window
        self.needs_correctness = any(isinstance(limit, AccuracyLimit) for limit in self.limits)
        self.multipliers: dict[str, float] = dict.fromkeys(names, multiplier)
        self._costs: dict[str, deque[float]] = {name: deque(maxlen=window) for name in names}
        self._trainer: TrainerView | None = None

    def attach(self, trainer: TrainerView) -> None:
        self._trainer = trainer
        if "watch_accuracy" in self.multipliers and trainer.watch_losses is None:
            raise ValueError(
                "AccuracyLimit(on='watch') needs the trainer's watch_dataset, but there is none. Give one, or set on='train' with the "
                "base model's accuracy."
            )

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        for limit in self.limits:
            if isinstance(limit, AccuracyLimit) and isinstance(limit.base, str):
                return {"base": _accuracies(local.columns, limit.base)}
        return {}

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        costs_of_all, divisor = torch.zeros_like(advantages), 1.0
        self._metrics = {}
        for limit in self.limits:
            multiplier = self.multipliers[limit.name]
            mean, std = _mean_and_std(self._costs[limit.name])
            self._metrics |= {
                f"{limit.name}_multiplier": multiplier,
                f"{limit.name}_cost": mean,
                f"{limit.name}_violation": self._violation(limit),
            }
            if multiplier == 0 or not std > SMALLEST:  # NaN with fewer than two costs
                continue
            costs = limit.costs(rollouts, self._base(rollouts))
            augmented = augmented_costs(costs, mean, std, self._factor(len(rollouts)))
            own = cost_advantages(rollouts.by_group(augmented), std).flatten()
            costs_of_all += multiplier * own.to(costs_of_all)
            divisor += multiplier
        self._learn(rollouts)  # here, and not when the batch is observed, which is before its advantages
        return advantages if divisor == 1 else (advantages - costs_of_all) / divisor

    def _learn(self, rollouts: Rollouts) -> None:
        for limit in self.limits:
            violation = self._violation(limit)
            if not math.isnan(violation):
                self.multipliers[limit.name] = next_multiplier(
                    self.multipliers[limit.name],
                    violation,
                    learning_rate=self.multiplier_learning_rate,
                    largest=self.max_multiplier,
                )
            costs = limit.costs(rollouts, self._base(rollouts))
            self._costs[limit.name].extend(costs[~costs.isnan()].tolist())

    def _factor(self, n: int) -> float:
        return margin_factor(n, delta=self.delta, test_size=self.test_size, c1=self.c1, c2=self.c2)

    def _violation(self, limit: LengthLimit | AccuracyLimit) -> float:
        """Return the pessimistic estimate of the mean cost minus the limit; NaN with fewer than two costs."""
        costs: Sequence[float] = self._costs[limit.name]
        if isinstance(limit, AccuracyLimit) and limit.on == "watch":
            costs = (self._trainer.watch_losses if self._trainer is not None else None) or []
        mean, std = _mean_and_std(costs)
        return mean + self._factor(len(costs)) * std - limit.largest_cost if len(costs) > 1 else math.nan

    def _base(self, rollouts: Rollouts) -> Tensor | None:
        return rollouts.measured.get(self.name, {}).get("base")

    def state_dict(self) -> dict[str, Any]:
        return {
            "multipliers": dict(self.multipliers),
            "costs": {name: list(costs) for name, costs in self._costs.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state["multipliers"]) != set(self.multipliers):
            raise ValueError(
                f"The checkpoint has limits on {', '.join(sorted(state['multipliers']))}, but this run on "
                f"{', '.join(sorted(self.multipliers))}. Resume with the same limits."
            )
        self.multipliers = dict(state["multipliers"])
        for name, costs in self._costs.items():
            costs.clear()
            costs.extend(state["costs"][name])


def _mean_and_std(costs: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the unbiased standard deviation; NaN where there are too few costs."""
    if not costs:
        return math.nan, math.nan
    return fmean(costs), stdev(costs) if len(costs) > 1 else math.nan


def _accuracies(columns: dict[str, list], name: str) -> Tensor:
    """Return a column of accuracies: `(b,)` float32."""
    if name not in columns:
        raise ValueError(
            f"AccuracyLimit(base={name!r}) needs a dataset column of this name with the base model's accuracy on each problem, but "
            f"the columns are {sorted(columns)}. `trl-concise filter` writes such a column."
        )
    for value in columns[name]:
        if not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise ValueError(f"The column {name!r} must hold accuracies in [0, 1], got {value!r}.")
    return torch.tensor(columns[name], dtype=torch.float32)
