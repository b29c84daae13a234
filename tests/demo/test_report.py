# SPDX-License-Identifier: Apache-2.0
"""The demo leaves the folder of an ordinary run, with a control and harder problems in every table."""

from __future__ import annotations

import pytest

from trl_concise import HAPOConfig, HAPOTrainer, math_accuracy_reward
from trl_concise.demo import Report, model_path, train_dataset
from trl_concise.demo.report import AFTER, BEFORE, CONTROL_NAME, DESCRIPTIONS
from trl_concise.evaluation import read_summary
from trl_concise.evaluation.report import report


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
    with Report(trainer, problems=8, control=True):
        trainer.train()
    printed = " ".join(capsys.readouterr().out.split())
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
    with Report(trainer, problems=2, control=True):
        trainer.train()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Tokens generated"))
    own, spent = (int(words.rstrip(".").replace(",", "")) for words in line.split() if words[0].isdigit())
    assert 0 < own <= 3 * 8 * 64
    assert own <= spent < own + 8 * 64 or spent == 0  # whole steps


def test_a_failed_run_has_no_report(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(RuntimeError, match="interrupted"), Report(trainer, problems=4):
        raise RuntimeError("interrupted")
    assert not (tmp_path / AFTER).exists()
