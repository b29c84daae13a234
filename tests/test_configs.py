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

from trl_concise.cli.arguments import ProblemArguments, RunArguments, parse_arguments


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


BOXED = r"Let's think step by step and output the final answer within \boxed{}."
VERL = {  # what the authors' launch scripts leave at verl's defaults, where TRL's differ or may change
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.01,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "max_grad_norm": 1.0,
    "entropy_coef": 0.001,
    "epsilon": 0.2,
    "scale_rewards": "group",
    "top_p": 1.0,
    "top_k": 0,
    "vllm_importance_sampling_correction": False,
    "gradient_checkpointing": True,
    "dtype": "float32",
    "bf16": True,
}


@pytest.mark.parametrize(
    ("name", "own"),
    {
        "laser_d": {"reward": "laser_base_score", "monitor_prompts": 500, "loss_type": "bnpo", "prompt_suffix": BOXED},
        "shorter_better": {"loss_type": "dapo", "beta": 0.001, "prompt_suffix": BOXED},
        "one_shot_rlvr": {"loss_type": "dapo", "beta": 0.001, "temperature": 0.6, "prompt_suffix": BOXED},
        "greso": {"loss_type": "bnpo", "beta": 0.0, "temperature": 1.0, "max_completion_length": 2560},
        "dler": {
            "truncation_factor": 0.1,
            "advantage_boost": 0.1,
            "unbiased_variance": True,
            "scale_rewards": "none",
            "epsilon_high": 0.28,
            "delta": 10.0,
            "beta": 0.0005,
            "entropy_coef": 0.0,
            "loss_type": "dapo",
            "temperature": 1.0,
            "max_completion_length": 4000,
            "vllm_max_model_length": 1024 + 4000,
            "vllm_gpu_memory_utilization": 0.7,
            "learning_rate": 1e-6,
            "prompt_suffix": BOXED,
        },
        "siri": {"beta": 0.0, "epsilon_high": 0.28, "entropy_coef": 0.0, "prompt_suffix": BOXED},
    }.items(),
)
def test_a_recipe_of_the_authors_sets_what_their_script_sets(name, own):
    recipe = EXAMPLES / "configs" / f"{name}_paper.yaml"
    written = yaml.safe_load(recipe.read_text())
    expected = {**VERL, **own}
    assert {key: written.get(key) for key in expected} == expected  # written out, not left to a default
    assert written["prompt_suffix"]
    parsed = parse(recipe)
    assert {key: parsed[key] for key in expected} == expected


# Prompts that are generated at once, optimizer steps that train on them
@pytest.mark.parametrize(
    ("name", "prompts", "updates", "group"),
    [
        ("laser_d", 128, 2, 8),
        ("shorter_better", 128, 8, 8),
        ("one_shot_rlvr", 128, 1, 8),
        ("greso", 256, 4, 8),
        ("siri", 128, 1, 8),
        ("dler", 256, 4, 16),
    ],
)
def test_a_recipe_of_the_authors_has_their_batch(name, prompts, updates, group):
    parsed = parse(EXAMPLES / "configs" / f"{name}_paper.yaml")
    completions = parsed["per_device_train_batch_size"] * parsed["steps_per_generation"]
    assert completions == prompts * parsed["num_generations"] and parsed["num_generations"] == group
    assert parsed["steps_per_generation"] == updates * parsed["gradient_accumulation_steps"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "length_rewards_open_rs",
            {
                "method": "open-rs",
                "beta": 0.04,
                "loss_type": "bnpo",
                "vllm_max_model_length": 4608,
                "vllm_importance_sampling_correction": False,
                "reward_weights": [0.0, 1.0, 2.0],
                "num_generations": 6,
                "per_device_train_batch_size": 6,
                "gradient_accumulation_steps": 4,
                "max_steps": 500,
                "max_completion_length": 3584,
                "temperature": 0.7,
                "learning_rate": 1e-6,
                "lr_scheduler_type": "cosine_with_min_lr",
                "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
                "warmup_steps": 0.1,
            },
        ),
        (
            "length_rewards_light_r1",
            {
                "method": "none",
                "num_generations": 8,
                "generation_batch_size": 128 * 8,
                "num_train_epochs": 5,
                "max_completion_length": 24000,
                "temperature": 1.0,
                "beta": 0.001,
                "entropy_coef": 0.0,
                "learning_rate": 1e-6,
            },
        ),
        (
            "length_rewards_still_3",
            {
                "method": "none",
                "num_generations": 8,
                "generation_batch_size": 128 * 8,
                "gradient_accumulation_steps": 128,
                "num_iterations": 1,
                "max_completion_length": 29000,
                "temperature": 1.0,
                "beta": 0.001,
                "learning_rate": 2e-6,
                "adam_beta2": 0.95,
                "warmup_steps": 0,
            },
        ),
        ("mgpo_vibethinker", {"strength": 1.0, "max_completion_length": 16384, "loss_type": "grpo"}),
    ],
)
def test_a_recipe_of_a_system_sets_what_is_published(name, expected):
    recipe = EXAMPLES / "configs" / f"{name}.yaml"
    parsed = parse(recipe)
    assert {key: parsed[key] for key in expected} == expected
    text = recipe.read_text()
    for line in text[
        text.index("# Data and model") :
    ].splitlines():  # each setting has a source, or says that it has none
        if line and not line.startswith(("#", "  ", "per_device_", "logging_steps", "output_dir", "method:")):
            assert "  # " in line, line


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
