# SPDX-License-Identifier: Apache-2.0
"""Labels of a plot: shortened if needed, without markup, and placed where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

FONT_SIZE, CHARACTER = 10, 6.2  # points, of matplotlib's texts and of a wide letter in them
COLUMN, ROW = 50, 15  # points: width of a legend column in addition to its text, and the height of a row
PLACES = {  # of a label about its point: offset in points, horizontal and vertical alignment
    "above": ((0, 9), "center", "bottom"),
    "below": ((0, -9), "center", "top"),
    "above left": ((-5, 6), "right", "bottom"),
    "below right": ((6, -4), "left", "top"),
    "above right": ((5, 6), "left", "bottom"),
    "below left": ((-5, -6), "right", "top"),
    "far above": ((0, 21), "center", "bottom"),
    "far below": ((0, -21), "center", "top"),
    "right": ((10, 0), "left", "center"),
    "left": ((-10, 0), "right", "center"),
}


def shorten(text: str, length: int) -> str:
    """
    Shorten a long text in the middle, because runs of one model differ at the end of their names.

    Examples:
        >>> shorten("DeepSeek-R1-Distill-Qwen-1.5B-HAPO", 20)
        'DeepSeek-…-1.5B-HAPO'
    """
    if len(text) <= length:
        return text
    tail = length // 2
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def add_legend(figure: Figure, entries: Mapping[str, Artist], place: str, title: str | None = None) -> None:
    """Add a legend outside the axes, in as many columns as fit, and increase the height of the figure by its rows."""
    from matplotlib.textpath import TextPath

    width = 72 * figure.get_figwidth()
    names = [shorten(name, int((width - COLUMN) / CHARACTER)) for name in entries]
    longest = max(TextPath((0, 0), name, size=FONT_SIZE).get_extents().width for name in names)
    columns = max(1, min(int(width / (COLUMN + longest)), 3, len(names)))
    rows = math.ceil(len(names) / columns)
    figure.set_figheight(figure.get_figheight() + ROW / 72 * (rows - 1))
    where: Any = f"outside {place}"
    legend = figure.legend(
        entries.values(),
        map(str, range(len(names))),
        loc=where,
        ncols=columns,
        frameon=False,
        title=title,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)  # set afterwards, because a legend leaves out labels that begin with an underscore


def annotate(axes: Axes, text: str, x: float, y: float, **style) -> Annotation:
    """Write a text next to a point, legible over lines, without shrinking the axes."""
    from matplotlib.patheffects import withStroke

    label = axes.annotate(text, (x, y), textcoords="offset points", xytext=(0, 0), parse_math=False, **style)
    label.set_in_layout(False)
    label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    return label


def place_labels(axes: Axes, labels: Sequence[tuple[Annotation, str]], points: Sequence[tuple[float, float]]) -> None:
    """
    Move labels so that they cover neither a point nor each other, if such a place exists within the axes.

    Args:
        axes (`Axes`): The axes of the labels; everything else has been drawn.
        labels (`Sequence[tuple[Annotation, str]]`): Labels that [`annotate`] returned, each with its preferred placement
            from `PLACES`. Earlier labels are placed first.
        points (`Sequence[tuple[float, float]]`): Positions of the markers, in data coordinates.
    """
    from matplotlib.transforms import Bbox

    figure: Any = axes.figure
    figure.draw_without_rendering()  # lays out the axes
    around = 6 * figure.dpi / 72
    taken = [
        Bbox.from_extents(x - around, y - around, x + around, y + around)
        for x, y in axes.transData.transform(points)
        if math.isfinite(x + y)
    ]
    for label, preferred in labels:
        tried: list[Any] = []
        for place in dict.fromkeys([preferred, *PLACES]):
            _move(label, place)
            box = label.get_window_extent()
            sticks_out = not (axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1))
            tried.append((box.count_overlaps(taken) + len(taken) * sticks_out, len(tried), place, box))
        *_, best, box = min(tried, key=lambda item: item[:2])
        _move(label, best)
        taken.append(box)


def _move(label: Annotation, place: str) -> None:
    label.xyann, horizontal, vertical = PLACES[place]
    label.set(ha=horizontal, va=vertical)
