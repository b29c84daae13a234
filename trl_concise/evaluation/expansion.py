# SPDX-License-Identifier: Apache-2.0
"""
Whether training made a model solve problems that its base does not solve in as many tries.

Source: Mayilvahanan et al., "MATH-Beyond: A Benchmark for RL to Expand Beyond the Base Model" (arXiv 2510.11653): the sets and the
expansion rate, a reconstruction from public notes on the paper. The expected sizes below n tries, the null run and the correction for chance are this package's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..verification.extraction import final_answer, gold_answer
from .completions import Completion
from .metrics import accuracy_interval, bootstrap_interval, pass_at_k


Groups = Sequence[Sequence[Completion]]  # the completions of each problem


def powers_of_two(n: int) -> list[int]:
    """Return the powers of two up to `n`, and `n`."""
    return sorted({n, *(2**power for power in range(n.bit_length()))})


def pass_curve(correct: Sequence[int], n: int) -> dict[int, dict[str, Any]]:
    """
    Return pass@k over problems, with intervals.

    Args:
        correct (`Sequence[int]`): Correct completions of each problem, of `n`.
        n (`int`): Completions per problem.

    Returns:
        `dict[int, dict]`: k, a power of two up to `n` and `n` itself -> `value` (the unbiased estimate, averaged) and `interval` (95 %, bootstrap
        over problems; Wilson's where none or all are solved).
    """
    curve = {}
    for k in powers_of_two(n):
        solved = [[pass_at_k(n, c, k)] for c in correct]
        mean = float(np.mean(solved))
        interval = accuracy_interval(solved) if mean in (0.0, 1.0) else bootstrap_interval(solved)
        curve[k] = {"value": mean, "interval": list(interval)}
    return curve


def expansion_sizes(base: Sequence[int], tuned: Sequence[int], n: int, k: int) -> dict[str, float]:
    """
    Return the expected number of problems that are solved in `k` tries by one of two models, by both, or by neither.

    Both models are treated as independent below n. At k = n the sizes are those of the sets.

    Args:
        base, tuned (`Sequence[int]`): Correct completions of each problem, of `n`.
        n, k (`int`): Completions per problem, and tries.

    Returns:
        `dict[str, float]`: `expanded` (the tuned model only), `shrunk` (the base only), `preserved`, `neither`, which sum to the problems.

    Examples:
        >>> sizes = expansion_sizes([0, 0, 0, 2, 8, 1], [1, 0, 3, 0, 8, 2], n=8, k=8)
        >>> sizes
        {'expanded': 2.0, 'shrunk': 1.0, 'preserved': 2.0, 'neither': 1.0}
    """
    b = np.array([pass_at_k(n, c, k) for c in base])
    t = np.array([pass_at_k(n, c, k) for c in tuned])
    sizes = {"expanded": (1 - b) * t, "shrunk": b * (1 - t), "preserved": b * t, "neither": (1 - b) * (1 - t)}
    return {name: float(values.sum()) for name, values in sizes.items()}


def solved_by_chance(answers: Sequence[Sequence[str]], golds: Sequence[str], k: int) -> list[float]:
    """
    Return the probability that guessing solves each problem in `k` tries: a guess is an answer that the model gave to another problem.

    Args:
        answers (`Sequence[Sequence[str]]`): Final answers, per problem and completion; empty without one.
        golds (`Sequence[str]`): Reference answers. Answers are compared as texts.
        k (`int`): Tries.

    Examples:
        >>> solved_by_chance([["1", "2"], ["1", ""]], ["2", "1"], k=1)
        [0.0, 0.5]
    """
    counts = Counter(answer for own in answers for answer in own)
    total = sum(counts.values())
    found = []
    for own, gold in zip(answers, golds, strict=True):
        others = total - len(own)
        chance = (counts[gold] - own.count(gold)) / others if others else 0.0
        found.append(1 - (1 - chance) ** k)
    return found


def expansion(base: Groups, tuned: Groups, null: Groups | None = None) -> dict[str, Any]:
    """
    Compare what two models solve in as many tries.

    Args:
        base, tuned (`Sequence[Sequence[Completion]]`): Judged completions of the same problems, n of each.
        null (`Sequence[Sequence[Completion]]`, *optional*): The base again with another seed: an unchanged model "expands", too, on
            problems that it rarely solves.

    Returns:
        `dict[str, Any]`: `n`, `problems`; `sizes` by k (see [`expansion_sizes`]); `expanded`, `shrunk`, `preserved` and `neither`: positions of
        the problems at k = n; `unsolved` by the base; `rate` and `rate_interval`: the share of those that the tuned model solves (`None`
        without one); `rate_of_all`, `shrinkage`, `preservation` and `consolidation` (mean pass@1 of the tuned model on the preserved ones), `None` where
        undefined; `null_rate`; `expected_by_chance`: how many unsolved problems guessing would solve; and the curves `pass_at_k` of both.

    Raises:
        `ValueError`: If the numbers of completions or problems differ.
    """
    n = len(base[0])
    if len(base) != len(tuned) or any(len(items) != n for side in (base, tuned, null or base) for items in side):
        raise ValueError(
            "The expansion rate needs the same problems and as many completions of each from both models."
        )
    b, t = (_count(side) for side in (base, tuned))
    named = {"expanded": (False, True), "shrunk": (True, False), "preserved": (True, True), "neither": (False, False)}
    sets = {
        name: [row for row, pair in enumerate(zip(b, t, strict=True)) if (pair[0] > 0, pair[1] > 0) == which]
        for name, which in named.items()
    }
    unsolved = [row for row, c in enumerate(b) if not c]
    solved_by_base = len(b) - len(unsolved)
    rate, interval = _rate(unsolved, t)
    chances = solved_by_chance(*_answers(tuned), n)
    kept = sets["preserved"]
    return {
        "n": n,
        "problems": len(b),
        "sizes": {k: expansion_sizes(b, t, n, k) for k in powers_of_two(n)},
        **sets,
        "unsolved": len(unsolved),
        "rate": rate,
        "rate_interval": interval,
        "rate_of_all": len(sets["expanded"]) / len(b),
        "shrinkage": len(sets["shrunk"]) / len(b),
        "preservation": len(kept) / solved_by_base if solved_by_base else None,
        "consolidation": float(np.mean([t[row] / n for row in kept])) if kept else None,
        "null_rate": _rate(unsolved, _count(null))[0] if null is not None else None,
        "expected_by_chance": float(sum(chances[row] for row in unsolved)),
        "pass_at_k": [pass_curve(side, n) for side in (b, t)],
    }


def _count(groups: Groups) -> list[int]:
    return [sum(bool(item.correct) for item in items) for items in groups]


def _rate(unsolved: Sequence[int], correct: Sequence[int]) -> tuple[float | None, list[float] | None]:
    if not unsolved:
        return None, None
    solved = [[float(correct[row] > 0)] for row in unsolved]
    return float(np.mean(solved)), list(accuracy_interval(solved))


def _answers(groups: Groups) -> tuple[list[list[str]], list[str]]:
    """Return the final answers of all completions, and the reference answers."""
    answers = [[final_answer(item.text).text.strip() for item in items] for items in groups]
    return answers, [gold_answer(items[0].gold).text.strip() for items in groups]
