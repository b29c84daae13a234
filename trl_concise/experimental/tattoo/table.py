# SPDX-License-Identifier: Apache-2.0
"""The table of a problem: cells by row key and column name, and aggregates of a column."""

from __future__ import annotations

import csv
import io
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


_CELL = re.compile(r"cell\s*\[(?P<row>[^,]*),(?P<column>.*)\]")
_AGGREGATE = re.compile(r"(?P<name>sum|mean|min|max|count)\s*\((?P<column>.*?)(?:\swhere\s(?P<condition>.*))?\)")
_CONDITION = re.compile(r"(?P<column>.*?)\s*(?P<operator>>=|<=|!=|==|=|>|<)\s*(?P<value>.*)")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_PLAIN_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d{1,300})(?:\.\d{1,300})?")


def read_number(text: str) -> Fraction | None:
    """
    Read a number of digits, exactly.

    Examples:
        >>> read_number(" 1,250.5 "), read_number("3 apples")
        (Fraction(2501, 2), None)
    """
    text = text.strip()
    return Fraction(text.replace(",", "").replace("−", "-")) if _PLAIN_NUMBER.fullmatch(text) else None


def is_lookup(text: str) -> bool:
    """Return whether a text is `cell[...]` or an aggregate such as `sum(...)`."""
    return _CELL.fullmatch(text) is not None or _AGGREGATE.fullmatch(text) is not None


@dataclass(frozen=True)
class Table:
    """
    A table with named columns, whose first column has the keys of the rows.

    Args:
        columns (`tuple[str, ...]`): Names, each once.
        rows (`tuple[tuple[str, ...], ...]`): Cells as text, one per column. The first cells are distinct.

    Raises:
        `ValueError`: If it has no column, a row has another number of cells, or a column name or a row key is repeated.

    Examples:
        >>> table = Table.read({"columns": ["item", "price", "qty"], "rows": [["pen", 3, 4], ["pad", 5, 2], ["cup", 8, 1]]})
        >>> table.look_up("cell[pen, price]"), table.look_up("sum(qty)"), table.look_up("mean(price where qty > 1)")
        (Fraction(3, 1), Fraction(7, 1), Fraction(4, 1))
        >>> table.look_up("cell[pen, color]") is None
        True
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self):
        if not self.columns:
            raise ValueError("A table needs at least one column; got none. Give `columns` and `rows`, or CSV text.")
        for place, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Row {place} of a table has {len(row)} cells, but there are {len(self.columns)} columns. Give each row one cell per "
                    "column."
                )
        for what, names in (("column name", self.columns), ("row key", [row[0] for row in self.rows])):
            if repeated := sorted({name for name in names if list(names).count(name) > 1}):
                raise ValueError(f"A table repeats the {what} {repeated[0]!r}. Give every {what} once.")

    @classmethod
    def read(cls, table: Table | Mapping[str, Any] | str) -> Table:
        """
        Read a table as a dataset contains it.

        Args:
            table (`dict` or `str`): `{"columns": [...], "rows": [[...], ...]}`, the same as JSON text, or CSV text whose first line names the columns.

        Returns:
            `Table`: The table. Blanks around names and cells are removed.

        Raises:
            `ValueError`: If it is neither, or as for [`Table`].
        """
        if isinstance(table, Table):
            return table
        if isinstance(table, str) and table.lstrip().startswith("{"):
            try:
                table = json.loads(table)
            except ValueError as error:
                raise ValueError(
                    f"A table that begins with a brace must be JSON ({error}). Give `columns` and `rows`, or CSV text."
                ) from error
        if isinstance(table, str):
            lines: list[Sequence[Any]] = [line for line in csv.reader(io.StringIO(table.strip())) if line]
            columns, rows = (lines[0], lines[1:]) if lines else ([], [])
        elif isinstance(table, Mapping) and {"columns", "rows"} <= table.keys():
            columns, rows = table["columns"], table["rows"]
        else:
            raise ValueError(
                f"A table is a dictionary with `columns` and `rows`, or CSV text; got {type(table).__name__}. Convert the column `table`."
            )
        return cls(tuple(map(_text, columns)), tuple(tuple(map(_text, row)) for row in rows))

    def look_up(self, expression: str) -> Fraction | str | None:
        """
        Return a cell or an aggregate.

        Args:
            expression (`str`): `cell[ROW, COLUMN]`, or `sum`, `mean`, `min`, `max` or `count` of a column, such as `sum(qty where price > 3)`.

        Returns:
            `Fraction`, `str` or `None`: A number, the text of a cell without one, or `None` if the row or the column does not exist, the aggregate
            includes a cell that is not a number, or it is undefined because no row meets the condition.
        """
        if cell := _CELL.fullmatch(expression):
            row = self._row(cell["row"].strip())
            column = self._column(cell["column"])
            if not row or column is None:
                return None
            number = read_number(row[column])
            return number if number is not None else row[column]
        aggregate = _AGGREGATE.fullmatch(expression)
        column = self._column(aggregate["column"]) if aggregate else None
        if not aggregate or column is None:
            return None
        rows = self._rows_where(aggregate["condition"])
        if rows is None:
            return None
        name = aggregate["name"]
        if name == "count":
            return Fraction(len(rows))
        numbers = [number for row in rows if (number := read_number(row[column])) is not None]
        if len(numbers) < len(rows) or (not numbers and name != "sum"):
            return None
        if name in ("min", "max"):
            return min(numbers) if name == "min" else max(numbers)
        total = sum(numbers, Fraction(0))
        return total if name == "sum" else total / len(numbers)

    def _row(self, key: str) -> tuple[str, ...] | None:
        return next((row for row in self.rows if row[0] == key), None)

    def _column(self, name: str) -> int | None:
        return self.columns.index(name.strip()) if name.strip() in self.columns else None

    def _rows_where(self, condition: str | None) -> list[tuple[str, ...]] | None:
        if condition is None:
            return list(self.rows)
        found = _CONDITION.fullmatch(condition.strip())
        column = self._column(found["column"]) if found else None
        if not found or column is None:
            return None
        wanted, compare = found["value"].strip().strip('"'), _OPERATORS[found["operator"]]
        number = read_number(wanted)
        kept = []
        for row in self.rows:
            own = read_number(row[column])
            if own is not None and number is not None:
                meets = compare(own, number)
            elif compare in (operator.eq, operator.ne):
                meets = compare(row[column], wanted)
            else:
                return None  # an order of texts is not defined
            if meets:
                kept.append(row)
        return kept


def _text(value: Any) -> str:
    return str(value).strip() if value is not None else ""
