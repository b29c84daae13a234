# SPDX-License-Identifier: Apache-2.0
"""Find the columns of a dataset that hold the problem and its reference answer, and read both."""

from __future__ import annotations

import ast
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..verification.extraction import after_hashes, last_boxed
from .rows import read_column


# Names are compared without regard to case, and the first match wins. Where a dataset has both a prompt and a bare problem,
# its authors meant the prompt. A column that holds only the final answer is preferred to a worked solution.
PROBLEM_COLUMNS = ("prompt", "problem", "question", "question_concat", "query", "messages", "conversations")
CONTEXT_COLUMNS = ("body", "context", "passage", "story")
CHOICES_COLUMNS = ("choices", "options", "answer_choices")
ANSWER_COLUMNS = (
    *(
        "ground_truth",
        "final_answer",
        "answer_number",
        "answer",
        "reward_model.ground_truth",
        "expected_answer",
        "correct_answer",
    ),
    *("target", "solution"),
)
CHOICE_ANSWER_COLUMNS = ("answerKey", "answer_key", "correct", "correct_option", "label")  # known only next to choices
WORKED_COLUMN = "solution"  # may hold a worked solution

LONGEST_ANSWER = 200  # characters; a longer text without a marked answer is a worked solution
ROLES = {
    **{"system": "system", "user": "user", "human": "user", "assistant": "assistant"},
    **{"gpt": "assistant", "bot": "assistant", "model": "assistant", "tool": "tool"},
}
MISSING = {"", "nan", "null", "None", "N/A", "NaN", "NULL", "<NA>"}

_NUMBER = r"\$?[-+\u2212]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+|\s+\d+/\d+)?%?\$?"
_UNIT = re.compile(
    rf"(?P<number>{_NUMBER})\s*\((?!\s*(?:mod|base|or|and)\b)(?P<unit>[A-Za-z\u00b0%$€£][A-Za-z\u00b0%$€£ ./^\d-]+|[mglLshNJVWAKCF%$€£])\)\.?"
)
_LATEX_WORDS = re.compile(r"\\(?:text\w*|mbox|mathrm|begin|end|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2,}")


class RowError(ValueError):
    """
    What is wrong with one row.

    Args:
        column (`str`): The column.
        reason (`str`): What it holds.
    """

    def __init__(self, column: str, reason: str):
        super().__init__(f"column {column!r} {reason}")


class Columns(NamedTuple):
    """
    The columns that hold the problems. A dot steps into a nested column; a plus joins two columns.

    Attributes:
        problem (`str`): The problem, as text or as messages.
        answers (`tuple[str, ...]`): The reference answer: the first of them that holds any final answer. None: the
            last message of the problem, which has to be the assistant's.
        context (`str`, *optional*): Text to put before the problem.
        choices (`str`, *optional*): The options of a multiple-choice problem; several columns are joined with a plus.
    """

    problem: str
    answers: tuple[str, ...]
    context: str | None = None
    choices: str | None = None


