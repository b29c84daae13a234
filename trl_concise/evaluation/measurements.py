# SPDX-License-Identifier: Apache-2.0
"""Measurements of runs, read from their folders, and the base that each is compared with."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .logs import read_log_history, watch_measurements
from .plots import FrontierPoint, PointKind
from .summaries import CONTROL, read_summary, records_of_run


logger = logging.getLogger(__name__)

IN_TRAINING = "evaluation set of the training"
WATCH_SET = "watch set"


@dataclass(frozen=True)
class Measurement:
    """
    One line of the table, one point of the plot.

    Args:
        dataset (`str`): Name of the problem set.
        point ([`FrontierPoint`]): Accuracy and tokens.
        details (`dict`): The record it comes from.
        run (`str`, *optional*): Name of the run it was read from; `None` of the base model that all are compared with.
    """

    dataset: str
    point: FrontierPoint
    details: Mapping[str, Any]
    run: str | None = None


def gather_measurements(runs: Sequence[Path], base: str | Path | None = None) -> list[Measurement]:
    """
    Read the measurements of several runs.

    Args:
        runs (`Sequence[Path]`): Their folders.
        base (`str` or `Path`, *optional*): Folder or `summary.json` of a base model that replaces the runs' bases on
            the sets that it contains. A warning names any other model that is left out with them.

    Returns:
        `list[Measurement]`: First that base, then run by run.
    """
    of_base = [] if base is None else [_of_record(record, "base", None) for record in read_summary(base)]
    of_runs = [item for run, name in zip(runs, run_names(runs), strict=True) for item in read_measurements(run, name)]
    return of_base + _with_distinct_names(_without_other_bases(of_runs, of_base))


def read_measurements(run: Path, name: str | None = None) -> list[Measurement]:
    """
    Read the measurements of one run.

    Args:
        run (`Path`): The run's folder.
        name (`str`, *optional*): Name of the run. Defaults to that of the folder.

    Returns:
        `list[Measurement]`: Base first, then checkpoints in order, then the run's model.
    """
    own = run.resolve().name
    name = name or own
    log = read_log_history(run)
    trained = bool(log)
    found = list(_from_log(log, name))
    for record in records_of_run(run):
        is_own = record["model"].partition("/checkpoint-")[0] == own
        is_base = trained and not is_own and CONTROL not in record
        found.append(_of_record(record, "base" if is_base else "model", name, own=is_own))
    order = {"base": 0, "cut": 1, "checkpoint": 2, "model": 3}
    return sorted(found, key=lambda item: (order[item.point.kind], item.details.get("step", 0)))


def find_bases(measured: Sequence[Measurement]) -> dict[tuple[str, str | None], Measurement]:
    """
    Return the base of each set and run (`None`: of all runs).

    A folder with several has no base, because one may be a trained model under another name; a warning says so.
    """
    found: dict[tuple[str, str | None], dict[str | None, Measurement]] = {}
    for item in measured:
        if item.point.kind == "base":
            found.setdefault((item.dataset, item.run), {}).setdefault(item.details.get("model"), item)
    unclear = {key: names for key, models in found.items() if len(names := models.keys() - {None}) > 1}
    for (dataset, run), names in unclear.items():
        logger.warning(
            "%s is not compared on %s, because it is unknown which of %s is its base. Name it with --base.",
            run,
            dataset,
            " and ".join(sorted(map(str, names))),
        )
    return {key: next(iter(models.values())) for key, models in found.items() if key not in unclear}


def run_names(folders: Sequence[Path]) -> list[str]:
    """
    Name runs by the ends of their paths, as short as possible but distinct.

    Examples:
        >>> run_names([Path("/out/seed0/hapo"), Path("/out/seed1/hapo"), Path("/out/laser")])
        ['seed0/hapo', 'seed1/hapo', 'laser']
    """
    paths = [folder.resolve().parts for folder in folders]
    names = []
    for path in paths:
        length = next(n for n in range(1, len(path) + 1) if sum(path[-n:] == other[-n:] for other in paths) == 1)
        names.append("/".join(path[-length:]))
    return names


def _without_other_bases(measured: list[Measurement], of_base: list[Measurement]) -> list[Measurement]:
    """Leave out the bases that the requested base replaces; a warning names any other model that is left out."""
    given = [item.details for item in of_base]
    models = {item.dataset: item.details["model"] for item in of_base}
    others = {_identity(item) for item in measured if item.point.kind == "base" and item.dataset in models}
    for dataset, run, model in sorted(others, key=str):
        if model not in (None, models[dataset]):
            logger.warning(
                "%s is left out on %s: --base gives the base model there, and a model is the run's own only under the name "
                "of its folder, %s. Name the folder of its evaluation as another run to show it.",
                model,
                dataset,
                run,
            )
    return [
        item
        for item in measured
        if item.details not in given and not (item.point.kind in ("base", "cut") and _identity(item) in others)
    ]


def _with_distinct_names(measured: list[Measurement]) -> list[Measurement]:
    """Add the run's name to models of the same name in several runs, which would otherwise look like one."""
    points = {(item.point.series, item.dataset, item.point.label, item.run) for item in measured if item.point.series}
    runs = Counter(point[:3] for point in points)
    shared = {series for (series, *_), count in runs.items() if count > 1}
    return [
        replace(item, point=replace(item.point, series=f"{item.point.series} ({item.run})"))
        if "model" in item.details and item.point.series in shared
        else item
        for item in measured
    ]


