# SPDX-License-Identifier: Apache-2.0
"""The comparison of methods carries on where it was interrupted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_method_takes_a_step_and_finished_runs_are_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import methods

    command = ["methods.py", "--tokens", "1", "--problems", "4", "--seeds", "0", "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--at_most", "3"])
    methods.main()
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(first) == 3
    monkeypatch.setattr(sys, "argv", command)
    capsys.readouterr()
    methods.main()
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert sorted(run["method"] for run in runs) == sorted(["base", *methods.METHODS])
    assert all(run["steps"] == 1 and run["generated_tokens"] > 1 for run in runs if run["method"] != "base")
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert capsys.readouterr().out.count("\n| ") == len(runs) + 1 and (tmp_path / "frontier.png").is_file()
