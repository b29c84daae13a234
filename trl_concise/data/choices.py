# SPDX-License-Identifier: Apache-2.0
"""Options of multiple-choice problems: write them into the prompt, and find the one that the reference answer means."""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .columns import RowError
from .rows import read_column


_MARK = r"[(\[]?([A-J])[)\].:]"  # (A), A), A., A:
_MARKED = re.compile(rf"\s*{_MARK}\s*(.*)", re.DOTALL)
_BETWEEN = re.compile(rf"(?:\A|(?<=\s)|(?<=,)){_MARK}\s*")
_LOWER_CASE = re.compile(r"(?:\A|,)\s*([a-j])\s?\)\s*")  # a ) 38 , b ) 27
_LETTER = re.compile(
    r"(?:(?:the\s+)?(?:answer|option|choice)\s*(?:is)?\s*:?\s*)?[(\[]?(?P<label>[A-Ja-j])[)\]]?[.:]?(?:\s+.*)?",
    re.DOTALL | re.IGNORECASE,
)
_TEXT_KEYS, _LABEL_KEYS = ("text", "content", "value", "option"), ("label", "key", "letter", "id")


class Choice(NamedTuple):
    """An option: the letter in the prompt, the name that the source gives it, its text."""

    letter: str
    label: str
    text: str


def read_choices(row: Mapping[str, Any], column: str) -> list[Choice]:
    """
    Read the options of one row, `[]` if it has none.

    Lists of texts, dictionaries of letters and texts, `{"text": [...], "label": [...]}`, lists of dictionaries, columns with
    an option each, and all of these as text are known.

    Raises:
        `RowError`: If the column holds something else.
    """
    if "+" in column:
        texts = [read_column(row, part) for part in column.split("+")]
        pairs = [("", text) for text in texts if text not in (None, "")]
    else:
        pairs = _pairs(read_column(row, column), column)
    if len(pairs) > len(string.ascii_uppercase):
        raise RowError(column, f"holds {len(pairs)} options; at most {len(string.ascii_uppercase)} are possible")
    if any(isinstance(text, (Mapping, list)) for _, text in pairs):
        raise RowError(column, "holds options that are not texts")
    texts = [str(text).strip() for _, text in pairs]
    marked = [match for text in texts if (match := _MARKED.fullmatch(text))]
    if len(marked) == len(texts) and [match[1] for match in marked] == list(string.ascii_uppercase[: len(texts)]):
        texts = [match[2].strip() for match in marked]
    letters = [str(label) for label, _ in pairs]
    if not all(re.fullmatch("[A-Z]", letter) for letter in letters) or len(set(letters)) < len(letters):
        letters = list(string.ascii_uppercase)
    return [Choice(letter, str(label), text) for letter, (label, _), text in zip(letters, pairs, texts, strict=False)]


def _pairs(value: Any, column: str) -> list[tuple[str, Any]]:
    if isinstance(value, str):
        value = _parse(value, column)
    if value is None:
        return []
    if isinstance(value, Mapping):
        if isinstance(value.get("text"), (list, tuple)):
            texts = list(value["text"])
            labels = list(value.get("label") or value.get("labels") or [""] * len(texts))
            if len(labels) != len(texts):
                raise RowError(column, f"holds {len(texts)} options and {len(labels)} labels")
            return list(zip(labels, texts, strict=True))
        return [(str(label).strip().strip("().:").upper(), text) for label, text in value.items() if text is not None]
    if not isinstance(value, (list, tuple)):
        raise RowError(column, f"holds no options: {str(value):.60}")
    if all(isinstance(item, Mapping) for item in value):
        pairs = []
        for item in value:
            text = next((item[key] for key in _TEXT_KEYS if item.get(key) is not None), None)
            label = next((item[key] for key in _LABEL_KEYS if item.get(key) is not None), "")
            if text is None:
                raise RowError(column, f"holds options without a text: {', '.join(map(str, item))}")
            pairs.append((str(label), text))
        return pairs
    return [("", item) for item in value]


def _parse(text: str, column: str) -> Any:
    if text.strip() in ("", "null", "None"):
        return None
    if text.strip()[0] in "[{":
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(text.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    marks = list(_BETWEEN.finditer(text)) or list(_LOWER_CASE.finditer(text))
    if [mark[1].upper() for mark in marks] == list(string.ascii_uppercase[: len(marks)]) and len(marks) >= 2:
        ends = [*(mark.start() for mark in marks[1:]), len(text)]
        return [text[mark.end() : end].strip().rstrip(",;").strip() for mark, end in zip(marks, ends, strict=True)]
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) >= 2:
        return lines
    raise RowError(column, f"holds text that is not a list of options: {text:.60}")


