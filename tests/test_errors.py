# SPDX-License-Identifier: Apache-2.0
"""The rows of docs/errors.md, except those for which the page names another file."""

from __future__ import annotations

import json
import logging
import math
import re
import subprocess
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from tests import tiny
from trl_concise import (
    CFTConfig,
    ConciseGRPOConfig,
    HAPOConfig,
    HAPOLengthReward,
    HAPOTrainer,
    REDIConfig,
    SIRIConfig,
    TrainingScript,
    math_accuracy_reward,
)
from trl_concise.batch.rollouts import Rollouts
from trl_concise.batch.warnings import BatchWarnings
from trl_concise.cli.commands import main as command_line
from trl_concise.state.resume import last_complete_checkpoint


PAGE = Path(__file__).parents[1] / "docs" / "errors.md"


def build(model, output_dir, rows=None, reward=tiny.even_reward, config=HAPOConfig, trainer_kwargs=None, **changes):
    rows = [{"prompt": f"What is {i}?"} for i in range(8)] if rows is None else rows
    dataset = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    args = config(**tiny.settings(output_dir, **changes))
    return HAPOTrainer(model, reward, args, dataset, **(trainer_kwargs or {}))


def needs_solution(completions, solution, **kwargs):
    return [1.0] * len(completions)


needs_solution.__name__ = "accuracy"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": Dataset.from_dict({"prompt": []})}, "The train dataset is empty"),
        ({"rows": [{"question": "1?"}] * 8}, "The train dataset needs a `prompt` column; it has "),
        ({"reward": needs_solution}, "The reward function 'accuracy' needs the columns ['solution']"),
        (
            {"reward": math_accuracy_reward},
            "The reward function 'math_accuracy_reward' needs one of the columns ['solution', 'answer']",
        ),
        ({"rows": [{"prompt": 7}] * 8}, "A prompt is a string or a list of messages"),
        (
            {"rows": [{"prompt": f"{i}?", "prompt_id": "same"} for i in range(8)]},
            "names different prompts, which would share one history",
        ),
        (
            {"rows": [{"prompt": f"{i}?", "completions": "x", "prompts": "y"} for i in range(8)]},
            "The train dataset has the columns ['completions', 'prompts'], but TRL passes arguments of these names",
        ),
        ({"remove_unused_columns": True}, "drops every column but"),
        (
            {"reward_weights": [1.0, 2.0]},
            "reward_weights covers your reward functions only: got 2 weights for 1 functions",
        ),
        ({"correctness": "judge"}, "is not a reward function. The functions are "),
        ({"config": SIRIConfig}, "the settings of a SIRIConfig would have no effect"),
    ],
)
def test_construction(tiny_model, tmp_path, changes, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        build(tiny_model, tmp_path, **changes)
    assert message.split("[")[0].rstrip("; ") in PAGE.read_text(encoding="utf-8")


def test_some_rows_have_no_prompt_id(tiny_model, tmp_path):
    rows = [{"prompt": f"{i}?", "prompt_id": None if i % 2 else f"p{i}"} for i in range(8)]
    assert build(tiny_model, tmp_path, rows).train_dataset.num_rows == 8


def test_no_chat_template(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    rows = [{"prompt": [{"role": "user", "content": f"{i}?"}]} for i in range(8)]
    with pytest.raises(ValueError, match="the tokenizer has no chat template. Pass a processing_class"):
        build(tiny_model, tmp_path, rows, trainer_kwargs={"processing_class": tokenizer})


def test_a_column_that_trl_replaces(tiny_model, tmp_path, caplog):
    rows = [{"prompt": f"{i}?", "trainer_state": "x", "completion": "y"} for i in range(8)]
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        build(tiny_model, tmp_path, rows, max_steps=1).train()
    assert "Reward functions do not receive the columns ['trainer_state'] of the train dataset" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"load_best_model_at_end": True}, "chosen by 'loss', which is about 0 for every policy"),
        ({"metric_for_best_model": "eval_loss"}, "chosen by 'eval_loss', which is about 0"),
        ({"metric_for_best_model": "tokens_mean"}, "keeps the checkpoint with the highest value, but lower is better"),
        ({"metric_for_best_model": "eval_hard_truncated_fraction"}, "but lower is better"),
        ({"metric_for_best_model": "tokens_mean", "greater_is_better": False}, None),
        ({"metric_for_best_model": "eval_accuracy"}, None),
    ],
)
def test_a_metric_that_cannot_choose_the_best_checkpoint(changes, message, tiny_model, tmp_path, caplog):
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, **changes}
    evaluated = {"eval_dataset": Dataset.from_list([{"prompt": "1?"}])}
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        build(tiny_model, tmp_path, trainer_kwargs=evaluated, **settings)
    assert (message in caplog.text) if message else ("best" not in caplog.text)


