# SPDX-License-Identifier: Apache-2.0
"""Read the log of a training run from its folder."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"


def read_log_history(run: Path) -> list[dict[str, Any]]:
    """
    Return the log of a run: of its folder, else of its latest checkpoint, else nothing. A file that was cut off, by a run that
    was killed while it wrote, is left out with a warning.
    """
    checkpoints = ((_step(path.parent), path) for path in run.glob(f"checkpoint-*/{TRAINER_STATE}"))
    latest_first = sorted(((step, path) for step, path in checkpoints if step is not None), reverse=True)
    for path in [run / TRAINER_STATE, *(path for _, path in latest_first)]:
        if not path.is_file():
            continue
        try:
            return json.loads(path.read_text(encoding="utf-8"))["log_history"]
        except ValueError:
            logger.warning("%s is damaged: expected JSON. It is left out.", path)
    return []


def evaluations(log_history: list[dict[str, Any]]) -> dict[str | None, dict[int, dict[str, Any]]]:
    """
    Return what was measured in training.

    Args:
        log_history (`list[dict]`): The run's log.

    Returns:
        `dict`: Name of the evaluation set (`None` if there is only one, without a name) -> step -> `accuracy`, `tokens_mean`
        and the other figures of [`EvaluationLog.finish`]. Evaluations without a finite accuracy are left out.
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


def watch_measurements(log_history: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """
    Return what [`WatchSet`] measured in training.

    Args:
        log_history (`list[dict]`): The run's log.

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


def _step(checkpoint: Path) -> int | None:
    step = checkpoint.name.removeprefix("checkpoint-")
    return int(step) if step.isdecimal() else None  # otherwise a copy of the user's


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
