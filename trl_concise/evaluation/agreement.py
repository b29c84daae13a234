# SPDX-License-Identifier: Apache-2.0
"""Compares two lists of verdicts on the same completions, or on the same problems."""

from __future__ import annotations

from typing import Any


def mcnemar(only_first: int, only_second: int) -> float:
    """
    Return the exact two-sided p-value of McNemar's test (1947), from the pairs in which only one of two is correct.

    Args:
        only_first (`int`): Pairs in which only the first is correct.
        only_second (`int`): Pairs in which only the second is correct.

    Examples:
        >>> round(mcnemar(10, 2), 6), mcnemar(5, 5), mcnemar(3, 0), mcnemar(0, 0)
        (0.038574, 1.0, 0.25, 1.0)
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    total, ways = 0, 1
    for k in range(fewer + 1):  # each binomial coefficient from the last: thousands of pairs in milliseconds
        total, ways = total + ways, ways * (n - k) // (k + 1)
    return min(1.0, 2 * total / 2**n)


def agreement(both: int, only_first: int, only_second: int, neither: int) -> dict[str, Any]:
    """
    Summarize how far two judges agree on the same completions.

    Args:
        both, only_first, only_second, neither (`int`): Completions that both judges, one of them, or none of them accepts.

    Returns:
        `dict[str, Any]`: The counts, `points` (percentage points by which the first accepts more), `agreement` in [0, 1], `kappa`
        (Cohen, 1960; `None` where chance alone agrees always), `ac1` (Gwet, 2008, which does not collapse when nearly all are
        correct), and `mcnemar_p`.

    Raises:
        `ValueError`: If all counts are 0.

    Examples:
        >>> found = agreement(60, 20, 5, 15)
        >>> found["points"], found["agreement"], round(found["kappa"], 6), round(found["mcnemar_p"], 6)
        (15.0, 0.75, 0.390244, 0.004077)
    """
    n = both + only_first + only_second + neither
    if not n:
        raise ValueError("Two judges cannot be compared without a completion that both of them judged.")
    first, second = (both + only_first) / n, (both + only_second) / n
    agreed = (both + neither) / n
    by_chance = first * second + (1 - first) * (1 - second)
    mean = (first + second) / 2
    by_chance_ac1 = 2 * mean * (1 - mean)
    return {
        "both": both,
        "only_first": only_first,
        "only_second": only_second,
        "neither": neither,
        "points": 100 * (only_first - only_second) / n,
        "agreement": agreed,
        "kappa": (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else None,
        "ac1": (agreed - by_chance_ac1) / (1 - by_chance_ac1),
        "mcnemar_p": mcnemar(only_first, only_second),
    }


def against_labels(true_positive: int, false_positive: int, false_negative: int, true_negative: int) -> dict[str, Any]:
    """
    Summarize a judge against trusted labels.

    Returns:
        `dict[str, Any]`: `precision`, `recall`, `false_positive_rate` and `f1`; `None` where the denominator is 0.

    Examples:
        >>> found = against_labels(78, 1, 22, 99)
        >>> round(found["precision"], 6), found["recall"], found["false_positive_rate"]
        (0.987342, 0.78, 0.01)
    """

    def ratio(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    return {
        "precision": ratio(true_positive, true_positive + false_positive),
        "recall": ratio(true_positive, true_positive + false_negative),
        "false_positive_rate": ratio(false_positive, false_positive + true_negative),
        "f1": ratio(2 * true_positive, 2 * true_positive + false_positive + false_negative),
    }


def corrected_accuracy(observed: float, sensitivity: float, specificity: float) -> float:
    """
    Correct an accuracy for the errors of its judge (Rogan and Gladen, 1978); within [0, 1].

    Raises:
        `ValueError`: If the judge does not beat chance: sensitivity + specificity is at most 1.

    Examples:
        >>> round(corrected_accuracy(0.62, 0.78, 0.99), 6)
        0.792208
    """
    if sensitivity + specificity <= 1:
        raise ValueError(
            f"sensitivity + specificity must be above 1 for a correction; got {sensitivity} + {specificity}."
        )
    return min(1.0, max(0.0, (observed + specificity - 1) / (sensitivity + specificity - 1)))
