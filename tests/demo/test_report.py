# SPDX-License-Identifier: Apache-2.0
"""The demo leaves the folder of an ordinary run, with a control and harder problems in every table."""

from __future__ import annotations

import io
import json

import pytest
import transformers
from rich.console import Console
from transformers import TrainerControl

from trl_concise import HAPOConfig, HAPOTrainer, math_accuracy_reward
from trl_concise.demo import LIMITS, Report, TokenBudget, model_path, train_dataset
from trl_concise.demo.report import (
    AFTER,
    BEFORE,
    CONTROL_NAME,
    CONTROLS,
    DESCRIPTIONS,
    TESTED,
    copy_controls,
    print_tables,
)
from trl_concise.evaluation import read_summary
from trl_concise.evaluation.acceptance import Limits
from trl_concise.evaluation.identity import fingerprint
from trl_concise.evaluation.report import report
from trl_concise.hub.card import write_card


SHIPPED = {path.name: read_summary(path) for path in sorted(CONTROLS.iterdir())}


def make_trainer(output_dir, **changes) -> HAPOTrainer:
    settings = {
        "output_dir": str(output_dir),
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 64,
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        **changes,
    }
    return HAPOTrainer(str(model_path()), math_accuracy_reward, HAPOConfig(**settings), train_dataset(8))


def test_the_demo_is_an_ordinary_run(tmp_path, capsys):
    run = tmp_path / "my-run"
    trainer = make_trainer(run)
    with Report(trainer, problems=8, control=True, limits=Limits(max_accuracy_loss=0.99)):
        trainer.train()
    printed = " ".join(capsys.readouterr().out.split())
    acceptance = json.loads((run / AFTER / "acceptance.json").read_text())
    assert acceptance["accepted"] and acceptance["sentence"] in printed and "accepted: my-run" in printed
    assert list(acceptance["settings"]) == list(TESTED)
    for name, description in DESCRIPTIONS.items():
        assert f"8 problems of {description}" in printed
        before, *truncated = (record for record in read_summary(run / BEFORE) if record["dataset"] == name)
        (after,) = (record for record in read_summary(run / AFTER) if record["dataset"] == name)
        (control,) = (record for record in read_summary(run / "control-grpo") if record["dataset"] == name)
        assert [record["model"] for record in (before, after, control)] == ["embedded model", "my-run", CONTROL_NAME]
        assert before["budget"] is None and [record["budget"] for record in truncated] == [24, 32, 48]
        assert after["problems"] == 8 and after["max_new_tokens"] == 256 and after["temperature"] == 1.0
    assert "Not part of this run" not in printed  # the controls that ship are of other problems
    assert printed.count(CONTROL_NAME) == 3

    assert not (run / "results.json").exists()
    trainer.create_model_card()
    card = (run / "README.md").read_text()
    assert acceptance["sentence"] in card
    for name in DESCRIPTIONS:
        table = card.split(f"**{name}** (8 problems)")[1].split("\n\n")[1]
        for row in ("base model", "**this model**", f"control: {CONTROL_NAME}", "base model, truncated at 24 tokens"):
            assert f"| {row} |" in table
    assert "Recommended `max_new_tokens`: **256**. The figures were measured with it" in card
    table = report([run])["report.md"].read_text()
    assert f"| demo_harder | {CONTROL_NAME} | " in table and "| demo_harder | base (embedded model) | " in table
    for picture in ("curves.png", "frontier.png", "frontier_demo_harder.png"):
        assert (run / "plots" / picture).read_bytes().startswith(b"\x89PNG")


def test_the_control_spends_as_many_tokens(tmp_path, capsys):
    trainer = make_trainer(tmp_path, max_steps=3, logging_steps=2)
    with Report(trainer, problems=2, control=True, limits=LIMITS):
        trainer.train()
    printed = capsys.readouterr().out
    assert "No acceptance test: 'demo' has 2 problems, but the bound 't' needs at least 30." in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("Tokens generated"))
    own, spent = (int(words.rstrip(".").replace(",", "")) for words in line.split() if words[0].isdigit())
    assert 0 < own <= 3 * 8 * 64
    assert own <= spent < own + 8 * 64 or spent == 0  # whole steps


