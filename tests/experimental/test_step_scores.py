# SPDX-License-Identifier: Apache-2.0
"""Scores of steps, and votes at equal cost."""

from __future__ import annotations

import pytest

from trl_concise.evaluation.completions import Completion
from trl_concise.experimental.equal_cost import paired_difference, result_row, vote_at_tokens
from trl_concise.experimental.step_scores import RewardModelScorer, RuleScorer, score_steps, step_probability


def test_step_probability():
    assert step_probability(2, -1) == pytest.approx(0.9525741, abs=1e-7)
    assert step_probability(-800, 800) == pytest.approx(0) and step_probability(800, -800) == 1


def test_rule_scorer():
    steps = ["We need 27 + 8 - 6.", "First, 27 + 8 = 35.", "35-6=28\n35-6=29", "</think>", "\\boxed{28}", "27*8=0"]
    assert RuleScorer()("", steps) == [0, 1, 1, 1, 0, 0]
    assert RuleScorer(first=1.0)("", steps[:2]) == [1, 1]
    assert RuleScorer()("", ["\\boxed{3}"]) == [0]
    with pytest.raises(ValueError, match="first must be between 0 and 1"):
        RuleScorer(first=2)


def test_reward_model_scorer(tiny_model):
    scorer = RewardModelScorer(tiny_model, tag="#")
    steps = ["27+8=35\n", "35-6=29"]
    scores = score_steps(scorer, "What is 27 + 8 - 6?", steps)
    assert len(scores) == 2 and scorer.tokens > 30
    assert scorer("What is 27 + 8 - 6?", steps[:1])[0] == pytest.approx(
        scores[0], abs=1e-5
    )  # later steps change nothing
    with pytest.raises(ValueError, match="has 4 tokens in the vocabulary"):
        RewardModelScorer(tiny_model)


def completion(problem: int, number: int, answer: str, tokens: int, gold: str = "1") -> Completion:
    return Completion("set", problem, number, gold, f"\\boxed{{{answer}}}", [7] * tokens, False, answer == gold)


def test_vote_at_tokens():
    answers = ["2", "1", "1"]
    items = [completion(problem, n, answer, 10) for problem in range(2) for n, answer in enumerate(answers)]
    assert vote_at_tokens(items, 1) == ([0, 0], [10, 10])  # one completion at least
    assert vote_at_tokens(items, 30) == ([1, 1], [30, 30])
    assert vote_at_tokens(items, 25) == ([0, 1], [20, 30])  # what the first problem leaves
    assert vote_at_tokens(items, 999) == ([1, 1], [30, 30])
    with pytest.raises(ValueError, match="positive number of tokens"):
        vote_at_tokens(items, 0)
    with pytest.raises(ValueError, match="0 completions"):
        vote_at_tokens([], 10)


def test_result_row():
    row = result_row("own", [1, 0], 12.5, [1, 1], calls=3)
    assert (row["accuracy"], row["difference"], row["calls"]) == (0.5, 0.5, 3)
    assert result_row("own", [1, 0], 12.5)["difference_interval"] is None


def test_a_paired_difference_needs_the_same_problems():
    difference, (low, high) = paired_difference([1, 1, 0, 1], [0, 1, 0, 0])
    assert difference == 0.5 and 0 <= low < 0.5 < high <= 1
    for own, other in (([1], [1, 0]), ([], [])):
        with pytest.raises(ValueError, match="same problems, at least one; got"):
            paired_difference(own, other)
