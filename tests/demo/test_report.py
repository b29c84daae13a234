# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from trl_concise import HAPOConfig, HAPOTrainer, math_accuracy_reward
from trl_concise.demo import Evaluation, Report, model_path, train_dataset
from trl_concise.demo.report import Outcome, load_sft_control, plot_training, print_table, write_results
from trl_concise.evaluation.plots import BLUE


def evaluation(right: int, tokens: int) -> Evaluation:
    """100 completions of so many tokens, so many of them right."""
    return Evaluation([[7] * tokens] * 100, [True] * right + [False] * (100 - right), [True] * 100)


@pytest.fixture
def outcome() -> Outcome:
    return Outcome(
        base=evaluation(95, 100),
        trained=evaluation(95, 40),
        cut=evaluation(19, 40),
        sft={"accuracy": 0.9, "tokens_mean": 35.0, "command": "python -m something"},
        max_new_tokens=256,
        temperature=1.0,
        seconds=12.3,
        seed=4,
        settings={"beta": 0.04},
    )


def test_efficiency(outcome):
    assert outcome.efficiency(0.95, 40) == pytest.approx(0.6)  # 60 % fewer tokens, nothing lost
    assert outcome.efficiency(0.19, 40) == pytest.approx(0.6 - 5 * 0.8)  # four fifths of the accuracy lost, gamma 5


def test_table(outcome):
    console = Console(file=io.StringIO(), width=120)
    print_table(outcome, console)
    text = console.file.getvalue()
    assert "100 problems that training never saw" in text
    for figure in ("95.0%", "100.0", "40.0", "60.0%", "+0.60", "19.0%", "-3.40", "90.0%", "35.0", "12 s (seed 4)"):
        assert figure in text
    assert "python -m something" in text


def test_a_base_without_correct_answers_has_no_score(outcome, tmp_path):
    outcome = replace(outcome, base=evaluation(0, 100))
    console = Console(file=io.StringIO(), width=120)
    print_table(outcome, console)
    (row,) = (line for line in console.file.getvalue().splitlines() if "After training" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["95.0%", "40.0", "60.0%", "-"]
    assert json.loads(write_results(outcome, tmp_path).read_text())["accuracy_efficiency_score"] is None


@pytest.mark.parametrize("steps", [0, 1, 40])
def test_training_is_plotted_however_little_was_logged(steps, outcome, tmp_path):
    log = [{"step": step, "accuracy": 0.9, "completions/mean_length": 90.0} for step in range(1, steps + 1)]
    plot_training([*log, {"step": steps, "train_runtime": 3.0}], outcome, tmp_path / "training.svg")
    picture = (tmp_path / "training.svg").read_text()
    assert ("training prompts" in picture) == (steps > 0)  # the legend
    assert picture.lower().count(f"fill: {BLUE.lower()}") == (
        2 if steps == 1 else 0
    )  # the legend's marker and the step's


def test_control_belongs_to_the_embedded_model():
    figures = load_sft_control()
    assert figures["command"].startswith("python -m trl_concise.demo.sft_control")
    assert len(figures["runs"]) == len(figures["seeds"]) == 3
    assert 0 < figures["accuracy"] < 1


def make_trainer(output_dir) -> HAPOTrainer:
    return HAPOTrainer(
        model=str(model_path()),
        reward_funcs=math_accuracy_reward,
        args=HAPOConfig(
            output_dir=str(output_dir),
            max_steps=2,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=64,
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=train_dataset(8),
    )


def test_report_of_a_run(tmp_path, capsys):
    trainer = make_trainer(tmp_path)
    with Report(trainer, problems=8):
        trainer.train()
    assert "8 problems that training never saw" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    for name in ("base", "trained", "base_cut"):
        assert {"accuracy", "tokens_mean", "truncated_fraction", "problems"} < set(results[name])
        assert results[name]["problems"] == 8
    assert results["seconds"] > 0
    assert results["seed"] == 42
    assert results["settings"]["learning_rate"] == trainer.args.learning_rate
    assert results["sft_control"] is None  # its figures are those of other problems
    assert results["trained"]["max_new_tokens"] == 256 and results["trained"]["temperature"] == 1.0
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()  # the limit of the figures in it, not that of training
    assert "Recommended `max_new_tokens`: **256**. The figures were measured with it" in card
    for picture in ("training.png", "plots/frontier.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "trainer_state.json").is_file()


def test_a_failed_run_has_no_report(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(RuntimeError, match="interrupted"), Report(trainer, problems=4):
        raise RuntimeError("interrupted")
    assert not (tmp_path / "results.json").exists()
