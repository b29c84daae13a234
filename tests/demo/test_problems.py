# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise.demo import generate_problems
from trl_concise.demo.problems import LARGEST_RESULT, MAX_PROBLEMS, SPLITS, Problem, split_of


def test_answers_are_correct():
    for row in generate_problems(500, seed=0):
        expression = row["problem"].removeprefix("What is ").removesuffix("?")
        assert str(eval(expression)) == row["answer"]  # our own text: digits, operators and parentheses


@pytest.mark.parametrize(
    ("operations", "expression", "results"),
    [
        ((("+", 8), ("*", 2), ("-", 36)), "(47 + 8) * 2 - 36", [55, 110, 74]),
        ((("*", 2), ("+", 8)), "47 * 2 + 8", [94, 102]),
        ((("-", 40), ("*", 2), ("*", 3)), "(47 - 40) * 2 * 3", [7, 14, 42]),
        ((("-", 40), ("*", 2), ("+", 1), ("*", 3)), "((47 - 40) * 2 + 1) * 3", [7, 14, 15, 45]),
    ],
)
def test_expression_needs_no_reading_rules(operations, expression, results):
    problem = Problem(47, operations)
    assert problem.expression == expression
    assert problem.results == results


def test_splits_are_disjoint():
    problems = {split: {row["problem"] for row in generate_problems(5000, seed=1, split=split)} for split in SPLITS}
    assert all(split_of(text) == split for split, texts in problems.items() for text in texts)
    assert sum(map(len, problems.values())) == len(set.union(*problems.values())) == 15_000


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 200), seed=st.integers(0, 2**32), split=st.sampled_from(SPLITS))
def test_distinct_keyed_and_repeatable(n, seed, split):
    rows = generate_problems(n, seed, split)
    assert len(rows) == n
    assert len({row["problem"] for row in rows}) == len({row["prompt_id"] for row in rows}) == n
    assert rows == generate_problems(n + 1, seed, split)[:n]
    for row in rows:
        assert list(row) == ["prompt_id", "problem", "answer"]
        assert 0 <= int(row["answer"]) <= LARGEST_RESULT


@pytest.mark.slow
def test_problem_space_is_as_large_as_promised():
    n = MAX_PROBLEMS["test"]
    assert len({row["prompt_id"] for row in generate_problems(n, seed=0, split="test")}) == n


def test_other_process_generates_the_same():
    code = "from trl_concise.demo.problems import generate_problems; print(generate_problems(3, 5, 'test'))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(generate_problems(3, 5, "test"))


def test_seeds_differ():
    assert generate_problems(10, seed=0) != generate_problems(10, seed=1)


def test_unknown_split():
    with pytest.raises(ValueError, match="Unknown split 'dev': choose one of 'train', 'validation', 'test'"):
        generate_problems(1, seed=0, split="dev")


@pytest.mark.parametrize(
    ("n", "split"), [(-1, "train"), *((limit + 1, split) for split, limit in MAX_PROBLEMS.items())]
)
def test_number_out_of_range(n, split):
    with pytest.raises(ValueError, match=f"n must be between 0 and .* for the split .*, got {n}"):
        generate_problems(n, seed=0, split=split)
