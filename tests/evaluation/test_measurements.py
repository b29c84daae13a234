# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

from tests.evaluation.runs import evaluated
from trl_concise.evaluation.measurements import IN_TRAINING, read_measurements, run_names


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


def test_results_of_the_demo(tmp_path):
    figures = {"accuracy": 0.9, "tokens_mean": 50.0, "truncated_fraction": 0.0}
    results = {"base": figures, "trained": figures, "base_cut": figures, "sft_control": None}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert [item.point.kind for item in read_measurements(tmp_path)] == ["base", "cut", "model"]


def test_names_are_as_short_as_possible_but_distinct():
    folders = [Path("/out", *name.split("/")) for name in ("a/x/hapo", "b/x/hapo", "b/y/hapo", "laser")]
    assert run_names(folders) == ["a/x/hapo", "b/x/hapo", "y/hapo", "laser"]
