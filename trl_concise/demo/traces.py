# SPDX-License-Identifier: Apache-2.0
"""Reasoning traces from which the embedded model is pre-trained.

A trace may restate the problem, then solves it step by step, then checks the work from zero up to three times, then
answers:

    We need (27 + 8) * 2 - 6.
    27+8=35
    35*2=70
    70-6=65
    Wait, let me check.
    27+8=35
    35*2=70
    70-6=64
    That differs: 64, not 65.
    </think>
    \\boxed{64}

The verbosity of a trace does not depend on the problem, so it can be reduced. Checks have one
use: in `SLIP_SHARE` of all traces the first pass contains a slip, and a check then finds and repairs it. A model
that only stops checking therefore loses those problems; it has to learn to slip less.

These shares were written down before any reinforcement learning was run on the model, and are not tuned to it.
"""

from __future__ import annotations

import random

from .problems import Problem, apply


RESTATEMENT_SHARE = 0.5  # of the traces open by restating the problem
VERBOSE_SHARE = 0.5  # of the traces write `First, 27 + 8 = 35.` instead of `27+8=35`
SLIP_SHARE = 0.08  # of the traces make a slip in the first pass, which the first check repairs
CHECKS = {0: 0.2, 1: 0.3, 2: 0.3, 3: 0.2}  # checks per trace without a slip
CHECKS_AFTER_SLIP = {1: 0.4, 2: 0.35, 3: 0.25}
SLIPS = (-10, -1, 1, 10)  # a wrong unit, a forgotten carry

SLIP_PER_STEP = 0.06  # probability of a slip in a direct answer: none in the first operation, then 6 %, 12 %, ...

END_OF_THINKING = "</think>\n"


def write_trace(problem: Problem, rng: random.Random) -> str:
    """
    Write one trace that ends in the correct answer.

    Args:
        problem ([`Problem`]): Problem to solve.
        rng (`random.Random`): Source of the verbosity and of slips.

    Returns:
        `str`: Completion after `<think>\\n`, without the end-of-turn token.
    """
    restates = rng.random() < RESTATEMENT_SHARE
    verbose = rng.random() < VERBOSE_SHARE
    slips = rng.random() < SLIP_SHARE
    checks = draw_checks(rng, after_slip=slips)

    answer = problem.results[-1]
    lines = [f"We need {problem.expression}."] if restates else []
    first_results = slipped_results(problem, rng) if slips else problem.results
    lines += write_pass(problem, first_results, verbose)
    for check in range(checks):
        lines.append("Wait, let me check." if check == 0 else "Let me check again.")
        lines += write_pass(problem, problem.results, verbose)
        repaired = check == 0 and first_results[-1] != answer
        lines.append(f"That differs: {answer}, not {first_results[-1]}." if repaired else "That agrees.")
    return "\n".join(lines) + "\n" + END_OF_THINKING + f"\\boxed{{{answer}}}"


def write_direct_answer(problem: Problem, rng: random.Random) -> str:
    """
    Write an answer that skips the reasoning: one short pass after the end of the thinking, without a check. Slips are not
    repaired, and are more likely in a longer problem.

    Args:
        problem ([`Problem`]): Problem to solve.
        rng (`random.Random`): Source of slips.

    Returns:
        `str`: Completion after `<think>\\n`, without the end-of-turn token. Its answer is wrong after a slip.
    """
    results, value = [], problem.start
    for step, (operator, operand) in enumerate(problem.operations):
        value = apply(operator, value, operand)
        if rng.random() < SLIP_PER_STEP * step:
            value = max(0, value + rng.choice(SLIPS))
        results.append(value)
    lines = write_pass(problem, results, verbose=False)
    return END_OF_THINKING + "\n".join([*lines, f"\\boxed{{{value}}}"])


def write_pass(problem: Problem, results: list[int], verbose: bool) -> list[str]:
    """Write one line per operation, with the given results."""
    lines, value = [], problem.start
    for step, ((operator, operand), result) in enumerate(zip(problem.operations, results, strict=True)):
        if verbose:
            lines.append(f"{'Then' if step else 'First'}, {value} {operator} {operand} = {result}.")
        else:
            lines.append(f"{value}{operator}{operand}={result}")
        value = result
    return lines


def slipped_results(problem: Problem, rng: random.Random) -> list[int]:
    """Results of a pass in which one step goes wrong; later steps are carried out correctly on the wrong value."""
    while True:
        slipping_step = rng.randrange(len(problem.operations))
        results, value = [], problem.start
        for step, (operator, operand) in enumerate(problem.operations):
            value = apply(operator, value, operand)
            if step == slipping_step:
                value += rng.choice(SLIPS)
            results.append(value)
        if min(results) >= 0:
            return results


def draw_checks(rng: random.Random, after_slip: bool = False) -> int:
    """Draw how often a trace checks its work."""
    shares = CHECKS_AFTER_SLIP if after_slip else CHECKS
    return rng.choices(list(shares), weights=list(shares.values()))[0]
