# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from transformers import TrainingArguments
from trl import GRPOConfig

from tests.memory.test_plan import LORA
from trl_concise.memory import PlanSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ppo"}, "method must be one of"),
        ({"load_in_4bit": True, "use_peft": False}, "needs use_peft=True"),
        ({"num_generations": 3}, "8 completions per generation .* not a multiple of num_generations = 3"),
        ({"attn_implementation": "eager"}, "must be sdpa or one with flash in its name, .* got 'eager'"),
        ({"dtype": "int8"}, "dtype must be float32 or bfloat16"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        PlanSettings(**{"method": "hapo", **LORA, **changes})


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("new", [None, False, True])
@pytest.mark.parametrize("old", [False, True])
def test_both_names_of_activation_checkpointing_act_as_in_transformers(old, new):
    if "activation_checkpointing" not in TrainingArguments.__dataclass_fields__:
        pytest.skip("this release of transformers has the older name only")
    names = {"gradient_checkpointing": old, "activation_checkpointing": new}
    args = GRPOConfig("unused", use_cpu=True, bf16=False, **names)
    assert PlanSettings("grpo", **names).recomputes == args.activation_checkpointing == args.gradient_checkpointing
