# SPDX-License-Identifier: Apache-2.0
"""Read the measurements of a run's model from its folder. No model is loaded."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation import FrontierPoint, accuracy_efficiency_score
from ..evaluation.logs import evaluations, watch_measurements
from ..evaluation.plots import PointKind
from ..evaluation.sets import is_benchmark
from ..evaluation.summaries import CONTROL, differing_settings, records_of_run
from .facts import hub_id


logger = logging.getLogger(__name__)

_TRAINING_SET = "Evaluation set of the training"


@dataclass(frozen=True)
class Figures:
    """
    One model's figures on one set of problems; `None` is not measured.

    Args:
        accuracy (`float`): In [0, 1].
        tokens (`float`): Mean completion length in tokens, EOS included.
        problems, completions (`int`, *optional*): Problems, and completions of each.
        accuracy_interval, tokens_interval (`Sequence[float]`, *optional*): 95 % interval, low and high.
        truncated, empty (`float`, *optional*): Share of completions that were cut, and that hold no token, in [0, 1].
        max_new_tokens (`int`, *optional*): Generation limit.
    """

    accuracy: float
    tokens: float
    problems: int | None = None
    completions: int | None = None
    accuracy_interval: Sequence[float] | None = None
    tokens_interval: Sequence[float] | None = None
    truncated: float | None = None
    empty: float | None = None
    max_new_tokens: int | None = None

    @classmethod
    def of(cls, record: dict[str, Any]) -> Figures:
        """Read a record of a `summary.json`."""
        return cls(
            accuracy=record["accuracy"],
            tokens=record["tokens_mean"],
            problems=record.get("problems"),
            completions=record.get("completions_per_problem"),
            accuracy_interval=record.get("accuracy_interval"),
            tokens_interval=record.get("tokens_interval"),
            truncated=record.get("truncated_fraction"),
            empty=record.get("empty_fraction"),
            max_new_tokens=record.get("max_new_tokens"),
        )


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
    def of(cls, record: dict[str, Any]) -> Source | None:
        """Read a record of a `summary.json`; `None` if the evaluation did not load the set from the Hub."""
        dataset_id = hub_id(record.get("dataset_id"))
        if dataset_id is None:
            return None
        config, split = record.get("dataset_config"), record.get("dataset_split")
        whole = record.get("limit", 0) is None and is_benchmark(dataset_id, config, split)
        return cls(dataset_id, config, split, whole)


@dataclass(frozen=True)
class Comparison:
    """
    A model compared with its base on one set of problems.

    Args:
        dataset (`str`): Name of the set.
        model ([`Figures`]): The run's model.
        base ([`Figures`], *optional*): What it was trained from.
        controls (`dict[str, Figures]`): Other ways to write fewer tokens, by name, such as GRPO without a length reward.
        cuts (`dict[int, Figures]`): The base's completions, truncated at a budget (tokens -> figures): the control for a lower limit.
        checkpoints (`dict[int, Figures]`): The run's checkpoints, by step.
        source ([`Source`], *optional*): Where the problems are from, if that is the Hub.
        note (`str`, *optional*): Sentences that the card prints below the table.
    """

    dataset: str
    model: Figures
    base: Figures | None = None
    controls: dict[str, Figures] = field(default_factory=dict)
    cuts: dict[int, Figures] = field(default_factory=dict)
    checkpoints: dict[int, Figures] = field(default_factory=dict)
    source: Source | None = None
    note: str | None = None

    def points(self, series: str) -> list[FrontierPoint]:
        """Return what a frontier plot shows of this set; `series` is the run's name in the legend."""
        points = [_point(self.base, "base", "base")] if self.base is not None else []
        points += [_point(figures, "", "cut", "base, truncated at a budget") for figures in self.cuts.values()]
        points += [_point(figures, f"step {step}", "checkpoint", series) for step, figures in self.checkpoints.items()]
        points.append(_point(self.model, "this model", "model", series))
        return points + [_point(figures, "", "model", name) for name, figures in self.controls.items()]

    @property
    def efficiency(self) -> float | None:
        """Accuracy-efficiency score with weights 1, 3 and 5; `None` without a base that solves anything."""
        if self.base is None or self.base.accuracy <= 0 or self.base.tokens <= 0:
            return None
        return accuracy_efficiency_score(self.model.accuracy, self.model.tokens, self.base.accuracy, self.base.tokens)


def read_results(
    run: Path, base_model: str | None, repo_id: str | None, log_history: list[dict[str, Any]]
) -> list[Comparison]:
    """
    Return what was measured, from the best source there is.

    Args:
        run (`Path`): The run's folder. Every `summary.json` there or one folder deeper is read (`trl-concise eval`). In a
            folder `control`, `control-NAME` or `control_NAME`, it is that of a control.
        base_model, repo_id (`str`, *optional*): Names under which an evaluation may know the base and this model.
        log_history (`list[dict]`): The run's log. Its evaluations count where there is nothing else, and its measurements of
            the watch set always.

    Returns:
        `list[Comparison]`: One per set of problems, the watch set last; empty if nothing was measured.
    """
    watched = _from_watch(watch_measurements(log_history))
    if records := records_of_run(run):
        return _from_records(records, run, base_model, repo_id) + watched
    evaluated = (_from_log(name, figures) for name, figures in evaluations(log_history).items())
    return [one for one in evaluated if one is not None] + watched


