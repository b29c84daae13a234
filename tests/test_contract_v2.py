# SPDX-License-Identifier: Apache-2.0
"""
What every slot promises, by one battery: exact resume at every step of two epochs, with LoRA and `beta > 0`, and the same run on
two processes whose groups straddle them. The rows are in `tests/slot_rows.py`.
"""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tests import slot_rows, tiny
from tests.distributed import contract
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.components import TrainerView


class StopAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step


@pytest.mark.parametrize("row", slot_rows.ROWS)
def test_resumes_at_every_step_of_two_epochs_with_an_adapter_and_a_kl_term(row, tiny_model, tmp_path):
    changes = {
        "peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights="gaussian"),
        "beta": 0.1,
        "per_device_train_batch_size": 6,
        "steps_per_generation": 2,  # three prompts per generation, which two steps train on: groups straddle micro-batches
        "max_steps": 8,  # two epochs of six prompts
        "save_strategy": "steps",
        "save_steps": 1,
    }

    def build(folder):
        return slot_rows.build(ConciseGRPOTrainer, ConciseGRPOConfig, tiny_model, folder, row, **changes)

    whole = build(tmp_path / "whole")
    whole.train()
    expected = slot_rows.logged(whole)
    assert len(expected) == 8 and any(entry["grad_norm"] for entry in expected)
    for step in range(1, 8):
        resumed = build(tmp_path / "resumed")
        resumed.add_callback(StopAt(step + 2))  # the rest of its generation, and the next one
        resumed.args.save_strategy = "no"
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert slot_rows.logged(resumed) == expected[: step + 2], step


@pytest.mark.parametrize("row", slot_rows.ROWS)
def test_two_processes_train_as_one(row, tiny_model, tmp_path, two_processes):
    ranks = [json.loads((two_processes / "contract" / f"{row}{rank}.json").read_text()) for rank in (0, 1)]
    one = json.loads(json.dumps(contract.report(contract.train(tiny_model, tmp_path, row, rows_per_process=12))))
    assert [rank.pop("world_size") for rank in ranks] == [2, 2] and one.pop("world_size") == 1
    assert ranks[0]["state"] == ranks[1]["state"] == one["state"]
    for two, single in zip(ranks[0]["logged"], one["logged"], strict=True):
        assert two.keys() == single.keys() and single["grad_norm"] > 0
        for key in contract.COMPARED & single.keys():
            assert two[key] == pytest.approx(single[key], abs=1e-5, rel=1e-3), key


def test_empty_slots_are_neutral(tiny_model, tmp_path):
    def run(trainer_class, config_class, **slots):
        args = config_class(**tiny.settings(tmp_path, beta=0.1, max_steps=3))
        trainer = trainer_class(tiny_model, [tiny.even_reward], args, slot_rows.problems(), **slots)
        trainer.train()
        return tiny.losses(trainer), [parameter.detach() for parameter in trainer.model.parameters()]

    losses, weights = run(GRPOTrainer, GRPOConfig)
    empty = {slot: [] if several else None for slot, several in slot_rows.slots().items()}
    own_losses, own_weights = run(ConciseGRPOTrainer, ConciseGRPOConfig, **empty)
    assert own_losses == losses and any(losses)
    assert all(torch.equal(a, b) for a, b in zip(own_weights, weights, strict=True))


def test_the_trainer_has_what_components_may_use(tiny_model, tmp_path):
    trainer = slot_rows.build(ConciseGRPOTrainer, ConciseGRPOConfig, tiny_model, tmp_path, "measures")
    documented = {name for name in [*TrainerView.__annotations__, *vars(TrainerView)] if not name.startswith("_")}
    assert len(documented) > 20 and all(hasattr(trainer, name) for name in documented)
