# SPDX-License-Identifier: Apache-2.0
"""Model, problems and training settings of the demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .problems import generate_problems


if TYPE_CHECKING:
    from datasets import Dataset


TRAINING_PROBLEMS = 128  # few enough for several visits each: a first visit only fills the history


def model_path() -> Path:
    """Folder of the embedded model, for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`."""
    return Path(__file__).parent / "model"


def train_dataset(n: int = TRAINING_PROBLEMS, *, seed: int = 0) -> Dataset:
    """
    Problems of the `train` split, as TRL's trainers take them.

    Args:
        n (`int`, *optional*, defaults to `128`): Number of problems.
        seed (`int`, *optional*, defaults to `0`): Seed, see [`generate_problems`].

    Returns:
        `Dataset`: Columns `prompt` (one user message), `solution` and `prompt_id`.
    """
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["problem"]}],
                "solution": row["answer"],
                "prompt_id": row["prompt_id"],
            }
            for row in generate_problems(n, seed)
        ]
    )


# Chosen on problems of the `validation` split.
SETTINGS: dict[str, Any] = {
    "model_name_or_path": str(model_path()),
    "output_dir": "outputs/hapo-demo",
    "max_steps": 100,
    "per_device_train_batch_size": 64,  # completions: 8 prompts a step
    "gradient_accumulation_steps": 1,
    "num_generations": 8,
    "max_completion_length": 128,
    "learning_rate": 2e-4,  # a model of a million parameters needs a higher one than a large model
    "lr_scheduler_type": "linear",
    "warmup_steps": 5,
    "beta": 0.04,  # preserves abilities that the few training problems do not exercise
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 50,
    "save_total_limit": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
