# SPDX-License-Identifier: Apache-2.0
"""Sources of short traces of the embedded model's problems, one of them good, for methods that learn what to train on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from .problems import TRAINING_OPERATIONS, Problem, draw_distinct_problems
from .settings import model_path
from .traces import END_OF_THINKING, slipped_results, write_pass


if TYPE_CHECKING:
    from datasets import Dataset


def write_correct_trace(problem: Problem, rng: random.Random) -> str:
    """Write a line per operation and the answer."""
    return _short_trace(problem, problem.results)


def write_wrong_trace(problem: Problem, rng: random.Random) -> str:
    """Write a line per operation, one of them with a slip, and so a wrong answer."""
    results = slipped_results(problem, rng)
    while results[-1] == problem.results[-1]:  # a product with 0 hides the slip
        results = slipped_results(problem, rng)
    return _short_trace(problem, results)


def write_restatement(problem: Problem, rng: random.Random) -> str:
    """Write the problem again, without an answer."""
    return f"We need {problem.expression}.\n{END_OF_THINKING}We need {problem.expression}."


WRITERS: dict[str, Callable[[Problem, random.Random], str]] = {
    "correct": write_correct_trace,
    "wrong": write_wrong_trace,
    "restated": write_restatement,
}


def source_datasets(n: int, *, seed: int = 0) -> dict[str, Dataset]:
    """
    Return three sources of traces, each about other problems of two operations, of the split `train`.

    Args:
        n (`int`): Traces per source, at most 3,333.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and slips. With another seed, some of the problems are the same.

    Returns:
        `dict[str, Dataset]`: `correct`, `wrong` (a wrong result in every trace) and `restated` (without an answer), each with the
        columns `prompt` (the text after which the model writes) and `completion` (a text).
    """
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    rng = random.Random(f"sources {seed}")
    problems = draw_distinct_problems(len(WRITERS) * n, seed, "train", TRAINING_OPERATIONS)
    datasets = {}
    for k, (name, write) in enumerate(WRITERS.items()):
        rows = []
        for problem in problems[k * n : (k + 1) * n]:
            messages = [{"role": "user", "content": problem.text}]
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            rows.append({"prompt": prompt, "completion": write(problem, rng)})
        datasets[name] = Dataset.from_list(rows)
    return datasets


def _short_trace(problem: Problem, results: list[int]) -> str:
    lines = write_pass(problem, results, verbose=False)
    return "\n".join(lines) + "\n" + END_OF_THINKING + f"\\boxed{{{results[-1]}}}"
