# SPDX-License-Identifier: Apache-2.0
"""Baselines at equal cost: a majority vote that generates as many tokens as another procedure, and rows of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..evaluation.completions import Completion
from ..evaluation.metrics import accuracy_interval, bootstrap_interval
from ..evaluation.selection import choose_majority, find_votes


def vote_at_tokens(completions: Sequence[Completion], tokens: float) -> tuple[list[float], list[int]]:
    """
    Let as many completions of each problem vote as fit into a mean number of tokens.

    The budget is `tokens` per problem; what one problem leaves, the next ones may use, so the mean over problems is close to `tokens`. Each
    problem has at least one completion.

    Args:
        completions (`Sequence[Completion]`): Judged completions of one problem set, in the order of problems and completions.
        tokens (`float`): Mean tokens per problem, positive.

    Returns:
        `tuple[list[float], list[int]]`: Per problem, 1 if the answer with the most votes is correct, else 0, and the tokens of the completions
        that voted.

    Raises:
        `ValueError`: If completions are missing, or `tokens` is not positive.
    """
    if not completions or not tokens > 0:
        raise ValueError(
            f"A vote needs completions and a positive number of tokens; got {len(completions)} completions and {tokens} tokens."
        )
    problems: dict[int, list[Completion]] = {}
    for item in completions:
        problems.setdefault(item.problem, []).append(item)
    correct: list[float] = []
    used: list[int] = []
    for items in problems.values():
        left = tokens * (len(used) + 1) - sum(used)
        voters = items[:1]
        for item in items[1:]:
            if sum(voter.tokens for voter in voters) + item.tokens > left:
                break
            voters.append(item)
        place = choose_majority(find_votes(voters))
        correct.append(float(place is not None and bool(voters[place].correct)))
        used.append(sum(voter.tokens for voter in voters))
    return correct, used


def paired_difference(own: Sequence[float], other: Sequence[float]) -> tuple[float, list[float]]:
    """
    Compare two procedures on the same problems.

    Args:
        own, other (`Sequence[float]`): One value per problem, such as 1 or 0, in the same order.

    Returns:
        `tuple[float, list[float]]`: Mean of `own` minus `other`, and its 95 % interval, paired by problem.

    Raises:
        `ValueError`: If the numbers of problems differ, or there is none.

    Examples:
        >>> paired_difference([1, 1, 1], [0, 0, 0])
        (1.0, [1.0, 1.0])
    """
    if len(own) != len(other) or not len(own):
        raise ValueError(
            f"A paired difference needs the same problems, at least one; got {len(own)} and {len(other)} values."
        )
    differences = [float(a - b) for a, b in zip(own, other, strict=True)]
    return fmean(differences), list(bootstrap_interval([[value] for value in differences]))


def result_row(
    name: str, correct: Sequence[float], tokens: float, other: Sequence[float] | None = None, **figures: Any
) -> dict[str, Any]:
    """
    Return a row of results.

    Args:
        name (`str`): Name of the procedure.
        correct (`Sequence[float]`): 1 or 0 per problem.
        tokens (`float`): Generated tokens per problem.
        other (`Sequence[float]`, *optional*): `correct` of the procedure to compare with, of the same problems.
        **figures: Further figures.

    Returns:
        `dict[str, Any]`: `name`, `accuracy` and `accuracy_interval` (95 %), `tokens`, `difference` and `difference_interval` (95 %, paired) of `other`
        minus this one, `None` without `other`, and the further figures.
    """
    difference, difference_interval = paired_difference(other, correct) if other is not None else (None, None)
    return {
        "name": name,
        "accuracy": fmean(correct),
        "accuracy_interval": list(accuracy_interval([[value] for value in correct])),
        "tokens": tokens,
        "difference": difference,
        "difference_interval": difference_interval,
        **figures,
    }


def describe_difference(row: Mapping[str, Any]) -> str:
    """
    Return the paired difference of a row of [`result_row`] in points, with its interval; empty without one.

    Examples:
        >>> describe_difference({"difference": 0.125, "difference_interval": [0.0, 0.25]})
        '+12.5 points (+0.0 to +25.0)'
    """
    if row["difference"] is None:
        return ""
    bounds = " to ".join(f"{100 * value:+.1f}" for value in row["difference_interval"])
    return f"{100 * row['difference']:+.1f} points ({bounds})"
