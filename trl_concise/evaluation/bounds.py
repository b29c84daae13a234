# SPDX-License-Identifier: Apache-2.0
"""
Upper confidence bounds of a mean cost over problems: the statistics of `trl-concise accept`.

The test with Student's t is that of HC-RLHF (2025, https://huggingface.co/papers/2506.08266), read in the authors' code
(UMass-SCALAR-Lab/HC-RLHF @ 729793c). The other bounds are additions: those of Clopper and Pearson, Maurer and Pontil (empirical
Bernstein) and Hoeffding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

import mpmath
import numpy as np


SMALLEST_T = 30  # problems below which costs may be too far from normal for `t`
_LARGE = 1000  # degrees of freedom above which mpmath's series may not converge
_STEPS = 60  # of a bisection: beyond the precision of a float


def check_delta(delta: float) -> None:
    """
    Raises:
        `ValueError`: If `delta` is not between 0 and 0.5.
    """
    if not 0 < delta < 0.5:
        raise ValueError(
            f"delta must lie between 0 and 0.5, got {delta}: it is the probability of a wrong acceptance."
        )


def upper_bound(costs: Sequence[float], delta: float, bound: str = "t", value_range: float | None = None) -> float:
    r"""
    Return a bound that the true mean exceeds with probability at most $\delta$.

    With the mean $\bar c$ and the unbiased standard deviation $s$ of $n$ costs in a range of width $R$:

    | bound | formula | valid |
    |---|---|---|
    | `"t"` | $\bar c + t_{1-\delta, n-1} \, s / \sqrt n$ | for normal costs; approximately for many others |
    | `"bernstein"` | $\bar c + s \sqrt{2 \ln(2/\delta) / n} + 7 R \ln(2/\delta) / (3 (n - 1))$ | always |
    | `"hoeffding"` | $\bar c + R \sqrt{\ln(1/\delta) / (2 n)}$ | always |

    Args:
        costs (`Sequence[float]`): One per problem: the mean over its completions.
        delta (`float`): $\delta$, between 0 and 0.5.
        bound (`str`, *optional*, defaults to `"t"`): `"t"`, `"bernstein"` or `"hoeffding"`.
        value_range (`float`, *optional*): $R$, for the last two.

    Raises:
        `ValueError`: If `delta` or the bound is not allowed, there are fewer than two costs, or the range is missing.

    Examples:
        >>> round(upper_bound([40, 55, 38, 62, 47, 51, 44, 58, 49, 53], 0.05), 6)
        54.157225
    """
    check_delta(delta)
    n, mean = len(costs), float(np.mean(costs))
    if n < 2:
        raise ValueError(f"A bound needs at least two problems, got {n}.")
    deviation = float(np.std(costs, ddof=1))
    if bound == "t":
        return mean + t_quantile(1 - delta, n - 1) * deviation / math.sqrt(n)
    if bound not in ("bernstein", "hoeffding"):
        raise ValueError(f"bound must be 't', 'bernstein' or 'hoeffding' for costs of any kind, got {bound!r}.")
    if value_range is None:
        raise ValueError(f"The bound {bound!r} needs value_range, the width of the range that costs can have.")
    if bound == "hoeffding":
        return mean + value_range * math.sqrt(math.log(1 / delta) / (2 * n))
    log = math.log(2 / delta)
    return mean + deviation * math.sqrt(2 * log / n) + 7 * value_range * log / (3 * (n - 1))


def exact_loss_bound(lost: int, gained: int, problems: int, delta: float) -> float:
    """
    Return an upper bound of the accuracy lost against a base, for one completion per problem: valid for any distribution.

    It is the Clopper-Pearson upper limit of the share that was lost minus the lower limit of the share that was gained, each at
    half of `delta`.

    Args:
        lost (`int`): Problems that the base solved and the model does not.
        gained (`int`): Problems that the model solved and the base does not.
        problems (`int`): All problems.
        delta (`float`): Probability that the true loss exceeds the bound, between 0 and 0.5.

    Returns:
        `float`: In [-1, 1]; negative for a gain.

    Examples:
        >>> round(exact_loss_bound(5, 27, 1024, 0.05), 6)
        -0.006089
    """
    check_delta(delta)
    return proportion_upper(lost, problems, delta / 2) - proportion_lower(gained, problems, delta / 2)


@lru_cache(maxsize=4096)
def proportion_upper(count: int, total: int, delta: float) -> float:
    """Return the one-sided upper limit of Clopper and Pearson at the confidence 1 - delta, for `count` of `total`."""
    if count >= total:
        return 1.0
    k = np.arange(1, count + 1)
    ways = np.concatenate([[0.0], np.cumsum(np.log(total - k + 1) - np.log(k))])  # log of the binomial coefficients
    k = np.arange(count + 1)

    def is_likely(share: float) -> bool:  # that of `total`, at most `count` are drawn
        return float(np.exp(ways + k * math.log(share) + (total - k) * math.log1p(-share)).sum()) > delta

    return _bisect(is_likely)


def proportion_lower(count: int, total: int, delta: float) -> float:
    """Return the one-sided lower limit of Clopper and Pearson at the confidence 1 - delta, for `count` of `total`."""
    return 1 - proportion_upper(total - count, total, delta)


@lru_cache(maxsize=4096)
def t_quantile(probability: float, degrees: int) -> float:
    """
    Return a quantile of Student's distribution.

    Args:
        probability (`float`): At least 0.5, below 1.
        degrees (`int`): Degrees of freedom, at least 1.
    """
    if degrees > _LARGE:  # Abramowitz and Stegun, 26.7.5: the next term is below 1e-11
        z, v = NormalDist().inv_cdf(probability), degrees
        terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + sum(term / v**power for power, term in enumerate(terms, 1))

    def is_below(share: float) -> bool:  # P(T > t) = I_x(degrees / 2, 1 / 2) / 2 with x = degrees / (degrees + t^2)
        return mpmath.betainc(degrees / 2, 0.5, 0, share, regularized=True) < 2 * (1 - probability)

    x = _bisect(is_below)
    return math.sqrt(degrees * (1 - x) / x)


def _bisect(is_below: Callable[[float], bool]) -> float:
    """Return where a predicate on (0, 1) changes from true to false."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2


def problems_needed(deviation: float, margin: float, delta: float, largest: int = 10**7) -> int:
    """
    Return how many problems `"t"` needs to accept a model whose true mean cost is below the limit by `margin`: at least 30.

    Args:
        deviation (`float`): Standard deviation of the cost between problems, at least 0.
        margin (`float`): Limit minus true mean, positive, in the same unit.
        delta (`float`): Probability of a wrong acceptance, between 0 and 0.5.
        largest (`int`, *optional*): Where the search ends.

    Raises:
        `ValueError`: If a number is out of range, or more than `largest` problems are needed.

    Examples:
        >>> problems_needed(0.25, 0.02, 0.05)
        425
    """
    check_delta(delta)
    if not (0 <= deviation < math.inf and 0 < margin < math.inf):
        raise ValueError(
            f"The standard deviation must be at least 0 and the margin positive, got {deviation} and {margin}."
        )

    def suffices(n: int) -> bool:
        return t_quantile(1 - delta, n - 1) * deviation / math.sqrt(n) <= margin

    low, high = 1, 2
    while not suffices(high):
        if high > largest:
            raise ValueError(f"More than {largest:,} problems are needed. Choose a larger margin.")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return max(high, SMALLEST_T)
