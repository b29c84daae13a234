# SPDX-License-Identifier: Apache-2.0
"""Maths problems from the Hub or a local file, as `prompt` and `solution` columns."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from ..verification.extraction import after_hashes, last_boxed
from .rows import read_column


logger = logging.getLogger(__name__)

LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}

# First match wins. Where a dataset has both a prompt and a bare problem, its authors meant the prompt; where it has both an
# answer and a solution, the solution is the worked one. A dot steps into a nested column, a plus joins two columns.
PROBLEM_COLUMNS = ("prompt", "problem", "question", "question_concat", "Body+Question")
ANSWER_COLUMNS = ("answer", "Answer", "reward_model.ground_truth", "solution")
ID_COLUMNS = ("prompt_id", "id")

LONGEST_ANSWER = 200  # characters; a longer `solution` without a marked answer is a worked one


class Columns(NamedTuple):
    """The columns that hold the problem and its answer, in the notation of `PROBLEM_COLUMNS`."""

    problem: str
    answer: str


def load_problems(
    name_or_path: str,
    *,
    config_name: str | None = None,
    split: str = "train",
    problem_column: str | None = None,
    answer_column: str | None = None,
    system_prompt: str | None = None,
) -> Dataset:
    r"""
    Load maths problems with their final answers.

    The usual shapes are recognised by their column names: GSM8K (`question`, `answer` ending in `#### 42`), MATH and
    OpenR1-Math (`problem`, `answer` or a `solution` with a `\boxed{}`), SVAMP (`Body`, `Question`, `Answer`), DeepScaleR
    (`problem`, `answer`), DAPO-Math (`prompt`, `reward_model.ground_truth`) and TRL's own (`prompt`, `solution`). Rows
    without a problem or an answer are left out, with a warning that counts them.

    Args:
        name_or_path (`str`):
            Dataset id on the Hub, or path of a `.jsonl`, `.json`, `.parquet` or `.csv` file.
        config_name (`str`, *optional*):
            Configuration of a Hub dataset that has several, such as `"main"` for `openai/gsm8k`.
        split (`str`, *optional*, defaults to `"train"`):
            Split to load; slices such as `"train[:1000]"` work. A local file is one split, whatever its name.
        problem_column (`str`, *optional*):
            Column that holds the problem, as text or as a list of messages. Recognised by name if `None`. A dot steps into
            a nested column, a plus joins two.
        answer_column (`str`, *optional*):
            Column that holds the answer. Recognised by name if `None`. A dot steps into a nested column.
        system_prompt (`str`, *optional*):
            System message to put before every problem. Takes the place of one the dataset brings.

    Returns:
        `datasets.Dataset`: With the columns `prompt` (list of messages), `solution` (`str`, the final answer only), and
        `prompt_id` (`str`) if the source has a column `prompt_id` or `id` without repetitions.

    Raises:
        `FileNotFoundError`: If a local file does not exist.
        `ValueError`: If the file type or the columns are not recognised, or no row has both a problem and an
            answer.

    Examples:
    ```python
    >>> from trl_concise import load_problems

    >>> dataset = load_problems("openai/gsm8k", config_name="main", split="test")
    >>> dataset = load_problems("my_problems.jsonl", problem_column="text", answer_column="label")
    ```
    """
    dataset = load_rows(name_or_path, config_name, split)
    columns = find_columns(dataset.column_names, problem_column, answer_column, name_or_path)
    id_column = next((c for c in ID_COLUMNS if c in dataset.column_names and _is_unique(dataset[c])), None)

    def is_usable(row: dict[str, Any]) -> bool:
        return bool(read_problem(row, columns.problem)) and bool(read_answer(row, columns.answer))

    def to_problem(row: dict[str, Any]) -> dict[str, Any]:
        problem = {
            "prompt": as_messages(read_problem(row, columns.problem), system_prompt),
            "solution": read_answer(row, columns.answer),
        }
        return problem if id_column is None else problem | {"prompt_id": str(row[id_column])}

    usable = dataset.filter(is_usable)
    dropped = len(dataset) - len(usable)
    if not len(usable):
        raise ValueError(
            f"No row of {name_or_path} has both a problem in {columns.problem!r} and an answer in {columns.answer!r}. Name "
            "the columns that hold them with problem_column (--problem_column) and answer_column (--answer_column)."
        )
    if dropped:
        logger.warning(
            "%s: left out %d of %d rows without a problem or an answer.", name_or_path, dropped, len(dataset)
        )
    problems = usable.map(to_problem, remove_columns=dataset.column_names)
    return problems.select_columns(["prompt", "solution"] + ([] if id_column is None else ["prompt_id"]))


def find_columns(
    names: Sequence[str],
    problem_column: str | None = None,
    answer_column: str | None = None,
    source: str = "the dataset",
) -> Columns:
    """
    Choose the columns that hold the problem and its answer.

    Args:
        names (`Sequence[str]`): Columns of the dataset.
        problem_column (`str`, *optional*): The user's choice of the problem column.
        answer_column (`str`, *optional*): The user's choice of the answer column.
        source (`str`, *optional*, defaults to `"the dataset"`): What the error message calls the dataset.

    Returns:
        `Columns`: The chosen columns.

    Raises:
        `ValueError`: If nothing is recognised, or the user's choice is not there.

    Examples:
        >>> find_columns(["id", "problem", "solution", "answer"])
        Columns(problem='problem', answer='answer')
    """

    def there(column: str) -> bool:
        return all(part.split(".")[0] in names for part in column.split("+"))

    def choose(kind: str, given: str | None, known: tuple[str, ...]) -> str:
        if given is not None:
            if there(given):
                return given
            raise ValueError(f"{source} has no column {given!r} for the {kind}. Its columns: {', '.join(names)}.")
        for column in known:
            if there(column):
                return column
        raise ValueError(
            f"No column of {source} is known to hold the {kind}. Its columns: {', '.join(names)}. Known ones: "
            f"{', '.join(known)}. Name yours with {kind}_column (--{kind}_column)."
        )

    return Columns(choose("problem", problem_column, PROBLEM_COLUMNS), choose("answer", answer_column, ANSWER_COLUMNS))


def read_problem(row: dict[str, Any], column: str) -> str | list[dict[str, str]]:
    """The problem of one row: text, or messages where the source has messages; `""` if there is none."""
    parts = [read_column(row, part) for part in column.split("+")]
    if None in parts:
        return ""
    problem = parts[0] if len(parts) == 1 else " ".join(str(part).strip() for part in parts)
    return "" if isinstance(problem, str) and not problem.strip() else problem


def read_answer(row: dict[str, Any], column: str) -> str:
    r"""
    The final answer of one row, `""` if there is none.

    Examples:
        >>> read_answer({"answer": "48 / 2 = 24\n#### 1,024"}, "answer")
        '1,024'
        >>> read_answer({"answer": "", "solution": r"So it is \boxed{\frac{1}{2}}."}, "answer")
        '\\frac{1}{2}'
    """
    value = read_column(row, column)
    if isinstance(value, (list, dict)):
        raise ValueError(f"The answer in column {column!r} must be text or a number, not a {type(value).__name__}.")
    text = "" if value is None else _number_as_text(value).strip()
    answer = last_boxed(text) or after_hashes(text) or text
    if column == "solution" and answer == text and ("\n" in text or len(text) > LONGEST_ANSWER):
        return ""  # a worked solution that never marks its answer
    if not answer and column != "solution" and row.get("solution"):
        return read_answer(row, "solution")
    return answer


def as_messages(problem: str | list[dict[str, str]], system_prompt: str | None) -> list[dict[str, str]]:
    """The conversation that asks the problem."""
    messages = [{"role": "user", "content": problem}] if isinstance(problem, str) else list(problem)
    if system_prompt is None:
        return messages
    return [{"role": "system", "content": system_prompt}, *(m for m in messages if m["role"] != "system")]


def load_rows(name_or_path: str, config_name: str | None = None, split: str = "train") -> Dataset:
    """
    Load a split of a dataset on the Hub, or of a local file, as it is.

    Raises:
        `FileNotFoundError`: If a name with the ending of a file is none.
        `ValueError`: If a file cannot be read.
    """
    path = local_file(name_or_path)
    if path is None:
        return load_dataset(name_or_path, config_name, split=split)
    loader = LOADERS.get(path.suffix.lower())
    if loader is None:
        raise ValueError(f"Cannot read {name_or_path}: a local file must be one of {', '.join(LOADERS)}.")
    if not path.stat().st_size:
        raise ValueError(f"Cannot read {name_or_path}: it is empty.")
    split_name = split.partition("[")[0]  # "train[:100]" -> "train"
    try:
        return load_dataset(loader, data_files={split_name: glob.escape(str(path))}, split=split)
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(f"Cannot read {name_or_path}: {_what_is_wrong(path) or error.__cause__ or error}") from error


def local_file(name_or_path: str) -> Path | None:
    """
    Return the local file that a name of a dataset means, `None` if it means one on the Hub.

    Raises:
        `FileNotFoundError`: If a name with the ending of a file is none.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    if path.suffix.lower() in LOADERS:
        raise FileNotFoundError(f"No file {name_or_path} (looked in {Path.cwd()}).")
    return None


def _what_is_wrong(path: Path) -> str | None:
    """Name the first line of a JSON Lines file that is no JSON object."""
    if path.suffix.lower() != ".jsonl":
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip() and not isinstance(json.loads(line), dict):
                    return f"line {number} is no JSON object."
            except json.JSONDecodeError as error:
                return f"line {number} is no JSON: {error.msg} (column {error.colno})."
    return None


def _is_unique(values: Sequence[Any]) -> bool:
    return None not in values and len(set(values)) == len(values)


def _number_as_text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
