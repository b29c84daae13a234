# SPDX-License-Identifier: Apache-2.0
"""
Metrics of accuracy and length.

Implements the accuracy-efficiency score introduced with O1-Pruner (2025, https://huggingface.co/papers/2501.12570), formula
and default weights as in two later public implementations that agree with each other, and the unbiased estimator of pass@k
(Chen et al., 2021, https://huggingface.co/papers/2107.03374). Intervals are percentile intervals of the cluster bootstrap: the
completions of one problem resemble each other, so problems are drawn, with all their completions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


# Tables give no score against a base that solves less: a problem or two would change it by more than the tokens can.
LEAST_BASE_ACCURACY = 0.1


def accuracy_efficiency_score(
    accuracy: float,
    tokens: float,
    base_accuracy: float,
    base_tokens: float,
    *,
    alpha: float = 1.0,
    beta: float = 3.0,
    gamma: float = 5.0,
) -> float:
    r"""
    Weigh tokens saved against accuracy gained or lost, both relative to a base model.

    $$ \Delta L = \frac{L_\text{base} - L}{L_\text{base}}, \quad
       \Delta A = \frac{A - A_\text{base}}{A_\text{base}}, \quad
       \text{AES} = \alpha \Delta L + \begin{cases} \beta |\Delta A| & \Delta A \ge 0 \\
       -\gamma |\Delta A| & \Delta A < 0 \end{cases} $$

    Papers use different weights, for example (1, 3, 5) and (1, 5, 10): report your weights with the score.

    Args:
        accuracy (`float`): $A$, in percent or as a fraction, as long as `base_accuracy` uses the same.
        tokens (`float`): $L$, mean completion length in tokens.
        base_accuracy (`float`): $A_\text{base}$, positive.
        base_tokens (`float`): $L_\text{base}$, positive.
        alpha (`float`, *optional*, defaults to `1.0`): Weight of the tokens saved.
        beta (`float`, *optional*, defaults to `3.0`): Weight of an accuracy gain.
        gamma (`float`, *optional*, defaults to `5.0`): Weight of an accuracy loss.

    Returns:
        `float`: 0 for the base itself, higher is better.

    Raises:
        `ValueError`: If the base has no tokens or no accuracy: the score is relative to both.

    Examples:
        >>> round(accuracy_efficiency_score(56.7, 2466, 51.7, 10499), 4)
        1.0553
    """
    if base_accuracy <= 0 or base_tokens <= 0:
        raise ValueError(
            "The accuracy-efficiency score is relative to the base, so base_accuracy and base_tokens must be positive; "
            f"got {base_accuracy} and {base_tokens}."
        )
    shortening = (base_tokens - tokens) / base_tokens
    gain = (accuracy - base_accuracy) / base_accuracy
    return alpha * shortening + (beta if gain >= 0 else gamma) * gain


def pass_at_k(n: int, c: int, k: int) -> float:
    r"""
    Estimate, without bias, the probability that at least one of `k` completions is correct.

    $$ \text{pass@}k = 1 - \binom{n - c}{k} \Big/ \binom{n}{k} $$

    Args:
        n (`int`): Completions drawn for the problem, at least `k`.
        c (`int`): How many of them are correct, in `[0, n]`.
        k (`int`): Size of the draw, at least 1.

    Returns:
        `float`: In `[0, 1]`. Average it over problems.

    Raises:
        `ValueError`: If not `0 <= c <= n` or not `1 <= k <= n`.

    Examples:
        >>> pass_at_k(n=4, c=1, k=2)
        0.5
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n; got n={n}, c={c}, k={k}.")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def bootstrap_interval(
    values: Sequence[Sequence[float]], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """
    Interval of the mean by the cluster bootstrap: problems are drawn with replacement, each with all its completions.

    Args:
        values (`Sequence[Sequence[float]]`): One value per completion (correctness, tokens), grouped by problem.
        confidence (`float`, *optional*, defaults to `0.95`): Between 0 and 1.
        resamples (`int`, *optional*, defaults to `10000`): How many times the problems are drawn.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws: the same values give the same interval.

    Returns:
        `tuple[float, float]`: Percentiles of the resampled means. With a single problem, both are its mean, because
        the variation between problems is unknown.

    Raises:
        `ValueError`: If `values` is empty.

    Examples:
        >>> bootstrap_interval([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
        (0.125, 0.875)
    """
    sums = np.array([sum(group) for group in values if len(group)], dtype=float)  # (P,)
    counts = np.array([len(group) for group in values if len(group)], dtype=float)
    if not len(sums):
        raise ValueError("An interval needs the values of at least one problem.")
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    for first in range(0, resamples, 1000):  # 1,000 draws at a time: little memory for thousands of problems
        draws = random.integers(len(sums), size=(min(1000, resamples - first), len(sums)))
        means[first : first + len(draws)] = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def accuracy_interval(correct: Sequence[Sequence[float]], *, confidence: float = 0.95) -> tuple[float, float]:
    """
    Interval of an accuracy: [`bootstrap_interval`] or, if all completions are correct or all are wrong, where the bootstrap
    has no variance, the Wilson score interval of the problems (Wilson, 1927).

    Args:
        correct (`Sequence[Sequence[float]]`): 1 or 0 per completion, grouped by problem.
        confidence (`float`, *optional*, defaults to `0.95`): Between 0 and 1.

    Returns:
        `tuple[float, float]`: Within `[0, 1]`.

    Raises:
        `ValueError`: If `values` is empty.

    Examples:
        >>> low, high = accuracy_interval([[1.0]] * 8)
        >>> f"{low:.3f}, {high:.3f}"
        '0.676, 1.000'
    """
    low, high = bootstrap_interval(correct, confidence=confidence)
    if low == high and low in (0.0, 1.0):
        squared = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
        spread = squared / (sum(map(bool, correct)) + squared)
        return (1 - spread, 1.0) if low else (0.0, spread)
    return low, high


def on_frontier(accuracies: Sequence[float], tokens: Sequence[float]) -> list[bool]:
    """
    Return which points lie on the frontier of accuracy against tokens.

    Args:
        accuracies (`Sequence[float]`): Higher is better.
        tokens (`Sequence[float]`): Mean completion tokens, one per accuracy; lower is better.

    Returns:
        `list[bool]`: Whether no other point is at least as good in both and better in one.

    Examples:
        >>> on_frontier([0.9, 0.8, 0.7], [100, 120, 50])
        [True, False, True]
    """
    points = list(zip(accuracies, tokens, strict=True))
    return [
        not any(
            other_accuracy >= accuracy
            and other_length <= length
            and (other_accuracy, other_length) != (accuracy, length)
            for other_accuracy, other_length in points
        )
        for accuracy, length in points
    ]
