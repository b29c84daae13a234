# SPDX-License-Identifier: Apache-2.0
"""Every recipe in `examples/configs` parses, and none of its keys is misspelt or without effect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from trl import ModelConfig, TrlParser

from trl_concise import HAPOConfig


RECIPES = sorted(Path(__file__).parent.parent.glob("examples/configs/*.yaml"))
SCRIPT_KEYS = {"dataset_name", "problem_column", "answer_column", "system_prompt"}  # read by examples/hapo.py itself


def parse(recipe: Path) -> tuple[HAPOConfig, ModelConfig, list[str]]:
    """Parse a recipe for this machine, and return what the script's own arguments must account for."""
    # The recipes ask for bf16 on a GPU, which `TrainingArguments` refuses to be built for where there is none.
    command = [] if torch.cuda.is_available() else ["--use_cpu"]
    return TrlParser((HAPOConfig, ModelConfig)).parse_args_and_config(
        [*command, "--config", str(recipe)], return_remaining_strings=True
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_recipe_parses(recipe):
    args, model_args, remaining = parse(recipe)
    assert {key.removeprefix("--") for key in remaining[::2]} <= SCRIPT_KEYS
    for key, value in yaml.safe_load(recipe.read_text()).items():
        if key not in SCRIPT_KEYS:
            parsed = getattr(model_args if hasattr(model_args, key) else args, key)
            parsed = parsed.value if hasattr(parsed, "value") else parsed  # enumerations: scheduler, optimizer
            assert parsed == value, key


def test_paper_recipe_is_the_paper():
    """16 completions per optimizer step on the authors' 4 processes, generated at once."""
    args, model_args, _ = parse(Path(__file__).parent.parent / "examples/configs/hapo_paper.yaml")
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 4 == 16
    assert args.steps_per_generation == args.gradient_accumulation_steps
    assert (args.num_generations, args.num_train_epochs, args.max_completion_length) == (2, 5, 32768)
    assert (args.temperature, args.top_k, args.beta, args.learning_rate) == (0.7, 50, 0.04, 1e-6)
    assert (args.loss_type, args.epsilon, args.max_grad_norm, args.use_bias_correction_kl) == ("bnpo", 0.2, 1.0, False)
    assert not model_args.use_peft
