# SPDX-License-Identifier: Apache-2.0
"""The contents of dataset rows: problem, context, options and reference answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .choices import Choice, choose, read_choices, with_choices
from .columns import Columns, FinalAnswer, RowError, final_answer_in, read_answer, read_problem
from .rows import read_column


class Reading(NamedTuple):
    """What a row holds."""

    problem: str | list[dict[str, str]]
    context: str  # "" where there is none, or where the problem begins with it
    choices: list[Choice]
    answers: dict[str, tuple[FinalAnswer, str]]  # column -> the final answer, and the text that it was read from
    message: str  # the last message of an assistant
    errors: list[str]  # what is wrong with columns that may hold the answer

    def prompt(self) -> str | list[dict[str, str]]:
        """The problem with its context and options."""

        def complete(text: str) -> str:
            text = f"{self.context} {text.lstrip()}" if self.context else text
            return with_choices(text, self.choices) if self.choices else text

        if isinstance(self.problem, str):
            return complete(self.problem)
        last = max(place for place, message in enumerate(self.problem) if message["role"] == "user")
        return [
            {**message, "content": complete(message["content"])} if place == last else message
            for place, message in enumerate(self.problem)
        ]


NOTHING = FinalAnswer("")


def read_row(row: Mapping[str, Any], columns: Columns) -> Reading:
    """
    Read one row.

    Raises:
        `RowError`: If the row cannot be read.
    """
    problem, message = read_problem(row, columns.problem)
    context = read_problem(row, columns.context)[0] if columns.context is not None else ""
    if not isinstance(context, str):
        raise RowError(str(columns.context), "holds messages, not text")
    text = problem if isinstance(problem, str) else " ".join(item["content"] for item in problem)
    context = "" if context.strip() in text else context.strip()
    choices = read_choices(row, columns.choices) if columns.choices is not None else []
    answers: dict[str, tuple[FinalAnswer, str]] = {}
    errors: list[str] = []
    for column in columns.answers:
        try:
            answer = read_answer(row, column)
            answers[column] = (answer, str(read_column(row, column)) if answer.text else "")
        except ValueError as error:
            if len(columns.answers) == 1:
                raise
            answers[column] = (NOTHING, "")  # another column may hold the answer
            errors.append(str(error))
    return Reading(problem, context, choices, answers, message, errors)


def take_answers(columns: Columns, readings: Mapping[int, Reading]) -> tuple[Columns, dict[int, FinalAnswer]]:
    """Take the answers from the first column that holds any; where a row has none there, from `solution` or a message."""
    chosen = next(
        (column for column in columns.answers if any(item.answers[column][0].text for item in readings.values())), None
    )
    used = [column for column in columns.answers if column in (chosen, "solution")]
    answers = {}
    for place, reading in readings.items():
        found = [answer for column in used if (answer := reading.answers[column][0]).text]
        if not found and reading.message:
            found = [final_answer_in(reading.message, columns.problem, may_be_worked=True)]
        answers[place] = found[0] if found else NOTHING
    return columns._replace(answers=tuple([chosen] if chosen else columns.answers)), answers


def settle_choices(
    columns: Columns, readings: dict[int, Reading], answers: dict[int, FinalAnswer], wrong: dict[int, str]
) -> str:
    """Put letters in the place of the answers of multiple-choice problems, and say how they were read."""
    places = [place for place, reading in readings.items() if reading.choices]
    if not places:
        return ""
    column = columns.answers[0] if columns.answers else columns.problem

    def text_of(place: int) -> str:
        written = readings[place].answers.get(column, (NOTHING, ""))[1]
        return written if answers[place].how == "unit removed" and written else answers[place].text

    texts = {place: text_of(place) for place in places}
    letters, how = choose([(texts[place], readings[place].choices) for place in places], column)
    for place, letter in zip(places, letters, strict=True):
        if letter is None:
            options = ", ".join(choice.letter for choice in readings[place].choices)
            wrong[place] = f"column {column!r} holds {texts[place]!r:.40}, which is not one of the options {options}"
            del readings[place]
        else:
            answers[place] = FinalAnswer(letter)
    return how


def describe(
    source: str,
    columns: Columns,
    readings: Mapping[int, Reading],
    answers: Mapping[int, FinalAnswer],
    how_choices: str,
) -> str:
    """Say in one line what was taken from where."""
    prompt = [columns.problem]
    if columns.context and any(reading.context for reading in readings.values()):
        prompt.insert(0, columns.context)
    if columns.choices and any(reading.choices for reading in readings.values()):
        prompt.append(columns.choices)
    hows = list(dict.fromkeys(answer.how for answer in answers.values() if answer.how))
    hows += [how_choices] if how_choices not in ("", "letter") else []
    if columns.answers:
        answer = columns.answers[0]
    else:
        answer = f"the last message of {columns.problem}"
    remark = f" ({', '.join(hows)})" if hows else ""
    return f"{source}: {len(readings):,} problem{'s' * (len(readings) > 1)}, prompt from {' + '.join(prompt)}, reference answer from {answer}{remark}"