def test_no_padding_token(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    trainer = build(tiny_model, tmp_path, trainer_kwargs={"processing_class": tokenizer}, max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1


def test_group_reward_in_a_plain_trainer(tiny_model, tmp_path):
    args = GRPOConfig(**tiny.settings(tmp_path))
    dataset = Dataset.from_list([{"prompt": f"{i}?"} for i in range(8)])
    with pytest.raises(TypeError, match="scores whole groups: pass it to a ConciseGRPOTrainer"):
        GRPOTrainer(tiny_model, [tiny.even_reward, HAPOLengthReward()], args, dataset).train()


@pytest.mark.parametrize("config", [ConciseGRPOConfig, HAPOConfig, REDIConfig, CFTConfig])
def test_a_misspelled_field(config):
    with pytest.raises(
        TypeError, match=f"{config.__name__} has no field 'lerning_rate'; did you mean 'learning_rate'"
    ):
        config("out", lerning_rate=1e-6)
    with pytest.raises(TypeError, match="did you mean 'length_reward_weight'"):
        HAPOConfig("out", lenght_reward_weight=1.0)


def test_a_misspelled_flag(capsys):
    with pytest.raises(SystemExit):
        TrainingScript(HAPOConfig, ["--lerning_rate", "1e-6"])
    assert "no option --lerning_rate; did you mean --learning_rate?" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_to(tiny_model):
    with pytest.raises(ValueError, match=r"output_dir='/proc/run' cannot be written to .* Choose another"):
        build(tiny_model, "/proc/run")


@pytest.mark.parametrize("value", [None, math.nan])
def test_an_unknown_verdict_changes_nothing(tiny_model, tmp_path, value):
    trainer = build(tiny_model, tmp_path, reward=lambda completions, **kwargs: [value] * len(completions))
    trainer.train()
    assert trainer.history.to_pandas()["solved"].sum() == 0
    assert all(math.isfinite(loss) for loss in tiny.losses(trainer))


def test_too_few_rows_for_a_step(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, [{"prompt": "1?"}] * 3, gradient_accumulation_steps=2)
    with pytest.raises(
        ValueError, match="has 3 rows, but 4 prompts are rolled out at a time .* no step would be trained"
    ):
        trainer.train()


def test_an_infinite_reward(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, reward=lambda completions, **kwargs: [-math.inf] * len(completions))
    with pytest.raises(ValueError, match="returned an infinite reward. Return None to abstain"):
        trainer.train()


def test_too_few_rewards(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, reward=lambda completions, **kwargs: [1.0])
    with pytest.raises((ValueError, RuntimeError)):
        trainer.train()


@pytest.mark.parametrize(
    ("correct", "truncated", "message"),
    [
        (math.nan, False, "the correctness reward abstains (None) from all of them"),
        (0.0, False, "every completion is wrong"),
        (1.0, False, "every completion is correct"),
        (0.5, True, "length rewards carry no signal"),
    ],
)
def test_a_dataset_without_gradient_is_warned_about_once(caplog, correct, truncated, message):
    import torch

    verdicts = torch.tensor([correct] * 4 if correct != 0.5 else [0.0, 1.0, 0.0, 1.0])
    rollouts = Rollouts(("a",) * 4, torch.ones(4), verdicts, 4, truncated=torch.full((4,), truncated))
    watch = BatchWarnings()
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        for _ in range(19):
            watch.observe(rollouts)
        assert not caplog.records
        for _ in range(81):
            watch.observe(rollouts)
    assert len(caplog.records) == 1 and message in caplog.text
    assert message in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("reward", "message"), [(0.0, "every completion is wrong"), (1.0, "every completion is correct")]
)
def test_a_hundred_steps_without_a_difference_train_on(tiny_model, tmp_path, caplog, reward, message):
    trainer = build(
        tiny_model,
        tmp_path,
        reward=lambda completions, **kwargs: [reward] * len(completions),
        max_steps=100,
        max_completion_length=2,
    )
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        trainer.train()
    said = [record.getMessage() for record in caplog.records if record.name.startswith("trl_concise")]
    assert len([line for line in said if message in line]) == 1
    assert all(math.isfinite(loss) for loss in tiny.losses(trainer))


def test_a_prompt_longer_than_the_model(tiny_model, tmp_path, caplog):
    trainer = build(tiny_model, tmp_path, max_steps=1)
    trainer.model.config.max_position_embeddings = 16
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        trainer.train()
    assert "exceed the model's context of 16 tokens" in caplog.text


def test_a_full_disk(tiny_model, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        changes = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1}
        with pytest.raises(OSError, match=r"The disk ran full .*checkpoint-\d is complete: make room"):
            build(tiny_model, folder, **changes).train()
        last = last_complete_checkpoint(folder)
        assert not list(folder.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=40m", str(folder)], check=True)
        trainer = build(tiny_model, folder, **changes)
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 6 and last.exists()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # weights may still be mapped


def test_state_of_another_method_or_version(tiny_model, tmp_path):
    changes = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    build(tiny_model, tmp_path, **changes).train()
    path = tmp_path / "checkpoint-1" / "concise_state" / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "format": 2}))
    with pytest.raises(ValueError, match="has format 2; this version of trl_concise reads format 1"):
        build(tiny_model, tmp_path, **changes).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    state["components"]["siri"] = {"values": {}}
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"holds the state of \['siri'\], but this run has only \['hapo'\]"):
        build(tiny_model, tmp_path, **changes).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "eval demo demo --num_generations 4",
            "eval: error: no option --num_generations; did you mean --num_completions?",
        ),
        ("eval demo demo --limit 8", "eval: error: the following arguments are required: --output_dir"),
        ("compare base tuned other", "compare: error: unexpected argument other"),
    ],
)
def test_unknown_words_of_other_commands(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command_line(words.split())
    assert capsys.readouterr().err == f"trl-concise {message}\n"
