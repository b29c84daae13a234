# SPDX-License-Identifier: Apache-2.0
"""Questions, traces and reference answers of rows in the usual formats, and the examples that are made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..columns import (
    ANSWER_COLUMNS,
    PROBLEM_COLUMNS,
    RowError,
    read_answer,
    read_messages,
    read_problem,
    unknown_column,
)
from ..problems import as_messages
from ..rows import read_column


TRACE_COLUMNS = ("completion", "generations", "response", "output", "trace", "reasoning", "solution")
QUESTION_COLUMNS = (*PROBLEM_COLUMNS, "instruction")


class Fields(NamedTuple):
    """
    The columns that a selection reads.

    Attributes:
        problem (`str`): The problem, as text or as messages.
        trace (`str`, *optional*): One trace or several; `None`: the last message of the problem.
        answer (`str`, *optional*): The reference answer.
    """

    problem: str
    trace: str | None
    answer: str | None


def find_fields(
    names: Sequence[str],
    source: str,
    *,
    problem_column: str | None = None,
    trace_column: str | None = None,
    answer_column: str | None = None,
) -> Fields:
    """
    Choose the columns that hold question, trace and reference answer; a given one must exist.

    Raises:
        `ValueError`: If a given column is missing, or none is known to hold the problem.
    """
    lower: dict[str, str] = {}
    for name in names:
        lower.setdefault(name.lower(), name)

    def choose(kind: str, given: str | None, known: Sequence[str], *taken: str | None) -> str | None:
        if given is not None:
            check_column(names, given, kind, source)
            return given
        return next((lower[name] for name in known if name in lower and lower[name] not in taken), None)

    problem = choose("problem", problem_column, QUESTION_COLUMNS)
    if problem is None:
        raise unknown_column("problem", source, names, QUESTION_COLUMNS)
    answer = choose(
        "answer", answer_column, [name for name in ANSWER_COLUMNS if "." not in name], problem, trace_column
    )
    trace = choose("trace", trace_column, TRACE_COLUMNS, problem, answer)
    return Fields(problem, trace, answer)


def check_column(names: Sequence[str], column: str, kind: str, source: str) -> None:
    """
    Check that a column exists; a dot steps into it, a plus joins two.

    Raises:
        `ValueError`: If it does not.
    """
    for piece in column.split("+"):
        if piece.split(".")[0] not in names:
            raise ValueError(
                f"{source} has no column {piece!r} for the {kind}. Its columns: {', '.join(names)}. "
                f"Name one with --{kind.replace(' ', '_')}_column."
            )


def read_question(row: Mapping[str, Any], fields: Fields) -> str:
    """
    The question of a row as text, without its system message; `""` if it has none.

    Raises:
        `RowError`: If the column holds neither text nor messages.
    """
    problem, _ = read_problem(row, fields.problem)
    if isinstance(problem, str):
        return problem.strip()
    return "\n\n".join(message["content"] for message in problem if message["role"] == "user").strip()


def read_traces(row: Mapping[str, Any], fields: Fields) -> list[str]:
    """
    The traces of a row, without missing and empty ones.

    Raises:
        `RowError`: If the column holds something else than text, messages or a list of texts.
    """
    return [text for text in read_cells(row, fields) if text.strip()]


def read_cells(row: Mapping[str, Any], fields: Fields) -> list[str]:
    """The traces of a row; a missing one is `""`. Raises the errors of [`read_traces`]."""
    if fields.trace is None:
        return [read_problem(row, fields.problem)[1]]
    value = read_column(row, fields.trace)
    if isinstance(value, (str, type(None))):
        return [value or ""]
    if not isinstance(value, (list, tuple)):
        raise RowError(fields.trace, f"holds a {type(value).__name__}, not a text or a list of texts")
    if value and all(isinstance(item, Mapping) for item in value):
        messages = read_messages(value, fields.trace)
        return ["".join(message["content"] for message in messages if message["role"] == "assistant")]
    for item in value:
        if item is not None and not isinstance(item, str):
            raise RowError(fields.trace, f"holds a list with a {type(item).__name__}, not with texts")
    return [item or "" for item in value]


def read_reference(row: Mapping[str, Any], fields: Fields) -> str:
    """The final reference answer of a row; `""` if it has none."""
    return read_answer(row, fields.answer).text if fields.answer is not None else ""


def sft_example(
    row: Mapping[str, Any], fields: Fields, trace: str, system_prompt: str | None = None
) -> dict[str, Any]:
    """`prompt` and `completion` of a trace, as [`~trl.SFTTrainer`] takes them."""
    problem, _ = read_problem(row, fields.problem)
    prompt = as_messages(problem, system_prompt)
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": trace}]}


def grpo_example(row: Mapping[str, Any], fields: Fields, system_prompt: str | None = None) -> dict[str, Any]:
    """`prompt` and `solution` of a row, as [`~trl.GRPOTrainer`] and the trainers of this package take them."""
    problem, _ = read_problem(row, fields.problem)
    return {"prompt": as_messages(problem, system_prompt), "solution": read_reference(row, fields)}


def digest(*texts: str) -> str:
    """Digest of texts, 32 hexadecimal digits; the same on every machine."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def uniform(*texts: str) -> float:
    """A number in (0, 1) that depends on texts only."""
    return (int(digest(*texts)[:13], 16) + 0.5) / 16**13
