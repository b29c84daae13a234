# SPDX-License-Identifier: Apache-2.0
"""Every recipe in `examples/configs` parses, and each of its keys arrives where it has an effect."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
import yaml
from transformers import TrainingArguments
from trl import ModelConfig

from trl_concise.cli.script import ProblemArguments, RunArguments, parse_arguments


EXAMPLES = Path(__file__).parent.parent / "examples"
RECIPES = sorted(EXAMPLES.glob("configs/*.yaml"))


def parse(recipe: Path) -> dict:
    """Parse a recipe as the example whose name it begins with does, and return all values by name."""
    named = [path for path in EXAMPLES.glob("*.py") if recipe.name.startswith(path.stem)]
    example = max(named, key=lambda path: len(path.stem))  # laser_d_paper.yaml is not laser.py's
    imported = runpy.run_path(str(example))
    # The recipes ask for bf16 on a GPU, which `TrainingArguments` refuses to be built for where there is none.
    command = ["--config", str(recipe), *([] if torch.cuda.is_available() else ["--use_cpu"])]
    classes = [item for item in imported.values() if isinstance(item, type)]
    configs = [c for c in classes if issubclass(c, TrainingArguments)]
    config = max(configs, key=lambda c: len(c.__mro__))  # the example's own, where it adds options
    own = [c for c in classes if issubclass(c, RunArguments) and c is not RunArguments] or [ProblemArguments]
    parsed = parse_arguments((own[0], config, ModelConfig), command, {})
    return {name: value for part in parsed for name, value in vars(part).items()}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_recipe_parses(recipe):
    parsed = parse(recipe)
    for key, value in yaml.safe_load(recipe.read_text()).items():
        # Enumerations are equal to their values. A number that YAML reads as text (1e-6, without a dot) is not.
        assert parsed[key] == value, key


def test_paper_recipe_is_the_paper():
    """16 completions per optimizer step on the authors' 4 processes, generated at once."""
    parsed = parse(EXAMPLES / "configs" / "hapo_paper.yaml")
    expected = {
        "num_generations": 2,
        "num_train_epochs": 5,
        "max_completion_length": 32768,
        "temperature": 0.7,
        "top_k": 50,
        "beta": 0.04,
        "use_bias_correction_kl": False,
        "learning_rate": 1e-6,
        "loss_type": "bnpo",
        "epsilon": 0.2,
        "max_grad_norm": 1.0,
        "use_peft": False,
    }
    assert {key: parsed[key] for key in expected} == expected
    assert 4 * parsed["per_device_train_batch_size"] * parsed["gradient_accumulation_steps"] == 16
    assert parsed["steps_per_generation"] == parsed["gradient_accumulation_steps"]


@pytest.mark.parametrize("name", ["laser_d", "shorter_better"])
def test_a_recipe_of_the_authors_sets_what_their_script_sets(name):
    parsed = parse(EXAMPLES / "configs" / f"{name}_paper.yaml")
    expected = {
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.01,
        "entropy_coef": 0.001,
        "beta": 0.001,
        "prompt_suffix": r"Let's think step by step and output the final answer within \boxed{}.",
    }
    assert {key: parsed[key] for key in expected} == expected
    if name == "laser_d":
        assert (parsed["reward"], parsed["monitor_prompts"]) == ("laser_base_score", 500)


def test_redi_recipe_is_the_paper():
    """128 traces a step in the first stage and 32 pairs in the second, on the authors' 8 GPUs."""
    parsed = parse(EXAMPLES / "configs" / "redi_1.5b.yaml")
    expected = {
        "alpha": 0.8,
        "learning_rate": 1e-6,
        "sft_learning_rate": 5e-5,
        "warmup_steps": 0.1,
        "num_train_epochs": 1,
    }
    assert {key: parsed[key] for key in expected} == expected
    assert 8 * parsed["sft_per_device_train_batch_size"] * parsed["sft_gradient_accumulation_steps"] == 128
    assert 8 * parsed["per_device_train_batch_size"] * parsed["gradient_accumulation_steps"] == 32
    assert parsed["max_prompt_length"] + parsed["max_completion_length"] <= parsed["max_length"]
