# SPDX-License-Identifier: Apache-2.0
"""
Accuracy and tokens along axes of generalization: problems like those of the training, and problems that differ from them in one known way.

Source: Sun et al., "OMEGA: Can LLMs Reason Outside the Box in Math?" (arXiv 2506.18880): axes, settings and parts. Gap, retention, chance and
intervals are this package's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..data.rows import AXES
from ..verification.extraction import final_answer, gold_answer
from .completions import Completion
from .expansion import solved_by_chance
from .metrics import accuracy_interval
from .paired import paired_figures


if TYPE_CHECKING:
    from datasets import Dataset
    from rich.table import Table

IN, OUT = "test_in", "test_out"
PARTS = {"test": OUT}  # of the sets on the Hub that have no `test_in`
SHORT = {IN: "in", OUT: "out"}
AXIS_NAMES = {"explorative": "exploratory"}  # of the folders and the sets on the Hub

Groups = Sequence[Sequence[Completion]]  # the completions of each problem
Cell = tuple[str, str | None, str, str | None]  # axis, setting, part, level; `None` for all of them


def cells_of(rows: Sequence[Mapping[str, Any]]) -> dict[Cell, list[int]]:
    """
    Return the rows of each cell: of an axis in a part, of a setting in a part, and of a level where a setting has several in the part.

    Args:
        rows (`Sequence[Mapping]`): Problems with `axis`, `setting`, `level` and `part`.
    """
    found: dict[Cell, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        axis, setting, level, part = (row[name] for name in AXES)
        axis, part = AXIS_NAMES.get(axis, axis), PARTS.get(part, part)
        for cell in ((axis, None, part, None), (axis, setting, part, None), (axis, setting, part, level)):
            found[cell].append(number)
    whole = {cell[:3]: len(members) for cell, members in found.items() if cell[1] is not None and cell[3] is None}
    return {cell: members for cell, members in found.items() if not cell[3] or len(members) < whole[cell[:3]]}


def summarize_axes(completions: Iterable[Completion], dataset: Dataset) -> dict[str, Any] | None:
    """
    Summarize the completions of a problem set by axis, setting, level and part.

    Args:
        completions (`Iterable[Completion]`): Judged completions of the set.
        dataset (`Dataset`): The set. Without the columns `axis`, `setting`, `level` and `part`, there is nothing to summarize.

    Returns:
        `dict[str, Any]`, *optional*: `cells` and `settings`, or `None`. A cell has `axis`, `setting` (`None`: all of the axis), `part`, `level`
        (`None`: all of the setting), `problems`, `accuracy` with `accuracy_interval` (95 %, bootstrap over problems), `tokens_mean` and `chance`, the
        probability that an answer to another problem of the cell is right. A setting (`None`: all of the axis) has `accuracy` (in and out), `gap` (in - out), `retention` (out / in, `None` if in is 0)
        and `token_ratio` (out / in); each is `None` without problems of `test_in` or `test_out`.
    """
    if not set(AXES) <= set(dataset.column_names):
        return None
    groups: dict[int, list[Completion]] = defaultdict(list)
    for item in completions:
        groups[item.problem].append(item)
    judged = [row for row in sorted(groups) if all(item.correct is not None for item in groups[row])]
    rows = dataset.select_columns(list(AXES)).select(judged)
    cells = {
        cell: summarize_cell([groups[judged[number]] for number in members])
        for cell, members in cells_of(list(rows)).items()
    }
    named = dict.fromkeys((axis, setting) for axis, setting, _, _ in cells)
    return {
        "cells": [
            dict(zip(("axis", "setting", "part", "level"), cell, strict=True)) | found for cell, found in cells.items()
        ],
        "settings": [
            {"axis": axis, "setting": setting}
            | generalization(*(cells.get((axis, setting, part, None)) for part in (IN, OUT)))
            for axis, setting in named
        ],
    }


def summarize_cell(groups: Groups) -> dict[str, Any]:
    """Return `problems`, `accuracy`, `accuracy_interval`, `tokens_mean` and `chance` of judged completions, grouped by problem."""
    right = [[float(bool(item.correct)) for item in items] for items in groups]
    answers = [[final_answer(item.text).text.strip() for item in items] for items in groups]
    golds = [gold_answer(items[0].gold).text.strip() for items in groups]
    return {
        "problems": len(groups),
        "accuracy": fmean(value for items in right for value in items),
        "accuracy_interval": list(accuracy_interval(right)),
        "tokens_mean": fmean(item.tokens for items in groups for item in items),
        "chance": fmean(solved_by_chance(answers, golds, 1)),
    }


def generalization(inside: Mapping[str, Any] | None, outside: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    Compare the problems that differ from training problems with those that do not.

    Args:
        inside, outside (`Mapping`, *optional*): `accuracy` and `tokens_mean` of `test_in` and of `test_out`.

    Returns:
        `dict[str, Any]`: `accuracy`, `gap`, `retention` and `token_ratio`, as in [`summarize_axes`].

    Examples:
        >>> found = generalization({"accuracy": 0.95, "tokens_mean": 50.0}, {"accuracy": 0.19, "tokens_mean": 75.0})
        >>> round(found["gap"], 6), round(found["retention"], 6), found["token_ratio"]
        (0.76, 0.2, 1.5)
    """
    if not inside or not outside:
        return {"accuracy": None, "gap": None, "retention": None, "token_ratio": None}
    a, b = inside["accuracy"], outside["accuracy"]
    return {
        "accuracy": [a, b],
        "gap": a - b,
        "retention": b / a if a else None,
        "token_ratio": outside["tokens_mean"] / inside["tokens_mean"] if inside["tokens_mean"] else None,
    }


