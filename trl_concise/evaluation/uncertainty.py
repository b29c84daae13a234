# SPDX-License-Identifier: Apache-2.0
"""
Whether a model's token probabilities predict its errors: entropy and likelihood of each completion, their ROC-AUC, and calibration.

Source: Sychev et al., "When an LLM is apprehensive about its answers" (arXiv 2503.01688), for the entropy of a one-token answer. Mean, maximum and the
tokens of the final answer, for completions that reason, are this package's.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import Progress

from ..verification.extraction import last_boxed
from .completions import Completion, mean_or_none
from .folder import append_lines, read_lines
from .sampling import Sampler
from .token_scores import TokenScores


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE = "uncertainty.jsonl"
SCORES = ("entropy_mean", "entropy_max", "answer_entropy", "nll_mean", "tokens")
RESAMPLES = 1_000
BINS = 10
_BOX = re.compile(r"\\boxed\s*\{")


@dataclass(frozen=True)
class Uncertainty:
    """
    The uncertainty of one completion: a line of `uncertainty.jsonl`. Raw logits, temperature 1, in nats.

    Attributes:
        dataset, problem, completion: As in [`Completion`].
        completion_sha256 (`str`): Digest of the completion and of its prompt (see [`digest_completion`]).
        entropy_mean (`float`): Mean entropy of the next-token distribution over its tokens, end-of-turn token included.
        entropy_max (`float`): The largest.
        nll_mean (`float`): Mean negative log-likelihood of its tokens.
        logprob_min (`float`): Log-probability of its least likely token.
        answer_entropy (`float`, *optional*): Mean entropy over the tokens inside its last box; `None` without a box.
        topk_mass (`float`, *optional*): Mean probability of the tokens that vLLM returned, with which entropies are lower bounds; `None` where they are exact.
    """

    dataset: str
    problem: int
    completion: int
    completion_sha256: str
    entropy_mean: float
    entropy_max: float
    nll_mean: float
    logprob_min: float
    answer_entropy: float | None = None
    topk_mass: float | None = None


def answer_places(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> range | None:
    r"""Return the places of the tokens whose text overlaps the inside of the last `\boxed{}`; `None` without one."""

    def decode(end: int) -> str:
        return str(tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False))

    text = decode(len(ids))
    content, boxes = last_boxed(text), list(_BOX.finditer(text))
    if not content or not boxes:
        return None
    start = next((box.end() for box in reversed(boxes) if text.startswith(content, box.end())), boxes[-1].end())
    places = range(len(ids) + 1)
    first = bisect_left(places, start + 1, key=lambda end: len(decode(end))) - 1
    last = bisect_left(places, start + len(content), key=lambda end: len(decode(end)))
    return range(max(first, 0), min(last, len(ids)))


def describe_tokens(item: Completion, scores: TokenScores, answer: range | None) -> Uncertainty:
    """Return the uncertainty of a completion from the scores of its tokens, and the places of its answer."""
    entropies, nlls = scores.entropies, scores.nlls
    return Uncertainty(
        *(item.dataset, item.problem, item.completion, digest_completion(item)),
        entropy_mean=fmean(entropies),
        entropy_max=max(entropies),
        nll_mean=fmean(nlls),
        logprob_min=-max(nlls),
        answer_entropy=fmean(entropies[place] for place in answer) if answer else None,
        topk_mass=fmean(scores.masses) if scores.masses is not None else None,
    )


def record_uncertainty(
    completions: Sequence[Completion],
    sampler: Sampler,
    prompts: Sequence[list[int]],
    folder: Path | None,
    *,
    batch_size: int,
    bar: Progress | None = None,
) -> dict[tuple[int, int], Uncertainty]:
    """
    Score the completions of one problem set with the model that wrote them, one more forward pass, and append new scores to `uncertainty.jsonl`.

    Args:
        completions (`Sequence[Completion]`): The completions.
        sampler ([`Sampler`]): The model.
        prompts (`Sequence[list[int]]`): Token ids of the prompts by problem.
        folder (`Path`, *optional*): Folder of the evaluation. A score that it contains is not computed again.
        batch_size (`int`): Completions that are scored at a time.
        bar (`Progress`, *optional*): Shows the progress.

    Returns:
        `dict[tuple[int, int], Uncertainty]`: By problem and completion.
    """
    wanted = {(item.problem, item.completion): item for item in completions if item.completion_ids}
    known = read_uncertainty(folder, completions) if folder is not None else {}
    # Together what has about the same length
    missing = sorted((key for key in wanted if key not in known), key=lambda key: wanted[key].tokens)
    name = completions[0].dataset
    task = bar.add_task(f"{name}, uncertainty", total=len(wanted), completed=len(known), status="") if bar else None
    for first in range(0, len(missing), batch_size):
        keys = missing[first : first + batch_size]
        items = [wanted[key] for key in keys]
        scored = sampler.score_tokens(
            [prompts[item.problem] for item in items], [item.completion_ids for item in items]
        )
        found = [
            describe_tokens(item, scores, answer_places(sampler.tokenizer, item.completion_ids))
            for item, scores in zip(items, scored, strict=True)
        ]
        if folder is not None:
            append_lines(folder / FILE, found)
        known |= zip(keys, found, strict=True)
        if bar is not None and task is not None:
            bar.update(task, completed=len(known))
    return known


def read_uncertainty(folder: Path, completions: Sequence[Completion]) -> dict[tuple[int, int], Uncertainty]:
    """Read from `uncertainty.jsonl` the scores of these completions of one problem set, by problem and completion (see [`read_lines`])."""
    lines = {(line.dataset, line.problem, line.completion): line for line in read_lines(folder / FILE, Uncertainty)}
    found = {}
    for item in completions if lines else ():
        line = lines.get((item.dataset, item.problem, item.completion))
        if line is not None and line.completion_sha256 == digest_completion(item):
            found[item.problem, item.completion] = line
    return found


def digest_completion(item: Completion) -> str:
    """Return the SHA-256 of a completion's token ids and of the digest of its prompt: another completion in its place has other scores."""
    return hashlib.sha256(json.dumps([item.prompt_sha256, item.completion_ids]).encode()).hexdigest()