def find_columns(
    names: Sequence[str],
    problem_column: str | None = None,
    answer_column: str | None = None,
    source: str = "the dataset",
    *,
    context_column: str | None = None,
    choices_column: str | None = None,
) -> Columns:
    """
    Choose the columns that hold the problem and its answer.

    Args:
        names (`Sequence[str]`): Columns of the dataset.
        problem_column (`str`, *optional*): The user's choice of the problem column.
        answer_column (`str`, *optional*): The user's choice of the answer column.
        source (`str`, *optional*, defaults to `"the dataset"`): What error messages call the dataset.
        context_column (`str`, *optional*): The user's choice of the context column; `"none"` for no context.
        choices_column (`str`, *optional*): The user's choice of the column of options; `"none"` for no options.

    Returns:
        `Columns`: The chosen columns.

    Raises:
        `ValueError`: If nothing is recognized, several columns may be meant, or the user's choice is missing.

    Examples:
        >>> find_columns(["id", "body", "question", "answer"])
        Columns(problem='question', answers=('answer',), context='body', choices=None)
    """
    there = f"Its columns: {', '.join(names)}."

    def find(known: str) -> str | None:
        """The column of a known name, spelled as in the dataset."""
        first, dot, rest = known.partition(".")
        found = [name for name in names if name.lower() == first.lower()]
        exact = [name for name in found if name == first]
        if len(found) > 1 and not exact:
            raise ValueError(f"{source} has several columns that may be meant: {', '.join(found)}. {there} Name one.")
        return f"{(exact or found)[0]}{dot}{rest}" if found else None

    def all_of(known: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(column for name in known if (column := find(name)) is not None))

    def given(kind: str, column: str) -> str:
        if all(part.split(".")[0] in names for part in column.split("+")):
            return column
        raise ValueError(f"{source} has no column {column!r} for the {kind}. {there}")

    def optional(kind: str, column: str | None, known: Sequence[str]) -> str | None:
        if column is not None:
            return None if column.lower() in ("", "none") else given(kind, column)
        found = [name for name in all_of(known) if name not in chosen]
        if len(found) > 1:
            raise ValueError(
                f"Several columns of {source} may hold the {kind}: {', '.join(found)}. {there} Choose one with "
                f"{kind}_column (--{kind}_column), or 'none'."
            )
        return found[0] if found else None

    problems = [given("problem", problem_column)] if problem_column is not None else all_of(PROBLEM_COLUMNS)
    if not problems:
        raise unknown_column("problem", source, names, PROBLEM_COLUMNS)
    problem = problems[0]
    chosen = {problem, answer_column}
    context = optional("context", context_column, CONTEXT_COLUMNS)
    choices = optional("choices", choices_column, CHOICES_COLUMNS)
    if choices_column is None and choices is None:
        choices = _columns_of_options(names)
    if answer_column is not None:
        return Columns(problem, (given("answer", answer_column),), context, choices)
    known = (*ANSWER_COLUMNS, *(CHOICE_ANSWER_COLUMNS if choices else ()))
    answers = [column for column in all_of(known) if column != problem]
    answers.sort(key=lambda column: column.lower() == WORKED_COLUMN)  # stable: a worked solution comes last
    if not answers and problem.lower() not in ("prompt", "messages", "conversations"):
        raise unknown_column("answer", source, names, ANSWER_COLUMNS)
    return Columns(problem, tuple(answers), context, choices)


def unknown_column(kind: str, source: str, names: Sequence[str], known: Sequence[str]) -> ValueError:
    """Say that no column is known to hold the problem or the answer."""
    return ValueError(
        f"No column of {source} is known to hold the {kind}. Its columns: {', '.join(names)}. Known ones: "
        f"{', '.join(known)}. Name yours with {kind}_column (--{kind}_column)."
    )


def _columns_of_options(names: Sequence[str]) -> str | None:
    """Columns with an option each: `A`, `B`, `C`, or `option_a`, `option_b`."""
    for pattern in (r"([A-J])", r"(?:option|choice)[_ ]?([A-Ja-j1-9])"):
        found = [name for name in names if re.fullmatch(pattern, name)]
        if len(found) >= 2:
            return "+".join(sorted(found))
    return None


def read_problem(row: Mapping[str, Any], column: str) -> tuple[str | list[dict[str, str]], str]:
    """
    Read the problem of one row.

    Returns:
        `tuple`: The problem, as text or as messages (`""` if there is none), and the assistant's last message where the
        messages end with it, which is not a component of the problem.

    Raises:
        `RowError`: If the column holds neither text nor messages.
    """
    parts = [read_column(row, part) for part in column.split("+")]
    if None in parts:
        return "", ""
    if len(parts) > 1:
        return " ".join(_as_text(part, column).strip() for part in parts), ""
    value = parts[0]
    if isinstance(value, str):
        value = parse_messages(value) or value
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, (list, tuple)):
        messages = read_messages(value, column)
        solution = ""
        while messages and messages[-1]["role"] == "assistant":
            solution = solution or messages[-1]["content"]
            messages.pop()
        if not any(message["role"] == "user" for message in messages):
            raise RowError(column, "holds no message of a user")
        return messages, solution
    text = _as_text(value, column)
    return (text, "") if text.strip() else ("", "")


def parse_messages(text: str) -> list[Any] | None:
    """Parse messages that were written as JSON, or as Python prints them; `None` if a text is something else."""
    value = _parse_list(text)
    if value and all(isinstance(item, dict) and {"role", "from"} & item.keys() for item in value):
        return value
    return None


def read_messages(value: Sequence[Any], column: str) -> list[dict[str, str]]:
    """
    Read a list of messages, in the notation of OpenAI (`role`, `content`) or of ShareGPT (`from`, `value`).

    Raises:
        `RowError`: If it is something else.
    """
    messages = []
    for message in value:
        if not isinstance(message, Mapping):
            raise RowError(column, f"holds a list of {type(message).__name__}, not of messages")
        name = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        role = ROLES.get(str(name).lower())
        if role is None:
            raise RowError(column, f"holds a message with the role {name!r}; known roles: {', '.join(ROLES)}")
        if isinstance(content, (list, tuple)):  # components of a multimodal message
            content = "".join(
                str(item.get("text") or "") if isinstance(item, Mapping) else str(item) for item in content
            )
        messages.append({"role": role, "content": str(content) if content is not None else ""})
    return messages


