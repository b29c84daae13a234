# SPDX-License-Identifier: Apache-2.0
"""
Plots of accuracy against tokens.

The colors are those of Okabe and Ito, which are distinguishable with any color vision; important marks also differ in shape.
Sizes are chosen for a width of 800 pixels on a model card.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .labels import add_legend, annotate, place_labels, shorten
from .metrics import on_frontier


if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

PointKind = Literal["base", "checkpoint", "model", "cut", "stopped"]

BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
BLACK, GREY = "#000000", "#767676"
RUN_STYLES = [(BLUE, "o"), (VERMILLION, "D"), (GREEN, "^"), (PURPLE, "s"), (SKY, "v"), (ORANGE, "P")]
BUDGETED = ("cut", "stopped")  # kinds that are derived from a model's completions
LABELLED = 6  # with more budgets or more runs than this, the points are marked but not labeled
LABEL_LENGTH, TITLE_LENGTH = 24, 60  # characters


@dataclass(frozen=True)
class FrontierPoint:
    """
    One measurement of a model on a set of problems.

    Args:
        label (`str`): Text next to the point, e.g. `"step 120"`. May be empty.
        accuracy (`float`): Between 0 and 1.
        tokens (`float`): Mean completion tokens.
        kind (`"base"`, `"checkpoint"`, `"model"`, `"cut"` or `"stopped"`, *optional*, defaults to `"model"`):
            The model before training, one of a run's checkpoints, the trained model, the control: the base model's
            completions, truncated at a budget, or completions whose thinking was stopped at a budget.
        series (`str`, *optional*, defaults to `""`): Name of the run in the legend. Checkpoints and truncations of a series are
            joined by a line in the given order.
        accuracy_interval, tokens_interval (`tuple[float, float]`, *optional*): Intervals, drawn as error bars.
    """

    label: str
    accuracy: float
    tokens: float
    kind: PointKind = "model"
    series: str = ""
    accuracy_interval: tuple[float, float] | None = None
    tokens_interval: tuple[float, float] | None = None


def plot_frontier(points: Sequence[FrontierPoint], path: str | Path, *, title: str | None = None) -> Path:
    """
    Plot accuracy (vertical) against mean completion tokens (horizontal; fewer is better).

    Checkpoints and models on the frontier, those that no other one beats in both, are filled, others hollow.
    Labels are placed where they cover nothing, and long ones are shortened in the middle. With more than six runs, only the
    legend names them.

    Args:
        points (`Sequence[FrontierPoint]`): At least one.
        path (`str` or `Path`): Image to write; its suffix (`.png`, `.svg`) determines the format.
        title (`str`, *optional*): Title, such as the name of the problem set.

    Returns:
        `Path`: The image.

    Raises:
        `ImportError`: If matplotlib is missing.
        `ValueError`: If `points` is empty.
    """
    if not points:
        raise ValueError("A frontier plot needs at least one point.")
    figure = new_figure(7.5, 4.7)
    axes = figure.subplots()
    trained = [point for point in points if point.kind not in BUDGETED]
    best = on_frontier([point.accuracy for point in trained], [point.tokens for point in trained])
    filled = {point for point, is_best in zip(trained, best, strict=True) if is_best}

    cuts: dict[str, list[FrontierPoint]] = {}
    runs: dict[str, list[FrontierPoint]] = {}
    for point in points:
        if point.kind != "base":
            (cuts if point.kind in BUDGETED else runs).setdefault(point.series, []).append(point)
    legend: dict[str, Artist] = {}
    labeled: list[tuple[FrontierPoint, str]] = []  # with their colors
    for name, series in cuts.items():
        legend[name or "base, truncated at a budget"] = _draw_cuts(axes, series)
    for (name, series), style in zip(runs.items(), run_styles(len(runs)), strict=True):
        handle = _draw_run(axes, series, style, filled)
        if name:
            legend[name] = handle
        if len(runs) <= LABELLED:
            ends = (series[0], series[-1])
            labeled += [(point, style[0]) for point in series if point.kind == "model" or point in ends]
    for point in points:
        if point.kind == "base":
            _draw_intervals(axes, point, BLACK)
            axes.plot(point.tokens, point.accuracy, "*", color=BLACK, markersize=14, zorder=5)
            labeled.append((point, BLACK))
    labeled += [(point, GREY) for series in cuts.values() if len(series) <= LABELLED for point in series]

    axes.margins(x=0.12, y=0.16)
    axes.set_xlim(left=max(0, axes.get_xlim()[0]))
    axes.set_xlabel("Mean completion tokens  (← fewer is better)")
    axes.set_ylabel("Accuracy")
    show_as_percent(axes)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.8g}")
    integer_ticks(axes.xaxis)
    if title is not None:
        axes.set_title(shorten(title, TITLE_LENGTH), loc="left", parse_math=False)
    if legend:
        add_legend(figure, legend, "lower center", title="filled: on the frontier" if runs else None)
    _label(axes, labeled, points)
    return save_figure(figure, path)


def plot_curves(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], path: str | Path) -> Path:
    """
    Plot figures over the training steps, one panel below the other.

    Args:
        panels (`Mapping[str, Mapping[str, tuple]]`): Label of the vertical axis -> name of the curve -> steps and values.
            Curves of the same name have the same style in every panel. If the label contains "accuracy" or "fraction", values
            are shown in percent.
        path (`str` or `Path`): Image to write; its suffix (`.png`, `.svg`) determines the format.

    Returns:
        `Path`: The image.

    Raises:
        `ImportError`: If matplotlib is missing.
    """
    figure = new_figure(7.5, 1.1 + 2.0 * len(panels))
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    styles = dict(zip(names, run_styles(len(names)), strict=True))
    lines: dict[str, Artist] = {}
    rows = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(rows, panels.items(), strict=True):
        for name, (steps, values) in curves.items():
            color, marker = styles[name]
            few = len(steps) <= 30
            (lines[name],) = axes.plot(steps, values, color=color, marker=marker if few else None, markersize=4)
        axes.set_ylabel(label, parse_math=False)
        if any(word in label.lower() for word in ("accuracy", "fraction")):
            show_as_percent(axes)
    if len(names) > 1:
        add_legend(figure, {name: lines[name] for name in names}, "upper center")
    rows[-1].set_xlabel("Training step")
    integer_ticks(rows[-1].xaxis)
    return save_figure(figure, path)


def plot_pass_at_k(
    sets: Mapping[str, Sequence[Mapping[int, Mapping[str, Any]]]], models: Sequence[str], path: str | Path
) -> Path:
    """
    Plot pass@k over the number of tries, one panel per problem set, with 95 % intervals as bands.

    Args:
        sets (`Mapping[str, Sequence[Mapping]]`): Problem set -> the curve of each model, as [`pass_curve`] returns it.
        models (`Sequence[str]`): Names of the models.
        path (`str` or `Path`): Image to write; its suffix (`.png`, `.svg`) determines the format.

    Returns:
        `Path`: The image.

    Raises:
        `ImportError`: If matplotlib is missing.
    """
    figure = new_figure(6.0, 1.1 + 2.6 * len(sets))
    lines: dict[str, Artist] = {}
    rows = figure.subplots(len(sets), sharex=True, squeeze=False)[:, 0]
    for axes, (name, curves) in zip(rows, sets.items(), strict=True):
        for index, ((color, marker), curve) in enumerate(zip(run_styles(len(curves)), curves, strict=True)):
            tries = list(curve)
            low, high = zip(*(found["interval"] for found in curve.values()), strict=True)
            (line,) = axes.plot(
                tries, [found["value"] for found in curve.values()], color=color, marker=marker, markersize=4
            )
            axes.fill_between(tries, low, high, color=color, alpha=0.15, linewidth=0)
            lines[models[index] if len(set(models)) > 1 else f"{models[index]} ({index + 1})"] = line
        axes.set_title(name, fontsize="medium", loc="left", parse_math=False)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylabel("pass@k")
        show_as_percent(axes)
    add_legend(figure, lines, "upper center")
    rows[-1].set_xlabel("k, tries")
    return save_figure(figure, path)


def plot_modes(sets: Mapping[str, Mapping[str, Mapping[str, Any]]], path: str | Path) -> Path:
    """
    Plot which share of the completions thought, and accuracy and tokens of both modes: one row of panels per problem set.

    Args:
        sets (`Mapping[str, Mapping[str, Mapping]]`): Problem set -> model -> the figures of [`summarize`] with a known
            `thinking_fraction`.
        path (`str` or `Path`): Image to write; its suffix (`.png`, `.svg`) determines the format.

    Returns:
        `Path`: The image.

    Raises:
        `ImportError`: If matplotlib is missing.
    """
    models = list(dict.fromkeys(model for measured in sets.values() for model in measured))
    figure = new_figure(8.5, 1.0 + sum(0.7 + 0.45 * len(measured) for measured in sets.values()))
    heights = [0.7 + 0.45 * len(measured) for measured in sets.values()]
    rows = figure.subplots(len(sets), 3, squeeze=False, height_ratios=heights)
    modes = {"thinking": (BLUE, -0.2), "direct": (ORANGE, 0.2)}
    bars: dict[str, Artist] = {}
    for panels, (name, measured) in zip(rows, sets.items(), strict=True):
        names = [model for model in models if model in measured]
        panels[0].barh(range(len(names)), [measured[model]["thinking_fraction"] for model in names], 0.5, color=BLUE)
        panels[0].set_xlim(0, 1)
        for axes, figures in zip(panels[1:], ("accuracy", "tokens_mean"), strict=True):
            for mode, (color, offset) in modes.items():
                values = [measured[model].get(f"{mode}_{figures}") for model in names]
                bars[mode] = axes.barh(
                    [row + offset for row in range(len(names))],
                    [value if value is not None else 0 for value in values],
                    0.38,
                    color=color,
                )
        panels[1].set_xlim(0, 1)
        for axes, title in zip(panels, ("Thinking", "Accuracy", "Mean tokens"), strict=True):
            axes.set_yticks(
                range(len(names)), [shorten(model, LABEL_LENGTH) for model in names] if axes is panels[0] else []
            )
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_title(title, loc="left", fontsize=10)
        panels[0].set_ylabel(shorten(name, LABEL_LENGTH), parse_math=False)
        for axes in panels[:2]:
            axes.xaxis.set_major_formatter(percent)
    add_legend(figure, bars, "lower center")
    return save_figure(figure, path)


def can_plot(what: str) -> bool:
    """Return whether matplotlib is installed; if not, warn that `what` is left out. For plots that were not requested."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    logger.warning(f"{what} is left out because matplotlib is missing: pip install 'trl-concise[plots]'.")
    return False


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches. Raises an `ImportError` that says what to install."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'trl-concise[plots]'.") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Apply the common style to the axes, and write the figure."""
    for axes in figure.axes:
        axes.grid(color=GREY, alpha=0.2, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def percent(value: float, _: float | None = None) -> str:
    """Label a tick: `0.975` is `97.5%`. matplotlib's formatter needs a fixed number of digits for this."""
    return f"{100 * value:.4g}%"


