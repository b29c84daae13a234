# SPDX-License-Identifier: Apache-2.0
"""What a selection kept and why: counts, shares, and statistics before and after."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class SelectionReport:
    """
    Report of a selection.

    Args:
        method (`str`): Name of the method.
        settings (`dict[str, Any]`): Its settings.
        rows (`int`): Rows read.
        kept (`int`): Rows kept.
        dropped (`Counter[str]`): How many rows were not kept, by the reason. They and `kept` add up to `rows`.
        groups (`list[dict[str, Any]]`): One entry per domain or skill: its `group`, the rows that were `available`, its `quota`, the rows
            `kept`, and the `shortfall`.
        statistics (`dict[str, dict[str, dict[str, float]]]`): Quantity -> `before` or `after` -> `count`, `mean`, `median`, `min`, `max`.
        written (`dict[str, int]`): File -> the rows written to it.
        notes (`list[str]`): What a reader should know, for example a quota that was not met.
        failed_judgments (`int`): Requests to a judge that failed for good. Their traces count as rejected.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    groups: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed_judgments: int = 0

    def compare(self, name: str, values: Sequence[float], kept: Sequence[int]) -> None:
        """Add the statistics of a quantity over all usable rows, and over those at the places `kept`."""
        self.statistics[name] = {"before": describe(values), "after": describe([values[place] for place in kept])}

    def add_group(self, name: str, available: int, quota: int, kept: int, **more: Any) -> None:
        """Add a domain or a skill, and a note if its quota was not met."""
        shortfall = quota - kept
        self.groups.append(
            {"group": name, "available": available, "quota": quota, "kept": kept, "shortfall": shortfall, **more}
        )
        if shortfall:
            self.notes.append(f"{name}: {kept} of {quota} rows. There were not enough that could be kept.")

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, and `share`, the share of the rows that was kept."""
        share = self.kept / self.rows if self.rows else 0.0
        return {**vars(self), "share": share, "dropped": dict(self.dropped)}

    def write(self, path: str | Path) -> None:
        """Write the report as JSON."""
        from ...state.checkpoint import write_atomically

        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str) + "\n"
        write_atomically(Path(path), text.encode())

    def print(self) -> None:
        """Print the report as tables."""
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        console = Console()
        share = f" ({self.kept / self.rows:.1%})" if self.rows else ""
        table = Table("Rows", "Number", title=f"{self.method}: {self.kept:,} of {self.rows:,} rows kept{share}")
        table.columns[1].justify = "right"
        for reason, count in self.dropped.most_common():
            table.add_row(f"not kept: {escape(reason)}", f"{count:,}")
        for file, count in self.written.items():
            table.add_row(f"written to {escape(file)}", f"{count:,}")
        console.print(table)
        if self.statistics:
            table = Table("Statistics", "Rows", *_COLUMNS)
            for column in table.columns[2:]:
                column.justify = "right"
            for name, sides in self.statistics.items():
                for side, figures in sides.items():
                    table.add_row(name, side, *(f"{figures[column]:,.4g}" for column in _COLUMNS if column in figures))
            console.print(table)
        if self.groups:
            table = Table(*self.groups[0])
            for group in self.groups[:_MOST_GROUPS]:
                table.add_row(*(escape(str(value)) for value in group.values()))
            console.print(table)
            if len(self.groups) > _MOST_GROUPS:
                console.print(f"The report has {len(self.groups) - _MOST_GROUPS} more.")
        for note in self.notes[:_MOST_GROUPS]:
            console.print(escape(note))
        if self.failed_judgments:
            console.print(
                f"{self.failed_judgments} requests to the judge failed, and their traces count as rejected. The same command asks again."
            )


_COLUMNS = ("count", "mean", "median", "min", "max")
_MOST_GROUPS = 20  # on the terminal


def describe(values: Sequence[float]) -> dict[str, float]:
    """Return the number of values and, if there are any, their mean, median, smallest and largest."""
    if not values:
        return {"count": 0}
    return {
        "count": len(values),
        "mean": statistics.fmean(values),
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
    }


def nothing_kept(report: SelectionReport | Mapping[str, int], source: str) -> ValueError:
    """Say that a selection is empty, and why."""
    dropped = report.dropped if isinstance(report, SelectionReport) else report
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in Counter(dropped).most_common())
    return ValueError(
        f"No row of {source} was kept: {reasons or 'there is none'}. Check the columns and the settings."
    )
