# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections import Counter

import pytest

from trl_concise.demo.problems import Problem, apply, draw_problem
from trl_concise.demo.traces import (
    CHECKS,
    CHECKS_AFTER_SLIP,
    RESTATEMENT_SHARE,
    SLIP_SHARE,
    VERBOSE_SHARE,
    write_trace,
)


@pytest.fixture(scope="module")
def traces() -> list[tuple[Problem, str]]:
    rng = random.Random(0)
    problems = [draw_problem(rng) for _ in range(20_000)]
    return [(problem, write_trace(problem, rng)) for problem in problems]


def share(traces, predicate) -> float:
    return sum(predicate(text) for _, text in traces) / len(traces)


def test_every_trace_ends_in_the_correct_answer(traces):
    for problem, text in traces:
        assert text.endswith(f"\n</think>\n\\boxed{{{problem.results[-1]}}}")
        assert text.count("\\boxed{") == 1


def test_shares_are_the_stated_ones(traces):
    # Standard errors at 20,000 traces are at most 0.0036.
    assert share(traces, lambda text: "That differs" in text) == pytest.approx(SLIP_SHARE, abs=0.01)
    assert share(traces, lambda text: text.startswith("We need")) == pytest.approx(RESTATEMENT_SHARE, abs=0.015)
    assert share(traces, lambda text: "First, " in text) == pytest.approx(VERBOSE_SHARE, abs=0.015)
    checks = Counter(text.count("check") for _, text in traces)
    for number in range(4):
        expected = (1 - SLIP_SHARE) * CHECKS[number] + SLIP_SHARE * CHECKS_AFTER_SLIP.get(number, 0)
        assert checks[number] / len(traces) == pytest.approx(expected, abs=0.015)


def test_a_slip_is_real_and_the_first_check_repairs_it(traces):
    for problem, text in traces:
        if "That differs" not in text:
            continue
        first, rest = text.split("Wait, let me check.\n")
        slipped, answer = last_result(first), problem.results[-1]
        assert slipped != answer
        assert f"That differs: {answer}, not {slipped}." in rest
        assert last_result(rest.split("That differs")[0]) == answer


def test_a_slip_is_one_wrong_step(traces):
    def wrong_steps(text: str) -> int:
        lines = [line.split("First, ")[-1].split("Then, ")[-1].rstrip(".") for line in text.splitlines()]
        steps = [line.replace(" ", "") for line in lines if "=" in line]
        return sum(not is_right(step) for step in steps)

    for _, text in traces[:5000]:
        assert wrong_steps(text) == ("That differs" in text)


def last_result(text: str) -> int:
    return int(text.rstrip("\n.").split("=")[-1])


def is_right(step: str) -> bool:
    left, result = step.split("=")
    operator = next(symbol for symbol in "+-*" if symbol in left)
    return apply(operator, *map(int, left.split(operator))) == int(result)
