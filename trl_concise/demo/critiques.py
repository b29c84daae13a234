# SPDX-License-Identifier: Apache-2.0
"""Candidate solutions of the embedded model's problems, correct and wrong, with critiques that are always right.

A candidate works like a trace ([`~trl_concise.demo.traces`]); a wrong one contains a slip, and its checks repeat it:

    42*2=84
    84*2=158
    158+4=162
    \\boxed{162}

Its critique carries out the steps and marks where the two differ:

    42*2=84
    84*2=168
    That differs: 168, not 158.
    168+4=172
    </think>
    \\boxed{172}
    Conclusion: wrong [END]
"""

from __future__ import annotations

import random

from .problems import Problem, draw_problem, split_of
from .traces import END_OF_THINKING, RESTATEMENT_SHARE, VERBOSE_SHARE, draw_checks, slipped_results, write_pass


WRONG_SHARE = 0.5  # of the candidates


def generate_critiques(n: int, seed: int, *, problems: int = 1) -> list[dict[str, str | bool]]:
    r"""
    Generate candidate solutions with their critiques.

    Args:
        n (`int`): Number of candidates. The same text can come twice.
        seed (`int`): Seed.
        problems (`int`, *optional*, defaults to `1`): Problems of the `train` split over which the candidates are spread.

    Returns:
        `list[dict[str, str | bool]]`: Per candidate `question`, `answer` (the reference answer), `solution`, `correct` (whether the solution
            is) and `critique`.

    Examples:
        >>> generate_critiques(1, seed=2)[0]["correct"]
        True
    """
    if not 1 <= problems <= n:
        raise ValueError(f"{n} candidates cannot be spread over {problems} problems.")
    rng = random.Random(f"critiques {seed}")
    chosen: dict[str, Problem] = {}
    while len(chosen) < problems:
        problem = draw_problem(rng)
        if split_of(problem.text) == "train":
            chosen[problem.text] = problem
    rows: list[dict[str, str | bool]] = []
    for index in range(n):
        problem = list(chosen.values())[index % problems]
        correct = rng.random() >= WRONG_SHARE
        results = problem.results
        while not correct and results[-1] == problem.results[-1]:  # a later factor of 0 would undo the slip
            results = slipped_results(problem, rng)
        rows.append(
            {
                "question": problem.text,
                "answer": str(problem.results[-1]),
                "solution": write_candidate(problem, results, rng),
                "correct": correct,
                "critique": write_critique(problem, results),
            }
        )
    return rows


def write_candidate(problem: Problem, results: list[int], rng: random.Random) -> str:
    """Write a solution with the given results, as verbose as a trace."""
    lines = [f"We need {problem.expression}."] if rng.random() < RESTATEMENT_SHARE else []
    steps = write_pass(problem, results, verbose=rng.random() < VERBOSE_SHARE)
    lines += steps
    for check in range(draw_checks(rng)):
        lines += ["Wait, let me check." if check == 0 else "Let me check again.", *steps, "That agrees."]
    return "\n".join([*lines, f"\\boxed{{{results[-1]}}}"])


def write_critique(problem: Problem, results: list[int]) -> str:
    """Write the critique of a solution with the given results."""
    lines, differs = [], False
    for line, result, claimed in zip(
        write_pass(problem, problem.results, verbose=False), problem.results, results, strict=True
    ):
        lines.append(line)
        if result != claimed and not differs:  # later steps differ because of this one
            lines.append(f"That differs: {result}, not {claimed}.")
            differs = True
    if not differs:
        lines.append("That agrees.")
    verdict = "wrong" if differs else "right"
    answer = f"\\boxed{{{problem.results[-1]}}}"
    return "\n".join(lines) + "\n" + END_OF_THINKING + answer + f"\nConclusion: {verdict} [END]"