def with_choices(problem: str, choices: Sequence[Choice]) -> str:
    r"""
    Write the options below a problem, unless it lists them already.

    Examples:
        >>> with_choices("2 + 2?", [Choice("A", "", "3"), Choice("B", "", "4")])
        '2 + 2?\n\nA. 3\nB. 4'
    """
    listed = (rf"(?:\A|\W){choice.letter}\W+{re.escape(choice.text)}" for choice in choices)
    if all(re.search(pattern, problem) for pattern in listed):
        return problem
    return f"{problem}\n\n" + "\n".join(f"{choice.letter}. {choice.text}" for choice in choices)


def choose(answers: Sequence[tuple[str, Sequence[Choice]]], column: str) -> tuple[list[str | None], str]:
    """
    Find the option that each reference answer of a dataset means.

    A letter or another label of the source means that option, any other text the option that reads so. A number is the
    position of an option, if it is not an option itself, and positions begin at 0 unless one of them is the number of
    options and none is 0.

    Args:
        answers (`Sequence[tuple[str, Sequence[Choice]]]`): The reference answer as written and the options, of each row.
        column (`str`): The column of the answers.

    Returns:
        `tuple[list[str | None], str]`: The letters, `None` where no option is meant; and how the answers were read.

    Raises:
        `ValueError`: If the numbers may be positions as well as options.
    """
    by_name = [_by_label(answer, choices) or _by_text(answer, choices) for answer, choices in answers]
    numbers = [
        int(answer) if re.fullmatch(r"\d{1,2}", answer) and not _by_label(answer, choices) else None
        for answer, choices in answers
    ]
    rows = [
        (number, len(choices), name)
        for number, (_, choices), name in zip(numbers, answers, by_name, strict=True)
        if number is not None
    ]
    first = int(any(number == count for number, count, _ in rows) and all(number for number, _, _ in rows))

    def at(number: int, choices: Sequence[Choice]) -> str | None:
        return choices[number - first].letter if first <= number < first + len(choices) else None

    positions = [
        at(number, choices) if number is not None else None
        for number, (_, choices) in zip(numbers, answers, strict=True)
    ]
    as_positions = [position for position, number in zip(positions, numbers, strict=True) if number is not None]
    as_options = [name for _, _, name in rows]
    if rows and all(as_positions) and not all(as_options):
        letters = [
            position if number is not None else name
            for position, number, name in zip(positions, numbers, by_name, strict=True)
        ]
        return letters, f"position from {first}, as a letter"
    if rows and all(as_positions) and all(as_options) and as_positions != as_options:
        raise ValueError(
            f"The numbers in column {column!r} may be options or positions of options: {rows[0][0]} means "
            f"{as_options[0]} or {as_positions[0]}. Write letters instead."
        )
    if rows and not all(as_options):  # some are neither
        merged = [name or position for name, position in zip(by_name, positions, strict=True)]
        return merged, f"option or position from {first}, as a letter"
    is_text = any(_by_label(answer, choices) is None for answer, choices in answers)
    return by_name, "option, as a letter" if is_text else "letter"


def _by_label(answer: str, choices: Sequence[Choice]) -> str | None:
    plain = answer.strip()
    for choice in choices:
        if choice.label and choice.label == plain:
            return choice.letter
    if _by_text(plain, choices) is not None and not re.fullmatch(r"[(\[]?[A-Ja-j][)\]]?[.:]?", plain):
        return None
    match = _LETTER.fullmatch(plain)
    letters = {choice.letter for choice in choices}
    if match is None or match["label"].upper() not in letters:
        return None
    rest = re.sub(r"\A[(\[]?[A-Ja-j]", "", plain)
    if rest.strip() and rest[0] not in ")].:" and not plain.lower().startswith(("the ", "answer", "option", "choice")):
        return None  # `a rectangle`
    return match["label"].upper()


def _by_text(answer: str, choices: Sequence[Choice]) -> str | None:
    found = [choice.letter for choice in choices if _plain(choice.text) == _plain(answer)]
    return found[0] if len(found) == 1 else None


def _plain(text: str) -> str:
    return re.sub(r"[\s$]+", "", text).casefold().rstrip(".")
