# SPDX-License-Identifier: Apache-2.0
"""Scores of completions in a file, and what they are worth: selection among n completions, compared with a vote over the same n."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..evaluation.completions import Completion
from ..evaluation.metrics import accuracy_interval, bootstrap_interval
from ..evaluation.selection import choose_best, choose_majority, find_votes
from ..evaluation.voting import choose_weighted
from ..state.checkpoint import write_atomically
from ..verification.extraction import AnswerFormat


SCORES_FILE = "scores.jsonl"


def write_scores(folder: str | Path, completions: Sequence[Completion], scores: Sequence[float]) -> None:
    """
    Write one score per completion into `scores.jsonl`.

    Args:
        folder (`str` or `Path`): Output folder, which is made if it does not exist.
        completions (`Sequence[Completion]`): Completions of an evaluation.
        scores (`Sequence[float]`): One per completion.
    """
    lines = [
        json.dumps({"dataset": item.dataset, "problem": item.problem, "completion": item.completion, "score": score})
        for item, score in zip(completions, scores, strict=True)
    ]
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(folder, SCORES_FILE), "".join(line + "\n" for line in lines).encode())


def read_scores(folder: str | Path, completions: Sequence[Completion]) -> list[float]:
    """
    Read the scores of completions.

    Args:
        folder (`str` or `Path`): Folder with `scores.jsonl`.
        completions (`Sequence[Completion]`): The completions that were scored.

    Returns:
        `list[float]`: In the order of `completions`.

    Raises:
        `FileNotFoundError`: If the file does not exist.
        `ValueError`: If it is damaged, or contains the scores of other completions.
    """
    path = Path(folder, SCORES_FILE)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Give the folder into which the scores were written.")
    found: dict[tuple[str, int, int], float] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            found[record["dataset"], record["problem"], record["completion"]] = float(record["score"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). Delete it, and score the completions again.") from error
    keys = [(item.dataset, item.problem, item.completion) for item in completions]
    if set(keys) != found.keys():
        missing = [key for key in keys if key not in found]
        first = f" (first without a score: {missing[0]})" if missing else ""
        raise ValueError(
            f"{path} has the scores of {len(found)} completions, but {len(keys)} others were given{first}. Give the folder that was scored."
        )
    return [found[key] for key in keys]


def within_problem_auc(
    scores: Sequence[Sequence[float]],
    correct: Sequence[Sequence[bool]],
    baseline: Sequence[Sequence[float]] | None = None,
) -> tuple[float, tuple[float, float]] | None:
    """
    Measure how often a correct completion has a higher score than a wrong one of the same problem: the ROC-AUC within problems. Ties count
    one half.

    Args:
        scores (`Sequence[Sequence[float]]`): For each problem, one score per completion.
        correct (`Sequence[Sequence[bool]]`): Whether each completion is correct.
        baseline (`Sequence[Sequence[float]]`, *optional*): Other scores of the same completions. The difference from their AUC is then returned,
            paired by problem.

    Returns:
        `tuple`, *optional*: The share over all such pairs, and its interval (95 %, by the bootstrap over problems). `None` if no problem has both
        kinds.

    Examples:
        >>> within_problem_auc([[-0.2, -0.3, -0.25, -0.28, -0.6]], [[True, True, True, False, False]])
        (0.8333333333333334, (0.8333333333333334, 0.8333333333333334))
    """
    wins = _wins(scores, correct)
    if not any(wins):
        return None
    if baseline is not None:
        pairs = zip(wins, _wins(baseline, correct), strict=True)
        wins = [[a - b for a, b in zip(*own, strict=True)] for own in pairs]
    return fmean(win for own in wins for win in own), bootstrap_interval(wins)


def _wins(scores: Sequence[Sequence[float]], correct: Sequence[Sequence[bool]]) -> list[list[float]]:
    """Return, for each problem, 1 for every pair of a correct completion with a wrong one of a lower score, 1/2 for equal scores, otherwise 0."""
    wins: list[list[float]] = []
    for own, verdicts in zip(scores, correct, strict=True):
        right = [score for score, verdict in zip(own, verdicts, strict=True) if verdict]
        wrong = [score for score, verdict in zip(own, verdicts, strict=True) if not verdict]
        wins.append([float(a > b) + 0.5 * float(a == b) for a in right for b in wrong])
    return wins


@dataclass(frozen=True)
class Selection:
    """
    Accuracy of one way to choose among n completions.

    Attributes:
        accuracy (`float`): Share of the groups of n whose chosen answer is correct.
        interval (`tuple[float, float]`): Of the accuracy, 95 %.
        difference (`float`): From majority vote over the same completions.
        difference_interval (`tuple[float, float]`): Of the difference, 95 %, paired by problem.
    """

    accuracy: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]


def compare_selectors(
    completions: Sequence[Completion],
    scores: Mapping[str, Sequence[float]],
    n: int,
    *,
    kept: Sequence[bool] | None = None,
    alpha: float | None = None,
    answer_format: AnswerFormat = "auto",
) -> dict[str, Any]:
    """
    Compare ways to choose among n completions: majority vote, the highest of each score, and an oracle.

    N completions per problem make N // n groups, as in [`~trl_concise.evaluation.best_of_n`]. Truncated completions are not chosen. Ties go to the
    earlier completion.

    Args:
        completions (`Sequence[Completion]`): Judged completions of one problem set, in the order of problems, the same number for each.
        scores (`Mapping[str, Sequence[float]]`): By name, one score per completion. Higher is better.
        n (`int`): Completions of a group.
        kept (`Sequence[bool]`, *optional*): Adds a selector `"{name}, filtered"` per score, and for the vote, which chooses among the kept completions;
            without one, among those with an answer.
        alpha (`float`, *optional*): Adds a selector `"{name}, weighted"` per score: a vote weighted by score^alpha. Scores are then at least 0.
        answer_format (`str`, *optional*, defaults to `"auto"`): Where the vote looks for the answer. Give that of the evaluation.

    Returns:
        `dict[str, Any]`: `problems`, `n`, `tokens_mean` (of the n completions), `single` (mean over completions), `any` (an oracle), and
        `selectors`: a [`Selection`] by name, `"majority"` first, and `correct`: by name, for each problem, 1 or 0 per group.

    Raises:
        `ValueError`: If n is out of range, or a score is missing or is not a number.
    """
    for name, own in scores.items():
        missing = len(own) - sum(score is not None and math.isfinite(score) for score in own)
        if len(own) != len(completions) or missing:
            raise ValueError(
                f"The score {name!r} must be one finite number per completion; got {len(own)} for {len(completions)}, "
                f"{missing} of them missing or not finite. Score the completions again."
            )
    places: dict[int, list[int]] = {}
    for place, item in enumerate(completions):
        if item.correct is not None:
            places.setdefault(item.problem, []).append(place)
    fewest = min(map(len, places.values()), default=0)
    if not 1 <= n <= fewest:
        raise ValueError(f"n must be between 1 and {fewest}, the completions per problem; got {n}.")
    right: dict[str, list[list[float]]] = {}
    tokens, single, solved = [], [], []
    for own in places.values():
        votes = find_votes([completions[place] for place in own], answer_format)
        found: dict[str, list[float]] = {}
        for first in range(0, fewest - n + 1, n):
            group, group_votes = own[first : first + n], votes[first : first + n]
            items = [completions[place] for place in group]
            chosen = {"majority": choose_majority(group_votes)}
            of_kept = [kept[place] for place in group] if kept is not None else None
            if of_kept is not None:
                chosen["majority, filtered"] = choose_majority(keep_votes(group_votes, of_kept))
            for name, values in scores.items():
                of_group = [values[place] for place in group]
                chosen[name] = choose_best(items, of_group)
                if alpha is not None:
                    chosen[f"{name}, weighted"] = choose_weighted(group_votes, of_group, alpha)
                if of_kept is not None:
                    chosen[f"{name}, filtered"] = choose_kept(group_votes, of_group, of_kept)
            for name, choice in chosen.items():
                found.setdefault(name, []).append(float(choice is not None and bool(items[choice].correct)))
            tokens.append(sum(item.tokens for item in items))
            single.append(fmean(bool(item.correct) for item in items))
            solved.append(float(any(item.correct for item in items)))
        for name, of_problem in found.items():
            right.setdefault(name, []).append(of_problem)
    selectors = {}
    for name, groups in right.items():
        gains = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(groups, right["majority"], strict=True)]
        selectors[name] = Selection(
            fmean(value for values in groups for value in values),
            accuracy_interval(groups),
            fmean(value for values in gains for value in values),
            bootstrap_interval(gains),
        )
    return {
        "problems": len(places),
        "n": n,
        "tokens_mean": fmean(tokens),
        "single": fmean(single),
        "any": fmean(solved),
        "selectors": selectors,
        "correct": right,
    }


def keep_votes(votes: Sequence[int | None], kept: Sequence[bool]) -> list[int | None]:
    """Return the votes of the kept completions, `None` for the others; all votes if no completion with an answer is kept."""
    found = [vote if keeps else None for vote, keeps in zip(votes, kept, strict=True)]
    return found if any(vote is not None for vote in found) else list(votes)


def choose_kept(votes: Sequence[int | None], scores: Sequence[float], kept: Sequence[bool]) -> int | None:
    """
    Return the place of the completion with the highest score among those that are kept; without one, among those with an answer. Ties go to the
    first; `None` without an answer.

    Args:
        votes (`Sequence[int | None]`): Answer of each completion, as a number; `None` without one.
        scores (`Sequence[float]`): One per completion.
        kept (`Sequence[bool]`): Whether each passes the filter.

    Examples:
        >>> votes, scores = [0, 1, 0, None, 2], [-0.30, -0.22, -0.25, -0.40, -0.21]  # answers 64, 65, 64, none, 70
        >>> choose_kept(votes, scores, [True, False, True, False, False]), choose_kept(votes, scores, [False] * 5)
        (2, 4)
    """
    places = [place for place, vote in enumerate(keep_votes(votes, kept)) if vote is not None]
    return max(places, key=lambda place: scores[place], default=None)
