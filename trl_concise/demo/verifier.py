# SPDX-License-Identifier: Apache-2.0
"""
The embedded model taught to verify solutions, for methods that train on its verdicts.

The model that ships only solves problems. [`verifier_model`] trains it on, on solutions and on verifications, so that no second model has to
ship. A solution has its steps after the reasoning, which is empty, so that a verification sees them. A verification has a line per step: the
result that the solution claims, the calculation, and the claim again, next to the calculated result:

    42*2:84 42*2=84 84 same
    84*2:158 84*2=168 158 differs</think>
    Is the answer correct (Yes/No)? No

The model is too small to compare a result with a number further away. It learns to copy claims from solutions whose results are random,
because it can calculate most results of other solutions, and to compare from drills: lines with nothing but two numbers and the comparison.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..verification.verdicts import CUE, INSTRUCTION, verification_prompt
from .problems import LARGEST_RESULT, Problem, apply, draw_problem, split_of
from .traces import END_OF_THINKING, SLIPS, slipped_results, write_pass
from .variants import IGNORED, Batch, make_variant


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAME, DIFFERS = " same", " differs"
STEPS = 400
SOLUTIONS, VERIFICATIONS, DRILLS = 2, 14, 8  # rows per step
COMPARISONS = 18  # of a drill
LEARNING_RATE = 3e-3
LENGTHS = (2, 3, 4)
SLIP_SHARE = 0.3  # of the solutions contain a slip
WRONG_SHARE = 0.5  # of the solutions that are verified contain a slip
COPYING_SHARE = 0.6  # of the steps come first and teach to copy claims
RANDOM_SHARE = 0.6  # of the solutions in these steps have random results
RANDOM_RESULT_SHARE = 0.7  # of their results are random
DIFFERENT_SHARE = 0.5  # of the comparisons
NEAR_SHARE = 0.6  # of the comparisons of different numbers have numbers that differ by a slip


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


def write_checks(problem: Problem, claimed: list[int]) -> list[str]:
    """Write the line of each step of a solution with the claimed results. Each step starts from the result claimed before it."""
    lines, value = [], problem.start
    for (operator, operand), claim in zip(problem.operations, claimed, strict=True):
        step, result = f"{value}{operator}{operand}", max(0, apply(operator, value, operand))
        lines.append(f"{step}:{claim} {step}={result} {write_comparison(result, claim)}")
        value = claim
    return lines


def write_verification(problem: Problem, claimed: list[int]) -> str:
    """Write a verification of a solution with the claimed results, after `<think>\\n`. It ends at the first step that differs."""
    lines = write_checks(problem, claimed)
    for count, line in enumerate(lines, start=1):
        if line.endswith(DIFFERS):
            return "\n".join(lines[:count]) + f"{END_OF_THINKING}{CUE} No"
    return "\n".join(lines) + f"\n{END_OF_THINKING}{CUE} Yes"


def write_comparison(result: int, claim: int) -> str:
    """Write a claimed result, and whether it is the calculated one."""
    return f"{claim}{SAME if result == claim else DIFFERS}"


def write_drill(rng: random.Random) -> str:
    """Write comparisons of random numbers; half of them differ."""
    lines = []
    for _ in range(COMPARISONS):
        result = claim = rng.randint(0, LARGEST_RESULT)
        if rng.random() < DIFFERENT_SHARE:
            near = [result + slip for slip in SLIPS if result + slip >= 0]
            far = [number for number in range(LARGEST_RESULT + 1) if number != result]
            claim = rng.choice(near if rng.random() < NEAR_SHARE else far)
        lines.append(f"={result} {write_comparison(result, claim)}\n")
    return "".join(lines)


def draw_results(problem: Problem, slip_share: float, rng: random.Random) -> list[int]:
    """Return the results of the steps. In `slip_share` of all cases, one of them is wrong, and so may be the answer."""
    return slipped_results(problem, rng) if rng.random() < slip_share else problem.results


def draw_random_results(problem: Problem, rng: random.Random) -> list[int]:
    """Return results of which most are random; the others continue from the one before."""
    results, value = [], problem.start
    for operator, operand in problem.operations:
        value = max(0, apply(operator, value, operand))
        if rng.random() < RANDOM_RESULT_SHARE:
            value = rng.randint(0, LARGEST_RESULT)
        results.append(value)
    return results


def verifier_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model on solutions and verifications, and save it. A folder that has a model is returned as it is.

    Its tokenizer has the instruction, the cue of the verdict and the words of a comparison as one token each, because the embedded model's
    vocabulary spells them letter by letter. The problems are of the split `train`, of two to four operations. With several processes, the first one trains,
    and the others wait. It runs on the CPU: the 400 steps took 174 s of processor time on one
    thread.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `400`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and texts.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    return make_variant(
        folder,
        steps,
        lambda tokenizer: _batches(tokenizer, seed, steps),
        change_tokenizer=lambda tokenizer: tokenizer.add_tokens([INSTRUCTION, CUE, "Yes", "No", SAME, DIFFERS]),
        learning_rate=LEARNING_RATE,
    )


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int, steps: int) -> Iterator[Batch]:
    rng, problems = random.Random(f"verifier texts {seed}"), verifier_problems(seed)
    comparisons = set(tokenizer.convert_tokens_to_ids([SAME, DIFFERS]))

    def tokenized(prompt: Any, completion: str) -> tuple[list[int], list[int]]:
        text = str(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False))
        prompt_ids, completion_ids = tokenizer(text).input_ids, tokenizer(completion).input_ids
        return prompt_ids + completion_ids, [IGNORED] * len(prompt_ids) + completion_ids

    for step in itertools.count():
        rows = []
        for place, problem in enumerate(itertools.islice(problems, SOLUTIONS + VERIFICATIONS)):
            prompt = [{"role": "user", "content": problem.text}]
            if place < SOLUTIONS:
                solution = write_solution(problem, draw_results(problem, SLIP_SHARE, rng))
                rows.append(tokenized(prompt, f"{END_OF_THINKING}{solution}{tokenizer.eos_token}"))
            elif step < COPYING_SHARE * steps:
                is_random = rng.random() < RANDOM_SHARE
                results = draw_random_results(problem, rng) if is_random else draw_results(problem, WRONG_SHARE, rng)
                asked = verification_prompt(prompt, write_solution(problem, results))
                rows.append(tokenized(asked, "\n".join(write_checks(problem, results))))
            else:
                results = draw_results(problem, WRONG_SHARE, rng)
                asked = verification_prompt(prompt, write_solution(problem, results))
                rows.append(tokenized(asked, write_verification(problem, results) + tokenizer.eos_token))
        for _ in range(DRILLS):
            ids = tokenizer(f"<think>\n{write_drill(rng)}").input_ids
            rows.append((ids, [token if token in comparisons else IGNORED for token in ids]))
        yield rows
