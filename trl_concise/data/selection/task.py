# SPDX-License-Identifier: Apache-2.0
"""A run of `trl-concise select`: its dataset and columns, what is counted, judged and written."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...errors import check_folder
from ..columns import RowError
from ..files import check_output, write_rows
from .judging import accept_traces
from .report import SelectionReport, nothing_kept
from .source import Source
from .texts import (
    Fields,
    check_column,
    find_fields,
    grpo_example,
    read_cells,
    read_question,
    read_reference,
    read_traces,
    sft_example,
)
from .verdicts import read_verdicts, verify_traces


ROWS_AT_ONCE = 64  # judged together


class Run:
    """A dataset, its columns, and the report of a selection from it."""

    def __init__(self, options: argparse.Namespace, *others: str):
        check_output(options.output, options.dataset, *others)
        check_folder("The folder of --output", options.output.parent)
        if not 0 <= options.seed < 2**32:
            raise ValueError(f"--seed must lie in [0, 2**32), got {options.seed}.")
        if options.system_prompt is not None and getattr(options, "to", "sft") == "rows":
            raise ValueError(
                "--system_prompt has no effect with --to rows. Add --to sft or --to grpo, or leave it out."
            )
        self.options = options
        self.source = Source(options.dataset, options.dataset_config, options.dataset_split)
        columns = {name: getattr(options, name) for name in ("problem_column", "trace_column", "answer_column")}
        self.fields: Fields = find_fields(self.source.columns, options.dataset, **columns)
        self.to = getattr(options, "to", "sft")
        settings = {name: value for name, value in vars(options).items() if name not in ("method", "output")}
        self.report = SelectionReport(options.method, settings | dict(zip(Fields._fields, self.fields, strict=True)))
        self.report.rows = len(self.source)
        if self.to == "grpo" and self.fields.answer is None:
            raise ValueError(
                f"--to grpo needs a reference answer, and no column of {options.dataset} is known to hold one. Name it with "
                "--answer_column."
            )

    def check(self, option: str) -> None:
        """Check that the column that an option names exists."""
        column = getattr(self.options, option)
        if column is not None:
            check_column(self.source.columns, column, option.removesuffix("_column"), self.options.dataset)

    def usable(self, *, needs_trace: bool) -> Iterator[tuple[int, Mapping[str, Any], str, list[str]]]:
        """Place, row, question and traces of the rows that have what the run needs; the others are counted."""
        drop = self.report.dropped
        for place, row in enumerate(self.source):
            try:
                question, traces = read_question(row, self.fields), read_traces(row, self.fields)
                answered = self.to != "grpo" or bool(read_reference(row, self.fields))
            except RowError as error:
                drop[str(error)] += 1
                continue
            if not question:
                drop["no problem"] += 1
            elif not traces and (needs_trace or self.to == "sft"):
                drop["no trace" if self.fields.trace else "no trace, because no column is known to hold one"] += 1
            elif not answered:
                drop["no reference answer"] += 1
            else:
                yield place, row, question, traces

    def write(self, places: Sequence[int], reason: str) -> None:
        """Write the rows at some places in the form asked for; the usable rows that were not chosen have a `reason`."""
        report, output = self.report, self.options.output
        report.kept = len(places)
        others = report.rows - report.kept - sum(report.dropped.values())
        if others:
            report.dropped[reason] += others
        if not places:
            raise nothing_kept(report, self.options.dataset)
        if self.to == "rows":
            self.source.write(places, output)
        else:
            write_rows((self._example(self.source[place]) for place in places), output)
        report.written[str(output)] = len(places)

    def _example(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if self.to == "grpo":
            return grpo_example(row, self.fields, self.options.system_prompt)
        return sft_example(row, self.fields, read_traces(row, self.fields)[0], self.options.system_prompt)

    @property
    def has_judge(self) -> bool:
        """Whether an option says which traces are correct."""
        names = ("verify", "verdict_column", "judge_model")
        return any(getattr(self.options, name, None) for name in names)

    def check_judge(self) -> None:
        """Check the options that say which traces are correct, and create the teacher."""
        self.check("verdict_column")
        if self.options.verify and self.fields.answer is None:
            raise ValueError(
                f"--verify needs a reference answer, and no column of {self.options.dataset} is known to hold one. Name it with "
                "--answer_column."
            )
        self.teacher = None
        self.judgments = self.options.output.with_name(f"{self.options.output.stem}_judgments.jsonl")
        if getattr(self.options, "judge_model", None) is not None:
            from ..teachers import APITeacher

            self.teacher = APITeacher(
                self.options.judge_model, base_url=self.options.judge_base_url, temperature=0.0, top_p=None
            )

    def accepted_traces(self, places: Sequence[int], *, first_only: bool = False) -> list[list[str]]:
        """The traces of rows that every judge accepts; with `first_only`, the first trace of each, if it is accepted."""
        found: list[list[str]] = []
        for first in range(0, len(places), ROWS_AT_ONCE):
            found += self._accepted(places[first : first + ROWS_AT_ONCE], first_only)
        return found

    def _accepted(self, places: Sequence[int], first_only: bool) -> list[list[str]]:
        options = self.options
        rows = [self.source[place] for place in places]
        traces = []
        for place, row in zip(places, rows, strict=True):
            cells = read_cells(row, self.fields)
            verdicts = [True] * len(cells)
            if options.verdict_column is not None:
                try:
                    verdicts = read_verdicts(row, options.verdict_column, len(cells)) or [False] * len(cells)
                except RowError as error:
                    number = self.source.numbers[place]
                    raise ValueError(f"Row {number} of {options.dataset}: {error}. Name another column.") from error
            there = [(text, verdict) for text, verdict in zip(cells, verdicts, strict=True) if text.strip()]
            traces.append([text for text, verdict in (there[:1] if first_only else there) if verdict])
        if options.verify:
            correct = verify_traces([read_reference(row, self.fields) for row in rows], traces)
            traces = [
                [text for text, verdict in zip(*pair, strict=True) if verdict]
                for pair in zip(traces, correct, strict=True)
            ]
        if self.teacher is not None:
            questions = [read_question(row, self.fields) for row in rows]
            pairs = [(question, text) for question, texts in zip(questions, traces, strict=True) for text in texts]
            accepted = accept_traces(self.teacher, pairs, self.judgments) if pairs else []
            self.report.failed_judgments += accepted.count(None)
            verdicts_of_pairs = iter(accepted)
            traces = [[text for text in texts if next(verdicts_of_pairs)] for texts in traces]
        return traces

    def no_usable_rows(self) -> ValueError:
        """The error that no row was kept."""
        return nothing_kept(self.report, self.options.dataset)


def length_function(options: argparse.Namespace, model: str | None = None) -> Callable[[str], int]:
    """
    The function that measures a trace: in tokens of `--tokenizer` or of a model's tokenizer, or in characters.

    Raises:
        `ValueError`: If lengths are in tokens, and no model with a tokenizer is named.
    """
    if options.length_unit == "characters":
        if options.tokenizer is not None:
            raise ValueError("--tokenizer has no effect with --length_unit characters. Give one of them.")
        return len
    name = options.tokenizer or model
    if name is None:
        raise ValueError(
            "Lengths in tokens need a tokenizer. Name a model with --tokenizer, or count characters with --length_unit characters."
        )

    from ...state.adapters import load_tokenizer

    tokenizer = load_tokenizer(model_path(name))
    return lambda text: len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def model_path(name: str) -> str:
    """Path or Hub id of a model; `demo` is the embedded one."""
    from ...evaluation.sets import KNOWN_MODELS

    return KNOWN_MODELS.get(name, name)
