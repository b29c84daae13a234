# SPDX-License-Identifier: Apache-2.0
"""Rows of a dataset on the Hub or of a local file."""

from __future__ import annotations

import glob
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from datasets import Dataset, ReadInstruction, load_dataset
from datasets.exceptions import DatasetGenerationError


LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


class Rows(NamedTuple):
    """
    Rows as they were written.

    Attributes:
        rows (`Sequence[dict]`): The rows.
        columns (`list[str]`): Their columns, in the order in which they first appear.
        numbers (`Sequence[int]`): The number of each row in its source, from 1.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: list[str]
    numbers: Sequence[int]


class WrittenFloat(float):
    """A number of a JSON file that keeps its spelling in `text`: `0.10`, or more digits than a float has."""

    text: str

    def __new__(cls, text: str) -> WrittenFloat:
        number = super().__new__(cls, text)
        number.text = text
        return number


def read_rows(name_or_path: str, config_name: str | None = None, split: str = "train") -> Rows:
    """
    Read a split of a dataset on the Hub, or of a local file.

    Values of `.jsonl`, `.json` and `.csv` files keep their spelling: a date stays text, `0110` keeps its zero, and columns
    may hold values of different types.

    Args:
        name_or_path (`str`): Dataset id on the Hub, or path of a `.jsonl`, `.json`, `.parquet` or `.csv` file.
        config_name (`str`, *optional*): Configuration of a Hub dataset.
        split (`str`, *optional*, defaults to `"train"`): Split, or a slice of it.

    Raises:
        `FileNotFoundError`: If a local file does not exist.
        `ValueError`: If a file cannot be read.
    """
    _check_split(split)
    path = local_file(name_or_path)
    if path is None or path.suffix.lower() not in (".jsonl", ".json", ".csv"):
        dataset = load_rows(name_or_path, config_name, split)
        if not len(dataset):
            raise ValueError(_no_rows(name_or_path, split))
        return Rows(dataset, dataset.column_names, range(1, len(dataset) + 1))
    _refuse_empty(path, name_or_path)
    try:
        text = _read_text(path)
        if path.suffix.lower() == ".csv":
            rows = _read_csv(path)
        else:
            rows = _read_json_lines(text) if path.suffix.lower() == ".jsonl" else _read_json(text)
    except ValueError as error:
        raise ValueError(f"Cannot read {name_or_path}: {error}") from error
    if not rows:
        raise ValueError(f"Cannot read {name_or_path}: it has no data.")
    name = re.split(r"[\[+]", split)[0].strip()
    slices = ReadInstruction.from_spec(split).to_absolute({name: len(rows)})
    places = [place for part in slices for place in range(part.from_, part.to)]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not places:
        raise ValueError(_no_rows(name_or_path, split))
    return Rows([rows[place] for place in places], columns, [place + 1 for place in places])


def load_rows(name_or_path: str, config_name: str | None = None, split: str = "train") -> Dataset:
    """
    Load a split of a dataset on the Hub, or of a local file, as it is.

    Raises:
        `FileNotFoundError`: If the name has the ending of a data file, and the file does not exist.
        `ValueError`: If a file cannot be read.
    """
    _check_split(split)
    path = local_file(name_or_path)
    if path is None:
        return load_dataset(name_or_path, config_name, split=split)
    loader = LOADERS.get(path.suffix.lower())
    if loader is None:
        raise ValueError(
            f"Cannot read {name_or_path}: the name of a local file must end in {', '.join(LOADERS)}. Convert the file."
        )
    _refuse_empty(path, name_or_path)
    split_name = split.partition("[")[0]  # "train[:100]" -> "train"
    try:
        return load_dataset(loader, data_files={split_name: glob.escape(str(path))}, split=split)
    except (DatasetGenerationError, ValueError) as error:
        raise ValueError(
            f"Cannot read {name_or_path}: {_find_invalid_line(path) or error.__cause__ or error}"
        ) from error


def local_file(name_or_path: str) -> Path | None:
    """
    Return the local file that the name of a dataset means; `None` if it means a dataset on the Hub.

    Raises:
        `FileNotFoundError`: If the name has the ending of a data file, and the file does not exist.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    if path.suffix.lower() in LOADERS:
        raise FileNotFoundError(f"No file {name_or_path} (looked in {Path.cwd()}).")
    return None


def _check_split(split: str) -> None:
    try:
        ReadInstruction.from_spec(split)
    except (AssertionError, ValueError):
        raise ValueError(
            f"The split {split!r} is not valid. Name a split, such as train, or a slice of one, such as train[:90%], with "
            "split (--dataset_train_split and --dataset_test_split in training, --dataset_split in other commands)."
        ) from None


def _no_rows(name: str, split: str) -> str:
    return (
        f"The split {split!r} of {name} has no rows. Choose another one with split (--dataset_train_split and "
        "--dataset_test_split in training, --dataset_split in other commands)."
    )


def _refuse_empty(path: Path, name: str) -> None:
    if not path.stat().st_size:
        raise ValueError(f"Cannot read {name}: it is empty.")


def _find_invalid_line(path: Path) -> str | None:
    """Name the first line of a text file that cannot be read."""
    if path.suffix.lower() == ".parquet":
        return None
    try:
        text = _read_text(path)
        if path.suffix.lower() == ".jsonl":
            _read_json_lines(text)
    except ValueError as error:
        return str(error)
    return None


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"line {line} is not UTF-8 text (byte {content[error.start]:#04x}). Convert the file to UTF-8, for example "
            "with `iconv -f LATIN1 -t UTF-8`."
        ) from error


def _read_json_lines(text: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is not JSON: {error.msg} (column {error.colno}).") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object.")
        rows.append(row)
    return rows


def _read_json(text: str) -> list[dict[str, Any]]:
    """Read a list of objects, an object that holds one such list or a list per column, or an object per line."""
    try:
        content = _parse(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        return _read_json_lines(text)
    if isinstance(content, dict):
        lists = {name: value for name, value in content.items() if isinstance(value, list)}
        of_rows = [value for value in lists.values() if value and all(isinstance(row, dict) for row in value)]
        if len(of_rows) == 1:
            content = of_rows[0]
        elif lists and len(lists) == len(content) and len(set(map(len, lists.values()))) == 1:
            content = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        else:
            content = [content]
    for number, row in enumerate(content if isinstance(content, list) else [content], 1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not a JSON object.")
    return content


def _parse(text: str) -> Any:
    return json.loads(text, parse_float=WrittenFloat, parse_constant=lambda _: None)


def _read_csv(path: Path) -> list[dict[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # fields that would be dropped
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
        except pd.errors.ParserWarning as warning:
            raise ValueError(f"{warning}".rstrip(".") + ".") from warning
    return table.to_dict("records")
