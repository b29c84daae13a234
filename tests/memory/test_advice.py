# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest

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


def test_a_card_that_is_too_small():
    changes = suggest(dataclasses.replace(RUN, card_gib=1), QWEN)
    assert changes and not changes[-1][1].fits
