# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.evaluation.runs import a_run, evaluated, record
from tests.evaluation.test_summaries import FOREIGN
from tests.hub.test_card import FACTS
from trl_concise.evaluation.measurements import find_bases
from trl_concise.evaluation.report import main
from trl_concise.evaluation.runs import (
    FACTS_FILE,
    IN_TRAINING,
    TRAINER_STATE,
    evaluations,
    read_log_history,
    read_measurements,
)


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


@pytest.mark.parametrize(
    "content", ['{"log_history": [{"st', "[]", "{}", '{"log_history": 3}', '{"log_history": [3]}']
)
def test_a_damaged_log_is_skipped_with_one_warning(content, tmp_path, caplog):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / TRAINER_STATE).write_text(content)
    (tmp_path / "checkpoint-1" / TRAINER_STATE).write_text('{"log_history": [{"step": 1, "accuracy": 0.5}]}')
    assert read_log_history(tmp_path) == [{"step": 1, "accuracy": 0.5}]
    caplog.clear()
    assert main([str(tmp_path)]) == 0  # `trl-concise report`
    assert caplog.text.count("trainer_state.json is damaged") == 1


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


def test_measurements_of_a_run(tmp_path):
    measured = read_measurements(evaluated(tmp_path / "concise"))
    of_set = [item.point for item in measured if item.dataset == "gsm8k"]
    assert [(point.kind, point.label) for point in of_set] == [
        ("base", "base"),
        ("cut", "50"),
        ("checkpoint", "step 60"),
        ("checkpoint", "step 120"),
        ("model", "concise"),
    ]
    in_training = [item.point for item in measured if item.dataset == IN_TRAINING]
    assert [(point.kind, point.accuracy, point.tokens) for point in in_training] == [
        ("base", 0.9, 100.0),
        ("checkpoint", 0.88, 60.0),
    ]
    assert [item.point.accuracy for item in measured if item.dataset == "hard, evaluated in training"] == [0.3]


def test_a_control_is_not_taken_for_the_base(tmp_path, caplog):
    run = evaluated(tmp_path / "concise")
    for folder, model in (("control-grpo", "org/grpo"), ("control", "org/sft"), ("controlled", "org/base")):
        (run / folder).mkdir()
        (run / folder / "summary.json").write_text(json.dumps([record(model, 0.95, 60, dataset="math500")]))
    measured = [item for item in read_measurements(run) if item.dataset == "math500"]
    kinds = {item.details["model"]: (item.point.kind, item.point.label) for item in measured}
    assert kinds == {"org/grpo": ("model", "grpo"), "org/sft": ("model", "sft"), "org/base": ("base", "base")}
    assert {item.details["model"] for item in find_bases(measured).values()} == {"org/base"}
    assert "it is unknown which" not in caplog.text


@pytest.mark.parametrize("content", FOREIGN)
def test_files_of_other_programs_are_skipped(content, tmp_path, caplog):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "summary.json").write_text(json.dumps([record("ours", 0.5, 100.0)]))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "summary.json").write_text(content)
    assert [item.details["model"] for item in read_measurements(tmp_path)] == ["ours"]
    assert "theirs" in caplog.text and "It is skipped" in caplog.text


def test_the_base_is_the_one_that_the_run_started_from(tmp_path):
    run = a_run(
        tmp_path / "mine", 0.5, 99, record("org/grpo", 0.8, 80), record("base", 0.7, 90), record("mine", 0.7, 50)
    )
    kinds = {item.details["model"]: item.point.kind for item in read_measurements(run) if item.source == "eval"}
    assert kinds == {"org/grpo": "base", "base": "base", "mine": "model"}  # unknown which
    (run / FACTS_FILE).write_text(json.dumps({**FACTS, "base_model": "org/base", "repo_id": "org/mine"}))
    (run / "eval" / "summary.json").write_text(
        json.dumps([record("org/grpo", 0.8, 80), record("base", 0.7, 90), record("org/mine", 0.7, 50)])
    )
    measured = {item.details["model"]: item for item in read_measurements(run) if item.source == "eval"}
    assert {name: (item.point.kind, item.own) for name, item in measured.items()} == {
        "org/grpo": ("model", False),
        "base": ("base", False),
        "org/mine": ("model", True),
    }


def test_an_evaluation_without_a_finite_accuracy_is_left_out(tmp_path):
    log = [
        {"step": step, "eval_accuracy": value, "eval_tokens_mean": 9.0}
        for step, value in ((1, 0.5), (2, float("nan")))
    ]
    (tmp_path / TRAINER_STATE).write_text(json.dumps({"log_history": log}))
    assert [item.details["step"] for item in read_measurements(tmp_path)] == [1]
