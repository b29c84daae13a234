# SPDX-License-Identifier: Apache-2.0
"""Model, problems and settings of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .problems import TRAINING_OPERATIONS, generate_problems


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


TRAINING_PROBLEMS = 128  # few enough for several visits each: a first visit only fills the history


def model_path() -> Path:
    """Folder of the embedded model, for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained`."""
    return Path(__file__).parent / "model"


def problem_dataset(
    n: int, *, seed: int = 0, split: str = "test", operations: Sequence[int] = TRAINING_OPERATIONS
) -> Dataset:
    """
    Generated problems, as TRL's trainers and [`~trl_concise.evaluation.evaluate`] take them.

    Args:
        n, seed, split: See [`generate_problems`].
        operations (`Sequence[int]`, *optional*, defaults to `(2,)`): Numbers of operations, see [`generate_problems`]. The
            default is that of the demo's training problems.

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
            for row in generate_problems(n, seed, split, operations)
        ]
    )


def train_dataset(
    n: int = TRAINING_PROBLEMS, *, seed: int = 0, operations: Sequence[int] = TRAINING_OPERATIONS
) -> Dataset:
    """
    Training problems of the demo, by default of two operations each. The embedded model was pre-trained on problems of two
    and of three operations; the demo does not train on the longer ones.

    Args:
        n (`int`, *optional*, defaults to `128`): Number of problems.
        seed, operations: See [`generate_problems`].

    Returns:
        `Dataset`: Columns `prompt` (one user message), `solution` and `prompt_id`.
    """
    return problem_dataset(n, seed=seed, split="train", operations=operations)


def evaluate_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: Dataset, **options: Any
) -> dict[str, Any]:
    """
    Measure a model with the settings of the demo, without writing files.

    Args:
        model ([`~transformers.PreTrainedModel`]): Model to measure.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        problems (`Dataset`): Columns `prompt` and `solution`, for example [`problem_dataset`].
        **options: Arguments of [`~trl_concise.evaluation.evaluate`] that replace those of `EVALUATION`.

    Returns:
        `dict[str, Any]`: The record of [`~trl_concise.evaluation.evaluate`], for example `accuracy` and `tokens_mean`.
    """
    from ..evaluation import evaluate

    settings = {"model_name": "model", "progress": False, **EVALUATION, **options}
    return evaluate(model, {"problems": problems}, tokenizer=tokenizer, **settings)[0]


# Arguments of `trl_concise.evaluation.evaluate` in the demo, the examples and the benchmarks.
EVALUATION: dict[str, Any] = {
    "max_new_tokens": 256,  # the longest trace of the pre-training has 251 tokens
    "temperature": 1.0,
    "top_p": 1.0,
    "batch_size": 128,
}

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