class FinalAnswer(NamedTuple):
    """A final answer, and how it was found: `"boxed"`, `"after ####"`, `"unit removed"`, ..., or `""` if as it is."""

    text: str
    how: str = ""


def read_answer(row: Mapping[str, Any], column: str) -> FinalAnswer:
    r"""
    Read the final answer of one row; its text is `""` if there is none.

    Raises:
        `RowError`: If the column holds neither an answer nor a list of answers.

    Examples:
        >>> read_answer({"answer": "48 / 2 = 24\n#### 1,024"}, "answer").text
        '1,024'
        >>> read_answer({"answer": "3 (apples)"}, "answer")
        FinalAnswer(text='3', how='unit removed')
        >>> read_answer({"final_answer": ["1", "2"]}, "final_answer").text
        '\\{1, 2\\}'
    """
    name = column.rpartition(".")[2]
    try:
        value = read_column(row, column)
    except ValueError:
        if row.get(column.partition(".")[0]) is None:
            return FinalAnswer("")
        raise
    return final_answer_in(value, column, may_be_worked=name.lower() == WORKED_COLUMN)


def final_answer_in(value: Any, column: str, *, may_be_worked: bool = False) -> FinalAnswer:
    """Read the final answer in a value; `may_be_worked`: a sentence without a marked answer is not one."""
    if isinstance(value, str) and value.lstrip().startswith(("['", '["')):
        value = _parse_list(value) or value
    if isinstance(value, (list, tuple)):
        return _answer_of_list(value, column)
    text = _as_text(value, column).strip() if value is not None else ""
    if text in MISSING:
        return FinalAnswer("")
    if boxed := last_boxed(text):
        return FinalAnswer(_without_unit(boxed).text, "boxed")
    if tail := after_hashes(text):
        return FinalAnswer(_without_unit(tail).text, "after ####")
    if _is_worked(text, may_be_worked):
        return FinalAnswer("")
    return _without_unit(text)


def _answer_of_list(values: Sequence[Any], column: str) -> FinalAnswer:
    if values and all(isinstance(value, Mapping) and {"role", "from"} & value.keys() for value in values):
        return final_answer_in(read_messages(values, column)[-1]["content"], column, may_be_worked=True)
    answers = [final_answer_in(value, column) for value in values]
    texts = list(dict.fromkeys(answer.text for answer in answers if answer.text))
    if len(texts) < 2:
        return FinalAnswer(texts[0], "the only one of a list") if texts else FinalAnswer("")
    items = [re.sub(r"(?<=\d),(?=\d{3}\b)", "", re.sub(r"\A\$(.*)\$\Z", r"\1", text)) for text in texts]
    return FinalAnswer(rf"\{{{', '.join(items)}\}}", "several as a set")


def _without_unit(text: str) -> FinalAnswer:
    match = _UNIT.fullmatch(text)
    return FinalAnswer(match["number"], "unit removed") if match is not None else FinalAnswer(text)


def _is_worked(text: str, may_be_worked: bool) -> bool:
    words = len(_WORD.findall(_LATEX_WORDS.sub(" ", text)))
    if may_be_worked:
        return "\n" in text or len(text) > LONGEST_ANSWER or words >= 4 or (words >= 2 and text.endswith("."))
    return words >= 10 and ("\n" in text or len(text) > LONGEST_ANSWER)


def _as_text(value: Any, column: str) -> str:
    """A value as it was written."""
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, value))
        raise RowError(
            column, f"holds a dictionary ({keys}); a dot steps into it: {column}.{next(iter(value), 'KEY')}"
        )
    if isinstance(value, (list, tuple)):
        raise RowError(column, "holds a list")
    if isinstance(value, float):
        text = getattr(value, "text", None) or repr(float(value))
        return re.sub(r"\A(-?\d+)\.0\Z", r"\1", text)  # a table's way to write an integer
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()
    return value.isoformat() if isinstance(value, datetime.date) else str(value)


def _parse_list(text: str) -> list[Any] | None:
    """Parse a list that was written as JSON or as Python prints it; `None` if a text is something else."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return value if isinstance(value, list) else None
    return None
