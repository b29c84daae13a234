# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the equation of the paper (section 3.4), independently of this package."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.mgpo import MGPO, entropy_weight


GOLDEN = {  # of success rates of 0, 1/8, 2/8, 3/8 and 4/8
    1.0: [0.5, 0.7288, 0.8774, 0.9689, 1],
    2.0: [0.25, 0.5311, 0.7698, 0.9388, 1],
    4.0: [0.0625, 0.2821, 0.5926, 0.8813, 1],
}


@pytest.mark.parametrize("strength", GOLDEN)
def test_golden_weights(strength):
    rates = torch.arange(5) / 8
    assert entropy_weight(rates, strength=strength).tolist() == pytest.approx(GOLDEN[strength], abs=1e-4)
    assert entropy_weight(1 - rates, strength=strength).tolist() == pytest.approx(GOLDEN[strength], abs=1e-4)


@given(st.floats(0, 1), st.floats(0, 20))
def test_weights_are_symmetric_and_bounded(rate, strength):
    rates = torch.tensor([rate, 1 - rate, 0, 0.5], dtype=torch.float64)
    weight, mirrored, lowest, highest = entropy_weight(rates, strength=strength).tolist()
    assert weight == pytest.approx(mirrored, abs=1e-9) and highest == 1
    assert lowest == pytest.approx(2**-strength)
    assert lowest * (1 - 1e-9) <= weight <= 1
    assert entropy_weight(rates, strength=0).tolist() == [1] * 4


GROUPS = st.lists(st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=4, max_size=4), min_size=1, max_size=4)


@given(GROUPS, st.floats(0, 5))
def test_advantages_of_a_group_keep_their_sum_of_zero(groups, strength):
    correct = torch.tensor(groups).flatten()
    rollouts = Rollouts(("a",) * len(correct), torch.ones(len(correct), dtype=torch.long), correct, 4)
    advantages = torch.tensor([1.5, -0.5, -0.25, -0.75]).repeat(len(groups))
    weighted = rollouts.by_group(MGPO(strength).compute(rollouts, advantages))
    assert weighted.sum(dim=1).tolist() == pytest.approx([0] * len(groups), abs=1e-6)
    for own, group in zip(weighted, groups, strict=True):
        known = [verdict for verdict in group if not math.isnan(verdict)]
        expected = entropy_weight(torch.tensor(sum(known) / len(known)), strength=strength).item() if known else 1.0
        torch.testing.assert_close(own, advantages[:4] * expected)


def graded(completion_ids, **kwargs):
    """A second reward, which must not change what counts as solved."""
    return [len(ids) / 8 for ids in completion_ids]


def train(model, problems, folder, advantage, **changes):
    settings = tiny.settings(folder, correctness="even_reward", **changes)
    trainer = tiny.spy(ConciseGRPOTrainer)(
        model, [tiny.even_reward, graded], ConciseGRPOConfig(**settings), problems, advantage=advantage
    )
    trainer.train()
    return trainer


def test_a_strength_of_0_is_grpo_bit_for_bit(tiny_model, problems, tmp_path):
    plain = train(tiny_model, problems, tmp_path, None)
    neutral = train(tiny_model, problems, tmp_path, MGPO(strength=0))
    assert tiny.losses(plain) == tiny.losses(neutral)
    for own, other in zip(plain.model.parameters(), neutral.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_two_steps_of_training_weight_the_normalized_advantages(tiny_model, problems, tmp_path):
    class Noted(MGPO):
        seen: list = []

        def compute(self, rollouts, advantages):
            self.seen.append((rollouts, advantages, super().compute(rollouts, advantages)))
            return self.seen[-1][-1]

    trainer = train(tiny_model, problems, tmp_path, Noted(strength=2.0))
    assert trainer.state.global_step == len(Noted.seen) == 2
    for (rollouts, before, after), (inputs, _, _) in zip(Noted.seen, trainer.seen, strict=True):
        rates = rollouts.by_group(rollouts.correct).mean(dim=1)
        weights = torch.tensor([GOLDEN[2.0][round(4 * min(rate, 1 - rate)) * 2] for rate in rates.tolist()])
        torch.testing.assert_close(after, before * weights.repeat_interleave(4), atol=1e-3, rtol=1e-3)
        assert sorted(inputs["advantages"].tolist()) == pytest.approx(sorted(after.tolist()))


@pytest.mark.parametrize("strength", [-1, math.nan, math.inf])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match=f"strength must be at least 0 and finite, got {strength}"):
        MGPO(strength)
