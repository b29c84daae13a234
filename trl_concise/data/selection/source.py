# SPDX-License-Identifier: Apache-2.0
"""Rows of a file or of a dataset on the Hub that are read one at a time, and written as they were."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, ReadInstruction

from ..files import (
    check_split,
    load_rows,
    local_file,
    no_rows,
    parse_json,
    read_rows,
    replaced_atomically,
    write_rows,
)


class Source(Sequence[Mapping[str, Any]]):
    """
    Rows that can be read several times and at any place.

    Of a `.jsonl` file only the position of each line is held in memory; a `.parquet` file and a dataset on the Hub are mapped into
    memory by `datasets`. Files of other formats are held in memory.

    Args:
        name_or_path (`str`): Dataset id on the Hub, or path of a `.jsonl`, `.json`, `.parquet` or `.csv` file.
        config_name (`str`, *optional*): Configuration of a Hub dataset.
        split (`str`, *optional*, defaults to `"train"`): Split, or a slice of it.

    Attributes:
        columns (`list[str]`): Columns of the rows. Of a `.jsonl` file: those of its first 100 rows.
        numbers (`Sequence[int]`): The number of each row in its source, from 1.

    Raises:
        `FileNotFoundError`: If a local file does not exist.
        `ValueError`: If a file cannot be read, or has no rows.
    """

    def __init__(self, name_or_path: str, config_name: str | None = None, split: str = "train"):
        self.name = name_or_path
        check_split(split)
        path = local_file(name_or_path)
        self._lines: JSONLines | None = None
        self._rows: Sequence[Mapping[str, Any]]
        if path is not None and path.suffix.lower() == ".jsonl":
            self._rows = self._lines = JSONLines(path, name_or_path, split)
            self.numbers: Sequence[int] = self._lines.numbers
            first = (self._rows[place] for place in range(min(100, len(self._rows))))
            self.columns = list(dict.fromkeys(column for row in first for column in row))
        elif path is not None and path.suffix.lower() in (".json", ".csv"):
            self._rows, self.columns, self.numbers = read_rows(name_or_path, config_name, split)
        else:
            dataset = load_rows(name_or_path, config_name, split)
            if not len(dataset):
                raise ValueError(no_rows(name_or_path, split))
            self._rows, self.columns, self.numbers = dataset, dataset.column_names, range(1, len(dataset) + 1)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._rows[place]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._rows)

    def write(self, places: Sequence[int], output: Path) -> None:
        """
        Write the rows at some places as they were. A line of a `.jsonl` file stays the same, byte by byte, and a table keeps its types.

        Args:
            places (`Sequence[int]`): Places of the rows, in the order in which they are written.
            output (`Path`): File to write, `.jsonl` or `.parquet`.
        """
        if self._lines is not None and output.suffix == ".jsonl":
            with replaced_atomically(output) as temporary, temporary.open("wb") as file:
                file.writelines(self._lines.raw(place) + b"\n" for place in places)
        elif isinstance(self._rows, Dataset) and output.suffix == ".parquet":
            with replaced_atomically(output) as temporary:
                self._rows.select(places).to_parquet(temporary)
        else:
            write_rows((self._rows[place] for place in places), output)


class JSONLines(Sequence[Mapping[str, Any]]):
    """
    Rows of a JSON Lines file, parsed when they are read.

    Args:
        path (`Path`): The file.
        name (`str`): What error messages call it.
        split (`str`): Split, or a slice of it.
    """

    def __init__(self, path: Path, name: str, split: str):
        self._file = path.open("rb")
        self._name = name
        starts, numbers = [], []
        position = 0
        for number, line in enumerate(self._file, 1):
            if line.strip(b"\xef\xbb\xbf \t\r\n"):
                starts.append(position)
                numbers.append(number)
            position += len(line)
        if not starts:
            raise ValueError(f"Cannot read {name}: it has no data.")
        part = re.split(r"[\[+]", split)[0].strip()
        slices = ReadInstruction.from_spec(split).to_absolute({part: len(starts)})
        places = [place for piece in slices for place in range(piece.from_, piece.to)]
        if not places:
            raise ValueError(no_rows(name, split))
        self._starts = [starts[place] for place in places]
        self.numbers = [numbers[place] for place in places]

    def __len__(self) -> int:
        return len(self._starts)

    def raw(self, place: int) -> bytes:
        """The line of a row, without its end."""
        self._file.seek(self._starts[place])
        return self._file.readline().strip(b"\xef\xbb\xbf\r\n")

    def __getitem__(self, place: Any) -> Any:
        line = self.numbers[place]
        try:
            row = parse_json(self.raw(place).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Cannot read {self._name}: line {line} is not UTF-8 text. Convert the file to UTF-8, for example with "
                "`iconv -f LATIN1 -t UTF-8`."
            ) from error
        except json.JSONDecodeError as error:
            raise ValueError(
                f"Cannot read {self._name}: line {line} is not JSON: {error.msg} (column {error.colno})."
            ) from error
        if not isinstance(row, dict):
            raise ValueError(f"Cannot read {self._name}: line {line} is not a JSON object.")
        return row

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[place] for place in range(len(self)))
