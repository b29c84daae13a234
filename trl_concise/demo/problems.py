# SPDX-License-Identifier: Apache-2.0
"""Arithmetic problems for the embedded model: two or three operations with one-digit numbers.

A problem reads `What is (27 + 8) * 2 - 6?`. Its operations are carried out from left to right; every intermediate result
lies between 0 and 99. There are 476,588 such problems, and a digest of the text assigns each of them permanently to one
split, so no test problem was ever trained on, not even in pre-training.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass


SPLITS = ("train", "validation", "test")
MAX_PROBLEMS = {"train": 200_000, "validation": 20_000, "test": 20_000}  # per call, half of all
LARGEST_RESULT = 99
LARGEST_OPERAND = 9
LARGEST_FACTOR = 5


@dataclass(frozen=True)
class Problem:
    """
    A chain of operations.

    Args:
        start (`int`): First number.
        operations (`tuple[tuple[str, int], ...]`): Operator (`"+"`, `"-"` or `"*"`) and operand of each step, in the
            order in which they are carried out.
    """

    start: int
    operations: tuple[tuple[str, int], ...]

    @property
    def expression(self) -> str:
        text = str(self.start)
        previous = "*"  # a bare number needs no parentheses
        for operator, operand in self.operations:
            if operator == "*" and previous != "*":
                text = f"({text})"
            text += f" {operator} {operand}"
            previous = operator
        return text

    @property
    def text(self) -> str:
        return f"What is {self.expression}?"

    @property
    def results(self) -> list[int]:
        """Result after each operation; the last one is the answer."""
        results, value = [], self.start
        for operator, operand in self.operations:
            value = apply(operator, value, operand)
            results.append(value)
        return results


def apply(operator: str, left: int, right: int) -> int:
    """Carry out one operation."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    return left * right


def draw_problem(rng: random.Random) -> Problem:
    """Draw a problem: the number of operations first, then each operation among those that stay in range."""
    value = start = rng.randint(2, LARGEST_RESULT)
    operations = []
    for _ in range(rng.choice((2, 3))):
        largest = {
            "+": min(LARGEST_OPERAND, LARGEST_RESULT - value),
            "-": min(LARGEST_OPERAND, value),
            "*": min(LARGEST_FACTOR, LARGEST_RESULT // max(value, 1)),
        }
        operator = rng.choice([operator for operator, limit in largest.items() if limit >= 2])
        operand = rng.randint(2, largest[operator])
        operations.append((operator, operand))
        value = apply(operator, value, operand)
    return Problem(start, tuple(operations))


def problem_digest(text: str) -> str:
    """Digest of a problem's text, 16 hexadecimal digits; the same on every machine and in every process."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_of(text: str) -> str:
    """Split a problem belongs to: 80 % `train`, 10 % `validation`, 10 % `test`, by the digest of its text."""
    bucket = int(problem_digest(text), 16) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def generate_problems(n: int, seed: int, split: str = "train") -> list[dict[str, str]]:
    """
    Generate distinct problems of one split.

    Args:
        n (`int`): Number of problems: up to 200,000 of `train`, 20,000 of the other splits.
        seed (`int`): Seed. The same arguments give the same problems, and a longer list begins with the shorter one.
        split (`str`, *optional*, defaults to `"train"`): `"train"`, `"validation"` or `"test"`. No problem is in two
            splits, whatever the seeds.

    Returns:
        `list[dict[str, str]]`: One dictionary per problem, with `prompt_id` (a stable key), `problem` (the question)
        and `answer` (a whole number, in digits).

    Raises:
        `ValueError`: If `split` is unknown or `n` is out of range.

    Examples:
        >>> generate_problems(1, seed=0)
        [{'prompt_id': '28a4d32653a3c548', 'problem': 'What is 42 * 2 + 5 + 2?', 'answer': '91'}]
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: choose one of {', '.join(map(repr, SPLITS))}.")
    if not 0 <= n <= MAX_PROBLEMS[split]:
        raise ValueError(f"n must be between 0 and {MAX_PROBLEMS[split]:,} for the split {split!r}, got {n}.")
    rng = random.Random(f"{split} {seed}")
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < n:
        problem = draw_problem(rng)
        text = problem.text
        if text not in rows and split_of(text) == split:
            answer = str(problem.results[-1])
            rows[text] = {"prompt_id": problem_digest(text), "problem": text, "answer": answer}
    return list(rows.values())