def test_a_failed_run_has_no_report(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(RuntimeError, match="interrupted"), Report(trainer, problems=4):
        raise RuntimeError("interrupted")
    assert not (tmp_path / AFTER).exists()


def as_base() -> list[dict]:
    """Records of the model before training, with the settings of the controls that ship."""
    return [{**record, "model": "embedded model", "accuracy": 0.95} for record in SHIPPED["grpo"]]


def test_the_controls_that_ship_are_of_the_embedded_model(tmp_path):
    embedded = fingerprint(transformers.AutoModelForCausalLM.from_pretrained(model_path()))
    assert "grpo" in SHIPPED
    for records in SHIPPED.values():
        assert [record["dataset"] for record in records] == list(DESCRIPTIONS)
        for record in records:
            assert record["start_weights"] == embedded, (
                "run benchmarks/demo_controls.py: the embedded model has changed"
            )
            assert record["measured_by"].startswith("python benchmarks/demo_controls.py --tokens ")
            assert len(record["commit"]) == 7 and len(record["seeds"]) == record["completions_per_problem"]
    assert len(copy_controls(tmp_path, as_base(), embedded)) == 3 * len(SHIPPED)
    assert copy_controls(tmp_path, as_base(), "other weights") == []
    fewer = [{**record, "problems": 7, "limit": 7} for record in as_base()]
    assert copy_controls(tmp_path, fewer, embedded) == []


def test_figures_of_another_run_are_labelled(tmp_path):
    base = [record | {"budget": budget} for record in as_base() for budget in (None, 24)]
    trained = [record | {"model": "hapo"} for record in as_base()]
    console = Console(file=io.StringIO(), width=80)
    print_tables(base, trained, [record for records in SHIPPED.values() for record in records], console)
    text = console.file.getvalue()
    assert text.count("GRPO without length reward*") == 3
    assert "Not part of this run: measured at" in text and "benchmarks/demo_controls.py" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_card_says_which_controls_were_measured_elsewhere(tmp_path):
    trainer = make_trainer(tmp_path / "run", max_steps=1)
    trainer.train()
    trainer.create_model_card()
    files = {"before": as_base(), "after": [record | {"model": "run"} for record in as_base()]}
    for folder, records in {**files, "control-grpo": SHIPPED["grpo"], "control-sft": SHIPPED["sft"]}.items():
        (tmp_path / "run" / folder).mkdir()
        (tmp_path / "run" / folder / "summary.json").write_text(json.dumps(records))
    card = write_card(tmp_path / "run").read_text()
    command = SHIPPED["grpo"][0]["measured_by"]
    assert card.count("| base model |") == card.count(f"| control: {CONTROL_NAME} |") == 3
    other = SHIPPED["sft"][0]["model"]
    assert card.count(f"Controls {CONTROL_NAME} and {other}: not measured with this run, but by `{command}` at") == 1


def test_a_base_without_correct_answers_has_no_score():
    base = [{**record, "accuracy": 0.01, "budget": budget} for record in as_base() for budget in (None, 24)]
    console = Console(file=io.StringIO(), width=120)
    print_tables(base, as_base(), [], console)
    rows = [line for line in console.file.getvalue().splitlines() if "after training" in line]
    assert len(rows) == 3 and all(row.split("│")[-2].strip() == "-" for row in rows)


def test_a_budget_that_is_not_used_up_leaves_the_stop_to_others():
    budget, control = TokenBudget(10**9), TrainerControl(should_training_stop=True)  # at `max_steps`, for example
    budget.on_step_end(None, None, control)
    assert control.should_training_stop
    control.should_training_stop = False
    budget.on_step_end(None, None, control)
    assert not control.should_training_stop
    budget.tokens = 10**9
    budget.on_step_end(None, None, control)
    assert control.should_training_stop
