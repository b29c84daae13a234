# SPDX-License-Identifier: Apache-2.0
"""Golden values: the groups are worked by hand; random groups are compared with all prefixes written out."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.methods.tspmo_prefix_tree import prefix_advantages


def group(*completions: str) -> list[list[int]]:
    return [[ord(character) for character in completion] for completion in completions]


def advantages(completions: list[str], rewards) -> dict[tuple[str, str], float]:
    table = prefix_advantages(group(*completions), rewards)
    return {(completions[edge.completion][: edge.position], chr(edge.token)): edge.advantage for edge in table.edges}


def all_prefixes(completions, rewards) -> dict[tuple[tuple[int, ...], int], tuple[int, float]]:
    """Every edge, by its definition: (prefix, token) -> (count, advantage)."""
    edges = {}
    for ids in completions:
        for t in range(len(ids)):
            prefix = tuple(ids[:t])
            reached = [i for i, other in enumerate(completions) if tuple(other[:t]) == prefix and len(other) > t]
            chose = [i for i in reached if completions[i][t] == ids[t]]
            mean = sum(rewards[i] for i in reached) / len(reached)
            edges[prefix, ids[t]] = (len(chose), sum(rewards[i] for i in chose) / len(chose) - mean)
    return edges


def test_golden_group():
    completions, rewards = ["abce$", "abd$", "abce$", "af$"], [1, 0, 1, 0]
    table = prefix_advantages(group(*completions), rewards)
    assert (table.unique_edges, table.branching_prefixes, len(table.edges)) == (9, 2, 4)
    assert advantages(completions, rewards) == {
        ("a", "b"): pytest.approx(1 / 6),
        ("a", "f"): pytest.approx(-1 / 2),
        ("ab", "c"): pytest.approx(1 / 3),
        ("ab", "d"): pytest.approx(-2 / 3),
    }
    assert {chr(edge.token): edge.count for edge in table.edges} == {"b": 3, "f": 1, "c": 2, "d": 1}
    assert sum(edge.advantage for edge in table.edges) / table.unique_edges == pytest.approx(-0.074074, abs=1e-6)


def test_golden_group_with_an_unweighted_baseline():
    completions, rewards = ["abce$", "abd$", "abce$", "af$"], [1, 0, 1, 0]
    table = prefix_advantages(group(*completions), rewards, baseline="unweighted")
    # By hand: after "a", b is worth 2/3 and f 0, so the baseline is 1/3; after "ab", c is worth 1 and d 0: 1/2.
    assert {chr(edge.token): edge.advantage for edge in table.edges} == {
        "b": pytest.approx(1 / 3),
        "f": pytest.approx(-1 / 3),
        "c": pytest.approx(1 / 2),
        "d": pytest.approx(-1 / 2),
    }
    # A choice of unknown worth is left out of the baseline: b is worth 1, c 0, and d is unknown.
    table = prefix_advantages(group("b$", "b$", "c$", "d$"), [1, 1, 0, math.nan], baseline="unweighted")
    assert {chr(edge.token): edge.advantage for edge in table.edges} == {"b": 0.5, "c": -0.5, "d": 0.0}
    with pytest.raises(ValueError, match="baseline must be one of"):
        prefix_advantages(group("a", "b"), [1, 0], baseline="mean")


def test_to_end_is_a_choice():
    table = prefix_advantages(group("a$", "ab$"), [1, 0])
    assert table.unique_edges == 4
    assert advantages(["a$", "ab$"], [1, 0]) == {("a", "$"): 0.5, ("a", "b"): -0.5}


def test_truncation_to_none():
    assert advantages(["ab", "abc$", "abd$"], [1, 0, 1]) == {("ab", "c"): -0.5, ("ab", "d"): 0.5}
    assert advantages(["ab", "abc$"], [1, 0]) == {}


@pytest.mark.parametrize(
    ("completions", "edges", "branching", "leaving"),
    [
        (["a" * i + "$" for i in range(8)], 15, 7, 14),  # caterpillar
        ([first + "$" for first in "abcdefgh"], 16, 1, 8),  # star
        ([f"{i:03b}$" for i in range(8)], 22, 7, 14),  # balanced
        (["ab$"] * 8, 3, 0, 0),
    ],
)
def test_golden_shapes(completions, edges, branching, leaving):
    table = prefix_advantages(group(*completions), [1.0] * 8)
    assert (table.unique_edges, table.branching_prefixes, len(table.edges)) == (edges, branching, leaving)
    assert all(edge.advantage == 0 for edge in table.edges)


completions = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=8)


@given(completions, st.randoms(use_true_random=False))
def test_all_prefixes_written_out(ids, rng):
    rewards = [rng.choice([0.0, 1.0, 0.25]) for _ in ids]
    expected = all_prefixes(ids, rewards)
    table = prefix_advantages(ids, rewards)
    assert table.unique_edges == len(expected)
    seen = {}
    for edge in table.edges:
        key = (tuple(ids[edge.completion][: edge.position]), edge.token)
        assert key not in seen and ids[edge.completion][edge.position] == edge.token
        seen[key] = (edge.count, pytest.approx(edge.advantage, abs=1e-12))
    assert seen == {key: expected[key] for key in seen}
    assert all(abs(advantage) < 1e-12 for key, (_, advantage) in expected.items() if key not in seen)
    # The completions that stand for the edges from `first_new` on stand for each edge once.
    stood_for = [
        (tuple(row[:t]), row[t])
        for row, first in zip(ids, table.first_new, strict=True)
        for t in range(first, len(row))
    ]
    assert sorted(stood_for) == sorted(expected)


@given(completions, st.randoms(use_true_random=False))
def test_properties(ids, rng):
    rewards = [rng.random() for _ in ids]
    table = prefix_advantages(ids, rewards)
    for prefix in {tuple(ids[edge.completion][: edge.position]) for edge in table.edges}:
        leaving = [e for e in table.edges if tuple(ids[e.completion][: e.position]) == prefix]
        assert sum(e.count * e.advantage for e in leaving) == pytest.approx(0, abs=1e-12)
    assert all(abs(edge.advantage) <= max(rewards) - min(rewards) for edge in table.edges)
    distinct = len({tuple(row) for row in ids})
    assert len(table.edges) <= 2 * (distinct - 1) and table.branching_prefixes <= max(0, distinct - 1)

    def by_prefix(ids, table):
        return {
            (tuple(ids[e.completion][: e.position]), e.token): pytest.approx(e.advantage, abs=1e-9)
            for e in table.edges
        }

    order = rng.sample(range(len(ids)), len(ids))
    permuted = [ids[i] for i in order]
    assert by_prefix(permuted, prefix_advantages(permuted, [rewards[i] for i in order])) == by_prefix(ids, table)
    assert by_prefix(ids, prefix_advantages(ids, [reward + 5 for reward in rewards])) == by_prefix(ids, table)
    assert prefix_advantages([*ids, ids[0]], [*rewards, rewards[0]]).unique_edges == table.unique_edges
    equal = prefix_advantages(ids, [0.1] * len(ids))
    assert all(edge.advantage == 0 for edge in equal.edges)


def test_an_unknown_reward_is_no_evidence():
    ids = group("ab$", "ac$", "ab$")
    assert [e.advantage for e in prefix_advantages(ids, [1.0, 0.0, math.nan]).edges] == [0.5, -0.5]
    assert [e.advantage for e in prefix_advantages(ids, [1.0, math.nan, 1.0]).edges] == [0, 0]


def test_masked_tokens_represent_no_edge():
    ids = group("abx$", "aby$", "ac$")
    masks = [[0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1]]  # the first is left out; the third's second token is a tool's
    table = prefix_advantages(ids, [1.0, 0.0, 0.0], masks)
    assert table.unique_edges == 5  # aby$ and the last $
    by_token = {(edge.completion, chr(edge.token)): edge.advantage for edge in table.edges}
    assert by_token == {(1, "b"): pytest.approx(1 / 6), (1, "y"): -0.5}


def test_long_completions_are_compared_whole():
    rng = random.Random(0)
    stem = [rng.randrange(150_000) for _ in range(4096)]
    table = prefix_advantages([[*stem, 1, 9], [*stem, 2, 9], stem[:4000] + [3]], [1.0, 0.0, 0.0])
    assert table.unique_edges == 4096 + 2 + 2 + 1
    assert [(edge.position, edge.count) for edge in table.edges] in (
        [(4000, 1), (4000, 2), (4096, 1), (4096, 1)],
        [(4000, 2), (4000, 1), (4096, 1), (4096, 1)],
    )
