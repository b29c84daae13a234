# SPDX-License-Identifier: Apache-2.0
"""
The embedded model taught to verify solutions, for methods that train on its verdicts.

The model that ships only solves problems. [`verifier_model`] trains it on, on solutions and on verifications, so that no second model has to
ship. A solution has its steps after the reasoning, which is empty, so that a verification sees them. A verification is written as the checks that
the model knows: it carries out the operations again and compares the results:

    Wait, let me check.
    42*2=84
    84*2=168
    That differs: 168, not 158.
    </think>
    Is the answer correct (Yes/No)? No

Both kinds of texts contain slips that are not repaired, so the model is wrong sometimes, about problems and about solutions.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..verification.verdicts import CUE, INSTRUCTION, verification_prompt
from .problems import Problem, draw_problem, split_of
from .traces import END_OF_THINKING, slipped_results, write_pass
from .variants import IGNORED, Batch, make_variant


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEPS = 120
SOLUTIONS, VERIFICATIONS = 8, 24  # per step
LEARNING_RATE = 2e-3
LENGTHS = (2, 3, 4)
SLIP_SHARE = 0.3  # of the solutions contain a slip
WRONG_SHARE = 0.5  # of the solutions that are verified are wrong
VERIFICATION_SLIP_SHARE = 0.2  # of the verifications contain a slip


def verifier_problems(seed: int | str) -> Iterator[Problem]:
    """Yield problems of two to four operations without end, of the split `train`."""
    rng = random.Random(f"verifier {seed}")
    while True:
        problem = draw_problem(rng, LENGTHS)
        if split_of(problem.text) == "train":
            yield problem


def write_solution(problem: Problem, results: list[int]) -> str:
    """Write a solution with the given results, without reasoning."""
    return "\n".join([*write_pass(problem, results, verbose=False), f"\\boxed{{{results[-1]}}}"])


def write_verification(problem: Problem, answer: int, rng: random.Random) -> str:
    """Write a verification of an answer, after `<think>\\n`. It is wrong about some answers, because it may contain a slip."""
    results = draw_results(problem, VERIFICATION_SLIP_SHARE, rng)
    agrees = results[-1] == answer
    lines = [
        "Wait, let me check.",
        *write_pass(problem, results, verbose=False),
        "That agrees." if agrees else f"That differs: {results[-1]}, not {answer}.",
    ]
    return "\n".join(lines) + f"\n{END_OF_THINKING}{CUE} {'Yes' if agrees else 'No'}"


def draw_results(problem: Problem, slip_share: float, rng: random.Random) -> list[int]:
    """Return the results of the steps. In `slip_share` of all cases, one of them is wrong, and so may be the answer."""
    return slipped_results(problem, rng) if rng.random() < slip_share else problem.results


def verifier_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model on solutions and verifications, and save it. A folder that has a model is returned as it is.

    Its tokenizer has the instruction and the cue of the verdict as one token each, because the embedded model's vocabulary spells them
    letter by letter. The problems are of the split `train`, of two to four operations. With several processes, the first one trains,
    and the others wait. It runs on the CPU, in a minute or two.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `120`): Optimizer steps.
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
        change_tokenizer=lambda tokenizer: tokenizer.add_tokens([INSTRUCTION, CUE, "Yes", "No"]),
        learning_rate=LEARNING_RATE,
    )


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[Batch]:
    rng, problems = random.Random(f"verifier texts {seed}"), verifier_problems(seed)

    def tokenized(prompt: Any, completion: str) -> tuple[list[int], list[int]]:
        text = str(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False))
        prompt_ids = tokenizer(text).input_ids
        completion_ids = tokenizer(completion + tokenizer.eos_token).input_ids
        return prompt_ids + completion_ids, [IGNORED] * len(prompt_ids) + completion_ids

    while True:
        rows = []
        for place, problem in enumerate(itertools.islice(problems, SOLUTIONS + VERIFICATIONS)):
            prompt = [{"role": "user", "content": problem.text}]
            if place < SOLUTIONS:
                solution = write_solution(problem, draw_results(problem, SLIP_SHARE, rng))
                rows.append(tokenized(prompt, END_OF_THINKING + solution))
                continue
            results = draw_results(problem, WRONG_SHARE, rng)
            asked = verification_prompt(prompt, write_solution(problem, results))
            rows.append(tokenized(asked, write_verification(problem, results[-1], rng)))
        yield rows