def _identity(item: Measurement) -> tuple[str, str | None, str | None]:
    return item.dataset, item.run, item.details.get("model")


def _from_log(log: list[dict[str, Any]], run: str) -> Iterable[Measurement]:
    """The evaluations in training and the measurements of the watch set: those before the first step are the base."""
    for step, figures in watch_measurements(log).items():
        point = FrontierPoint(
            label="base" if step == 0 else f"step {step}",
            accuracy=figures["accuracy"],
            tokens=figures["tokens_mean"],
            kind="base" if step == 0 else "checkpoint",
            series="" if step == 0 else run,
            accuracy_interval=tuple(figures["accuracy_interval"]),
            tokens_interval=tuple(figures["tokens_interval"]),
        )
        yield Measurement(WATCH_SET, point, {**figures, "step": step}, run)
    for entry in log:
        for prefix in [key.removesuffix("_tokens_mean") for key in entry if key.endswith("_tokens_mean")]:
            details = {key.removeprefix(f"{prefix}_"): value for key, value in entry.items()}
            if details.get("accuracy") is None:
                continue
            is_base = entry["step"] == 0
            yield Measurement(
                IN_TRAINING if prefix == "eval" else f"{IN_TRAINING}, {prefix.removeprefix('eval_')}",
                FrontierPoint(
                    label="base" if is_base else f"step {entry['step']}",
                    accuracy=details["accuracy"],
                    tokens=details["tokens_mean"],
                    kind="base" if is_base else "checkpoint",
                    series="" if is_base else run,
                ),
                details,
                run,
            )


def _of_record(record: Mapping[str, Any], kind: PointKind, run: str | None, *, own: bool = False) -> Measurement:
    """Convert a record of `summary.json`; the budgets of a base model are the control."""
    model, checkpoint, step = record["model"].partition("/checkpoint-")
    short = model.rpartition("/")[2]
    if own and run is not None:
        model = short = run
    budget = record.get("budget")
    if budget is not None:
        kind, label = "cut", f"{budget:,}"
    elif kind == "base":
        label = "base"
    elif checkpoint:
        kind, label = "checkpoint", f"step {step}"
    else:
        label = short
    all_series = {"base": "", "cut": f"{model}{checkpoint}{step}, truncated at a budget"}
    return Measurement(
        record["dataset"],
        FrontierPoint(
            label=label,
            accuracy=record["accuracy"],
            tokens=record["tokens_mean"],
            kind=kind,
            series=all_series.get(kind, model),
            accuracy_interval=tuple(record["accuracy_interval"]),
            tokens_interval=tuple(record["tokens_interval"]),
        ),
        {**record, "step": (int(step) if step.isdigit() else 0) if budget is None else budget},
        run,
    )
