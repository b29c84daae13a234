# SPDX-License-Identifier: Apache-2.0
"""
A concise variant of the embedded model, and traces as text to train on, for methods that start from two models or from fixed text.

[`concise_model`] trains the embedded model for some seconds on traces that neither restate nor check.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .problems import Problem, training_problems
from .traces import END_OF_THINKING, write_pass, write_trace
from .variants import IGNORED, Batch, make_variant


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

STEPS = 40
ROWS = 32  # per step


def concise_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model on short traces, and save it. A folder that has a model is returned as it is.

    The problems are of the split `train`, of two and three operations. With several processes, the first one trains, and the others
    wait. It runs on the CPU.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `40`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    return make_variant(folder, steps, lambda tokenizer: _batches(tokenizer, seed))


def trace_dataset(n: int, *, seed: int = 0) -> Dataset:
    """
    Return correct traces of training problems, as verbose as the embedded model writes them.

    Args:
        n (`int`): Number of traces, one per problem of two or three operations.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and traces.

    Returns:
        `Dataset`: Columns `prompt` (one user message) and `completion` (one assistant message, which begins after `<think>`).
    """
    from datasets import Dataset

    rng = random.Random(f"traces {seed}")
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": problem.text}],
                "completion": [{"role": "assistant", "content": write_trace(problem, rng)}],
            }
            for problem in itertools.islice(training_problems(f"traces {seed}"), n)
        ]
    )


def _short_trace(problem: Problem) -> str:
    lines = write_pass(problem, problem.results, verbose=False)
    return "\n".join(lines) + "\n" + END_OF_THINKING + f"\\boxed{{{problem.results[-1]}}}"


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[Batch]:
    problems = training_problems(f"concise {seed}")
    while True:
        batch = []
        for problem in itertools.islice(problems, ROWS):
            messages = [{"role": "user", "content": problem.text}]
            prompt = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
            prompt_ids = tokenizer(prompt).input_ids
            completion_ids = tokenizer(_short_trace(problem) + tokenizer.eos_token).input_ids
            batch.append((prompt_ids + completion_ids, [IGNORED] * len(prompt_ids) + completion_ids))
        yield batch
