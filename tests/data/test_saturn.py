# SPDX-License-Identifier: Apache-2.0
"""Formulas by difficulty: the authors' values, and what holds for every formula."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.data import saturn_dataset
from trl_concise.data.saturn import (
    draw_formula,
    largest_length,
    next_level,
    parse_formula,
    satisfies,
    saturn_difficulty,
    split_of,
)


@pytest.mark.parametrize(
    ("level", "difficulty"),
    [
        ((3, 5, 5), 5.6325),
        ((3, 5, 6), 6.1585),
        ((3, 5, 13), 8.3895),
        ((3, 5, 15), 8.8024),
        ((3, 5, 20), 9.6325),
        ((3, 7, 40), 12.7845),
        ((6, 7, 40), 8.6179),
    ],
)
def test_difficulty_of_the_authors_levels(level, difficulty):
    assert saturn_difficulty(*level) == pytest.approx(difficulty, abs=5e-5)


@st.composite
def levels(draw):
    k = draw(st.integers(1, 9))
    n = draw(st.integers(1, k))
    return n, k, draw(st.integers(1, min(largest_length(n, k), 40)))


@given(levels())
def test_difficulty_grows_with_clauses_and_variables_and_falls_with_literals(level):
    n, k, length = level
    assert saturn_difficulty(n, k, length + 1) > saturn_difficulty(*level)
    assert saturn_difficulty(n, k + 1, length) > saturn_difficulty(*level)
    if n < k:
        assert saturn_difficulty(n + 1, k, length) < saturn_difficulty(*level)
    harder = next_level(*level)
    assert saturn_difficulty(*harder) > saturn_difficulty(*level)
    assert sum(harder) == sum(level) + 1 and harder[0] == n and harder[2] <= largest_length(*harder[:2])


def test_the_next_level_has_what_is_left():
    assert next_level(3, 5, 5) == (3, 5, 6)  # the authors' step for 1.5B
    assert next_level(3, 5, 3) == (3, 6, 3)  # a variable raises the difficulty less than a clause
    assert next_level(1, 2, 2) == (1, 3, 2)  # an assignment satisfies no third clause
    with pytest.raises(ValueError, match="No level is harder than"):
        next_level(1, 26, 26)


def assignments(k: int):
    return map("".join, itertools.product("01", repeat=k))


def evaluate(bits: str, clause: str) -> bool:
    """Evaluate a formula with Python, independently of the parser."""
    spaced = clause.replace("!", " not ").replace(" & ", ") and (")
    for letter in "ABCDEFGHI":
        spaced = spaced.replace(letter, f" {letter} or ")
    return eval(f"({spaced})".replace("or )", ")"), {}, {c: b == "1" for c, b in zip("ABCDEFGHI", bits, strict=False)})


@given(levels(), st.integers())
def test_every_formula_is_satisfiable_and_has_the_shape_of_its_level(level, seed):
    n, k, length = level
    clause, solution = draw_formula(level, random.Random(seed))
    assert satisfies(solution, clause) and evaluate(solution, clause) and len(solution) == k
    literals = parse_formula(clause)
    assert len(literals) == length and clause.split(" & ") == sorted(set(clause.split(" & ")))
    for letters in [[letter for letter, _ in part] for part in literals]:
        assert letters == sorted(set(letters)) and len(letters) == n and max(letters) < chr(ord("A") + k)


@given(levels().filter(lambda level: level[1] <= 5), st.integers())
def test_the_checker_agrees_with_brute_force(level, seed):
    clause, _ = draw_formula(level, random.Random(seed))
    for bits in assignments(level[1]):
        assert satisfies(bits, clause) == evaluate(bits, clause)


def test_as_many_clauses_as_an_assignment_satisfies():
    clause, solution = draw_formula((2, 3, largest_length(2, 3)), random.Random(0))
    assert [bits for bits in assignments(3) if satisfies(bits, clause)] == [solution]


def test_the_authors_checker_on_short_and_odd_answers():
    assert satisfies("", "!A") and not satisfies("", "A")  # a missing digit is false
    assert satisfies("10junk", "A!B") and not satisfies("x", "A") and not satisfies("x", "!A")


def test_rows_splits_and_seeds():
    levels = [(3, 5, 5), (3, 5, 6)]
    train = saturn_dataset(levels, 30)
    assert train["level"] == [0] * 30 + [1] * 30 and len(set(train["prompt_id"])) == 60
    assert train["difficulty"][::30] == pytest.approx([5.6325, 6.1585], abs=5e-5)
    assert all(satisfies(row["solution"], row["clause"]) for row in train)
    row = train[0]
    question = f'{{"n_sat": 3, "k": 5, "clause": "{row["clause"]}"}}'
    (message,) = row["prompt"]
    assert message["content"].endswith(question) and "\\boxed{}" in message["content"]
    bare = saturn_dataset(levels, 2, instruction="")
    assert bare["clause"] == [*train["clause"][:2], *train["clause"][30:32]]  # the same formulas, fewer of them
    assert bare[0]["prompt"][0]["content"] == question
    assert saturn_dataset(levels, 2, seed=1)["clause"] != bare["clause"]
    for split in ("validation", "test"):
        held_out = saturn_dataset(levels, 5, split=split, seed=7)["clause"]
        assert all(split_of(clause) == split for clause in held_out) and not set(held_out) & set(train["clause"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": []}, "at least one level and one formula per level, got 0 and 1"),
        ({"count": 0}, "got 1 and 0"),
        ({"levels": [(3, 2, 1)]}, "Choose 1 <= n <= k <= 26"),
        ({"levels": [(3, 27, 1)]}, "Choose 1 <= n <= k <= 26"),
        ({"levels": [(3, 5, 71)]}, r"l must lie in \[1, 70\]"),
        ({"levels": [(3, 5, 0)]}, r"l must lie in \[1, 70\]"),
        ({"levels": [(3, 5)]}, "three whole numbers"),
        ({"levels": [(3, 5, 5.0)]}, "three whole numbers"),
        ({"levels": [(3, 5, 6), (3, 5, 5)]}, r"in order of difficulty, which is \[6.16, 5.63\]"),
        ({"split": "dev"}, "Unknown split 'dev'"),
        ({"levels": [(1, 2, 1)], "count": 100}, "hardly more than"),
    ],
)
def test_bad_datasets(arguments, message):
    with pytest.raises(ValueError, match=message):
        saturn_dataset(**{"levels": [(3, 5, 5)], "count": 1, **arguments})


@pytest.mark.parametrize("clause", ["", "A & ", "A  & B", "a", "A&B", "!", "A!", "!!A", "1", None, 5])
def test_what_is_not_a_formula(clause):
    with pytest.raises(ValueError, match="is not a formula"):
        parse_formula(clause)


def test_bad_shapes():
    for shape in [(0, 5, 5), (6, 5, 5), (3, 5, 0)]:
        with pytest.raises(ValueError, match="n must lie in"):
            saturn_difficulty(*shape)
