# SPDX-License-Identifier: Apache-2.0
"""Problems that the embedded model does not solve: chains of two operations with numbers beyond those of its pre-training."""

from __future__ import annotations

import random

from .problems import Problem, apply, problem_digest, split_of


SMALLEST, LARGEST_START, LARGEST = 200, 899, 999
OPERANDS = (2, 9)


def generate_beyond(n: int, seed: int = 0, split: str = "test") -> list[dict[str, str]]:
    """
    Generate distinct problems whose numbers lie between 200 and 999, so that guessing does not solve them.

    Args:
        n (`int`): Number of problems.
        seed (`int`, *optional*, defaults to `0`): Seed. A longer list begins with the shorter one.
        split (`str`, *optional*, defaults to `"test"`): `"train"`, `"validation"` or `"test"`, as for [`generate_problems`].

    Returns:
        `list[dict[str, str]]`: As [`generate_problems`] returns.

    Examples:
        >>> [row["problem"] for row in generate_beyond(2)]
        ['What is 836 + 9 - 4?', 'What is 688 - 3 - 4?']
    """
    rng = random.Random(f"beyond {split} {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < n:
        problem = _draw(rng)
        if problem.text not in problems and split_of(problem.text) == split:
            problems[problem.text] = problem
    return [
        {"prompt_id": problem_digest(text), "problem": text, "answer": str(problem.results[-1])}
        for text, problem in problems.items()
    ]


def _draw(rng: random.Random) -> Problem:
    """Draw a chain of two additions or subtractions; one that leaves the range is drawn again from its start."""
    while True:
        value = start = rng.randint(SMALLEST, LARGEST_START)
        operations: list[tuple[str, int]] = []
        for _ in range(2):
            operation = rng.choice("+-"), rng.randint(*OPERANDS)
            value = apply(operation[0], value, operation[1])
            if not SMALLEST <= value <= LARGEST:
                break
            operations.append(operation)
        else:
            return Problem(start, tuple(operations))
