# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest

from trl_concise.cli import main
from trl_concise.evaluation.report import IN_TRAINING, markdown_table, read_measurements, report, training_curves


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


@pytest.fixture
def run(tmp_path):
    """A training with a log, two checkpoints and its model evaluated, and the base beside it."""
    folder = tmp_path / "concise"
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


def test_measurements_of_a_run(run):
    measured = read_measurements(run)
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
    assert [item.point.accuracy for item in measured if item.dataset == "hard"] == [0.3]
    assert all(item.point.kind not in ("base", "cut") for item in read_measurements(run, base_known=True))


def test_table(run):
    lines = markdown_table(read_measurements(run)).splitlines()
    row = next(line for line in lines if "| concise |" in line)
    assert "91.0% [89.0, 93.0] | 50.0 [47.0, 53.0] | 50.0% | +0.446" in row  # 0.5 - 5 * 0.01 / 0.92
    assert any("org/base, cut at a budget: 50" in line for line in lines)


def test_what_was_measured_otherwise_is_not_compared(run):
    (run / "eval" / "summary.json").write_text(json.dumps([record("concise", 0.91, 50, max_new_tokens=256)]))
    base = [record("org/base", 0.92, 100, max_new_tokens=4096)]
    (run / "eval_base" / "summary.json").write_text(json.dumps(base))
    table = markdown_table(read_measurements(run))
    assert "| concise | 91.0% [89.0, 93.0] | 50.0 [47.0, 53.0] |  |  |" in table
    assert "- gsm8k, concise: max_new_tokens is 256, of the base 4096." in table
    assert "| 80.0 [77.0, 83.0] | 20.0% |" in table  # of an earlier version, which did not say


def test_curves():
    panels = training_curves({"a": LOG})
    assert panels["Accuracy"] == {"a, training": ([5], [0.85]), "a, evaluation": ([0, 10], [0.9, 0.88])}
    assert panels["Truncated fraction"] == {"a, evaluation": ([0], [0.1])}
    assert training_curves({"a": []}) == {}


def test_files(run, tmp_path):
    written = report([run])
    pictures = {"frontier", "frontier_hard", "curves"} | {f"frontier_{IN_TRAINING.replace(' ', '_')}"}
    in_files = {name.partition(".")[0] for name in written} - {"report"}
    assert len(in_files) == len(pictures) and "curves" in in_files
    assert all(path.is_file() and path.parent == run / "plots" for path in written.values())
    assert (run / "plots" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in (run / "plots" / "report.md").read_text()


def test_command_with_another_base_and_several_runs(run, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "summary.json").write_text(json.dumps([record("org/other", 0.8, 40)]))
    arguments = [str(run), str(other), "--base", str(run / "eval_base"), "--output_dir", str(tmp_path / "plots")]
    assert main(["report", *arguments]) == 0
    output = capsys.readouterr().out
    assert output.count("| gsm8k | base |") == 1
    assert "| gsm8k | org/other | 80.0%" in output
    assert (tmp_path / "plots" / "frontier.svg").is_file()


def test_results_of_the_demo(tmp_path):
    figures = {"accuracy": 0.9, "tokens_mean": 50.0, "truncated_fraction": 0.0}
    results = {"base": figures, "trained": figures, "base_cut": figures, "sft_control": None}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert [item.point.kind for item in read_measurements(tmp_path)] == ["base", "cut", "model"]


def test_a_run_without_an_evaluation_has_no_table(tmp_path, capsys):
    log = {"log_history": [{"step": 5, "accuracy": 0.85, "completions/mean_length": 90.0}]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(log))
    assert main(["report", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "No accuracy has been measured yet" in said and "| Problems |" not in said


def test_nothing_to_report(tmp_path, capsys):
    for folder, message in [(tmp_path, "Nothing has been measured"), (tmp_path / "no", "There is no folder")]:
        with pytest.raises(SystemExit) as exit:
            main(["report", str(folder)])
        assert exit.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())
