# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest
import yaml

from tests.memory.test_plan import LORA, QWEN
from trl_concise.memory import PlanSettings, largest, plan, suggest


RUN = PlanSettings(
    "hapo", per_device_train_batch_size=8, gradient_accumulation_steps=8, max_completion_length=2048, **LORA
)


def test_the_largest_completion_fits_and_the_next_does_not():
    tokens = largest(RUN, QWEN, "completion length")
    assert tokens % 128 == 0 and tokens > 2048
    assert plan(dataclasses.replace(RUN, max_completion_length=tokens), QWEN).fits
    assert not plan(dataclasses.replace(RUN, max_completion_length=tokens + 128), QWEN).fits


def test_the_largest_group_and_micro_batch():
    group = largest(RUN, QWEN, "group size")
    assert plan(dataclasses.replace(RUN, num_generations=group, steps_per_generation=group // 8), QWEN).fits
    assert largest(dataclasses.replace(RUN, use_vllm=True), QWEN, "group size") is None
    assert largest(RUN, QWEN, "micro-batch") in (8, 16, 32, 64)
    assert largest(dataclasses.replace(RUN, card_gib=2), QWEN, "micro-batch") == 0
    with pytest.raises(ValueError, match="quantity must be"):
        largest(RUN, QWEN, "prompts")


def test_nothing_to_change_where_the_run_fits():
    assert plan(RUN, QWEN).fits and suggest(RUN, QWEN) == []


@pytest.mark.parametrize("newer_name", [False, True])
def test_changes_lead_to_a_run_that_fits(newer_name):
    name = "activation_checkpointing" if newer_name else "gradient_checkpointing"
    changes = suggest(dataclasses.replace(RUN, max_completion_length=16_384, **{name: False}), QWEN)
    assert changes[0][0] == f"{name}: true"  # what leaves the training as it is comes first
    assert changes[-1][1].fits and not any(made.fits for _, made in changes[:-1])


@pytest.mark.parametrize(
    ("run", "first"),
    [
        (
            PlanSettings("hapo", max_completion_length=4096, gradient_accumulation_steps=8, card_gib=24),
            "use_peft: true, dtype: bfloat16",
        ),
        (
            dataclasses.replace(RUN, steps_per_generation=1, attn_implementation="flash_attention_2", card_gib=5),
            "per_device_train_batch_size: 4, gradient_accumulation_steps: 16, steps_per_generation: 2",
        ),
        (
            PlanSettings("cft", max_length=16_384, per_device_train_batch_size=9, card_gib=10, **LORA),
            "per_device_train_batch_size: 3, gradient_accumulation_steps: 3",
        ),
        (
            dataclasses.replace(RUN, use_vllm=True, vllm_gpu_memory_utilization=0.1, vllm_max_model_length=1024),
            "vllm_max_model_length: 2560, vllm_gpu_memory_utilization: 0.12",
        ),
    ],
)
def test_following_the_advice_gives_the_promised_plan(run, first):
    changes = suggest(run, QWEN)
    assert changes[0][0] == first
    for text, promised in changes:
        run = dataclasses.replace(run, **yaml.safe_load(f"{{{text}}}"))
        assert run == promised.settings and plan(run, QWEN).peak == promised.peak


def test_a_share_that_no_card_has_is_not_advised():
    run = dataclasses.replace(RUN, use_vllm=True, card_gib=2)
    assert "take a larger card" in plan(run, QWEN).problem and plan(run, QWEN).remedy == {}
    assert not any("vllm_gpu_memory_utilization" in text for text, _ in suggest(run, QWEN))


def test_a_card_that_is_too_small():
    changes = suggest(dataclasses.replace(RUN, card_gib=1), QWEN)
    assert changes and not changes[-1][1].fits
