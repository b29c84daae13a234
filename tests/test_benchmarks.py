# SPDX-License-Identifier: Apache-2.0
"""The scripts of the benchmarks run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trl_concise import demo


ROOT = Path(__file__).parents[1]


def run(module, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
    module.main()


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let tests import the scripts, which set the number of threads to the tests' own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_the_comparison_has_a_control_and_harder_problems(tmp_path, monkeypatch, capsys):
    import methods

    command = [
        "--operations",
        "2",
        "--tokens",
        "1",
        "--problems",
        "4",
        "--seeds",
        "0",
        "1",
        "--output_dir",
        str(tmp_path),
    ]
    run(methods, monkeypatch, *command, "--methods", "GRPO", "HAPO", "--at_most", "2")
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/training.json")}
    assert len(first) == 2
    capsys.readouterr()
    run(methods, monkeypatch, *command, "--methods", "GRPO", "HAPO")
    assert {path: path.stat().st_mtime_ns for path in first} == first  # not repeated
    printed = capsys.readouterr().out
    tables = printed.split("operations\n\n")[1:]
    assert [word for word in ("2", "3", "4") if f"\n{word} operations\n\n" in printed] == ["2", "3", "4"]
    for table in tables:
        rows = {row.split(" | ")[0].strip("| "): row.split("|") for row in table.splitlines() if row.startswith("| ")}
        assert list(rows) == ["Method", "before training", "GRPO", "HAPO"]
        assert rows["GRPO"][4].strip() == "" and "[" in rows["HAPO"][4]  # against GRPO, with an interval
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("*/training.json")]
    assert all(one["steps"] == 1 and one["generated_tokens"] > 1 for one in runs if one["method"] != "before training")
    datasets = {record["dataset"] for record in json.loads((tmp_path / "HAPO-1" / "summary.json").read_text())}
    assert datasets == {"2 operations", "3 operations", "4 operations"}


@pytest.mark.slow
def test_every_method_takes_a_step(tmp_path, monkeypatch):
    import methods

    run(methods, monkeypatch, "--tokens", "1", "--problems", "4", "--seeds", "0", "--output_dir", str(tmp_path))
    found = [json.loads(path.read_text())["method"] for path in tmp_path.glob("*/training.json")]
    assert sorted(found) == sorted(["before training", *methods.METHODS])


@pytest.mark.slow
def test_the_controls_of_the_demo_are_measured(tmp_path, monkeypatch):
    import demo_controls

    monkeypatch.setattr(demo_controls, "EPOCHS", 1)
    command = ["--tokens", "1", "--problems", "2", "--training_problems", "8", "--seeds", "0", "1"]
    run(demo_controls, monkeypatch, *command, "--work_dir", str(tmp_path / "runs"), "--output_dir", str(tmp_path))
    for name in ("grpo", "sft"):
        records = json.loads((tmp_path / name / "summary.json").read_text())
        assert [record["dataset"] for record in records] == ["demo", "demo_harder", "demo_hardest"]
        assert all(record["problems"] == 2 and record["completions_per_problem"] == 2 for record in records)
        assert ("generated_tokens" in records[0]) == (name == "grpo")


def test_learning_when_to_think(tmp_path, monkeypatch, capsys):
    import thinking

    demo.two_mode_model(tmp_path / "two-modes", steps=1)
    command = [
        "--seeds",
        "0",
        "--methods",
        "AdaptThink",
        "--tokens",
        "1",
        "--problems",
        "4",
        "--training_problems",
        "8",
    ]
    command += ["--reference_completions", "1", "--output_dir", str(tmp_path)]
    run(thinking, monkeypatch, *command)
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith(("| 2 operations", "| 3 operations"))]
    assert [row.split(" | ")[1] for row in rows] == ["always thinks", "before training", "AdaptThink"] * 2
    assert (tmp_path / "modes.png").is_file()
    assert json.loads((tmp_path / "AdaptThink-0" / "training.json").read_text())["steps"] == 1
    run(thinking, monkeypatch, *command)
    assert "AdaptThink, seed 0" not in capsys.readouterr().out  # not repeated
