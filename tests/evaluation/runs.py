# SPDX-License-Identifier: Apache-2.0
"""Folders of runs, as training and evaluation leave them, without either."""

from __future__ import annotations

import json
from pathlib import Path


def record(model: str, accuracy: float, tokens: float, **changes) -> dict:
    return {
        "dataset": "gsm8k",
        "model": model,
        "accuracy": accuracy,
        "accuracy_interval": [accuracy - 0.02, accuracy + 0.02],
        "tokens_mean": tokens,
        "tokens_interval": [tokens - 3, tokens + 3],
        "truncated_fraction": 0.0,
        "empty_fraction": 0.0,
        "budget": None,
        **changes,
    }


LOG = [
    {"step": 0, "eval_accuracy": 0.9, "eval_tokens_mean": 100.0, "eval_truncated_fraction": 0.1},
    {"step": 5, "accuracy": 0.85, "completions/mean_length": 90.0},
    {
        "step": 10,
        "eval_accuracy": 0.88,
        "eval_tokens_mean": 60.0,
        "eval_hard_accuracy": 0.3,
        "eval_hard_tokens_mean": 99.0,
    },
]


def evaluated(folder: Path) -> Path:
    """A training with a log, two checkpoints and its model evaluated, and the base beside it."""
    files = {
        "trainer_state.json": {"log_history": LOG},
        "eval-120/summary.json": [record("concise/checkpoint-120", 0.9, 70)],
        "eval-60/summary.json": [record("concise/checkpoint-60", 0.88, 80)],
        "eval/summary.json": [record("concise", 0.91, 50)],
        "eval_base/summary.json": [record("org/base", 0.92, 100), record("org/base", 0.5, 48, budget=50)],
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def a_run(folder: Path, base_accuracy: float, base_tokens: float, *records: dict) -> Path:
    """A training with an evaluation before the first step and one after."""
    log = [
        {"step": 0, "eval_accuracy": base_accuracy, "eval_tokens_mean": base_tokens},
        {"step": 10, "eval_accuracy": base_accuracy, "eval_tokens_mean": base_tokens / 2},
    ]
    (folder / "eval").mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    (folder / "eval" / "summary.json").write_text(json.dumps(records))
    return folder