def compare_axes(rows: Sequence[Mapping[str, Any]], first: Groups, second: Groups) -> list[dict[str, Any]]:
    """
    Compare two models on the same problems of each cell, paired by problem.

    Args:
        rows (`Sequence[Mapping]`): The problems, with `axis`, `setting`, `level` and `part`.
        first, second (`Sequence[Sequence[Completion]]`): Judged completions of each problem.

    Returns:
        `list[dict[str, Any]]`: `axis`, `setting`, `part` and `level` of each cell, and the figures of [`~trl_concise.evaluation.paired.paired_figures`].
    """
    right, tokens = (
        [[fmean(value(item) for item in items) for items in side] for side in (first, second)]
        for value in (lambda item: bool(item.correct), lambda item: item.tokens)
    )
    return [
        dict(zip(("axis", "setting", "part", "level"), cell, strict=True))
        | paired_figures(*([side[row] for row in members] for side in (*right, *tokens)))
        for cell, members in cells_of(rows).items()
    ]


def report_axes(records: Sequence[Mapping[str, Any]]) -> None:
    """Print the axes of the records of [`evaluate`] that have them, one table per record."""
    from rich.console import Console

    for record in records:
        if (axes := record.get("axes")) is None:
            continue
        budget = f", truncated at {record['budget']:,}" if record.get("budget") is not None else ""
        table = new_table(
            f"{record['dataset']}{budget}: {record['model']} along the axes",
            "in: like the problems of the training; out: different. [ ]: 95 % interval in points, bootstrap over problems. Gap: in - out, retention: "
            "out / in. Chance: the answer to another problem of the cell is right.",
            ("Setting", "Part", "n", "Accuracy", "Tokens", "Chance", "Gap, retention"),
        )
        compared = {(found["axis"], found["setting"]): found for found in axes["settings"]}
        for cell in _in_order(axes["cells"]):
            low, high = (100 * bound for bound in cell["accuracy_interval"])
            found = compared[cell["axis"], cell["setting"]]
            whole = cell["part"] == OUT and cell["level"] is None and found["gap"] is not None
            retention = f"{found['retention']:.2f}" if found["retention"] is not None else "-"
            add_row(
                table,
                *(_name(cell), SHORT.get(cell["part"], cell["part"]), f"{cell['problems']:,}"),
                f"{cell['accuracy']:.1%} [{low:.0f}, {high:.0f}]",
                f"{cell['tokens_mean']:,.1f}",
                f"{cell['chance']:.1%}",
                f"{100 * found['gap']:+.1f}, {retention}" if whole else "",
            )
        Console().print(table)


def print_compared_axes(name: str, cells: Sequence[Mapping[str, Any]]) -> None:
    """Print how accuracy and tokens changed in each cell of a problem set."""
    from rich.console import Console

    table = new_table(
        f"{name}: change along the axes",
        "in: like the problems of the training; out: different. [ ]: 95 % interval in points, paired bootstrap over problems.",
        ("Setting", "Part", "n", "Accuracy", "Points", "Tokens"),
    )
    for cell in _in_order(cells):
        low, high = (100 * bound for bound in cell["accuracy_difference_interval"])
        add_row(
            table,
            *(_name(cell), SHORT.get(cell["part"], cell["part"]), f"{cell['problems']:,}"),
            "{:.1%} -> {:.1%}".format(*cell["accuracy"]),
            f"{100 * cell['accuracy_difference']:+.1f} [{low:.1f}, {high:.1f}]",
            f"x {cell['token_ratio']:.3f}",
        )
    Console().print(table)


def _in_order(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return each axis, then its settings, then their levels."""
    places: dict[tuple[str, str | None], int] = {}
    for cell in cells:
        for key in ((cell["axis"], None), (cell["axis"], cell["setting"])):
            places.setdefault(key, len(places))
    return sorted(
        cells,
        key=lambda cell: (
            places[cell["axis"], None],
            places[cell["axis"], cell["setting"]],
            cell["level"] is not None,
        ),
    )


def _name(cell: Mapping[str, Any]) -> str:
    if cell["level"] is not None:
        return f"    {cell['level']}"
    return f"  {cell['setting']}" if cell["setting"] is not None else cell["axis"]


def new_table(title: str, caption: str, headings: Sequence[str], *, space: int = 1) -> Table:
    """Return an empty table within 80 columns: names on the left, figures on the right, `space + 1` spaces between columns."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(title), caption=escape(caption), box=box.SIMPLE_HEAD, padding=(0, space, 0, 0), show_edge=False
    )
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def add_row(table: Table, *cells: str) -> None:
    """Add a row of texts, whose brackets are not markup."""
    from rich.markup import escape

    table.add_row(*map(escape, cells))
