# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig

from tests import tiny
from trl_concise import HAPOConfig, LASERDConfig, REDIConfig
from trl_concise.hub.card import run_table
from trl_concise.hub.facts import (
    _adapter_settings,
    _hardware,
    _peak_memory,
    hub_id,
    pushed_checkpoint,
    training_seconds,
)
from trl_concise.hub.settings import changed_settings


def test_settings_are_those_that_were_changed_the_methods_first(tmp_path):
    args = HAPOConfig(**tiny.settings(tmp_path, length_reward_shape="linear", hub_token="hf_secret", run_name="mine"))
    settings = changed_settings(args)
    assert next(iter(settings)) == "length_reward_shape"
    assert settings["learning_rate"] == 1e-3 and settings["num_generations"] == 4
    assert not {"hub_token", "run_name", "output_dir", "save_strategy", "beta"} & set(settings)
    for config in (HAPOConfig, REDIConfig):
        assert changed_settings(config(str(tmp_path), use_cpu=True)) == {}
    changed = LASERDConfig(str(tmp_path), use_cpu=True, monitor_prompts=32, disable_dropout=True)
    assert changed_settings(changed) == {"monitor_prompts": 32, "disable_dropout": True}


def test_training_time_is_that_of_the_whole_run():
    steps = [{"step": 2, "step_time": 1.0}, {"step": 4, "step_time": 3.0}]
    assert training_seconds(steps, 4) is None
    whole = {"step": 4, "train_runtime": 9.0, "train_steps_per_second": 4 / 9}
    assert training_seconds([*steps, whole], 4) == 9.0
    resumed = {"step": 4, "train_runtime": 7.0, "train_steps_per_second": 2 / 7}
    assert training_seconds([*steps, resumed], 4) == 2 * 1.0 + 2 * 3.0
    slow = {"step": 98, "train_runtime": 3600.0, "train_steps_per_second": 0.027}  # as logged: 98 steps are 0.0272
    assert training_seconds([slow], 98) == 3600.0
    assert training_seconds([resumed], 4) is None  # no step was timed
    slow = [{"step": step, "step_time": 3000.0} for step in range(1, 81)]  # 60 of 80 steps are logged as 0.0 a second
    slow.append({"step": 80, "train_runtime": 180_000.0, "train_steps_per_second": 0.0})
    assert training_seconds(slow, 80) == 240_000.0


def test_only_what_can_be_on_the_hub_is_an_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "sft").mkdir(parents=True)
    assert hub_id("Qwen/Qwen2.5-1.5B-Instruct") == "Qwen/Qwen2.5-1.5B-Instruct"
    for name in ("outputs/sft", str(tmp_path), "problems.jsonl", "/gone/model", "../model", None):
        assert hub_id(name) is None


@pytest.mark.parametrize(
    ("changes", "folder"),
    [
        ({"push_to_hub": True, "hub_strategy": "checkpoint"}, "last-checkpoint"),
        ({"push_to_hub": True, "hub_strategy": "checkpoint", "save_only_model": True}, None),
        ({"push_to_hub": True}, None),  # every_save: the model alone
        ({"push_to_hub": True, "hub_strategy": "all_checkpoints"}, None),  # under names of their own
        ({"hub_strategy": "checkpoint"}, None),
    ],
)
def test_only_one_strategy_pushes_the_last_checkpoint(changes, folder, tmp_path):
    args = HAPOConfig(**tiny.settings(tmp_path, **changes))
    assert pushed_checkpoint(args) is None  # none has been saved
    (tmp_path / "checkpoint-2").mkdir()
    assert pushed_checkpoint(args) == folder


@pytest.mark.parametrize("modules", ["q_proj|v_proj", ["q_proj", "v_proj"], {"v_proj", "q_proj"}])
def test_adapter_settings_are_numbers_and_names_of_modules(modules):
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        model=SimpleNamespace(peft_config={"default": LoraConfig(r=4, target_modules=modules)}),
    )
    names = {} if isinstance(modules, str) else {"lora_target_modules": ["q_proj", "v_proj"]}  # a pattern is free text
    assert _adapter_settings(trainer) == {"lora_r": 4, "lora_alpha": 8, **names}


def test_a_run_without_a_memory_measurement_has_a_card(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert _peak_memory(torch.device("cpu")) is None
    assert "Peak memory" not in run_table({"hardware": "1 x CPU", "steps": 2})


def test_a_run_on_the_cpu_of_a_gpu_machine_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "CPU" in _hardware(torch.device("cpu"), 2) and _peak_memory(torch.device("cpu"))["of"] == "main memory"
