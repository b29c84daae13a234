# SPDX-License-Identifier: Apache-2.0
"""One QLoRA step of each trainer on a tiny model whose widths are multiples of 64: bitsandbytes runs NF4 on the CPU too."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import BitsAndBytesConfig

from tests import tiny
from trl_concise import (
    CFTConfig,
    CFTTrainer,
    GRESOConfig,
    GRESOTrainer,
    HAPOConfig,
    HAPOTrainer,
    LASERConfig,
    LASERDConfig,
    LASERDTrainer,
    LASERTrainer,
    REDIConfig,
    REDITrainer,
    SGRPOConfig,
    SGRPOTrainer,
    ShorterBetterConfig,
    ShorterBetterTrainer,
    SIRIConfig,
    SIRITrainer,
    TSPMOConfig,
    TSPMOTrainer,
    demo,
)


CRITIQUES = Dataset.from_list(demo.generate_critiques(8, seed=0))
PAIRS = Dataset.from_list([{"prompt": f"{n} + {n} = ", "chosen": f"{2 * n}", "rejected": f"{n}"} for n in range(8)])
TRAINERS = {
    "hapo": (HAPOTrainer, HAPOConfig, {}),
    "laser": (LASERTrainer, LASERConfig, {}),
    "laser_d": (LASERDTrainer, LASERDConfig, {"monitor_prompts": 1, "monitor_generations": 1}),
    "shorter_better": (ShorterBetterTrainer, ShorterBetterConfig, {}),
    "siri": (SIRITrainer, SIRIConfig, {"reward_weights": [2.0]}),  # at 1, what is cut earns 0: here, everything
    "greso": (GRESOTrainer, GRESOConfig, {}),
    "sgrpo": (SGRPOTrainer, SGRPOConfig, {}),
    "tspmo": (TSPMOTrainer, TSPMOConfig, {}),
    "redi": (REDITrainer, REDIConfig, {}),
    "cft": (CFTTrainer, CFTConfig, {}),
}
DATASETS = {"redi": PAIRS, "cft": CRITIQUES}


def alternating_reward(completions, **kwargs):
    """Right and wrong in turn, so that every group has a gradient whatever its completions."""
    return [float(index % 2) for index in range(len(completions))]


@pytest.mark.usefixtures("plain_nf4")
@pytest.mark.parametrize("method", TRAINERS)
def test_a_step_changes_the_adapter_and_nothing_else(method, tiny_model, problems, tmp_path):
    trainer_class, config_class, changes = TRAINERS[method]
    settings = tiny.settings(
        tmp_path, max_steps=1, gradient_checkpointing=True, model_init_kwargs={"dtype": "bfloat16"}, **changes
    )
    arguments = {"reward_funcs": alternating_reward}
    if method in DATASETS:
        settings = {k: v for k, v in settings.items() if k not in ("num_generations", "max_completion_length")}
        arguments = {}
    trainer = trainer_class(
        model=tiny_model,
        args=config_class(**settings),
        train_dataset=DATASETS.get(method, problems),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
        peft_config=LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0, init_lora_weights=False),
        **arguments,
    )
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in trainer.model.modules())
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    changed = {
        name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert changed and all("lora_" in name for name in changed)