def _from_records(
    records: list[dict[str, Any]], run: Path, base_model: str | None, repo_id: str | None
) -> list[Comparison]:
    def is_own(record: dict[str, Any]) -> bool:
        name = re.sub(r"/checkpoint-\d+$", "", record["model"])  # a folder's model is named by the folder
        return name in (repo_id, run.resolve().name) or Path(name).resolve() == run.resolve()

    base_names = None if base_model is None else (base_model, base_model.rpartition("/")[2])
    comparisons = []
    for dataset in dict.fromkeys(record["dataset"] for record in records):
        of_set = [record for record in records if record["dataset"] == dataset]
        own = [record for record in of_set if is_own(record) and record.get("budget") is None]
        others = [record for record in of_set if not is_own(record) and _checkpoint_step(record["model"]) is None]
        base = [
            record
            for record in others
            if CONTROL not in record and (base_names is None or record["model"] in base_names)
        ]
        if not own:
            continue
        last = max(own, key=lambda record: _checkpoint_step(record["model"]) or math.inf)
        comparable = [record for record in base if not differing_settings(last, record)]
        if base and not comparable:
            logger.warning(
                "The card shows no base on %s: %s. Evaluate both with the same settings.",
                dataset,
                differing_settings(last, base[0]),
            )
        comparisons.append(
            Comparison(
                Path(dataset).name if os.path.isabs(dataset) else dataset,
                Figures.of(last),
                next((Figures.of(record) for record in comparable if record.get("budget") is None), None),
                controls={
                    f"control: {_short_name(record['model'])}": Figures.of(record)
                    for record in others
                    if record not in base and record.get("budget") is None and not differing_settings(last, record)
                },
                cuts={
                    record["budget"]: Figures.of(record) for record in comparable if record.get("budget") is not None
                },
                checkpoints={
                    step: Figures.of(record)
                    for record in own
                    if record is not last
                    and (step := _checkpoint_step(record["model"])) is not None
                    and not differing_settings(last, record)
                },
                source=Source.of(last),
                note=_provenance([record for record in others if record not in base]),
            )
        )
    return comparisons


def _provenance(records: list[dict[str, Any]]) -> str | None:
    """Name the controls that were not measured with the run: their records contain `measured_by`, a command, and `commit`."""
    notes = [
        f"Control {_short_name(record['model'])}: not measured with this run, but by `{record['measured_by']}` at {record['commit']}."
        for record in records
        if {"measured_by", "commit"} <= record.keys()
    ]
    return " ".join(notes) or None


def _short_name(model: str) -> str:
    """Return the last component of a model's name, without characters that end a cell of a Markdown table."""
    return re.sub(r"[^\w .+-]", "", model.rpartition("/")[2])


def _checkpoint_step(model: str) -> int | None:
    found = re.fullmatch(r"checkpoint-(\d+)", Path(model).name)
    return int(found[1]) if found else None


def _from_log(name: str | None, evaluated: dict[int, dict[str, Any]]) -> Comparison | None:
    figures = {
        step: Figures(
            accuracy=one["accuracy"],
            tokens=one["tokens_mean"],
            truncated=one.get("truncated_fraction"),
            empty=one.get("empty_fraction"),
        )
        for step, one in evaluated.items()
    }
    base = figures.pop(0, None)  # `eval_on_start`
    if not figures:
        return None
    *checkpoints, (_, model) = figures.items()
    title = _TRAINING_SET if name is None else f"{name}, evaluated in training"
    return Comparison(title, model, base, checkpoints=dict(checkpoints))


def _from_watch(measured: dict[int, dict[str, Any]]) -> list[Comparison]:
    """Return the watch set at the start and at the end of training, if it was measured more than once."""
    if len(measured) < 2:
        return []
    figures = {step: Figures.of(one) for step, one in measured.items()}
    base = figures.pop(0, None)
    *checkpoints, (last, model) = figures.items()
    failed = [step for step, one in measured.items() if not one["passed"]]
    notes = ["Watch set: greedy completions of a fixed set of problems, measured during training."]
    if last in failed:
        notes.append("**Accuracy on it is lower than before training, by more than the run accepted.**")
    elif failed:
        notes.append(f"Accuracy on it was too low at {len(failed)} of {len(measured)} measurements, not at the last.")
    return [Comparison("Watch set", model, base, checkpoints=dict(checkpoints), note=" ".join(notes))]


def _point(figures: Figures, label: str, kind: PointKind, series: str = "") -> FrontierPoint:
    return FrontierPoint(
        label,
        figures.accuracy,
        figures.tokens,
        kind,
        series,
        _interval(figures.accuracy_interval),
        _interval(figures.tokens_interval),
    )


def _interval(bounds: Sequence[float] | None) -> tuple[float, float] | None:
    if not bounds:
        return None
    low, high = bounds
    return low, high
