# SPDX-License-Identifier: Apache-2.0
"""The command `trl-concise report`: plots and a table of the results of runs and evaluations. No model is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import Parser
from .measurements import find_bases, gather_measurements, run_names
from .metrics import LEAST_BASE_ACCURACY, accuracy_efficiency_score
from .modes import has_modes, shows_modes
from .plots import BUDGETED, FrontierPoint, can_plot, plot_curves, plot_frontier, plot_modes
from .runs import Measurement, read_log_history
from .summaries import SUMMARY_FILE, differing_settings


FORMATS = (".png", ".svg")


def report(
    runs: Sequence[str | Path],
    output_dir: str | Path | None = None,
    *,
    base: str | Path | None = None,
    html: str | Path | None = None,
) -> dict[str, Path]:
    """
    Plot and tabulate the results of runs.

    A run is the output folder of a training, of `trl-concise eval`, or of both. The report reads `trainer_state.json` (of the
    latest checkpoint if the folder has none) and every `summary.json` there or one folder deeper. In an evaluation, a model with
    the name of the run's folder is the trained model, and `<run>/checkpoint-120` is one of its checkpoints. A model in a folder
    `control` or `control-NAME` is a control. Any other is the base model, if the folder is that of a training.

    Args:
        runs (`Sequence[str | Path]`): Folders. Each is named by the last component of its path, with as many parent
            folders as needed to distinguish equal names (`seed0/hapo`, `seed1/hapo`).
        output_dir (`str` or `Path`, *optional*): Where to write. Defaults to `plots` in the first folder.
        base (`str` or `Path`, *optional*): Folder or `summary.json` of the base model's evaluation. Its budgets are the
            control: the base model, truncated. It replaces the runs' bases on the sets that it contains; on other sets,
            each run is compared with its own base.
        html (`str` or `Path`, *optional*): A file for one page with the table, the pictures, and the completions of any two models
            side by side. It needs no network.

    Returns:
        `dict[str, Path]`: The written files: `frontier.png` and `.svg` (of further sets with their names,
        `frontier_<set>.png`), `modes.png` and `.svg` if some completions answered without thinking, `curves.png` and `.svg` if a
        run has a log, `report.md`, and the `html` page. Without matplotlib, no pictures.

    Raises:
        `FileNotFoundError`: If a folder is missing.
        `ValueError`: If nothing has been measured, or `html` is a folder.
    """
    folders = list({Path(run).resolve(): Path(run) for run in runs}.values())
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"The folder {folder} does not exist. Name the output folder of a training or an evaluation."
            )
    if html is not None and Path(html).is_dir():
        raise ValueError(f"--html {html} is a folder. Name a file, for example {Path(html) / 'report.html'}.")
    logs = {name: read_log_history(folder) for folder, name in zip(folders, run_names(folders), strict=True)}
    measured = gather_measurements(folders, logs, base)
    if not measured and not any(logs.values()):
        raise ValueError(
            f"Nothing has been measured in {', '.join(map(str, folders))}: they contain neither {SUMMARY_FILE} (written by "
            "`trl-concise eval`) nor trainer_state.json."
        )
    output = Path(output_dir) if output_dir is not None else folders[0] / "plots"
    output.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    if can_plot("Every picture"):
        written |= _draw(output, measured, logs)
    written["report.md"] = output / "report.md"
    written["report.md"].write_text(markdown_table(measured) + "\n", encoding="utf-8")
    if html is not None:
        from .html_report import write_html

        header, rows, notes = result_table(measured)
        written["html"] = write_html(
            Path(html),
            {
                **({None: _folder_of(Path(base))} if base is not None else {}),
                **dict(zip(run_names(folders), folders, strict=True)),
            },
            {
                (item.dataset, item.run, item.details["model"]): _title(item)
                for item in measured
                if "model" in item.details and item.point.kind not in BUDGETED
            },
            {"header": header, "rows": rows, "notes": notes},
            [path for name, path in written.items() if name.endswith(".svg")],
        )
    return written


def _folder_of(summary: Path) -> Path:
    return summary.parent if summary.suffix else summary


def _draw(output: Path, measured: list[Measurement], logs: dict[str, list[dict[str, Any]]]) -> dict[str, Path]:
    """Plot a frontier per set of problems, and the curves of the runs that have a log."""
    written = {}
    sets = list(dict.fromkeys(item.dataset for item in measured))
    for index, name in enumerate(sets):
        stem = "frontier" if index == 0 else "frontier_" + re.sub(r"[^\w.-]+", "_", name)
        points = _points([item for item in measured if item.dataset == name])
        for suffix in FORMATS:
            written[stem + suffix] = plot_frontier(points, output / (stem + suffix), title=name)
    thinking = [item for item in measured if has_modes(item.details) and item.point.kind not in BUDGETED]
    if shows_modes(item.details for item in thinking):
        bars = {
            name: {_title(item): item.details for item in thinking if item.dataset == name}
            for name in sets
            if any(item.dataset == name for item in thinking)
        }
        for suffix in FORMATS:
            written["modes" + suffix] = plot_modes(bars, output / ("modes" + suffix))
    panels = training_curves(logs)
    for suffix in FORMATS if panels else ():
        written["curves" + suffix] = plot_curves(panels, output / ("curves" + suffix))
    return written


def training_curves(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, tuple[list, list]]]:
    """
    Select the curves of [`plot_curves`] from the logs of runs.

    Args:
        logs (`Mapping[str, Sequence[Mapping]]`): Run -> its `log_history`.

    Returns:
        `dict`: Panels. Those without a single value are left out.
    """
    wanted = {
        "Accuracy": ("accuracy", "eval_accuracy", "watch/accuracy"),
        "Completion tokens": ("completions/mean_length", "eval_tokens_mean", "watch/tokens"),
        "Truncated fraction": ("completions/clipped_ratio", "eval_truncated_fraction", "watch/truncated_fraction"),
        "Thinking fraction": ("", "eval_thinking_fraction", ""),
    }
    panels = {}
    for label, keys in wanted.items():
        curves = {}
        for run, log in logs.items():
            for key, suffix in zip(keys, ("training", "evaluation", "watch set"), strict=True):
                entries = [entry for entry in log if entry.get(key) is not None]
                if entries:
                    curves[f"{run}, {suffix}"] = ([e["step"] for e in entries], [e[key] for e in entries])
        if curves:
            panels[label] = curves
    return panels


def markdown_table(measured: Sequence[Measurement]) -> str:
    """Return the table of [`result_table`] in Markdown, with the figures of both modes if some completions answered without thinking."""
    if not measured:
        return "No accuracy has been measured yet, only logged in training: `trl-concise eval` measures it."
    header, rows, (legend, *apart) = result_table(measured)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    lines.insert(1, "|---|---" + "|---:" * (len(header) - 2) + "|")
    lines += ["", legend]
    if shows_modes(item.details for item in measured):
        lines += ["", *_mode_table([item for item in measured if has_modes(item.details)])]
    if apart:
        lines += ["", apart[0], "", *(f"- {reason}" for reason in apart[1:])]
    return "\n".join(lines)


def result_table(measured: Sequence[Measurement]) -> tuple[tuple[str, ...], list[list[str]], list[str]]:
    """
    Return the measurements as a table: its header, its rows, and the notes below it.

    Tokens saved and the score are against the run's base on the same set, or else that of all runs; empty if it was
    measured with other settings. The score is also empty if that base solves less than a tenth of the problems.
    """
    header = ("Problems", "Model", "Accuracy", "Tokens", "Tokens saved", "AES", "Truncated", "Empty")
    rows, bases, apart = [], find_bases(measured), []
    sets = list(dict.fromkeys(item.dataset for item in measured))
    for item in sorted(measured, key=lambda item: sets.index(item.dataset)):
        point = item.point
        base = bases.get((item.dataset, item.run)) or bases.get((item.dataset, None), item)
        saved = score = ""
        if different := differing_settings(item.details, base.details):
            apart.append(f"{item.dataset}, {_title(item)}: {different}.")
        elif base is not item and base.point.accuracy > 0:
            saved = f"{1 - point.tokens / base.point.tokens:.1%}"
            of_base = base.point.accuracy, base.point.tokens
            if base.point.accuracy >= LEAST_BASE_ACCURACY:
                score = f"{accuracy_efficiency_score(point.accuracy, point.tokens, *of_base):+.3f}"
        cells = [
            item.dataset,
            _title(item),
            f"{point.accuracy:.1%}" + _interval(point.accuracy_interval, 100),
            f"{point.tokens:,.1f}" + _interval(point.tokens_interval, 1),
            saved,
            score,
            *(_percent(item.details.get(key)) for key in ("truncated_fraction", "empty_fraction")),
        ]
        rows.append(cells)
    notes = [
        "Tokens: mean per completion, end of turn included. [ ]: 95 % interval, cluster bootstrap over problems. AES: "
        "accuracy-efficiency score against the base, alpha = 1, beta = 3, gamma = 5."
    ]
    if apart:
        notes += ["Not compared with the base, which was measured with other settings:", *apart]
    return header, rows, notes


def _mode_table(measured: Sequence[Measurement]) -> list[str]:
    """Return the lines of a table of both modes: completions that thought, and those that answered directly."""
    lines = [
        "| Problems | Model | Thinking | Accuracy, thinking | Tokens, thinking | Accuracy, direct | Tokens, direct |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for item in measured:
        cells = [item.dataset, _title(item), _percent(item.details["thinking_fraction"])]
        for mode in ("thinking", "direct"):
            tokens = item.details.get(f"{mode}_tokens_mean")
            cells += [_percent(item.details.get(f"{mode}_accuracy")), f"{tokens:,.1f}" if tokens is not None else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str]) -> int:
    """Write the plots and the table, and print the table."""
    parser = Parser(
        prog="trl-concise report",
        description="Plot accuracy against tokens and the training curves, and print a table, from the files of runs and "
        "evaluations.",
    )
    parser.add_argument("runs", nargs="+", metavar="run", help="output folder of a training or of `trl-concise eval`")
    parser.add_argument("--base", help="folder or summary.json of the base model's evaluation")
    parser.add_argument("--output_dir", help="where to write; `plots` in the first run by default")
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="also write one page with table, pictures, and completions of two models side by side",
    )
    options = parser.parse_args(argv)
    try:
        written = report(options.runs, options.output_dir, base=options.base, html=options.html)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    print(written["report.md"].read_text(encoding="utf-8"))
    for path in written.values():
        print(path)
    return 0


def _points(measured: list[Measurement]) -> list[FrontierPoint]:
    """Return the points of one set's plot: each point once, and the bases with the names of their runs."""
    several = len({item.point for item in measured if item.point.kind == "base"}) > 1
    named = (
        replace(item.point, label=_title(item)) if several and item.point.kind == "base" else item.point
        for item in measured
    )
    return list(dict.fromkeys(named))


def _title(item: Measurement) -> str:
    point = item.point
    if point.kind in BUDGETED:
        return f"{point.series}: {point.label}" if point.label else point.series
    if point.kind == "model":
        return point.series
    if point.kind == "base":
        return f"base ({item.details['model']})" if "model" in item.details else f"{item.run}, base"
    return f"{point.series}, {point.label}" if point.series else point.label


def _interval(interval: tuple[float, float] | None, factor: float) -> str:
    return f" [{factor * interval[0]:,.1f}, {factor * interval[1]:,.1f}]" if interval is not None else ""


def _percent(value: float | None) -> str:
    return f"{value:.1%}" if value is not None else ""
