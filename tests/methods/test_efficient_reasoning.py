# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the authors' code (Zanette-Labs/efficient-reasoning, reward_server/math_server.py)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, EfficientReasoningReward
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.efficient_reasoning import efficient_reasoning_reward


LENGTHS, CORRECT = [800, 1500, 2600, 500, 4000], [1, 1, 1, 0, 0]

groups = st.lists(st.tuples(st.integers(0, 10**5), st.booleans()), min_size=1, max_size=8)


def rewards(lengths, correct, alpha) -> list[float]:
    """Rewards of one group."""
    numbers = torch.tensor([lengths]), torch.tensor([correct], dtype=torch.float32)
    return efficient_reasoning_reward(*numbers, alpha=alpha)[0].tolist()


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.1, [0.9755, 0.9545, 0.9213, 0, 0]),  # with n - 1 it would be 0.9715, 0.9537, 0.9256
        (0.4, [0.9020, 0.8179, 0.6853, 0, 0]),
    ],
)
def test_golden_values(alpha, expected):
    assert rewards(LENGTHS, CORRECT, alpha) == pytest.approx(expected, abs=1e-4)


@given(groups, st.floats(0, 0.9))
def test_range(group, alpha):
    lengths, correct = zip(*group, strict=True)
    for value, right in zip(rewards(lengths, correct, alpha), correct, strict=True):
        assert 1 - alpha - 1e-6 <= value <= 1 if right else value == 0


def test_a_single_correct_completion_pays_half_of_alpha():
    assert rewards([7, 9], [1, 0], 0.2) == pytest.approx([0.9, 0])


def test_with_the_correctness_it_is_the_papers_reward_and_groups_do_not_mix():
    keys, correct = ("a",) * 5 + ("b",) * 5, torch.tensor(CORRECT + [1.0] * 5)
    rollouts = Rollouts(keys, torch.tensor(LENGTHS + [7] * 5), correct, 5)
    total = correct + EfficientReasoningReward(alpha=0.4).score(rollouts)
    assert total.tolist() == pytest.approx([0.9020, 0.8179, 0.6853, 0, 0] + [0.8] * 5, abs=1e-4)


def test_a_truncated_completion_counts_as_wrong():
    rollouts = Rollouts(
        ("a",) * 3,
        torch.tensor([10, 10, 90]),
        torch.tensor([1.0, math.nan, 1.0]),
        3,
        truncated=torch.tensor([False, False, True]),
    )
    scores = EfficientReasoningReward(alpha=0.2).score(rollouts).tolist()
    assert scores[0] == pytest.approx(-0.1) and math.isnan(scores[1]) and scores[2] == -1


@pytest.mark.parametrize("alpha", [-0.1, 1.0])
def test_alpha_is_checked_at_construction(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\)"):
        EfficientReasoningReward(alpha=alpha)


def test_rewards_that_are_scaled_are_refused(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    with pytest.raises(ValueError, match='Set scale_rewards="none"'):
        ConciseGRPOTrainer(tiny_model, [tiny.even_reward, EfficientReasoningReward()], args, problems)
