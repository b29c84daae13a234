# SPDX-License-Identifier: Apache-2.0
"""TRL's settings of generation with transformers, through the trainers of this package."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from tests import every_method, tiny


CONTINUOUS = {
    "use_transformers_continuous_batching": True,
    # Without these, the cache takes half of the machine's free memory.
    "transformers_continuous_batching_config": {"num_blocks": 64, "max_batch_tokens": 256, "page_size": 32},
}
STATIC = {"cache_implementation": "static"}
LORA = {"r": 4, "target_modules": "all-linear", "lora_dropout": 0.0, "init_lora_weights": False}
# Two of those that generate more than the batch: the monitor's completions, and groups that replace others.
QUICK = ("laser_d_laser_de", "dynamic_sampling")
METHODS = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in every_method.ONLINE]


def run(method, tiny_model, problems, folder, resume=None, **changes):
    bf16, watched = changes.pop("bf16", False), changes.pop("watch_dataset", None)
    settings = tiny.settings(folder, **{"max_steps": 2, **changes}) | {"bf16": bf16}
    torch.manual_seed(0)
    more = {"peft_config": LoraConfig(**LORA), "watch_dataset": watched}
    problems = problems.map(lambda row: {"target_length": 4})
    trainer = every_method.build(method, tiny_model, [tiny.even_reward], settings, problems, **more)
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
        run("hapo", tiny_model, problems, tmp_path, learning_rate=1e-12, **changes).generate_rollouts(
            rows, 1, greedy=True
        )
        for changes in ({}, STATIC, CONTINUOUS, CONTINUOUS | {"merge_adapter_for_generation": True})
    ]
    assert all(rollouts.completion_ids == found[0].completion_ids for rollouts in found)


@pytest.mark.parametrize("method", METHODS)
def test_a_static_cache_changes_nothing(method, tiny_model, problems, tmp_path):
    (logs, adapter), (others, other) = (
        outcome(run(method, tiny_model, problems, tmp_path, **changes)) for changes in ({}, STATIC)
    )
    assert logs == others
    torch.testing.assert_close(adapter, other)


@pytest.mark.parametrize(
    "changes", [CONTINUOUS, pytest.param(STATIC, marks=pytest.mark.slow)], ids=["continuous", "static"]
)
def test_the_watch_set_does_not_affect_training_and_its_completions_are_those_of_generate(
    changes, tiny_model, problems, tmp_path
):
    watched = problems.select(range(6))
    changes = {**changes, "watch_every": 2, "merge_adapter_for_generation": True}
    changes |= {"on_loss": "best", "max_accuracy_loss": 0.99}  # every measurement passes
    without, with_watch = (
        run("hapo", tiny_model, problems, tmp_path, watch_dataset=dataset, **changes) for dataset in (None, watched)
    )
    (logs, adapter), (others, other) = outcome(without), outcome(with_watch)
    assert logs == others and torch.equal(adapter, other)
    measured = [entry for entry in with_watch.state.log_history if "watch/accuracy" in entry]
    assert [entry["step"] for entry in measured] == [0, 2] and with_watch.watch_set.best is not None
    plain = run("hapo", tiny_model, problems, tmp_path / "plain", watch_dataset=watched, watch_every=9)
    # Before the first step, the policies are equal.
    expected = next(entry for entry in plain.state.log_history if "watch/accuracy" in entry)
    assert all(measured[0][name] == value for name, value in expected.items() if name.startswith("watch/"))


def test_continuous_batching_is_reproducible_and_resumes(tiny_model, problems, tmp_path):
    changes = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "max_completion_length": 24, **CONTINUOUS}
    whole = run("hapo", tiny_model, problems, tmp_path / "whole", **changes)
    resumed = run(
        "hapo", tiny_model, problems, tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-1"), **changes
    )
    (logs, adapter), (others, other) = outcome(whole), outcome(resumed)
    assert logs == others and torch.equal(adapter, other)
