# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluation.runs import LOG, a_run, evaluated, record
from trl_concise.cli.commands import main
from trl_concise.evaluation.report import markdown_table, report, training_curves
from trl_concise.evaluation.runs import IN_TRAINING, read_measurements


@pytest.fixture
def run(tmp_path):
    return evaluated(tmp_path / "concise")


def test_table(run):
    lines = markdown_table(read_measurements(run)).splitlines()
    row = next(line for line in lines if "| concise |" in line)
    assert "91.0% [89.0, 93.0] | 50.0 [47.0, 53.0] | 50.0% | +0.446" in row  # 0.5 - 5 * 0.01 / 0.92
    assert any("org/base, truncated at a budget: 50" in line for line in lines)


def test_differently_measured_results_are_not_compared(run):
    (run / "eval" / "summary.json").write_text(json.dumps([record("concise", 0.91, 50, max_new_tokens=256)]))
    base = [record("org/base", 0.92, 100, max_new_tokens=4096)]
    (run / "eval_base" / "summary.json").write_text(json.dumps(base))
    table = markdown_table(read_measurements(run))
    assert "| concise | 91.0% [89.0, 93.0] | 50.0 [47.0, 53.0] |  |  |" in table
    assert "- gsm8k, concise: max_new_tokens is 256, for the base 4096." in table
    assert "| 80.0 [77.0, 83.0] | 20.0% |" in table  # of an earlier version, which did not say


def test_curves():
    panels = training_curves({"a": LOG})
    assert panels["Accuracy"] == {"a, training": ([5], [0.85]), "a, evaluation": ([0, 10], [0.9, 0.88])}
    assert panels["Truncated fraction"] == {"a, evaluation": ([0], [0.1])}
    assert training_curves({"a": []}) == {}


def test_files(run, tmp_path):
    written = report([run])
    in_files = {name.partition(".")[0] for name in written} - {"report"}
    assert in_files == {"frontier", "frontier_gsm8k", "frontier_hard_evaluated_in_training", "curves"}
    assert all(path.is_file() and path.parent == run / "plots" for path in written.values())
    assert (run / "plots" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in (run / "plots" / "report.md").read_text()


def test_command_with_another_base_and_several_runs(run, tmp_path, capsys, caplog):
    other = tmp_path / "other"
    other.mkdir()
    (other / "summary.json").write_text(json.dumps([record("org/other", 0.8, 40)]))
    arguments = [str(run), str(other), "--base", str(run / "eval_base"), "--output_dir", str(tmp_path / "plots")]
    assert main(["report", *arguments]) == 0
    output = capsys.readouterr().out
    assert output.count("| gsm8k | base (org/base) |") == 1
    assert "Tokens saved" in output and f"| {IN_TRAINING} | concise, base | 90.0%" in output
    assert "is left out" not in caplog.text
    assert "| gsm8k | org/other | 80.0%" in output
    assert (tmp_path / "plots" / "frontier.svg").is_file()


def rows(table: Path) -> list[list[str]]:
    """Cells of the table: problems, model, accuracy, tokens, tokens saved, score, truncated, empty."""
    lines = [line for line in table.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[1:]]


def test_each_run_is_compared_with_its_own_base(tmp_path):
    small = a_run(tmp_path / "small", 0.5, 1000, record("org/1.5B", 0.5, 1000), record("small", 0.5, 500))
    big = a_run(tmp_path / "big", 0.9, 400, record("org/7B", 0.9, 400), record("big", 0.9, 200))
    scores = {(row[0], row[1]): tuple(row[4:6]) for row in rows(report([small, big])["report.md"])}
    half = ("50.0%", "+0.500")
    assert scores == {
        (IN_TRAINING, "small, base"): ("", ""),
        (IN_TRAINING, "small, step 10"): half,
        ("gsm8k", "base (org/1.5B)"): ("", ""),
        ("gsm8k", "small"): half,
        (IN_TRAINING, "big, base"): ("", ""),
        (IN_TRAINING, "big, step 10"): half,
        ("gsm8k", "base (org/7B)"): ("", ""),
        ("gsm8k", "big"): half,
    }


def test_a_requested_base_replaces_others_on_its_sets_only(tmp_path, caplog):
    run = a_run(
        tmp_path / "run",
        0.5,
        1000,
        record("org/base", 0.9, 100),
        record("org/base", 0.4, 50, budget=50),
        record("org/base", 0.5, 200, dataset="math500"),
        record("org/base", 0.2, 50, dataset="math500", budget=50),
        record("my-model", 0.9, 50),
        record("run", 0.5, 100, dataset="math500"),
    )
    base = tmp_path / "summary.json"
    base.write_text(json.dumps([record("org/base", 0.9, 80)]))
    kept = {(row[0], row[1]) for row in rows(report([run], base=base)["report.md"])}
    assert kept == {
        ("gsm8k", "base (org/base)"),
        ("math500", "base (org/base)"),
        ("math500", "org/base, truncated at a budget: 50"),
        ("math500", "run"),
        (IN_TRAINING, "run, base"),
        (IN_TRAINING, "run, step 10"),
    }
    assert [message.partition(":")[0] for message in caplog.messages] == ["my-model is left out on gsm8k"]


def test_two_bases_are_ambiguous(tmp_path, caplog):
    run = a_run(
        tmp_path / "run", 0.5, 1000, record("my-model", 0.9, 50), record("org/base", 0.9, 100), record("run", 0.9, 50)
    )
    assert all(row[4] == "" for row in rows(report([run])["report.md"]) if row[0] == "gsm8k")
    assert "unknown which of my-model and org/base is its base" in caplog.text


def test_runs_with_the_same_name_are_distinguished(tmp_path):
    runs = [a_run(tmp_path / seed / "hapo", 0.5, 1000, record("hapo", 0.5, 500)) for seed in ("seed0", "seed1")]
    models = {row[1] for row in rows(report(runs)["report.md"])}
    assert models == {f"seed{i}/hapo{what}" for i in (0, 1) for what in (", base", ", step 10", "")}
    evaluations = {row[1] for row in rows(report([run / "eval" for run in runs], tmp_path / "plots")["report.md"])}
    assert evaluations == {"hapo (seed0/hapo/eval)", "hapo (seed1/hapo/eval)"}
    assert len(rows(report([runs[0], runs[0]])["report.md"])) == 3  # once


def test_a_run_without_an_evaluation_has_no_table(tmp_path, capsys):
    log = {"log_history": [{"step": 5, "accuracy": 0.85, "completions/mean_length": 90.0}]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(log))
    assert main(["report", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "No accuracy has been measured yet" in said and "| Problems |" not in said


def test_nothing_to_report(tmp_path, capsys):
    for folder, message in [(tmp_path, "Nothing has been measured"), (tmp_path / "no", "does not exist")]:
        with pytest.raises(SystemExit) as exit:
            main(["report", str(folder)])
        assert exit.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())
