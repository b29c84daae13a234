# SPDX-License-Identifier: Apache-2.0
"""Math problems from the Hub or a local file, as `prompt` and `solution` columns."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datasets import Dataset

from .columns import ANSWER_COLUMNS, RowError, find_columns, unknown_column
from .files import Rows, load_rows, local_file, read_rows
from .readings import NOTHING, Reading, describe, read_row, settle_choices, take_answers
from .rows import AXES, read_column


__all__ = ["as_messages", "find_columns", "load_problems", "load_rows", "local_file", "read_problems", "show_problems"]

logger = logging.getLogger(__name__)

ID_COLUMNS = ("prompt_id", "id")
PASS_RATE = "pass_rate"  # of `trl-concise filter`
TABLE = "table"  # of a problem about a table
NAMED = 5  # rows that a warning names


class ProblemRows(NamedTuple):
    """
    Problems, and the rows that they come from.

    Attributes:
        problems (`list[dict]`): With `prompt`, `solution` and, where rows have unique ids, `prompt_id`.
        places (`list[int]`): The place of each problem among the rows.
        source (`Rows`): The rows as they were written.
        unreadable (`list[int]`): The places among `problems` of those whose reference answer math-verify cannot read.
    """

    problems: list[dict[str, Any]]
    places: list[int]
    source: Rows
    unreadable: list[int]


def load_problems(
    name_or_path: str,
    *,
    config_name: str | None = None,
    split: str = "train",
    problem_column: str | None = None,
    answer_column: str | None = None,
    context_column: str | None = None,
    choices_column: str | None = None,
    system_prompt: str | None = None,
    check_answers: bool = True,
) -> Dataset:
    r"""
    Load math problems with their final answers.

    The usual formats are recognized by their column names, upper or lower case: GSM8K (`question`, `answer` ending in `#### 42`), MATH
    and OpenR1-Math (`problem`, `answer` or a `solution` with a `\boxed{}`), SVAMP (`Body`, `Question`, `Answer`), DeepScaleR
    (`problem`, `answer`), DAPO-Math (`prompt`, `reward_model.ground_truth`), multiple choice (`question`, `choices`,
    `answer`), conversations (`messages`, also in ShareGPT's notation, also as JSON text) and TRL's own (`prompt`,
    `solution`). One line on stderr names the columns that were used.

    - A column that holds the final answer (`ground_truth`, `final_answer`, `answer_number`, `answer`,
      `reward_model.ground_truth`, `target`) is preferred to a worked `solution`, of which only a box, the text after `####` or a bare answer is used.
    - A `body`, `context`, `passage` or `story` is put before the problem.
    - Options are listed below the problem, and the reference answer is the letter.
    - A conversation that ends with an assistant message is used without that message. That message is the solution if no
      column holds the answer.
    - The unit is removed from `3 (apples)`. A list of one answer is that answer; a list of several, their set.

    Rows without a problem or an answer, and rows that cannot be read, are left out, with a warning that counts and names
    them. A second warning counts and names the rows whose reference answer math-verify cannot read; they are kept.

    Args:
        name_or_path (`str`):
            Dataset id on the Hub, or path of a `.jsonl`, `.json`, `.parquet` or `.csv` file.
        config_name (`str`, *optional*):
            Configuration of a Hub dataset that has several, such as `"main"` for `openai/gsm8k`.
        split (`str`, *optional*, defaults to `"train"`):
            Split to load; slices such as `"train[:1000]"` work. A local file is one split, whatever its name.
        problem_column (`str`, *optional*):
            Column that holds the problem, as text or as a list of messages. Recognized by name if `None`. A dot steps into
            a nested column, a plus joins two.
        answer_column (`str`, *optional*):
            Column that holds the answer. Recognized by name if `None`. A dot steps into a nested column.
        context_column (`str`, *optional*):
            Column of a text that belongs before the problem. Recognized by name if `None`; `"none"` for no context.
        choices_column (`str`, *optional*):
            Column of the options of multiple-choice problems. Recognized by name if `None`; `"none"` for no options.
        system_prompt (`str`, *optional*):
            System message to put before every problem. Replaces one that the dataset contains.
        check_answers (`bool`, *optional*, defaults to `True`):
            Whether to look for reference answers that math-verify cannot read.

    Returns:
        `datasets.Dataset`: With the columns `prompt` (list of messages), `solution` (`str`, the final answer only), and
        `prompt_id` (`str`) if the source has a column `prompt_id` or `id` without repetitions, and `pass_rate` (`float`, `None` where it
        is not a number) if the source has that column, as `trl-concise filter` writes it. A column `table` is kept as text: a value that is
        not text becomes JSON. The columns `axis`, `setting`, `level` and `part` are kept as text if the source has all four, for
        [`~trl_concise.evaluation.axes.summarize_axes`].

    Raises:
        `FileNotFoundError`: If a local file does not exist.
        `ValueError`: If the file or the columns cannot be read, no row has both a problem and an answer, or no reference
            answer can be read.

    Examples:
    ```python
    >>> from trl_concise import load_problems

    >>> dataset = load_problems("openai/gsm8k", config_name="main", split="test")
    >>> dataset = load_problems("my_problems.jsonl", problem_column="text", answer_column="label")
    ```
    """
    found = read_problems(
        name_or_path,
        config_name=config_name,
        split=split,
        problem_column=problem_column,
        answer_column=answer_column,
        context_column=context_column,
        choices_column=choices_column,
        system_prompt=system_prompt,
        check_answers=check_answers,
    )
    return Dataset.from_list(found.problems)


def read_problems(
    name_or_path: str,
    *,
    config_name: str | None = None,
    split: str = "train",
    system_prompt: str | None = None,
    check_answers: bool = True,
    **columns_given: str | None,
) -> ProblemRows:
    """Read what [`load_problems`] returns, together with the rows that the problems come from."""
    source = read_rows(name_or_path, config_name, split)
    columns = find_columns(source.columns, source=name_or_path, **columns_given)
    readings: dict[int, Reading] = {}
    wrong: dict[int, str] = {}  # place -> what is wrong
    for place, row in enumerate(source.rows):
        try:
            readings[place] = read_row(row, columns)
        except RowError as error:
            wrong[place] = str(error)
    if not columns.answers and readings and not any(reading.message for reading in readings.values()):
        raise unknown_column("answer", name_or_path, source.columns, ANSWER_COLUMNS)
    columns, answers = take_answers(columns, readings)
    empty = [
        place for place, reading in readings.items() if not reading.problem or not answers.get(place, NOTHING).text
    ]
    for place in empty:
        if errors := readings.pop(place).errors:
            wrong[place] = errors[0]
    empty = [place for place in empty if place not in wrong]
    how = settle_choices(columns, readings, answers, wrong)

    if not readings:
        first = next((f" Row {source.numbers[place]}: {reason}." for place, reason in wrong.items()), "")
        raise ValueError(
            f"No row of {name_or_path} has both a problem in {columns.problem!r} and an answer in "
            f"{' or '.join(map(repr, columns.answers)) or 'its last message'}.{first} Its columns: "
            f"{', '.join(source.columns)}. Name the columns that hold them with problem_column (--problem_column) and "
            "answer_column (--answer_column)."
        )
    if wrong:
        logger.warning(
            "%s: left out %d of %d rows that cannot be read: %s.",
            name_or_path,
            len(wrong),
            len(source.rows),
            _shorten([f"row {source.numbers[place]}, {wrong[place]}" for place in sorted(wrong)], "; "),
        )
    if empty:
        logger.warning(
            "%s: left out %d of %d rows without a problem or an answer (%s).",
            name_or_path,
            len(empty),
            len(source.rows),
            _name_rows(source.numbers[place] for place in empty),
        )
    ids = _ids(source, name_or_path)
    problems = []
    for place, reading in readings.items():
        problem: dict[str, Any] = {
            "prompt": as_messages(reading.prompt(), system_prompt),
            "solution": answers[place].text,
        }
        if PASS_RATE in source.columns:
            rate = source.rows[place].get(PASS_RATE)
            problem[PASS_RATE] = float(rate) if isinstance(rate, (int, float)) else None
        if TABLE in source.columns:
            table = source.rows[place].get(TABLE)
            problem[TABLE] = table if isinstance(table, str | None) else json.dumps(table, ensure_ascii=False)
        if set(AXES) <= set(source.columns):
            problem |= {name: str(source.rows[place].get(name)) for name in AXES}
        problems.append(problem | {"prompt_id": ids[place]} if ids is not None else problem)
    if is_main_process():
        used = {place: answers[place] for place in readings}
        print(describe(name_or_path, columns, readings, used, how), file=sys.stderr)
    places = list(readings)
    unreadable = (
        _find_unreadable(problems, places, source, name_or_path) if check_answers and is_main_process() else []
    )
    return ProblemRows(problems, places, source, unreadable)


def is_main_process() -> bool:
    """Whether this is the first of the processes that a launcher has started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def show_problems(dataset: Dataset, count: int) -> None:
    """Print the first rows of a dataset of problems as a trainer will see them."""
    for number, row in enumerate(dataset.select(range(min(count, len(dataset)))), 1):
        print(f"--- problem {number} of {len(dataset)}")
        messages = row["prompt"] if isinstance(row["prompt"], list) else as_messages(row["prompt"], None)
        for message in messages:
            print(f"[{message['role']}] {message['content']}")
        print(f"[reference answer] {row['solution']}")


def _find_unreadable(
    problems: Sequence[Mapping[str, Any]], places: Sequence[int], source: Rows, name: str
) -> list[int]:
    from ..evaluation.completions import unreadable_reference_answers

    solutions = list(dict.fromkeys(problem["solution"] for problem in problems))
    unreadable = {solutions[place] for place in unreadable_reference_answers(solutions)}
    if not unreadable:
        return []
    found = [place for place, problem in enumerate(problems) if problem["solution"] in unreadable]
    if len(found) == len(problems):
        raise ValueError(
            f"No reference answer of {name} can be read; the first is {problems[0]['solution']!r:.80}. Name the column of "
            "the final answers with answer_column (--answer_column)."
        )
    logger.warning(
        "%s: the reference answers of %d of %d problems cannot be read, so no completion of them can be judged: %s.",
        name,
        len(found),
        len(problems),
        _shorten(
            [f"row {source.numbers[places[place]]}, {problems[place]['solution']!r:.40}" for place in found], "; "
        ),
    )
    return found


def _ids(source: Rows, name: str) -> list[str] | None:
    """The ids of the rows as text, if a column holds one for each."""
    for column in ID_COLUMNS:
        if column not in source.columns:
            continue
        ids = [read_column(row, column) for row in source.rows]
        for place, value in enumerate(ids):
            if isinstance(value, (list, dict)):
                logger.warning(
                    "%s: row %d, column %r holds a %s, so it is not used as prompt_id.",
                    *(name, source.numbers[place], column, "list" if isinstance(value, list) else "dictionary"),
                )
                break
        else:
            if None not in ids and len(set(map(str, ids))) == len(ids):
                return [str(value) for value in ids]
    return None


def _name_rows(numbers: Any) -> str:
    numbers = list(numbers)
    return f"row{'s' * (len(numbers) > 1)} {_shorten(list(map(str, numbers)), ', ')}"


def _shorten(texts: Sequence[str], separator: str) -> str:
    shown = separator.join(texts[:NAMED])
    return f"{shown}{separator}..." if len(texts) > NAMED else shown


def as_messages(problem: str | list[dict[str, str]], system_prompt: str | None) -> list[dict[str, str]]:
    """The conversation that asks the problem."""
    messages = [{"role": "user", "content": problem}] if isinstance(problem, str) else list(problem)
    if system_prompt is None:
        return messages
    return [{"role": "system", "content": system_prompt}, *(m for m in messages if m["role"] != "system")]
