# SPDX-License-Identifier: Apache-2.0
"""
Pictures of accuracy against tokens.

Colours are those of Okabe and Ito, told apart with any colour vision; what matters differs in shape too. Sizes are chosen
for a width of 800 pixels on a model card.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .metrics import on_frontier


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
BLACK, GREY = "#000000", "#767676"
RUN_STYLES = [(BLUE, "o"), (VERMILLION, "D"), (GREEN, "^"), (PURPLE, "s"), (SKY, "v"), (ORANGE, "P")]
LABELLED_CUTS = 6  # more budgets than that are marked, not labelled


@dataclass(frozen=True)
class FrontierPoint:
    """
    One measurement of a model on a set of problems.

    Args:
        label (`str`): What stands beside the point, e.g. `"step 120"`. May be empty.
        accuracy (`float`): Between 0 and 1.
        tokens (`float`): Mean completion tokens.
        kind (`"base"`, `"checkpoint"`, `"model"` or `"cut"`, *optional*, defaults to `"model"`):
            The model before training, one of a run's checkpoints, the model that came of it, or the control: the base
            model's completions, cut at a budget.
        series (`str`, *optional*, defaults to `""`): Name of the run in the legend. Checkpoints and cuts of a series are
            joined by a line in the order in which they are given.
        accuracy_interval, tokens_interval (`tuple[float, float]`, *optional*): Intervals, drawn as error bars.
    """

    label: str
    accuracy: float
    tokens: float
    kind: Literal["base", "checkpoint", "model", "cut"] = "model"
    series: str = ""
    accuracy_interval: tuple[float, float] | None = None
    tokens_interval: tuple[float, float] | None = None


def plot_frontier(points: Sequence[FrontierPoint], path: str | Path, *, title: str | None = None) -> Path:
    """
    Plot accuracy (up) against mean completion tokens (left is better).

    Checkpoints and models on the frontier, that is those that none of them beats in both, are filled, others hollow.

    Args:
        points (`Sequence[FrontierPoint]`): At least one.
        path (`str` or `Path`): Image to write; its suffix (`.png`, `.svg`) says in which format.
        title (`str`, *optional*): Title, such as the name of the problem set.

    Returns:
        `Path`: The image.

    Raises:
        `ImportError`: If matplotlib is missing.
        `ValueError`: If there is no point.
    """
    if not points:
        raise ValueError("A frontier plot needs at least one point.")
    figure = new_figure(7.5, 4.7)
    axes = figure.subplots()
    trained = [point for point in points if point.kind != "cut"]
    best = on_frontier([point.accuracy for point in trained], [point.tokens for point in trained])
    filled = {point for point, is_best in zip(trained, best, strict=True) if is_best}

    cuts: dict[str, list[FrontierPoint]] = {}
    runs: dict[str, list[FrontierPoint]] = {}
    for point in points:
        if point.kind != "base":
            (cuts if point.kind == "cut" else runs).setdefault(point.series, []).append(point)
    for series in cuts.values():
        _draw_cuts(axes, series)
    for index, ((name, series), style) in enumerate(zip(runs.items(), _styles(len(runs)), strict=True)):
        _draw_run(axes, name, series, style, filled, is_first=index == 0)
    for point in points:
        if point.kind == "base":
            _draw_intervals(axes, point, BLACK)
            axes.plot(point.tokens, point.accuracy, "*", color=BLACK, markersize=14, zorder=5)
            _annotate(axes, point, BLACK, "above")

    axes.margins(x=0.12, y=0.16)
    axes.set_xlim(left=max(0, axes.get_xlim()[0]))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.02), min(high, 1.03))
    axes.set_xlabel("Mean completion tokens  (← fewer is better)")
    axes.set_ylabel("Accuracy")
    axes.yaxis.set_major_formatter(percent)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if title is not None:
        axes.set_title(title, loc="left")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        note = "filled: on the frontier" if runs else None
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, title=note)
    return save_figure(figure, path)


def plot_curves(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], path: str | Path) -> Path:
    """
    Plot figures over the training steps, one panel below the other.

    Args:
        panels (`Mapping[str, Mapping[str, tuple]]`): Label of the vertical axis -> name of the curve -> steps and values.
            Curves of the same name look alike in every panel. Where the label holds "accuracy" or "fraction", values are
            shown in percent.
        path (`str` or `Path`): Image to write; its suffix (`.png`, `.svg`) says in which format.

    Returns:
        `Path`: The image.

    Raises:
        `ImportError`: If matplotlib is missing.
    """
    figure = new_figure(7.5, 1.1 + 2.0 * len(panels))
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    styles = dict(zip(names, _styles(len(names)), strict=True))
    rows = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(rows, panels.items(), strict=True):
        for name, (steps, values) in curves.items():
            colour, marker = styles[name]
            few = len(steps) <= 30
            axes.plot(steps, values, color=colour, marker=marker if few else None, markersize=4, label=name)
        axes.set_ylabel(label)
        if any(word in label.lower() for word in ("accuracy", "fraction")):
            axes.yaxis.set_major_formatter(percent)
    if len(names) > 1:
        handles = {name: line for axes in rows for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, frameon=False)
    rows[-1].set_xlabel("Training step")
    return save_figure(figure, path)


def can_plot(what: str) -> bool:
    """Return whether matplotlib is installed; if not, warn that `what` is left out. For plots that nobody asked for."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    logger.warning(f"{what} is left out, for want of matplotlib: pip install 'trl-concise[plots]'.")
    return False


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches. Raises an `ImportError` that says what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'trl-concise[plots]'.") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Give the axes their common look, and write the figure."""
    for axes in figure.axes:
        axes.grid(color=GREY, alpha=0.2, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def percent(value: float, _: int | None = None) -> str:
    """Label a tick: `0.975` is `97.5%`, as matplotlib's own formatter cannot say without a fixed number of digits."""
    return f"{100 * value:.4g}%"


def _styles(count: int) -> list[tuple[str, str]]:
    """Return `count` pairs of a colour and a marker; up to 36 of them are different."""
    n = len(RUN_STYLES)
    return [(RUN_STYLES[index % n][0], RUN_STYLES[(index + index // n) % n][1]) for index in range(count)]


def _draw_run(
    axes: Axes,
    name: str,
    series: list[FrontierPoint],
    style: tuple[str, str],
    filled: set[FrontierPoint],
    *,
    is_first: bool,
) -> None:
    colour, marker = style
    axes.plot(
        [point.tokens for point in series],
        [point.accuracy for point in series],
        color=colour,
        linewidth=1.2,
        alpha=0.55,
        zorder=3,
    )
    for index, point in enumerate(series):
        _draw_intervals(axes, point, colour)
        axes.plot(
            point.tokens,
            point.accuracy,
            marker,
            color=colour,
            markerfacecolor=colour if point in filled else "white",
            markersize=10 if point.kind == "model" else 6.5,
            markeredgewidth=1.5,
            zorder=4,
            linestyle="none",
        )
        if point.kind == "model" or index in (0, len(series) - 1):
            place = "above" if point.kind == "model" else "above left"
            _annotate(axes, point, colour, place if is_first else "below")
    if name:
        axes.plot([], [], marker, color=colour, markersize=7, label=name)


def _draw_cuts(axes: Axes, series: list[FrontierPoint]) -> None:
    axes.plot(
        [point.tokens for point in series],
        [point.accuracy for point in series],
        "--x",
        color=GREY,
        linewidth=1.2,
        markersize=6,
        zorder=2,
        label=series[0].series or "base, cut at a budget",
    )
    for point in series if len(series) <= LABELLED_CUTS else []:
        _annotate(axes, point, GREY, "below right")


def _draw_intervals(axes: Axes, point: FrontierPoint, colour: str) -> None:
    for value, interval, name in [
        (point.accuracy, point.accuracy_interval, "yerr"),
        (point.tokens, point.tokens_interval, "xerr"),
    ]:
        if interval is not None:
            error = [[max(0, value - interval[0])], [max(0, interval[1] - value)]]
            axes.errorbar(
                point.tokens, point.accuracy, **{name: error}, color=colour, alpha=0.45, linewidth=1.2, zorder=2.5
            )


def _annotate(axes: Axes, point: FrontierPoint, colour: str, place: str) -> None:
    offset, alignment = {
        "above": ((0, 10), "center"),
        "above left": ((-4, 7), "right"),
        "below": ((0, -18), "center"),
        "below right": ((6, -13), "left"),
    }[place]
    axes.annotate(
        point.label,
        (point.tokens, point.accuracy),
        xytext=offset,
        textcoords="offset points",
        ha=alignment,
        color=colour,
        fontsize=9,
        fontweight="bold" if point.kind in ("base", "model") else "normal",
        zorder=6,
    )
