# SPDX-License-Identifier: Apache-2.0
"""[`rescore`] judges the completions of an evaluation again, with another judge; the command `trl-concise rescore`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import Parser
from ..state.checkpoint import write_atomically
from ..verification.extraction import ANSWER_FORMATS, AnswerFormat, final_answer, without_reasoning
from ..verification.finished import MARKERS, ThinkingMarkers, is_finished
from .agreement import agreement
from .command import true_or_false
from .completions import Completion, summarize, unreadable_reference_answers
from .folder import COMPLETIONS_FILE, PROBLEMS_FILE, SETTINGS_FILE
from .judges import DEFAULT_JUDGE, JudgeFunction, describe_judge, find_judge, judge_name
from .metrics import bootstrap_interval
from .recorded import Evaluation
from .summaries import SUMMARY_FILE, read_json
from .uncertainty import FILE as UNCERTAINTY_FILE
from .uncertainty import read_uncertainty, summarize_uncertainty
from .voting import FILE as VERIFICATIONS_FILE


DISAGREEMENTS_FILE = "disagreements.jsonl"
AGREEMENT_FILE = "agreement.json"
TAIL = 400  # characters of a completion's end in `disagreements.jsonl`


def rescore(
    evaluation: str | Path,
    output_dir: str | Path,
    judge: str | JudgeFunction = DEFAULT_JUDGE,
    *,
    answer_format: AnswerFormat | None = None,
    final_form: bool | None = None,
) -> dict[str, dict[str, Any]]:
    """
    Judge the completions of an evaluation again, and compare the verdicts with those on file. No model is loaded.

    `output_dir` becomes an evaluation like the first one, with the new verdicts: `trl-concise accept`, `report` and `eval` read
    it. `agreement.json` has the returned figures, and `disagreements.jsonl` every completion on which the judges differ. The records of
    token budgets and thinking budgets are left out, and so are votes, axes and stress, which depend on the verdicts: the same
    `trl-concise eval` with `output_dir` adds them, and generates no completion again.

    Args:
        evaluation (`str` or `Path`): Output folder of `trl-concise eval`. It does not change.
        output_dir (`str` or `Path`): Another folder, empty or new.
        judge (`str` or `Callable`, *optional*, defaults to `"trl-concise"`):
            `"trl-concise"`, `"math-verify"` or `"exact"` (see [`find_judge`]), or a function of reference answers and completions (without
            their reasoning) that returns `True`, `False`, or `None` for an unreadable reference answer.
        answer_format, final_form (*optional*): Options of the judge; those of the evaluation by default.

    Returns:
        `dict[str, dict[str, Any]]`: By problem set, the figures of [`agreement`] (`first` is the new judge), `accuracy` and
        `accuracy_before` over the problems that both judges could read, `points_interval` (95 %, bootstrap over problems), `unreadable` and
        `unreadable_before` (problems), and both judges' descriptions, `judge` and `judge_before` (`None` in older evaluations).

    Raises:
        `FileNotFoundError`: If the folder has no evaluation.
        `ValueError`: If the evaluation is incomplete, the output is not empty, or an argument is invalid.
    """
    folder, output = Path(evaluation), Path(output_dir)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} already contains something. Choose another output_dir, or delete this one.")
    recorded = Evaluation.read(folder)
    settings = read_json(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else {}
    if not isinstance(settings, dict):
        raise ValueError(f"{folder / SETTINGS_FILE} does not contain the settings of an evaluation.")
    options: dict[str, Any] = {
        "answer_format": answer_format or settings.get("answer_format", "auto"),
        "final_form": final_form if final_form is not None else settings.get("final_form", True),
    }
    own = isinstance(judge, str)
    function = find_judge(judge, **options) if isinstance(judge, str) else judge
    name = judge if isinstance(judge, str) else getattr(judge, "__name__", type(judge).__name__)
    described = describe_judge(name, **options, judge=None if own else function)
    markers = ThinkingMarkers(*settings.get("thinking_markers", [MARKERS.start, MARKERS.end]))

    figures: dict[str, dict[str, Any]] = {}
    records: list[dict[str, Any]] = []
    judged: list[Completion] = []
    differing: list[dict[str, Any]] = []
    for dataset, problems in recorded.completions.items():
        before = [item for _, items in sorted(problems.items()) for item in items]
        after = _judge(before, function, markers, _unreadable(before) if judge == DEFAULT_JUDGE else set())
        kept = {key: value for key, value in recorded.sets[dataset].items() if key not in _OTHER_FIGURES}
        if scored := read_uncertainty(folder, after):
            kept["uncertainty"] = summarize_uncertainty(after, scored)
        figures[dataset] = {
            **_compare(after, before),
            "judge": described,
            "judge_before": recorded.sets[dataset].get("judge"),
        }
        records.append({**kept, **summarize(after, markers), **options, "judge": described})
        judged += after
        differing += [
            _disagreement(new, old, options["answer_format"])
            for new, old in zip(after, before, strict=True)
            if new.correct != old.correct
        ]

    output.mkdir(parents=True, exist_ok=True)
    written = {key: value for key, value in settings.items() if key != "vote"} | {**options, "judge": described}
    files = {
        COMPLETIONS_FILE: "".join(item.line() for item in judged),
        DISAGREEMENTS_FILE: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in differing),
        AGREEMENT_FILE: json.dumps(figures, indent=2, allow_nan=False) + "\n",
        SETTINGS_FILE: json.dumps(written, indent=2) + "\n",
        SUMMARY_FILE: json.dumps(records, indent=2, allow_nan=False) + "\n",
    }
    for name in (PROBLEMS_FILE, UNCERTAINTY_FILE, VERIFICATIONS_FILE):  # which no verdict is part of
        if (folder / name).is_file():
            files[name] = (folder / name).read_text(encoding="utf-8")
    for file, text in files.items():
        write_atomically(output / file, text.encode())
    return figures


# Of a base, or of the verdicts before
_OTHER_FIGURES = (
    "base_model",
    "accuracy_efficiency_score",
    "accuracy_efficiency_weights",
    "vote",
    "uncertainty",
    "axes",
    "stress",
)


def _judge(
    items: Sequence[Completion], judge: JudgeFunction, markers: ThinkingMarkers, unreadable: set[int]
) -> list[Completion]:
    """Judge completions; an unfinished one is wrong, and one whose reference answer cannot be read is not judged."""
    texts = [without_reasoning(item.text, markers.end) for item in items]
    verdicts = judge([item.gold for item in items], texts)
    if len(verdicts) != len(items):
        raise ValueError(f"The judge returned {len(verdicts)} verdicts for {len(items)} completions.")
    unreadable = unreadable | {item.problem for item, verdict in zip(items, verdicts, strict=True) if verdict is None}
    finished = [
        item.finished
        if item.finished is not None
        else is_finished(item.text, truncated=item.truncated, markers=markers)
        for item in items
    ]
    return [
        replace(
            item,
            correct=None if item.problem in unreadable else bool(verdict) and is_done,
            # They were drawn in batches over all sets, whose order this file does not keep
            batch_size=None,
        )
        for item, verdict, is_done in zip(items, verdicts, finished, strict=True)
    ]


def _unreadable(items: Sequence[Completion]) -> set[int]:
    """Return the problems whose reference answer the package cannot read, as `trl-concise eval` finds them: not every verdict shows it."""
    golds = {item.problem: item.gold for item in items}
    rows = unreadable_reference_answers(list(golds.values()))
    return {problem for row, problem in enumerate(golds) if row in rows}


def _compare(after: Sequence[Completion], before: Sequence[Completion]) -> dict[str, Any]:
    pairs = [
        (new.problem, new.correct, old.correct)
        for new, old in zip(after, before, strict=True)
        if new.correct is not None and old.correct is not None
    ]
    counts = [
        sum((bool(new), bool(old)) == which for _, new, old in pairs)
        for which in ((True, True), (True, False), (False, True), (False, False))
    ]
    found = agreement(*counts)
    by_problem: dict[int, list[float]] = {}
    for problem, new, old in pairs:
        by_problem.setdefault(problem, []).append(100.0 * (bool(new) - bool(old)))
    return {
        "accuracy": (counts[0] + counts[1]) / len(pairs),
        "accuracy_before": (counts[0] + counts[2]) / len(pairs),
        **found,
        "points_interval": list(bootstrap_interval(list(by_problem.values()))),
        "unreadable": len({item.problem for item in after if item.correct is None}),
        "unreadable_before": len({item.problem for item in before if item.correct is None}),
    }


def _disagreement(new: Completion, old: Completion, answer_format: AnswerFormat) -> dict[str, Any]:
    return {
        "dataset": new.dataset,
        "problem": new.problem,
        "completion": new.completion,
        "gold": new.gold,
        "answer": final_answer(new.text, answer_format).text[-TAIL:],
        "correct": new.correct,
        "correct_before": old.correct,
        "text": new.text[-TAIL:],
    }


def main(argv: Sequence[str]) -> int:
    """Judge the completions of an evaluation again, and print where the judges disagree."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.judge == "math-verify" and options.answer_format is not None:
        parser.error("--answer_format has no effect with --judge math-verify. Leave it out.")
    if options.judge != DEFAULT_JUDGE and options.final_form is not None:
        parser.error(f"--final_form has no effect with --judge {options.judge}. Leave it out.")
    try:
        figures = rescore(
            options.evaluation,
            options.output_dir,
            options.judge,
            answer_format=options.answer_format,
            final_form=options.final_form,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print_agreement(figures)
    print(
        f"The evaluation with the new verdicts is in {options.output_dir}. Read both kinds of disagreements in its {DISAGREEMENTS_FILE} "
        "before you trust either judge."
    )
    return 0


def print_agreement(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print how far two judges agree on each problem set."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    judge, before = next((found["judge"], found["judge_before"]) for found in figures.values())
    caption = (
        "[ ]: 95 % interval, bootstrap over problems. Right, wrong: completions that are right, or wrong, only now."
    )
    table = Table(caption=escape(caption))
    table.add_column("Problems", overflow="fold")
    for heading in ("Before", "Now", "Points", "Right", "Wrong", "Kappa", "AC1"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in figures.items():
        low, high = found["points_interval"]
        table.add_row(
            *map(
                escape,
                (
                    name,
                    f"{found['accuracy_before']:.1%}",
                    f"{found['accuracy']:.1%}",
                    f"{found['points']:+.1f}\n[{low:.1f}, {high:.1f}]",
                    f"{found['only_first']:,}",
                    f"{found['only_second']:,}",
                    f"{found['kappa']:.2f}" if found["kappa"] is not None else "-",
                    f"{found['ac1']:.2f}",
                ),
            )
        )
    Console().print(table)
    print(
        f"Before: {judge_name(before) if before is not None else 'an earlier version, which did not record its judge'}."
    )
    print(f"Now: {judge_name(judge)}.")


def _parser() -> Parser:
    parser = Parser(
        prog="trl-concise rescore",
        description="Judge the completions of an evaluation again, and show where the verdicts differ from those on file. No model is loaded.",
        epilog="examples:\n"
        "  trl-concise rescore outputs/base --output_dir outputs/base-rescored        # with the judge of this version\n"
        "  trl-concise rescore outputs/base --judge math-verify --output_dir outputs/base-math-verify",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("evaluation", help="output folder of `trl-concise eval`; it does not change")
    add("--output_dir", required=True, help="empty or new folder for the evaluation with the new verdicts")
    add(
        "--judge",
        default=DEFAULT_JUDGE,
        choices=(DEFAULT_JUDGE, "math-verify", "exact"),
        help="trl-concise: the package's own; math-verify: searches the whole text; exact: the same text (%(default)s)",
    )
    add(
        "--answer_format",
        choices=ANSWER_FORMATS,
        help="where the final answer is looked for; as in the evaluation by default",
    )
    add(
        "--final_form",
        type=true_or_false,
        metavar="BOOL",
        help="whether an answer that leaves arithmetic to be done is wrong; as in the evaluation by default",
    )
    return parser
