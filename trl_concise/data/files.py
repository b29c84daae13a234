# SPDX-License-Identifier: Apache-2.0
"""Rows of a dataset on the Hub or of a local file."""

from __future__ import annotations

import glob
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from datasets import Dataset, ReadInstruction, load_dataset
from datasets.exceptions import DatasetGenerationError


OUTPUT_SUFFIXES = (".jsonl", ".parquet")
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
    check_split(split)
    path = local_file(name_or_path)
    if path is None or path.suffix.lower() not in (".jsonl", ".json", ".csv"):
        dataset = load_rows(name_or_path, config_name, split)
        if not len(dataset):
            raise ValueError(no_rows(name_or_path, split))
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
        raise ValueError(no_rows(name_or_path, split))
    return Rows([rows[place] for place in places], columns, [place + 1 for place in places])


def load_rows(name_or_path: str, config_name: str | None = None, split: str = "train") -> Dataset:
    """
    Load a split of a dataset on the Hub, or of a local file, as it is.

    Raises:
        `FileNotFoundError`: If the name has the ending of a data file, and the file does not exist.
        `ValueError`: If a file cannot be read.
    """
    check_split(split)
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


def check_split(split: str) -> None:
    """
    Check the name of a split.

    Raises:
        `ValueError`: If it is not valid.
    """
    try:
        ReadInstruction.from_spec(split)
    except (AssertionError, ValueError):
        raise ValueError(
            f"The split {split!r} is not valid. Name a split, such as train, or a slice of one, such as train[:90%], with "
            "split (--dataset_train_split and --dataset_test_split in training, --dataset_split in other commands)."
        ) from None


def no_rows(name: str, split: str) -> str:
    """The message about a split without rows."""
    return (
        f"The split {split!r} of {name} has no rows. Choose another one with split (--dataset_train_split and "
        "--dataset_test_split in training, --dataset_split in other commands)."
    )


def check_output(output: Path, *inputs: str) -> None:
    """
    Check the name of a file of rows to write.

    Args:
        output (`Path`): The file.
        *inputs (`str`): Datasets that are read, which the file must not replace.

    Raises:
        `ValueError`: If its ending is unknown, it is a folder, or it is one of the inputs.
    """
    if output.suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"The output {output} must end in {' or '.join(OUTPUT_SUFFIXES)}.")
    if output.is_dir() or output.exists() and any(Path(name).exists() and output.samefile(name) for name in inputs):
        raise ValueError(f"The output {output} is a folder, or the dataset itself. Choose another file.")


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_rows(rows: Iterable[Mapping[str, Any]], output: Path) -> None:
    """
    Write rows to a `.jsonl` file, one at a time, or to a `.parquet` file, all at once.

    Raises:
        `ValueError`: If a column holds several types, which `.parquet` cannot have.
    """
    with replaced_atomically(output) as temporary:
        if output.suffix == ".jsonl":
            with temporary.open("w", encoding="utf-8") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            return
        try:
            table = Dataset.from_list([dict(row) for row in rows])
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"The rows do not fit into {output}, because a column holds several types. Write .jsonl."
            ) from error
        table.to_parquet(temporary)


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
            row = parse_json(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is not JSON: {error.msg} (column {error.colno}).") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object.")
        rows.append(row)
    return rows


def _read_json(text: str) -> list[dict[str, Any]]:
    """Read a list of objects, an object that holds one such list or a list per column, or an object per line."""
    try:
        content = parse_json(text)
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


def parse_json(text: str) -> Any:
    """Parse JSON text; numbers keep their spelling, and NaN and infinities become `None`."""
    return json.loads(text, parse_float=WrittenFloat, parse_constant=lambda _: None)


def _read_csv(path: Path) -> list[dict[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # fields that would be dropped
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
        except pd.errors.ParserWarning as warning:
            raise ValueError(f"{warning}".rstrip(".") + ".") from warning
    return table.to_dict("records")
