# SPDX-License-Identifier: Apache-2.0
"""`trl-concise report`: plots and a table of what runs and evaluations have measured. No model is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .logs import read_log_history
from .metrics import accuracy_efficiency_score
from .plots import FrontierPoint, can_plot, plot_curves, plot_frontier
from .summaries import SUMMARY_FILE, demo_results_of_run, differing_settings, read_summary, records_of_run


IN_TRAINING = "evaluation set of the training"
DEMO = "demo"
FORMATS = (".png", ".svg")


@dataclass(frozen=True)
class Measurement:
    """
    One line of the table, one point of the plot.

    Args:
        dataset (`str`): Name of the problem set.
        point ([`FrontierPoint`]): Accuracy and tokens.
        details (`dict`): The record it comes from.
    """

    dataset: str
    point: FrontierPoint
    details: Mapping[str, Any]


def report(
    runs: Sequence[str | Path], output_dir: str | Path | None = None, *, base: str | Path | None = None
) -> dict[str, Path]:
    """
    Plot and tabulate what has been measured of runs.

    A run is the output folder of a training, of `trl-concise eval`, or of both: read are `trainer_state.json` (of the
    latest checkpoint if the folder has none), every `summary.json` there or one folder deeper, and the demo's
    `results.json`. In an evaluation, a model that is named as the run's folder is what came of the run,
    `<run>/checkpoint-120` one of its checkpoints, and another one its base model, if the folder is that of a training.

    Args:
        runs (`Sequence[str | Path]`): Folders.
        output_dir (`str` or `Path`, *optional*): Where to write. Defaults to `plots` in the first folder.
        base (`str` or `Path`, *optional*): Folder or `summary.json` of the base model's evaluation. Its budgets are the
            control: the base model, cut.

    Returns:
        `dict[str, Path]`: What was written: `frontier.png` and `.svg` (of further sets with their names,
        `frontier_<set>.png`), `curves.png` and `.svg` if a run has a log, `report.md`. Without matplotlib, only the last.

    Raises:
        `FileNotFoundError`: If a folder is missing.
        `ValueError`: If nothing has been measured.
    """
    folders = [Path(run) for run in runs]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"There is no folder {folder}: name the output folder of a training or an evaluation."
            )
    measured = [] if base is None else [_of_record(record, "base", "") for record in read_summary(base)]
    measured += [item for folder in folders for item in read_measurements(folder, base_known=base is not None)]
    logs = {_name(folder): log for folder in folders if (log := read_log_history(folder))}
    if not measured and not logs:
        raise ValueError(
            f"Nothing has been measured in {', '.join(map(str, folders))}: there is no {SUMMARY_FILE} (`trl-concise eval` "
            "writes it) and no trainer_state.json."
        )
    output = Path(output_dir) if output_dir is not None else folders[0] / "plots"
    output.mkdir(parents=True, exist_ok=True)
    written = {}
    if can_plot("Every picture"):
        written |= _draw(output, measured, logs)
    written["report.md"] = output / "report.md"
    written["report.md"].write_text(markdown_table(measured) + "\n", encoding="utf-8")
    return written


def _draw(output: Path, measured: list[Measurement], logs: dict[str, list[dict[str, Any]]]) -> dict[str, Path]:
    """Plot a frontier per set of problems, and the curves of the runs that have a log."""
    written = {}
    sets = list(dict.fromkeys(item.dataset for item in measured))
    for index, name in enumerate(sets):
        stem = "frontier" if index == 0 else f"frontier_{name.replace('/', '_').replace(' ', '_')}"
        points = [item.point for item in measured if item.dataset == name]
        for suffix in FORMATS:
            written[stem + suffix] = plot_frontier(points, output / (stem + suffix), title=name)
    panels = training_curves(logs)
    for suffix in FORMATS if panels else ():
        written["curves" + suffix] = plot_curves(panels, output / ("curves" + suffix))
    return written


def read_measurements(run: Path, *, base_known: bool = False) -> list[Measurement]:
    """
    Read what has been measured of one run.

    Args:
        run (`Path`): The run's folder.
        base_known (`bool`, *optional*, defaults to `False`): Whether the base model's figures come from elsewhere; those
            in the folder are left out then.

    Returns:
        `list[Measurement]`: Base first, then checkpoints in order, then the run's model.
    """
    name = _name(run)
    log = read_log_history(run)
    trained = bool(log)
    found = list(_from_log(log, name))
    for record in records_of_run(run):
        model = record["model"].partition("/checkpoint-")[0]
        found.append(_of_record(record, "base" if trained and model != name else "model", model))
    if (results := demo_results_of_run(run)) is not None:
        found += _from_demo(results, name)
    if base_known:
        found = [item for item in found if item.point.kind not in ("base", "cut")]
    order = {"base": 0, "cut": 1, "checkpoint": 2, "model": 3}
    return sorted(found, key=lambda item: (order[item.point.kind], item.details.get("step", 0)))


def training_curves(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, tuple[list, list]]]:
    """
    Pick the curves of [`plot_curves`] from the logs of runs.

    Args:
        logs (`Mapping[str, Sequence[Mapping]]`): Run -> its `log_history`.

    Returns:
        `dict`: Panels. Those without a single value are left out.
    """
    wanted = {
        "Accuracy": ("accuracy", "eval_accuracy"),
        "Completion tokens": ("completions/mean_length", "eval_tokens_mean"),
        "Truncated fraction": ("completions/clipped_ratio", "eval_truncated_fraction"),
    }
    panels = {}
    for label, keys in wanted.items():
        curves = {}
        for run, log in logs.items():
            for key, suffix in zip(keys, ("training", "evaluation"), strict=True):
                entries = [entry for entry in log if entry.get(key) is not None]
                if entries:
                    curves[f"{run}, {suffix}"] = ([e["step"] for e in entries], [e[key] for e in entries])
        if curves:
            panels[label] = curves
    return panels


def markdown_table(measured: Sequence[Measurement]) -> str:
    """
    Return the measurements as a table in Markdown.

    Tokens saved and the score are against the base of the same set; empty if it was measured with other settings.
    """
    if not measured:
        return "No accuracy has been measured yet, only logged in training: `trl-concise eval` measures it."
    lines = [
        "| Problems | Model | Accuracy | Tokens | Tokens saved | AES | Truncated | Empty |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    bases = {item.dataset: item for item in reversed(measured) if item.point.kind == "base"}
    apart = []
    for item in measured:
        point, base = item.point, bases.get(item.dataset, item)
        saved = score = ""
        if different := differing_settings(item.details, base.details):
            apart.append(f"- {item.dataset}, {_title(item)}: {different}.")
        elif base is not item and base.point.accuracy > 0:
            saved = f"{1 - point.tokens / base.point.tokens:.1%}"
            of_base = base.point.accuracy, base.point.tokens
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
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Tokens: mean per completion, end of turn included. [ ]: 95 % interval, cluster bootstrap over problems. AES: "
        "accuracy-efficiency score against the base, alpha = 1, beta = 3, gamma = 5.",
    ]
    if apart:
        lines += ["", "Not compared with the base, which was measured with other settings:", "", *apart]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Write the plots and the table, and print the table."""
    parser = argparse.ArgumentParser(
        prog="trl-concise report",
        description="Plot accuracy against tokens and the training curves, and print a table, from what runs and "
        "evaluations have left on disk.",
    )
    parser.add_argument("runs", nargs="+", metavar="run", help="output folder of a training or of `trl-concise eval`")
    parser.add_argument("--base", help="folder or summary.json of the base model's evaluation")
    parser.add_argument("--output_dir", help="where to write; `plots` in the first run by default")
    options = parser.parse_args(argv)
    try:
        written = report(options.runs, options.output_dir, base=options.base)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    print(written["report.md"].read_text(encoding="utf-8"))
    for path in written.values():
        print(path)
    return 0


