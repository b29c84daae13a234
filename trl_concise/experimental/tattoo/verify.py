# SPDX-License-Identifier: Apache-2.0
"""Check the steps of an evaluation's completions, and measure what their score is worth in a vote and in best-of-n."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.completions import Completion
from ...evaluation.folder import read_sets
from ...state.checkpoint import write_atomically
from ...verification.extraction import AnswerFormat
from ..selectors import compare_selectors, within_problem_auc, write_scores
from .labels import Step, label_steps, mean_label
from .table import Table


if TYPE_CHECKING:
    from datasets import Dataset

STEPS_FILE = "steps.jsonl"
SCORE = "steps"


def verify_steps(
    evaluation: str | Path,
    datasets: Mapping[str, Dataset],
    output_dir: str | Path,
    *,
    n: int | None = None,
    alpha: float = 1.0,
    answer_format: AnswerFormat = "auto",
) -> list[dict[str, Any]]:
    r"""
    Check the steps of the completions of an evaluation.

    Writes `scores.jsonl`, with the score $(1 + r_\tau) / 2$ of each completion, and `steps.jsonl`, with every false claim and its text. The checks
    need no model and no tokens.

    Args:
        evaluation (`str` or `Path`): Output folder of [`~trl_concise.evaluation.evaluate`], or of `trl-concise eval`.
        datasets (`Mapping[str, Dataset]`): The problem sets that it was given, by name, with the columns `prompt` and `solution`, and optionally
            `table`.
        output_dir (`str` or `Path`): Where to write.
        n (`int`, *optional*): Completions to choose among. Default: all of a problem.
        alpha (`float`, *optional*, defaults to `1.0`): Exponent of the score in the weighted vote, at least 0.
        answer_format (`str`, *optional*, defaults to `"auto"`): That of the evaluation.

    Returns:
        `list[dict[str, Any]]`: One record per set: `dataset`, `completions`, `labeled_steps`, `claims`, `false_claims`, `claims_mean` (per completion),
        `false_fraction` (of the claims; `None` without any), `auc` and `auc_interval` of the score within problems (`None` if no problem has
        correct and wrong completions), and the figures of [`~trl_concise.experimental.selectors.compare_selectors`].

    Raises:
        `FileNotFoundError`: If the folder has no completions.
        `ValueError`: If a set is missing or has other problems, a table is malformed, or n or alpha is out of range.
    """
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha must be a finite number of at least 0, got {alpha}.")
    records, everything, all_scores, lines = [], [], [], []
    for name, items in read_sets(evaluation, datasets).items():
        tables: list[Table | None] = [None] * len(datasets[name])
        if "table" in datasets[name].column_names:
            tables = [Table.read(table) if table is not None else None for table in datasets[name]["table"]]
        labeled = [label_steps(item.text, tables[item.problem], finished=not item.truncated) for item in items]
        scores = [(1 + mean_label([step.label for step in steps])) / 2 for steps in labeled]
        lines += [line for item, steps in zip(items, labeled, strict=True) for line in _false_claims(item, steps)]
        everything += items
        all_scores += scores
        records.append({"dataset": name, **count_claims(labeled), **_measure(items, scores, n, alpha, answer_format)})
    write_scores(output_dir, everything, all_scores)
    write_atomically(Path(output_dir, STEPS_FILE), "".join(line + "\n" for line in lines).encode())
    return records


def count_claims(completions: list[list[Step]]) -> dict[str, Any]:
    """
    Count steps and claims.

    Args:
        completions (`list[list[Step]]`): The steps of each completion, see [`label_steps`].

    Returns:
        `dict[str, Any]`: `completions`, `labeled_steps`, `claims`, `false_claims`, `claims_mean` and `false_fraction`, see [`verify_steps`].
    """
    verdicts = [is_true for steps in completions for step in steps for _, is_true in step.claims]
    return {
        "completions": len(completions),
        "labeled_steps": sum(step.label is not None for steps in completions for step in steps),
        "claims": len(verdicts),
        "false_claims": verdicts.count(False),
        "claims_mean": len(verdicts) / max(len(completions), 1),
        "false_fraction": verdicts.count(False) / len(verdicts) if verdicts else None,
    }


def _measure(
    items: list[Completion], scores: list[float], n: int | None, alpha: float, answer_format: AnswerFormat
) -> dict[str, Any]:
    judged = [(item, score) for item, score in zip(items, scores, strict=True) if item.correct is not None]
    problems: dict[int, tuple[list[float], list[bool]]] = {}
    for item, score in judged:
        own, correct = problems.setdefault(item.problem, ([], []))
        own.append(score)
        correct.append(bool(item.correct))
    auc = within_problem_auc([own for own, _ in problems.values()], [correct for _, correct in problems.values()])
    fewest = min((len(own) for own, _ in problems.values()), default=0)
    found = compare_selectors(
        [item for item, _ in judged],
        {SCORE: [score for _, score in judged]},
        n if n is not None else fewest,
        alpha=alpha,
        answer_format=answer_format,
    )
    del found["correct"]
    found["selectors"] = {name: asdict(selection) for name, selection in found["selectors"].items()}
    return {"auc": auc[0] if auc else None, "auc_interval": list(auc[1]) if auc else None, **found}


def _false_claims(item: Completion, steps: list[Step]) -> list[str]:
    return [
        json.dumps(
            {
                "dataset": item.dataset,
                "problem": item.problem,
                "completion": item.completion,
                "step": place,
                "claim": f"{claim.left} = {claim.right}",
                "text": step.text.strip(),
            },
            ensure_ascii=False,
        )
        for place, step in enumerate(steps)
        for claim, is_true in step.claims
        if not is_true
    ]
