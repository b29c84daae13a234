# SPDX-License-Identifier: Apache-2.0
"""Arithmetic problems for the embedded model: chains of operations with one-digit numbers, two or three by default.

A problem reads `What is (27 + 8) * 2 - 6?`. Its operations are carried out from left to right; every intermediate result
lies between 0 and 99. There are 476,587 problems of two or three operations. A digest of the text assigns each problem to
one split, so test problems are never trained on, not in pre-training either.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


SPLITS = ("train", "validation", "test")
OPERATIONS = (2, 3)  # numbers of operations of the problems of the pre-training
TRAINING_OPERATIONS = (2,)  # of the demo's training problems: easier ones than the model can solve
MAX_PROBLEMS = {"train": 200_000, "validation": 20_000, "test": 20_000}  # per call, about half of what there is
MAX_SHORT_PROBLEMS = {"train": 10_000, "validation": 1_250, "test": 1_250}  # the same, of two operations only
LARGEST_RESULT = 99
LARGEST_OPERAND = 9
LARGEST_FACTOR = 5


# Files in the folder `sets`, as arguments of `generate_problems`. `python -m tests.tools.demo_sets` writes them.
SETS: dict[str, dict[str, Any]] = {
    "train": {"n": 1024, "seed": 0, "split": "train", "operations": TRAINING_OPERATIONS},
    "test": {"n": 1024, "seed": 0, "split": "test", "operations": TRAINING_OPERATIONS},
    "harder": {"n": 1536, "seed": 0, "split": "test", "operations": (3,)},
    "hardest": {"n": 256, "seed": 0, "split": "test", "operations": (4,)},
}


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
        return write_expression(str(self.start), self.operations)

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


def write_expression(start: str, operations: Sequence[tuple[str, int]]) -> str:
    """Write operations that are carried out from left to right, with the parentheses that this needs."""
    text, previous = start, "*"  # a bare number needs no parentheses
    for operator, operand in operations:
        if operator == "*" and previous != "*":
            text = f"({text})"
        text += f" {operator} {operand}"
        previous = operator
    return text


def apply(operator: str, left: int, right: int) -> int:
    """Carry out one operation."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    return left * right


def draw_problem(
    rng: random.Random,
    lengths: Sequence[int] = OPERATIONS,
    *,
    largest_operand: int = LARGEST_OPERAND,
    largest_result: int = LARGEST_RESULT,
    operators: str = "+-*",
) -> Problem:
    """
    Draw a problem: the number of operations among `lengths`, then each operation among those that stay in range.

    With multiplication alone, a chain that cannot go on is drawn again from its start.
    """
    while True:
        value = start = rng.randint(2, largest_result)
        operations: list[tuple[str, int]] = []
        count = rng.choice(lengths)
        while len(operations) < count:
            largest = {
                "+": min(largest_operand, largest_result - value),
                "-": min(largest_operand, value),
                "*": min(LARGEST_FACTOR, largest_result // max(value, 1)),
            }
            possible = [operator for operator in operators if largest[operator] >= 2]
            if not possible:
                break
            operator = rng.choice(possible)
            operand = rng.randint(2, largest[operator])
            operations.append((operator, operand))
            value = apply(operator, value, operand)
        else:
            return Problem(start, tuple(operations))


def problem_digest(text: str) -> str:
    """Digest of a problem's text, 16 hexadecimal digits; the same on every machine and in every process."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_of(text: str) -> str:
    """Split a problem belongs to: 80 % `train`, 10 % `validation`, 10 % `test`, by the digest of its text."""
    bucket = int(problem_digest(text), 16) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def training_problems(seed: int | str) -> Iterator[Problem]:
    """Yield distinct problems without end of the `train` split."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        problem = draw_problem(rng)
        text = problem.text
        if text not in seen and split_of(text) == "train":
            seen.add(text)
            yield problem


def generate_problems(
    n: int, seed: int, split: str = "train", operations: Sequence[int] = OPERATIONS
) -> list[dict[str, str]]:
    """
    Generate distinct problems of one split.

    Args:
        n (`int`): Number of problems: at most 200,000 of `train` and 20,000 of the other splits; of two operations only, at
            most 10,000 and 1,250.
        seed (`int`): Seed. The same arguments give the same problems, and a longer list begins with the shorter one.
        split (`str`, *optional*, defaults to `"train"`): `"train"`, `"validation"` or `"test"`. No problem is in two
            splits, with any seeds.
        operations (`Sequence[int]`, *optional*, defaults to `(2, 3)`): Numbers of operations that a problem may have, each
            at least 2 and equally likely.

    Returns:
        `list[dict[str, str]]`: One dictionary per problem, with `prompt_id` (a stable key), `problem` (the question)
        and `answer` (a whole number, in digits).

    Raises:
        `ValueError`: If `split` is unknown, or `n` or `operations` is out of range.

    Examples:
        >>> generate_problems(1, seed=0)
        [{'prompt_id': '28a4d32653a3c548', 'problem': 'What is 42 * 2 + 5 + 2?', 'answer': '91'}]
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: choose one of {', '.join(map(repr, SPLITS))}.")
    if not operations or min(operations) < 2:
        raise ValueError(f"operations must be one or more numbers of at least 2; got {list(operations)}.")
    largest = (MAX_PROBLEMS if max(operations) > 2 else MAX_SHORT_PROBLEMS)[split]
    if not 0 <= n <= largest:
        raise ValueError(f"n must be between 0 and {largest:,} for the split {split!r}, got {n}.")
    return [
        {"prompt_id": problem_digest(problem.text), "problem": problem.text, "answer": str(problem.results[-1])}
        for problem in draw_distinct_problems(n, seed, split, operations)
    ]


def draw_distinct_problems(n: int, seed: int, split: str, operations: Sequence[int]) -> list[Problem]:
    """Draw the problems of [`generate_problems`]."""
    rng = random.Random(f"{split} {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < n:
        problem = draw_problem(rng, operations)
        if problem.text not in problems and split_of(problem.text) == split:
            problems[problem.text] = problem
    return list(problems.values())
