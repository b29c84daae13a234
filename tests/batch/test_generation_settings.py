# SPDX-License-Identifier: Apache-2.0
"""TRL's settings of generation with transformers, through the trainers of this package."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

import trl_concise as tc
from tests import tiny


CONTINUOUS = {
    "use_transformers_continuous_batching": True,
    # Without these, the cache takes half of the machine's free memory.
    "transformers_continuous_batching_config": {"num_blocks": 64, "max_batch_tokens": 256, "page_size": 32},
}
STATIC = {"cache_implementation": "static"}
LORA = {"r": 4, "target_modules": "all-linear", "lora_dropout": 0.0, "init_lora_weights": False}
OTHERS = ["ConciseGRPO", "HAPO", "LASER", "ShorterBetter", "SIRI", "GRESO", "SGRPO", "TSPMO"]
METHODS = [
    "LASERD",
    *(pytest.param(method, marks=pytest.mark.slow) for method in OTHERS),
]  # seconds each; its monitor generates too


def run(method, tiny_model, problems, folder, resume=None, **changes):
    bf16 = changes.pop("bf16", False)
    changes |= {"monitor_prompts": 2, "monitor_generations": 2} if method == "LASERD" else {}
    changes |= {"reward_weights": [2.0]} if method == "SIRI" else {}
    settings = tiny.settings(folder, **{"max_steps": 2, **changes}) | {"bf16": bf16}
    torch.manual_seed(0)
    trainer = getattr(tc, f"{method}Trainer")(
        tiny_model,
        tiny.even_reward,
        args=getattr(tc, f"{method}Config")(**settings),
        train_dataset=problems,
        peft_config=LoraConfig(**LORA),
    )
    before = {name: value.dtype for name, value in trainer.model.named_parameters()}
    rotary = trainer.model.get_base_model().model.rotary_emb.inv_freq.clone()
    trainer.train(resume_from_checkpoint=resume)
    assert {name: value.dtype for name, value in trainer.model.named_parameters()} == before
    assert torch.equal(trainer.model.get_base_model().model.rotary_emb.inv_freq, rotary)
    return trainer


def outcome(trainer):
    """Completion lengths and rewards per step, and the adapter."""
    logs = [
        (entry["completions/mean_length"], entry["reward"]) for entry in trainer.state.log_history if "loss" in entry
    ]
    return logs, torch.cat([value.flatten() for name, value in trainer.model.state_dict().items() if "lora_" in name])


@pytest.mark.parametrize("method", METHODS)
def test_every_trainer_with_continuous_batching(method, tiny_model, problems, tmp_path):
    """In bfloat16 too, the trained parameters stay in float32, although TRL casts the model for generation."""
    trainer = run(method, tiny_model, problems, tmp_path, bf16=True, merge_adapter_for_generation=True, **CONTINUOUS)
    rows = [problems[0], problems[5]]
    state = torch.get_rng_state()
    extra = trainer.generate_rollouts(rows, 2, max_tokens=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(ids) for ids in extra.completion_ids] == [3] * 4 and trainer.model.training
    logs, adapter = outcome(trainer)
    assert len(logs) == 2 and adapter.dtype == torch.float32


def test_greedy_completions_do_not_depend_on_the_setting(tiny_model, problems, tmp_path):
    rows = [problems[0], problems[5], problems[9]]
    found = [
        run("HAPO", tiny_model, problems, tmp_path, learning_rate=1e-12, **changes).generate_rollouts(
            rows, 1, greedy=True
        )
        for changes in ({}, STATIC, CONTINUOUS, CONTINUOUS | {"merge_adapter_for_generation": True})
    ]
    assert all(rollouts.completion_ids == found[0].completion_ids for rollouts in found)


def test_a_static_cache_changes_nothing(tiny_model, problems, tmp_path):
    (logs, adapter), (others, other) = (
        outcome(run("SIRI", tiny_model, problems, tmp_path, **changes)) for changes in ({}, STATIC)
    )
    assert logs == others
    torch.testing.assert_close(adapter, other)


def test_continuous_batching_is_reproducible_and_resumes(tiny_model, problems, tmp_path):
    changes = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "max_completion_length": 24, **CONTINUOUS}
    whole = run("HAPO", tiny_model, problems, tmp_path / "whole", **changes)
    resumed = run(
        "HAPO", tiny_model, problems, tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-1"), **changes
    )
    (logs, adapter), (others, other) = outcome(whole), outcome(resumed)
    assert logs == others and torch.equal(adapter, other)
