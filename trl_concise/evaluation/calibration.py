# SPDX-License-Identifier: Apache-2.0
"""Prints how well scores predict errors, and draws how well confidence is calibrated, of one model or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .plots import add_legend, can_plot, new_figure, run_styles, save_figure, show_as_percent
from .uncertainty import SCORES


if TYPE_CHECKING:
    from matplotlib.artist import Artist

CALIBRATION_FILE = "calibration.png"
NAMES = dict(
    zip(
        SCORES,
        ("mean entropy", "largest entropy", "entropy of the answer", "mean negative log-likelihood", "tokens"),
        strict=True,
    )
)


def report_records(records: Sequence[Mapping[str, Any]], folder: str | Path | None) -> None:
    """Report the uncertainty of the records of [`evaluate`] that have it."""
    sets = {item["dataset"]: {item["model"]: item["uncertainty"]} for item in records if "uncertainty" in item}
    if sets:
        report_uncertainty(sets, folder)


def report_uncertainty(sets: Mapping[str, Mapping[str, Mapping[str, Any]]], folder: str | Path | None) -> None:
    """
    Print the ROC-AUC of every score, and draw the calibration if there is a folder and matplotlib is installed.

    Args:
        sets (`Mapping`): Problem set -> model -> the figures of [`summarize_uncertainty`].
        folder (`str` or `Path`, *optional*): Where to write `calibration.png`.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    for name, models in sets.items():
        bounds = any(not found["exact"] for found in models.values())
        table = Table(
            title=escape(f"{name}: ROC-AUC of errors (0.5 tells nothing)"),
            caption=escape(
                "[ ]: 95 % interval, bootstrap over problems. ECE: distance of exp(-mean negative log-likelihood) from the accuracy."
                + " Entropies are lower bounds: vLLM returns the 20 most likely tokens." * bounds
            ),
        )
        table.add_column("Score", no_wrap=True)
        for model in models:
            table.add_column(escape(model), justify="right")
        for score, words in NAMES.items():
            table.add_row(words, *(escape(_cell(found[score])) for found in models.values()))
        errors = (found["ece"] for found in models.values())
        table.add_row("ECE", *(f"{error:.3f}" if error is not None else "-" for error in errors))
        Console().print(table)
    if folder is not None and can_plot("The picture of the calibration"):
        plot_calibration(sets, Path(folder, CALIBRATION_FILE))


def _cell(found: Mapping[str, Any]) -> str:
    if found["auc"] is None:
        return "-"
    return "{:.3f} [{:.2f}, {:.2f}]".format(found["auc"], *found["interval"])


def plot_calibration(sets: Mapping[str, Mapping[str, Mapping[str, Any]]], path: str | Path) -> Path:
    """
    Plot accuracy against confidence in ten bins, one panel per problem set.

    Args:
        sets (`Mapping`): As for [`report_uncertainty`].
        path (`str` or `Path`): Image to write.

    Returns:
        `Path`: The image.

    Raises:
        `ImportError`: If matplotlib is missing.
    """
    figure = new_figure(5.2, 1.1 + 3.4 * len(sets))
    lines: dict[str, Artist] = {}
    rows = figure.subplots(len(sets), squeeze=False)[:, 0]
    for axes, (name, models) in zip(rows, sets.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="gray", linestyle="dotted", linewidth=1)
        for (color, marker), (model, found) in zip(run_styles(len(models)), models.items(), strict=True):
            bins = [item for item in found["calibration"] if item["count"]]
            (line,) = axes.plot(
                [item["confidence"] for item in bins],
                [item["accuracy"] for item in bins],
                color=color,
                marker=marker,
                markersize=5,
            )
            lines[model] = line
        axes.set_title(name, fontsize="medium", loc="left", parse_math=False)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel("Accuracy")
        show_as_percent(axes)
    rows[-1].set_xlabel("Confidence: exp(-mean negative log-likelihood)")
    add_legend(figure, lines, "upper center")
    return save_figure(figure, path)
