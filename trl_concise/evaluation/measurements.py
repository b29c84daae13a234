# SPDX-License-Identifier: Apache-2.0
"""Compares the measurements of several runs: the base of each, and names that distinguish them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .plots import BUDGETED
from .runs import Measurement, of_record, read_measurements
from .summaries import read_summary


logger = logging.getLogger(__name__)


def gather_measurements(
    runs: Sequence[Path], logs: Mapping[str, Sequence[Mapping[str, Any]]], base: str | Path | None = None
) -> list[Measurement]:
    """
    Read the measurements of several runs.

    Args:
        runs (`Sequence[Path]`): Their folders.
        logs (`Mapping[str, Sequence[Mapping]]`): Name of each run, as [`run_names`] gives it -> its `log_history`.
        base (`str` or `Path`, *optional*): Folder or `summary.json` of a base model that replaces the runs' bases on
            the sets that it contains. A warning names any other model that is left out with them.

    Returns:
        `list[Measurement]`: First that base, then run by run.
    """
    of_base = [of_record(record, None, is_base=True) for record in read_summary(base)] if base is not None else []
    names = zip(runs, run_names(runs), strict=True)
    of_runs = [item for run, name in names for item in read_measurements(run, name, logs[name])]
    return of_base + _with_distinct_names(_without_other_bases(of_runs, of_base))


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
        if item.details not in given and not (item.point.kind in ("base", *BUDGETED) and _identity(item) in others)
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
