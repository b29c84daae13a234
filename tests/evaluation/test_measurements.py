# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

from tests.evaluation.runs import evaluated, record
from trl_concise.evaluation.measurements import IN_TRAINING, find_bases, read_measurements, run_names


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
    assert [item.point.accuracy for item in measured if item.dataset == f"{IN_TRAINING}, hard"] == [0.3]


def test_a_control_is_not_taken_for_the_base(tmp_path, caplog):
    run = evaluated(tmp_path / "concise")
    (run / "control-grpo").mkdir()
    (run / "control-grpo" / "summary.json").write_text(json.dumps([record("org/grpo", 0.95, 60)]))
    measured = read_measurements(run)
    (control,) = (item for item in measured if item.point.series == "org/grpo")
    assert control.point.kind == "model" and control.point.label == "grpo"
    assert {item.details["model"] for item in find_bases(measured).values() if "model" in item.details} == {"org/base"}
    assert "it is unknown which" not in caplog.text


def test_names_are_as_short_as_possible_but_distinct():
    folders = [Path("/out", *name.split("/")) for name in ("a/x/hapo", "b/x/hapo", "b/y/hapo", "laser")]
    assert run_names(folders) == ["a/x/hapo", "b/x/hapo", "y/hapo", "laser"]