def summarize_uncertainty(
    completions: Sequence[Completion], scored: Mapping[tuple[int, int], Uncertainty]
) -> dict[str, Any]:
    """
    Return how well each score predicts errors.

    Args:
        completions (`Sequence[Completion]`): Judged completions of one problem set.
        scored (`Mapping`): Their uncertainties.

    Returns:
        `dict[str, Any]`: For each of `entropy_mean`, `entropy_max`, `answer_entropy`, `nll_mean` and `tokens` (long completions are wrong more
        often, and a score must beat length to matter): `auc` (see [`roc_auc`]), its 95 % `interval`, `aurc`, and the means `correct` and `wrong`.
        `calibration`: the bins of [`calibration_bins`] of the confidence `exp(-nll_mean)`, and `ece`, their expected calibration error.
    """
    items = [item for item in completions if item.correct is not None and (item.problem, item.completion) in scored]
    wrong = [not item.correct for item in items]
    problems = [item.problem for item in items]
    figures: dict[str, Any] = {}
    for name in SCORES:
        values = [
            float(item.tokens) if name == "tokens" else getattr(scored[item.problem, item.completion], name)
            for item in items
        ]
        ordered = [value if value is not None else np.inf for value in values]  # no answer: the most uncertain
        known = [(value, is_wrong) for value, is_wrong in zip(values, wrong, strict=True) if value is not None]
        figures[name] = {
            "auc": roc_auc(ordered, wrong),
            "interval": auc_interval(ordered, wrong, problems),
            "aurc": aurc(ordered, wrong) if items else None,
            "correct": mean_or_none(value for value, is_wrong in known if not is_wrong),
            "wrong": mean_or_none(value for value, is_wrong in known if is_wrong),
        }
    confidences = [float(np.exp(-scored[item.problem, item.completion].nll_mean)) for item in items]
    bins = calibration_bins(confidences, [not value for value in wrong])
    masses = [found.topk_mass for found in scored.values() if found.topk_mass is not None]
    return figures | {
        "calibration": bins,
        "ece": calibration_error(bins),
        "exact": not masses,
        "topk_mass": mean_or_none(masses),
    }


