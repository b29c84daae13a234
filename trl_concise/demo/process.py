# SPDX-License-Identifier: Apache-2.0
"""
Worked solutions of the embedded model's problems, and the embedded model taught to answer tasks about them, for MR-RLVR.

A solution has one line per operation. [`process_model`] trains the embedded model on, for a minute, on its traces and on tasks with their
answers, so that it knows the tasks before it is rewarded.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .problems import OPERATIONS, Problem, draw_problem, split_of, training_problems
from .settings import TRAINING_PROBLEMS
from .traces import END_OF_THINKING, write_pass, write_trace
from .variants import IGNORED, Batch, make_variant


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

STEPS = 200
TRACES, TASKS = 8, 24  # per step
LEARNING_RATE = 1e-3  # for new embeddings
MARKS = ("[blank 1]", "[blank 2]", "[blank 3]", "Order:")  # each a token; the words would be learned last
BATCHES_PER_POOL = 8  # rows are sorted by length within a pool, so that little is padded
PROMPTS = {"fill_prompt": "{problem}\n{solution}", "order_prompt": "{problem}\n{steps}"}  # every letter is a token


def write_solution(problem: Problem) -> dict[str, str]:
    """Return a row with `problem` and a worked `solution`, its answer marked as in GSM8K."""
    lines = write_pass(problem, problem.results, verbose=False)
    return {"problem": problem.text, "solution": "\n".join([*lines, f"#### {problem.results[-1]}"])}


def worked_solutions(n: int = TRAINING_PROBLEMS, *, seed: int = 0, operations: Sequence[int] = OPERATIONS) -> Dataset:
    """
    Generated problems of the split `train` with worked solutions.

    Args:
        n (`int`, *optional*, defaults to `128`): Number of problems.
        seed, operations: See [`generate_problems`].

    Returns:
        `Dataset`: Columns `problem` and `solution`, whose last line is `#### ` and the answer. They are the problems of [`train_dataset`] with the same
        arguments.
    """
    from datasets import Dataset

    rng = random.Random(f"train {seed}")
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < n:
        problem = draw_problem(rng, operations)
        if problem.text not in rows and split_of(problem.text) == "train":
            rows[problem.text] = write_solution(problem)
    return Dataset.from_list(list(rows.values()))


def process_tasks(solutions: Dataset, **options: Any) -> Dataset:
    """Return [`build_process_tasks`] of worked solutions, in the words that [`process_model`] knows."""
    from ..data.process_tasks import build_process_tasks

    return build_process_tasks(solutions, **{**PROMPTS, **options})


def write_answer(task: dict[str, Any]) -> str:
    """Write the completion that answers a task of [`process_tasks`]."""
    if task["task"] == "order":
        return f"{END_OF_THINKING}Order: {', '.join(map(str, task['order']))}"
    return END_OF_THINKING + "\n".join(f"[blank {i}] {piece}" for i, piece in enumerate(task["blanks"], start=1))


def process_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model on traces, and on tasks with their answers, and save it. A folder that has a model is returned as it is.

    The problems are of the split `train`, of two and three operations. With several processes, the first one trains, and the others wait.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `200`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and texts.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    return make_variant(
        folder,
        steps,
        lambda tokenizer: _batches(tokenizer, seed),
        change_tokenizer=_add_marks,
        learning_rate=LEARNING_RATE,
    )


def _add_marks(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_tokens(list(MARKS))


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[Batch]:
    """Yield traces and tasks of similar length."""
    from datasets import Dataset

    rng = random.Random(f"process {seed}")
    problems = training_problems(f"process {seed}")

    longer = (problem for problem in problems if len(problem.operations) == 3)  # enough steps for both tasks

    def tokenized(messages: list[dict[str, str]], completion: str) -> tuple[list[int], list[int]]:
        prompt = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        prompt_ids = tokenizer(prompt).input_ids
        completion_ids = tokenizer(completion + tokenizer.eos_token).input_ids
        return prompt_ids + completion_ids, [IGNORED] * len(prompt_ids) + completion_ids

    while True:
        traces = [
            tokenized([{"role": "user", "content": problem.text}], write_trace(problem, rng))
            for problem in itertools.islice(problems, TRACES * BATCHES_PER_POOL)
        ]
        solutions = list(map(write_solution, itertools.islice(longer, TASKS * BATCHES_PER_POOL)))
        tasks = process_tasks(Dataset.from_list(solutions), seed=rng.randrange(2**32))
        rows = [tokenized(task["prompt"], write_answer(task)) for task in tasks]
        pools = [sorted(pool, key=lambda row: len(row[0])) for pool in (traces, rows)]
        places = list(range(BATCHES_PER_POOL))
        rng.shuffle(places)
        for place in places:
            yield [
                *pools[0][place * TRACES : (place + 1) * TRACES],
                *pools[1][place * TASKS : (place + 1) * TASKS],
            ]
