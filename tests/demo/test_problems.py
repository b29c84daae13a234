# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tools import demo_sets
from trl_concise.demo import generate_problems
from trl_concise.demo.problems import (
    LARGEST_RESULT,
    MAX_PROBLEMS,
    MAX_SHORT_PROBLEMS,
    SETS,
    SPLITS,
    TRAINING_OPERATIONS,
    Problem,
    split_of,
)


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


@pytest.mark.parametrize("operations", [(2,), (3,), (4,), (5,), (2, 4), (2, 3)])
def test_problems_have_the_wanted_numbers_of_operations(operations):
    rows = generate_problems(60, seed=3, split="test", operations=operations)
    counts = {sum(row["problem"].count(f" {operator} ") for operator in "+-*") for row in rows}
    assert counts == set(operations)
    for row in rows:
        assert str(eval(row["problem"].removeprefix("What is ").removesuffix("?"))) == row["answer"]


@pytest.mark.parametrize("operations", [(), (1,), (0, 2)])
def test_operations_out_of_range(operations):
    with pytest.raises(ValueError, match="operations must be one or more numbers of at least 2; got"):
        generate_problems(1, seed=0, operations=operations)


@pytest.mark.parametrize("split", MAX_SHORT_PROBLEMS)
def test_there_are_fewer_short_problems(split):
    n = MAX_SHORT_PROBLEMS[split]
    assert len(generate_problems(n, seed=0, split=split, operations=(2,))) == n
    with pytest.raises(ValueError, match=f"n must be between 0 and {n:,} for the split"):
        generate_problems(n + 1, seed=0, split=split, operations=(2,))


@pytest.mark.parametrize("name", [*SETS, *demo_sets.OTHERS])
def test_the_files_of_the_sets_are_the_generated_problems(name):
    path = demo_sets.FOLDER / f"{name}.jsonl"
    assert path.read_text() == demo_sets.content(name), "run `python -m tests.tools.demo_sets`"


def test_harder_problems_are_longer_than_any_in_training():
    longest = max(TRAINING_OPERATIONS)
    assert SETS["test"]["operations"] == SETS["train"]["operations"] == TRAINING_OPERATIONS
    assert SETS["harder"]["operations"] == (longest + 1,) and SETS["hardest"]["operations"] == (longest + 2,)
    held_out = [SETS[name]["split"] for name in ("test", "harder", "hardest")]
    assert held_out == ["test"] * 3 and SETS["train"]["split"] == "train"


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
