# SPDX-License-Identifier: Apache-2.0
"""
The embedded model with two modes: it thinks, or answers directly, for methods that learn when to think.

The model that ships always thinks. [`two_mode_model`] trains it on, for some seconds, on traces and on direct answers, so that no second
model has to ship.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .problems import Problem, training_problems
from .traces import write_direct_answer, write_trace
from .variants import IGNORED, Batch, make_variant


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEPS = 45
TRACES, DIRECT_ANSWERS = 24, 8  # per step
ELLIPSIS = (
    "...\n"  # after the template's `<think>`, in half of the prompts, so that the model knows AutoThink's prompts
)
BATCHES_PER_POOL = 8  # traces are sorted by length within a pool, so that little is padded


def two_mode_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model on traces and direct answers, and save it. A folder that has a model is returned as it is.

    The problems are of the split `train`, of two and three operations. With several processes, the first one trains, and the
    others wait. It runs on the CPU: the 45 steps took 23 s of processor time on one thread of an AMD EPYC.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `45`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and texts.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    return make_variant(folder, steps, lambda tokenizer: _batches(tokenizer, seed))


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[Batch]:
    """Yield traces of similar length, and direct answers."""
    rng = random.Random(f"modes {seed}")
    problems = training_problems(f"modes {seed}")

    def tokenized(problem: Problem, completion: str) -> tuple[list[int], list[int]]:
        messages = [{"role": "user", "content": problem.text}]
        prompt = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        prompt += rng.choice(["", ELLIPSIS])
        prompt_ids = tokenizer(prompt).input_ids
        completion_ids = tokenizer(completion + tokenizer.eos_token).input_ids
        return prompt_ids + completion_ids, [IGNORED] * len(prompt_ids) + completion_ids

    while True:
        pool = list(itertools.islice(problems, TRACES * BATCHES_PER_POOL))
        traces = sorted(
            (tokenized(problem, write_trace(problem, rng)) for problem in pool),
            key=lambda row: sum(label != IGNORED for label in row[1]),
        )
        firsts = list(range(0, len(traces), TRACES))
        rng.shuffle(firsts)
        for first in firsts:
            direct = [
                tokenized(problem, write_direct_answer(problem, rng))
                for problem in itertools.islice(problems, DIRECT_ANSWERS)
            ]
            yield [*traces[first : first + TRACES], *direct]