def integer_ticks(axis: Axis) -> None:
    """Put ticks at whole numbers where there is one within the limits."""
    locator: Any = axis.get_major_locator()  # of plots with numbers, a MaxNLocator
    locator.set_params(integer=True, min_n_ticks=1)


def show_as_percent(axes: Axes) -> None:
    """Show fractions as percentages, with axis limits near [0, 1]."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.015), min(high, 1.03))
    axes.yaxis.set_major_formatter(percent)


def run_styles(count: int) -> list[tuple[str, str]]:
    """Return `count` pairs of a color and a marker; up to 36 of them are different."""
    n = len(RUN_STYLES)
    return [(RUN_STYLES[index % n][0], RUN_STYLES[(index + index // n) % n][1]) for index in range(count)]


def _draw_run(axes: Axes, series: list[FrontierPoint], style: tuple[str, str], filled: set[FrontierPoint]) -> Artist:
    color, marker = style
    axes.plot(
        [point.tokens for point in series],
        [point.accuracy for point in series],
        color=color,
        linewidth=1.2,
        alpha=0.55,
        zorder=3,
    )
    for point in series:
        _draw_intervals(axes, point, color)
        axes.plot(
            point.tokens,
            point.accuracy,
            marker,
            color=color,
            markerfacecolor=color if point in filled else "white",
            markersize=10 if point.kind == "model" else 6.5,
            markeredgewidth=1.5,
            zorder=4,
            linestyle="none",
        )
    return axes.plot([], [], marker, color=color, markersize=7)[0]


def _draw_cuts(axes: Axes, series: list[FrontierPoint]) -> Artist:
    return axes.plot(
        [point.tokens for point in series],
        [point.accuracy for point in series],
        "--x" if series[0].kind == "cut" else ":+",
        color=GREY if series[0].kind == "cut" else PURPLE,
        linewidth=1.2,
        markersize=6,
        zorder=2,
    )[0]


def _draw_intervals(axes: Axes, point: FrontierPoint, color: str) -> None:
    for value, interval, name in [
        (point.accuracy, point.accuracy_interval, "yerr"),
        (point.tokens, point.tokens_interval, "xerr"),
    ]:
        if interval is not None:
            error: dict[str, Any] = {name: [[max(0, value - interval[0])], [max(0, interval[1] - value)]]}
            axes.errorbar(point.tokens, point.accuracy, **error, color=color, alpha=0.45, linewidth=1.2, zorder=2.5)


def _label(axes: Axes, labeled: list[tuple[FrontierPoint, str]], points: Sequence[FrontierPoint]) -> None:
    """Label points in their colors, models first."""
    preferred = {"model": "above", "base": "above", "checkpoint": "above left"}
    preferred |= dict.fromkeys(BUDGETED, "below right")
    labels = []
    labeled = [(point, color) for point, color in labeled if point.label]
    for point, color in sorted(labeled, key=lambda item: list(preferred).index(item[0].kind)):
        weight = "bold" if point.kind in ("base", "model") else "normal"
        text = shorten(point.label, LABEL_LENGTH)
        label = annotate(
            axes, text, point.tokens, point.accuracy, color=color, fontsize=9, fontweight=weight, zorder=6
        )
        labels.append((label, preferred[point.kind]))
    place_labels(axes, labels, [(point.tokens, point.accuracy) for point in points])