def roc_auc(
    scores: Sequence[float], wrong: Sequence[bool], weights: Sequence[float] | np.ndarray | None = None
) -> float | None:
    """
    Return the probability that a wrong completion has a larger score than a correct one; ties count half.

    Args:
        scores (`Sequence[float]`): Uncertainties.
        wrong (`Sequence[bool]`): Whether each completion is wrong.
        weights (`Sequence[float]`, *optional*): How often each one counts; once by default.

    Returns:
        `float`, *optional*: In [0, 1]; `None` if all are wrong, or none is.

    Examples:
        >>> round(roc_auc([0.9, 0.8, 0.8, 0.4, 0.3, 0.1], [True, False, True, False, True, False]), 6)
        0.722222
    """
    _, kinds = np.unique(np.asarray(scores, dtype=float), return_inverse=True)
    weight = np.asarray(weights, dtype=float) if weights is not None else np.ones(len(kinds))
    is_wrong = np.asarray(wrong, dtype=bool)
    size = kinds.max() + 1 if len(kinds) else 0
    of_wrong = np.bincount(kinds, weights=weight * is_wrong, minlength=size)
    of_right = np.bincount(kinds, weights=weight * ~is_wrong, minlength=size)
    pairs = of_wrong.sum() * of_right.sum()
    if not pairs:
        return None
    below = np.cumsum(of_right) - of_right
    return float((of_wrong * (below + of_right / 2)).sum() / pairs)


def auc_interval(scores: Sequence[float], wrong: Sequence[bool], problems: Sequence[int]) -> list[float] | None:
    """Return the 95 % interval of [`roc_auc`], from 1,000 draws of problems with all their completions; `None` where it is undefined."""
    if roc_auc(scores, wrong) is None:
        return None
    _, rows = np.unique(np.asarray(problems), return_inverse=True)
    count = rows.max() + 1
    random = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        times = np.bincount(random.integers(count, size=count), minlength=count)
        value = roc_auc(scores, wrong, times[rows])
        if value is not None:  # a draw with both kinds
            found.append(value)
    low, high = np.quantile(found, [0.025, 0.975])
    return [float(low), float(high)]


def aurc(scores: Sequence[float], wrong: Sequence[bool]) -> float:
    """
    Return the area under the risk-coverage curve: the mean error rate of the most certain 1, 2, ... completions. Ties keep their order.

    Examples:
        >>> round(aurc([0.9, 0.8, 0.8, 0.4, 0.3, 0.1], [True, False, True, False, True, False]), 6)
        0.330556
    """
    order = np.argsort(np.asarray(scores, dtype=float), kind="stable")
    errors = np.asarray(wrong, dtype=float)[order]
    return float((np.cumsum(errors) / np.arange(1, len(errors) + 1)).mean())


def calibration_bins(confidences: Sequence[float], correct: Sequence[bool]) -> list[dict[str, Any]]:
    """Return ten bins of equal width: `count`, and the means `confidence` and `accuracy` (`None` in an empty bin)."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for confidence, is_correct in zip(confidences, correct, strict=True):
        bins[min(int(confidence * BINS), BINS - 1)].append((confidence, is_correct))
    return [
        {
            "count": len(found),
            "confidence": mean_or_none(confidence for confidence, _ in found),
            "accuracy": mean_or_none(is_correct for _, is_correct in found),
        }
        for found in bins
    ]


def calibration_error(bins: Sequence[Mapping[str, Any]]) -> float | None:
    """
    Return the expected calibration error: the mean distance of confidence and accuracy, weighted by the counts of the bins.

    Examples:
        >>> round(calibration_error(calibration_bins([0.95, 0.85, 0.75, 0.35, 0.25], [True, True, False, True, False])), 6)
        0.37
    """
    total = sum(found["count"] for found in bins)
    if not total:
        return None
    return (
        sum(found["count"] * abs(found["confidence"] - found["accuracy"]) for found in bins if found["count"]) / total
    )
