# SPDX-License-Identifier: Apache-2.0
"""Reads a run's folder: its facts, its log, and what has been measured. No model is loaded."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .plots import FrontierPoint, PointKind
from .summaries import SUMMARY_FILE, public_name, read_json, read_summary


logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
FACTS_FILE = "run.json"
LAST_CHECKPOINT = "last-checkpoint"  # transformers' name for the folder in the repository
IN_TRAINING = "evaluation set of the training"
WATCH_SET = "watch set"
CONTROL = "control"
_FACTS = ("model_name", "tags", "versions")  # in every run.json
_ORDER: dict[PointKind, int] = {"base": 0, "cut": 1, "stopped": 1, "checkpoint": 2, "model": 3}


@dataclass(frozen=True)
class Measurement:
    """
    A model measured on a problem set.

    Args:
        dataset (`str`): Name of the problem set.
        point ([`FrontierPoint`]): Accuracy and tokens.
        details (`dict`): The figures under their names in `summary.json`, and `step`: the training step, or the budget of a
            truncation.
        run (`str`, *optional*): Name of the run it was read from. `None` for the base model that all are compared with.
        source (`str`): Where it was measured: by `trl-concise eval`, or in training on an evaluation set or on the watch set.
        own (`bool`): Whether it is the run's model or one of its checkpoints.
    """

    dataset: str
    point: FrontierPoint
    details: Mapping[str, Any]
    run: str | None = None
    source: Literal["eval", "training", "watch"] = "eval"
    own: bool = False

    @property
    def accuracy(self) -> float:
        """Accuracy, in [0, 1]."""
        return self.point.accuracy

    @property
    def tokens(self) -> float:
        """Mean completion length in tokens, EOS included."""
        return self.point.tokens


def read_measurements(
    run: Path, name: str | None = None, log_history: Sequence[Mapping[str, Any]] | None = None
) -> list[Measurement]:
    """
    Read the measurements of a run: every `summary.json` in its folder or one folder deeper, and the log of its training. In a
    folder `control`, `control-NAME` or `control_NAME`, any model is a control: neither the run's own nor its base.

    Args:
        run (`Path`): The run's folder.
        name (`str`, *optional*): Name of the run. Defaults to the folder's.
        log_history (`Sequence[Mapping]`, *optional*): Log of a run whose folder does not contain the newest one.

    Returns:
        `list[Measurement]`: On each problem set, bases first, then truncations, checkpoints in order, and models.
    """
    name = name or run.resolve().name
    log = log_history if log_history is not None else read_log_history(run)
    facts = read_facts(run) if (run / FACTS_FILE).is_file() else {}
    base = facts.get("base_model")
    bases = {base, base.rpartition("/")[2]} if base is not None else None
    found = [*_in_training(log, name), *_of_watch_set(log, name)]
    for record in _records(run):
        model, _ = _split_checkpoint(record["model"])
        own = model in (run.resolve().name, facts.get("repo_id")) or Path(model).resolve() == run.resolve()
        may_be_base = bool(log or facts) and CONTROL not in record and (bases is None or record["model"] in bases)
        found.append(of_record(record, name, own=own, is_base=not own and may_be_base))
    sets = list(dict.fromkeys(item.dataset for item in found))
    return sorted(found, key=lambda item: (sets.index(item.dataset), _ORDER[item.point.kind], item.details["step"]))


def of_record(record: Mapping[str, Any], run: str | None, *, own: bool = False, is_base: bool = False) -> Measurement:
    """
    Convert a record of `summary.json`.

    Args:
        record (`Mapping`): The record.
        run (`str`, *optional*): Name of the run.
        own (`bool`, *optional*, defaults to `False`): Whether it is the run's model or a checkpoint of it.
        is_base (`bool`, *optional*, defaults to `False`): Whether it is the base model.
    """
    model, step = _split_checkpoint(record["model"])
    series = (run or model) if own else model
    budget = record.get("budget")
    if budget is not None:
        name = f"{series}/checkpoint-{step}" if step is not None else series
        kind, label, series = "cut", f"{budget:,}", f"{name}, truncated at a budget"
        if record.get("thinking_budget") is not None:
            kind, series = "stopped", f"{name}, thinking stopped at a budget"
    elif is_base:
        kind, label, series = "base", "base", ""
    elif step is not None:
        kind, label = "checkpoint", f"step {step}"
    else:
        kind, label = "model", series if own else series.rpartition("/")[2]
    details = {**record, "step": budget if budget is not None else step or 0}
    return _measurement(record["dataset"], kind, label, series, details, run, own=own)


def read_facts(folder: str | Path) -> dict[str, Any]:
    """
    Read the `run.json` that a trainer has written.

    Raises:
        `FileNotFoundError`: If the folder is not one of a run.
        `ValueError`: If the file is damaged.
    """
    path = Path(folder, FACTS_FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. A trainer of trl_concise writes it into its output folder at each checkpoint and in "
            "create_model_card(). Give the output folder of a training."
        )
    facts = read_json(path)
    if not isinstance(facts, dict) or not facts.keys() >= {*_FACTS}:
        raise ValueError(
            f"{path} is damaged: expected a JSON object with {', '.join(_FACTS)}. Copy it from a checkpoint of the run, or "
            "train again."
        )
    return facts


def read_log_history(run: Path) -> list[dict[str, Any]]:
    """
    Return the log of a run: of its folder, else of its latest checkpoint, else nothing. A damaged file, for example of a run
    that was killed while it wrote, is skipped with a warning.
    """
    checkpoints = (
        (_split_checkpoint(str(path.parent))[1], path) for path in run.glob(f"checkpoint-*/{TRAINER_STATE}")
    )
    latest_first = sorted(((step, path) for step, path in checkpoints if step is not None), reverse=True)
    for path in [run / TRAINER_STATE, *(path for _, path in latest_first)]:
        if not path.is_file():
            continue
        state = read_json(path)
        log = state.get("log_history") if isinstance(state, dict) else None
        if isinstance(log, list) and all(isinstance(entry, dict) for entry in log):
            return log
        logger.warning("%s is damaged: expected a JSON object with a log_history. It is skipped.", path)
    return []


def evaluations(log_history: Sequence[Mapping[str, Any]]) -> dict[str | None, dict[int, dict[str, Any]]]:
    """
    Return the evaluations in training.

    Args:
        log_history (`Sequence[Mapping]`): The run's log.

    Returns:
        `dict`: Name of the evaluation set (`None` if there is one without a name) -> step -> `accuracy`, `tokens_mean`
        and the other figures of [`EvaluationLog.finish`]. An evaluation without a finite accuracy is left out.
    """
    found: dict[str | None, dict[int, dict[str, Any]]] = {}
    for log in log_history:
        for key in log:
            match = re.fullmatch(r"eval_(?:(.+)_)?tokens_mean", key)
            if match is None:
                continue
            prefix = key.removesuffix("tokens_mean")
            figures = {name.removeprefix(prefix): value for name, value in log.items() if name.startswith(prefix)}
            if all(_is_finite(figures.get(name)) for name in ("accuracy", "tokens_mean")):
                found.setdefault(match[1], {})[log["step"]] = figures
    return found


def watch_measurements(log_history: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """
    Return what [`WatchSet`] measured in training.

    Args:
        log_history (`Sequence[Mapping]`): The run's log.

    Returns:
        `dict`: Step -> `accuracy` and `tokens_mean`, each with its interval (`accuracy_interval`, `tokens_interval`),
        `truncated_fraction`, and `passed`: whether accuracy was not below that at the start by more than was accepted.
    """
    return {
        log["step"]: {
            "accuracy": log["watch/accuracy"],
            "accuracy_interval": [log["watch/accuracy_low"], log["watch/accuracy_high"]],
            "tokens_mean": log["watch/tokens"],
            "tokens_interval": [log["watch/tokens_low"], log["watch/tokens_high"]],
            "truncated_fraction": log["watch/truncated_fraction"],
            "passed": log["watch/passed"] == 1,
        }
        for log in log_history
        if _is_finite(log.get("watch/accuracy"))
    }


def _in_training(log: Sequence[Mapping[str, Any]], run: str) -> Iterator[Measurement]:
    for name, evaluated in evaluations(log).items():
        dataset = f"{public_name(name)}, evaluated in training" if name is not None else IN_TRAINING
        for step, figures in evaluated.items():
            yield _of_step(dataset, step, figures, run, "training")


def _of_watch_set(log: Sequence[Mapping[str, Any]], run: str) -> Iterator[Measurement]:
    for step, figures in watch_measurements(log).items():
        yield _of_step(WATCH_SET, step, figures, run, "watch")


def _of_step(dataset: str, step: int, figures: Mapping[str, Any], run: str, source: Any) -> Measurement:
    """Convert what was measured at a step of the training. Before the first step, it is the base."""
    kind, label, series = ("base", "base", "") if step == 0 else ("checkpoint", f"step {step}", run)
    return _measurement(dataset, kind, label, series, {**figures, "step": step}, run, source, own=step > 0)


def _measurement(
    dataset: str,
    kind: Any,
    label: str,
    series: str,
    details: Mapping[str, Any],
    run: str | None,
    source: Any = "eval",
    *,
    own: bool,
) -> Measurement:
    intervals = (details.get("accuracy_interval"), details.get("tokens_interval"))
    accuracy_interval, tokens_interval = ((bounds[0], bounds[1]) if bounds else None for bounds in intervals)
    point = FrontierPoint(
        label, details["accuracy"], details["tokens_mean"], kind, series, accuracy_interval, tokens_interval
    )
    return Measurement(dataset, point, details, run, source, own)


def _records(run: Path) -> list[dict[str, Any]]:
    """Read every `summary.json` in a folder or one folder deeper. Files of other programs are skipped with a warning."""
    records = []
    for path in [run / SUMMARY_FILE, *sorted(run.glob(f"*/{SUMMARY_FILE}"))]:
        if path.is_file():
            is_control = path.parent != run and re.split("[-_]", path.parent.name)[0] == CONTROL
            try:
                records += [{**record, CONTROL: True} if is_control else record for record in read_summary(path)]
            except ValueError as error:
                logger.warning("%s It is skipped.", error)
    return records


def _split_checkpoint(model: str) -> tuple[str, int | None]:
    """Split the name of a checkpoint into that of its run and the step. Any other name has no step."""
    match = re.fullmatch(r"(.*)/checkpoint-(\d+)", model)
    return (match[1], int(match[2])) if match is not None else (model, None)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
