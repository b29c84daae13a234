# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the formula in hkust-nlp/Laser, length_penalty.py."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_concise import KimiLengthReward
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.kimi import kimi_length_reward


groups = st.lists(st.tuples(st.integers(0, 10**5), st.booleans()), min_size=1, max_size=8)


def rewards(lengths, correct) -> list[float]:
    """Rewards of one group."""
    return kimi_length_reward(torch.tensor([lengths]), torch.tensor([correct], dtype=torch.float32))[0].tolist()


def test_golden_values():
    values = rewards([800, 1500, 2600, 500, 4000], [1, 1, 1, 0, 0])
    assert values == pytest.approx([0.4143, 0.2143, -0.1, 0, -0.5], abs=1e-4)


@given(groups)
def test_the_shortest_earns_half_and_a_wrong_one_never_gains(group):
    lengths, correct = zip(*group, strict=True)
    values = rewards(lengths, correct)
    assert all(-0.5 <= value <= 0.5 for value in values)
    assert all(value <= 0 for value, right in zip(values, correct, strict=True) if not right)
    if min(lengths) == max(lengths):
        assert values == [0] * len(group)
    elif (min(lengths), True) in group:
        assert values[group.index((min(lengths), True))] == 0.5


def batch(step=0, correct=(1, 1, 0, math.nan)) -> Rollouts:
    lengths = torch.tensor([10, 20, 10, 30])
    return Rollouts(("a", "a", "b", "b"), lengths, torch.tensor(correct, dtype=torch.float32), 2, step=step)


def test_groups_do_not_mix_and_the_unknown_abstains():
    scores = KimiLengthReward().score(batch()).tolist()
    assert scores[:3] == [0.5, -0.5, 0] and math.isnan(scores[3])


def test_it_begins_after_the_warm_up():
    reward = KimiLengthReward(warmup_steps=3)
    assert reward.score(batch(step=2)).nan_to_num(-9).tolist() == [0, 0, 0, -9]
    assert reward.score(batch(step=3)).nan_to_num(-9).tolist() == [0.5, -0.5, 0, -9]


def test_a_negative_warm_up_is_refused():
    with pytest.raises(ValueError, match="warmup_steps must be at least 0, got -1"):
        KimiLengthReward(warmup_steps=-1)
