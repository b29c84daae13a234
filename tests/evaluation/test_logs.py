# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys

from trl_concise.evaluation.logs import TRAINER_STATE, evaluations, read_log_history


def test_the_log_is_the_folders_else_that_of_the_latest_checkpoint(tmp_path):
    assert read_log_history(tmp_path) == []
    for name in ("checkpoint-best", "checkpoint-1-copy"):  # somebody's copies
        (tmp_path / name).mkdir()
        (tmp_path / name / TRAINER_STATE).write_text(json.dumps({"log_history": [{"step": 99}]}))
    assert read_log_history(tmp_path) == []
    for place, step in (("checkpoint-9", 9), ("checkpoint-10", 10), (".", 12)):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / TRAINER_STATE).write_text(json.dumps({"log_history": [{"step": step}]}))
        assert read_log_history(tmp_path) == [{"step": step}]


def test_a_truncated_log_is_ignored(tmp_path, caplog):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / TRAINER_STATE).write_text('{"log_history": [{"st')
    (tmp_path / "checkpoint-1" / TRAINER_STATE).write_text('{"log_history": [{"step": 1}]}')
    assert read_log_history(tmp_path) == [{"step": 1}]
    assert "trainer_state.json is damaged" in caplog.text


def test_evaluations_of_one_set_and_of_several():
    log = [
        {"step": 1, "eval_accuracy": 0.5, "eval_tokens_mean": 9.0, "eval_truncated_fraction": 0.1, "eval_loss": 1.0},
        {"step": 1, "eval_hard_accuracy": 0.2, "eval_hard_tokens_mean": 8.0, "eval_hard_tokens_correct_mean": 7.0},
        {"step": 2, "eval_hard_accuracy": float("nan"), "eval_hard_tokens_mean": 8.0},
        {"step": 3, "accuracy": 0.5, "tokens_mean": 8.0},
    ]
    assert evaluations(log) == {
        None: {1: {"accuracy": 0.5, "tokens_mean": 9.0, "truncated_fraction": 0.1, "loss": 1.0}},
        "hard": {1: {"accuracy": 0.2, "tokens_mean": 8.0, "tokens_correct_mean": 7.0}},
    }


def test_a_report_does_not_need_the_hub():
    script = (
        "import sys, trl_concise.evaluation.report; print([name for name in sys.modules if '_concise.hub' in name])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
