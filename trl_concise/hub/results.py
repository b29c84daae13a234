# SPDX-License-Identifier: Apache-2.0
"""The results that a model card shows: on each problem set, a run's model next to its base and controls."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..evaluation import FrontierPoint, accuracy_efficiency_score
from ..evaluation.metrics import LEAST_BASE_ACCURACY
from ..evaluation.plots import BUDGETED
from ..evaluation.runs import IN_TRAINING, WATCH_SET, Measurement, read_measurements
from ..evaluation.sets import is_benchmark
from ..evaluation.summaries import differing_settings
from .facts import hub_id


logger = logging.getLogger(__name__)

TITLES = {
    IN_TRAINING: "Evaluation set of the training",
    WATCH_SET: "Watch set",
}


@dataclass(frozen=True)
class Source:
    """
    Where a set of problems is from.

    Args:
        hub_id (`str`): Id of the dataset on the Hub.
        config, split (`str`, *optional*): Its configuration, and the split, or slice of one.
        whole (`bool`): Whether these are the problems by which it is known as a benchmark, all of them.
    """

    hub_id: str
    config: str | None
    split: str | None
    whole: bool

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Source | None:
        """Read a record of a `summary.json`; `None` if the evaluation did not load the set from the Hub."""
        dataset_id = hub_id(record.get("dataset_id"))
        if dataset_id is None:
            return None
        config, split = record.get("dataset_config"), record.get("dataset_split")
        whole = is_benchmark(dataset_id, config, split) and record.get("limit", 0) is None
        return cls(dataset_id, config, split, whole)


@dataclass(frozen=True)
class Comparison:
    """
    A model compared with its base on one problem set.

    Args:
        dataset (`str`): Name of the set.
        model ([`Measurement`]): The run's model.
        base ([`Measurement`], *optional*): What it was trained from.
        controls (`dict[str, Measurement]`): Other ways to write fewer tokens, by name, such as GRPO without a length reward.
        cuts (`dict[int, Measurement]`): The base's completions, truncated at a budget (tokens -> figures): the control for a
            lower limit.
        checkpoints (`dict[int, Measurement]`): The run's checkpoints, by step.
        source ([`Source`], *optional*): Where the problems are from, if that is the Hub.
        note (`str`, *optional*): Sentences that the card prints below the table.
    """

    dataset: str
    model: Measurement
    base: Measurement | None = None
    controls: dict[str, Measurement] = field(default_factory=dict)
    cuts: dict[int, Measurement] = field(default_factory=dict)
    checkpoints: dict[int, Measurement] = field(default_factory=dict)
    source: Source | None = None
    note: str | None = None

    @property
    def is_benchmark(self) -> bool:
        """Whether these are the problems by which the set is known as a benchmark, all of them."""
        return self.source is not None and self.source.whole

    def points(self, series: str) -> list[FrontierPoint]:
        """Return what a frontier plot shows of this set; `series` is the run's name in the legend."""
        points = [self.base.point] if self.base is not None else []
        points += [replace(one.point, label="", series="base, truncated at a budget") for one in self.cuts.values()]
        points += [replace(one.point, series=series) for one in self.checkpoints.values()]
        points.append(replace(self.model.point, label="this model", kind="model", series=series))
        return points + [replace(one.point, label="", series=name) for name, one in self.controls.items()]

    def efficiency(self, other: Measurement | None = None) -> float | None:
        """
        Return the accuracy-efficiency score of the model, or of another one, with weights 1, 3 and 5. `None` without a base
        that solves a tenth of the problems.
        """
        if self.base is None or self.base.accuracy < LEAST_BASE_ACCURACY or self.base.tokens <= 0:
            return None
        one = other or self.model
        return accuracy_efficiency_score(one.accuracy, one.tokens, self.base.accuracy, self.base.tokens)


def read_results(run: Path, log_history: Sequence[Mapping[str, Any]] | None = None) -> list[Comparison]:
    """
    Return what was measured, from the best source there is: `trl-concise eval`, else the evaluations in training; and what was measured on the watch set.

    Args:
        run (`Path`): The run's folder.
        log_history (`Sequence[Mapping]`, *optional*): Log of a run whose folder does not contain the newest one.

    Returns:
        `list[Comparison]`: One per problem set, the watch set last; empty if nothing was measured.
    """
    measured = read_measurements(run, log_history=log_history)
    for source in ("eval", "training"):
        if best := [item for item in measured if item.source == source]:
            break
    best += [item for item in measured if item.source == "watch"]
    sets: dict[str, list[Measurement]] = {}
    for item in best:
        sets.setdefault(item.dataset, []).append(item)
    return [one for items in sets.values() if (one := _compare(items)) is not None]


def _compare(items: list[Measurement]) -> Comparison | None:
    """Compare what was measured on one problem set; `None` if the run's model was not."""
    own = [item for item in items if item.own and item.point.kind not in BUDGETED]
    bases = [item for item in items if item.point.kind == "base"]
    if not own or (own[0].source == "watch" and len(items) < 2):
        return None
    last = max(own, key=lambda item: item.details["step"] if item.point.kind == "checkpoint" else math.inf)
    same = [item for item in items if not differing_settings(last.details, item.details)]
    base = next((item for item in bases if item in same), None)
    dataset = last.dataset
    if bases and base is None:
        logger.warning(
            "The card shows no base on %s: %s. Evaluate both with the same settings.",
            dataset,
            differing_settings(last.details, bases[0].details),
        )
    of_base = (
        [item for item in same if item.details.get("model") == base.details.get("model")] if base is not None else []
    )
    return Comparison(
        TITLES.get(dataset, Path(dataset).name if os.path.isabs(dataset) else dataset),
        last,
        base,
        controls={
            f"control: {_short_name(item.point.series)}": item
            for item in same
            if item.point.kind == "model" and not item.own
        },
        cuts={item.details["step"]: item for item in of_base if item.point.kind == "cut"},
        checkpoints={item.details["step"]: item for item in own if item in same and item is not last},
        source=Source.of(last.details),
        note=_watch_note(items) if last.source == "watch" else _provenance(items),
    )


def _watch_note(items: list[Measurement]) -> str:
    failed = [item for item in items if not item.details["passed"]]
    notes = ["Watch set: greedy completions of a fixed set of problems, measured during training."]
    if items[-1] in failed:
        notes.append("**Accuracy on it is lower than before training, by more than the run accepted.**")
    elif failed:
        notes.append(f"Accuracy on it was too low at {len(failed)} of {len(items)} measurements, not at the last.")
    return " ".join(notes)


def _provenance(items: list[Measurement]) -> str | None:
    """Name the controls that were not measured with the run: their records contain `measured_by`, a command, and `commit`."""
    elsewhere: dict[tuple[str, str], list[str]] = {}
    for item in items:
        if item.point.kind == "model" and not item.own and {"measured_by", "commit"} <= item.details.keys():
            place = item.details["measured_by"], item.details["commit"]
            elsewhere.setdefault(place, []).append(_short_name(item.point.series))
    notes = [
        f"Control{'s' * (len(names) > 1)} {' and '.join(names)}: not measured with this run, but by `{command}` at {commit}."
        for (command, commit), names in elsewhere.items()
    ]
    return " ".join(notes) or None


def _short_name(model: str) -> str:
    """Return the last component of a model's name, without characters that end a cell of a Markdown table."""
    return re.sub(r"[^\w .+-]", "", model.rpartition("/")[2])