def _name(run: Path) -> str:
    return run.resolve().name


def _from_log(log: Sequence[Mapping[str, Any]], run: str) -> Iterable[Measurement]:
    """The evaluations in training: the one before the first step is the base."""
    for entry in log:
        for prefix in [key.removesuffix("_tokens_mean") for key in entry if key.endswith("_tokens_mean")]:
            details = {key.removeprefix(f"{prefix}_"): value for key, value in entry.items()}
            if details.get("accuracy") is None:
                continue
            is_base = entry["step"] == 0
            yield Measurement(
                IN_TRAINING if prefix == "eval" else prefix.removeprefix("eval_"),
                FrontierPoint(
                    label="base" if is_base else f"step {entry['step']}",
                    accuracy=details["accuracy"],
                    tokens=details["tokens_mean"],
                    kind="base" if is_base else "checkpoint",
                    series="" if is_base else run,
                ),
                details,
            )


def _of_record(record: Mapping[str, Any], kind: str, run: str) -> Measurement:
    """A record of `summary.json`; the budgets of a base model are the control, those of others are left as they are."""
    checkpoint = record["model"].rpartition("/checkpoint-")[2] if "/checkpoint-" in record["model"] else None
    budget = record.get("budget")
    label = record["model"].rpartition("/")[2] if kind == "model" else "base"
    if checkpoint is not None and kind == "model":
        kind, label = "checkpoint", f"step {checkpoint}"
    if budget is not None:
        kind, label = "cut", f"{budget:,}"
    series = {"base": "", "cut": f"{record['model']}, cut at a budget"}.get(kind, run)
    return Measurement(
        record["dataset"],
        FrontierPoint(
            label=label,
            accuracy=record["accuracy"],
            tokens=record["tokens_mean"],
            kind=kind,
            series=series,
            accuracy_interval=tuple(record["accuracy_interval"]),
            tokens_interval=tuple(record["tokens_interval"]),
        ),
        {**record, "step": int(checkpoint or 0) if budget is None else budget},
    )


def _from_demo(results: Mapping[str, Any], run: str) -> list[Measurement]:
    points = {
        "base": FrontierPoint("base", 0, 0, "base"),
        "base_cut": FrontierPoint("", 0, 0, "cut", "base, made to answer at that length"),
        "trained": FrontierPoint(run, 0, 0, "model", run),
        "sft_control": FrontierPoint("SFT", 0, 0, "model", "SFT on shortest correct completions"),
    }
    return [
        Measurement(
            DEMO,
            replace(point, accuracy=results[key]["accuracy"], tokens=results[key]["tokens_mean"]),
            results[key],
        )
        for key, point in points.items()
        if results.get(key) is not None
    ]


def _title(item: Measurement) -> str:
    point = item.point
    if point.kind == "cut":
        return f"{point.series}: {point.label}" if point.label else point.series
    if point.kind == "model":
        return point.series
    return f"{point.series}, {point.label}" if point.series else point.label


def _interval(interval: tuple[float, float] | None, factor: float) -> str:
    return "" if interval is None else f" [{factor * interval[0]:,.1f}, {factor * interval[1]:,.1f}]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
