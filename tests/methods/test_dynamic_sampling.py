# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.dynamic_sampling import DynamicSampling, differing_groups


@pytest.mark.parametrize(
    ("scores", "is_kept"),
    [
        ([0.1] * 3, False),  # numpy's standard deviation is 1.4e-17
        ([0.7] * 6, False),
        ([0.1] * 8, False),  # that of float32 tensors is 8e-9
        ([0, 1e-7], False),
        ([torch.nan, 1], False),
        ([torch.nan, torch.nan], False),
        ([1, 0], True),
        ([-0.3, 0.2, 0.2], True),
        ([0, 0, 0], False),
        ([1, 1, 1], False),
    ],
)
def test_golden_verdicts(scores, is_kept):
    kept = differing_groups(torch.tensor(scores, dtype=torch.float32), len(scores))
    assert kept.tolist() == [is_kept] * len(scores)


@given(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1, max_size=5))
def test_of_correctness_it_is_the_papers_rule(groups):
    kept = differing_groups(torch.tensor(groups, dtype=torch.float32).flatten(), 4)
    assert kept[::4].tolist() == [0 < sum(group) < 4 for group in groups]


def rollouts(correct, rewards=None, lengths=None) -> Rollouts:
    correct = torch.tensor(correct, dtype=torch.float32)
    lengths = torch.ones(len(correct), dtype=torch.int64) if lengths is None else torch.tensor(lengths)
    return Rollouts(
        prompt_keys=tuple(str(i // 2) for i in range(len(correct))),
        lengths=lengths,
        correct=correct,
        num_generations=2,
        rewards={name: torch.tensor(values, dtype=torch.float32) for name, values in (rewards or {}).items()},
        weights={"accuracy": 1.0, "length": 0.5},
    )


class Trainer:
    """What the filter reads of a trainer."""

    reward_func_names = ["accuracy", "length"]


@pytest.mark.parametrize(
    ("score", "is_kept"),
    [("correct", [True, False, False]), ("reward", [False, True, False]), ("length", [True, True, False])],
)
def test_scores(score, is_kept):
    group_filter = DynamicSampling(score=score)
    group_filter.attach(Trainer())
    batch = rollouts([1, 0, 1, 1, 0, 0], {"accuracy": [1, 0, 1, 1, 0, 0], "length": [-2, 0, 0, -1, 3, 3]})
    assert group_filter.keep(batch)[::2].tolist() == is_kept


def test_lengths_do_not_matter():
    one, other = (rollouts([1, 0, 1, 1], lengths=lengths) for lengths in ([5, 5, 5, 5], [1, 90, 7, 300]))
    assert torch.equal(DynamicSampling().keep(one), DynamicSampling().keep(other))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_refills": -1}, "max_refills must be at least 0, got -1"),
        ({"tolerance": -0.1}, "tolerance must be at least 0, got -0.1"),
        ({"tolerance": torch.nan}, "tolerance must be at least 0, got nan"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DynamicSampling(**arguments)


def test_a_score_that_is_not_a_reward_function():
    with pytest.raises(
        ValueError, match=r"score='acc'\): the score is 'correct', 'reward' or one of .*'accuracy', 'length'"
    ):
        DynamicSampling(score="acc").attach(Trainer())
