# SPDX-License-Identifier: Apache-2.0
"""Best-of-n: a score chooses one of n completions, compared with majority vote over the same n."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ..verification import verify_answers
from ..verification.extraction import AnswerFormat, final_answer
from .completions import Completion
from .folder import read_sets
from .metrics import accuracy_interval, bootstrap_interval


if TYPE_CHECKING:
    from datasets import Dataset

SUBSETS = 2_000  # of the completions of a problem; fewer if there are fewer


def best_of_n(
    evaluation: str | Path,
    datasets: Mapping[str, Dataset],
    score: Callable[..., Sequence[float | None]],
    sizes: Sequence[int] = (1, 2, 4, 8),
    *,
    answer_format: AnswerFormat = "auto",
) -> list[dict[str, Any]]:
    """
    Measure how often a score chooses a correct completion among n, against all the tokens of the n completions.

    The completions of an evaluation are used: N per problem make N / n groups, and every figure is the mean over groups. The baseline is
    majority vote: the first completion with the most frequent answer. Truncated completions are neither chosen nor counted; a group of nothing
    else is wrong. Ties go to the earlier completion.

    Args:
        evaluation (`str` or `Path`): Output folder of [`evaluate`], or of `trl-concise eval`.
        datasets (`Mapping[str, Dataset]`): The problem sets that it was given, by name, with the columns `prompt` and `solution`.
        score (`Callable`): A reward function, such as [`~trl_concise.methods.tdrm.ProcessReward`]. As in TRL, it is called with
            `prompts`, `completions` and the other columns of the set; token ids are not passed. Higher is better; `None` is never
            chosen before a number.
        sizes (`Sequence[int]`, *optional*, defaults to `(1, 2, 4, 8)`): The values of n, each at most N.
        answer_format (`str`, *optional*, defaults to `"auto"`): Where the vote looks for the answer. Give that of the evaluation.

    Returns:
        `list[dict[str, Any]]`: One record per set and n: `dataset`, `n`, `problems`, `groups` (per problem), `tokens_mean` (of the n completions
        together), `best_accuracy`, `majority_accuracy` and `any_accuracy` (whether one of the n is correct), the first two with an
        interval (95 %, see [`accuracy_interval`]), and `difference_interval`, of best-of-n minus majority vote on the same groups.

    Raises:
        `FileNotFoundError`: If the folder has no completions.
        `ValueError`: If a set is missing or has other problems, or n is out of range.

    Example:

    ```python
    >>> problems = load_problem_sets(["math500"])
    >>> evaluate("Qwen/Qwen2.5-1.5B-Instruct", problems, "outputs/base", num_completions=8)
    >>> records = best_of_n("outputs/base", problems, ProcessReward("tdrm"))
    ```
    """
    records = []
    for name, found in read_sets(evaluation, datasets).items():
        problems: dict[int, list[Completion]] = {}
        for item in found:
            problems.setdefault(item.problem, []).append(item)
        judged = {row: items for row, items in problems.items() if all(item.correct is not None for item in items)}
        fewest = min(map(len, judged.values()), default=0)
        if not sizes or min(sizes) < 1 or max(sizes) > fewest:
            raise ValueError(
                f"sizes must be between 1 and {fewest}, the completions per problem of {name!r}; got {list(sizes)}. Evaluate with "
                "more completions, or lower the sizes."
            )
        prompts = list(datasets[name]["prompt"])
        flat = [item for items in judged.values() for item in items]
        asked = [prompts[item.problem] for item in flat]
        texts = [
            item.text if isinstance(prompt, str) else [{"role": "assistant", "content": item.text}]
            for item, prompt in zip(flat, asked, strict=True)
        ]
        columns = {
            column: [values[item.problem] for item in flat]
            for column, values in datasets[name].to_dict().items()
            if column not in ("prompt", "completion", "completion_ids")  # as TRL
        }
        scores = iter(score(prompts=asked, completions=texts, **columns))
        scored = {row: [next(scores) for _ in items] for row, items in judged.items()}
        votes = {row: find_votes(items, answer_format) for row, items in judged.items()}
        records += [{"dataset": name, **_measure(judged, scored, votes, n, fewest)} for n in sizes]
    return records


def find_votes(completions: Sequence[Completion], answer_format: AnswerFormat = "auto") -> list[int | None]:
    """
    Group the completions of a problem by their final answer.

    Args:
        completions (`Sequence[Completion]`): Completions.
        answer_format (`str`, *optional*, defaults to `"auto"`): Where the answers are.

    Returns:
        `list[int | None]`: The number of each one's answer, equal for equal answers; `None` for one that is truncated or has no answer.
    """
    answers: list[str] = []  # one of each kind
    known: dict[str, int] = {}
    votes: list[int | None] = []
    for item in completions:
        text = "" if item.truncated else final_answer(item.text, answer_format).text
        if not text:
            votes.append(None)
            continue
        if text not in known:
            same = verify_answers(answers, [rf"\boxed{{{text}}}"] * len(answers)) if answers else []
            known[text] = same.index(True) if True in same else len(answers)
            if True not in same:
                answers.append(text)
        votes.append(known[text])
    return votes


def choose_best(completions: Sequence[Completion], scores: Sequence[float | None]) -> int | None:
    """Return the place of the completion with the highest score that is not truncated; `None` without one."""
    places = [place for place, item in enumerate(completions) if not item.truncated]
    return max(places, key=lambda place: _number(scores[place]), default=None)


def choose_majority(votes: Sequence[int | None]) -> int | None:
    """Return the place of the first completion with the most frequent answer; `None` without an answer."""
    places = [place for place, vote in enumerate(votes) if vote is not None]
    return max(places, key=lambda place: votes.count(votes[place]), default=None)


def subsets(n: int, k: int) -> Iterator[tuple[int, ...]]:
    """Yield all subsets of k of n places, or 2,000 random ones, each in increasing order."""
    if math.comb(n, k) <= SUBSETS:
        yield from itertools.combinations(range(n), k)
        return
    rng = random.Random(0)
    for _ in range(SUBSETS):
        yield tuple(sorted(rng.sample(range(n), k)))


@lru_cache(maxsize=1)  # the same for all problems
def _subsets(n: int, k: int) -> np.ndarray:
    return np.array(list(subsets(n, k)))


def share_of_majority(votes: Sequence[int | None], correct: Sequence[bool | None], k: int) -> float:
    """
    Return how often the majority of k completions of a problem is correct, over [`subsets`]; as [`choose_majority`] chooses.

    Args:
        votes (`Sequence[int | None]`): Number of the answer of each completion; `None` without one.
        correct (`Sequence[bool]`): Whether each is correct.
        k (`int`): Completions that vote.

    Examples:
        >>> share_of_majority([0, 0, 0, 1, 1], [True, True, True, False, False], k=3)
        0.7
    """
    places = _subsets(len(votes), k)  # (M, k)
    cast = np.array([vote if vote is not None else -1 for vote in votes])[places]
    answers = int(cast.max()) + 1
    if not answers:
        return 0.0
    rows = np.arange(len(places))[:, None]
    counts = np.bincount((rows * answers + cast)[cast >= 0], minlength=len(places) * answers).reshape(-1, answers)
    of_each = np.where(cast >= 0, counts[rows, cast], 0)
    best = of_each.argmax(axis=1)[:, None]  # the first of the most frequent
    right = np.array(correct, dtype=bool)[np.take_along_axis(places, best, 1)] & np.take_along_axis(
        of_each > 0, best, 1
    )
    return float(right.mean())


def longest_of(tokens: Sequence[int], k: int) -> float:
    """
    Return the mean length of the longest of k completions, over all subsets.

    Examples:
        >>> longest_of([10, 30, 20], k=2)
        26.666666666666668
    """
    n = len(tokens)
    return sum(
        length * math.comb(place, k - 1) / math.comb(n, k)
        for place, length in enumerate(sorted(tokens))
        if place >= k - 1
    )


def _measure(
    problems: Mapping[int, Sequence[Completion]],
    scores: Mapping[int, Sequence[float | None]],
    votes: Mapping[int, Sequence[int | None]],
    n: int,
    count: int,
) -> dict[str, Any]:
    best: list[list[float]] = []
    majority: list[list[float]] = []
    solved: list[float] = []
    tokens: list[int] = []
    for row, items in problems.items():
        best.append([])
        majority.append([])
        for first in range(0, count - n + 1, n):
            group = items[first : first + n]
            for found, place in (
                (best[-1], choose_best(group, scores[row][first : first + n])),
                (majority[-1], choose_majority(votes[row][first : first + n])),
            ):
                found.append(float(place is not None and bool(group[place].correct)))
            solved.append(float(any(item.correct for item in group)))
            tokens.append(sum(item.tokens for item in group))
    difference = [[a - b for a, b in zip(*own, strict=True)] for own in zip(best, majority, strict=True)]
    return {
        "n": n,
        "problems": len(problems),
        "groups": count // n,
        "tokens_mean": fmean(tokens),
        "best_accuracy": fmean(value for own in best for value in own),
        "best_interval": list(accuracy_interval(best)),
        "majority_accuracy": fmean(value for own in majority for value in own),
        "majority_interval": list(accuracy_interval(majority)),
        "difference_interval": list(bootstrap_interval(difference)),
        "any_accuracy": fmean(solved),
    }


def _number(score: float | None) -> float:
    return score if score is not None and score == score else float("-inf")
