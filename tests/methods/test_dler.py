# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the paper's equations, with verl's weighting by tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import BatchWhitening, ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.dler import whiten


REWARDS = [[1.0, 0, 0, 0], [1.0, 1, 1, 0]]
ADVANTAGES = torch.tensor([0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75])
LENGTHS = [100, 400, 400, 400, 200, 200, 200, 400]
BY_SEQUENCE = [1.7321, -0.5774, -0.5774, -0.5774, 0.5774, 0.5774, 0.5774, -1.7321]
BY_TOKEN = [2.4010, -0.2287, -0.2287, -0.2287, 1.0862, 1.0862, 1.0862, -1.5435]


@pytest.mark.parametrize(("weights", "expected"), [([1] * 8, BY_SEQUENCE), (LENGTHS, BY_TOKEN)])
def test_golden_values(weights, expected):
    assert whiten(ADVANTAGES, torch.tensor(weights)).tolist() == pytest.approx(expected, abs=1e-4)


@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 1000)), min_size=1, max_size=20))
def test_weighted_mean_and_variance(rows):
    advantages, weights = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    result = whiten(advantages, weights)
    share = weights / weights.sum().clamp(min=1)
    assert (share * result).sum().item() == pytest.approx(0, abs=1e-5)
    spread = (share * (advantages - (share * advantages).sum()).square()).sum().sqrt().item()
    if spread > 1e-3:
        assert (share * result.square()).sum().item() == pytest.approx(1, abs=1e-4)
    assert (result[weights == 0] == 0).all()


def test_groups_without_variance_are_left_out():
    advantages = torch.cat([ADVANTAGES, torch.zeros(4)])
    rollouts = Rollouts(tuple("aaaabbbbcccc"), torch.tensor(LENGTHS + [9] * 4), torch.ones(12), 4)
    whitened = BatchWhitening().compute(rollouts, advantages)
    assert whitened.tolist() == pytest.approx(BY_TOKEN + [0] * 4, abs=1e-4)
    assert BatchWhitening(skip_zero_variance=False).compute(rollouts, advantages)[8:].tolist() != [0] * 4


def test_completions_without_a_verdict_are_left_out():
    advantages, lengths = torch.cat([ADVANTAGES, torch.zeros(4)]), torch.tensor(LENGTHS + [9] * 4)
    judged = torch.tensor([1.0] * 9 + [math.nan] * 3)
    advantages[8] = 2.0
    rollouts = Rollouts(
        tuple("aaaabbbbcccc"), lengths, torch.ones(12), 4, rewards={"correct": judged, "length": judged}
    )
    whitened = BatchWhitening().compute(rollouts, advantages)
    assert whitened[9:].tolist() == [0] * 3 and whitened[8] != 0


def test_a_completion_weighs_by_its_tokens_in_the_loss():
    rollouts = Rollouts(tuple("aaaabbbb"), torch.full((8,), 999), torch.ones(8), 4, loss_lengths=torch.tensor(LENGTHS))
    assert BatchWhitening().compute(rollouts, ADVANTAGES).tolist() == pytest.approx(BY_TOKEN, abs=1e-4)


@pytest.mark.parametrize(("token_weighted", "expected"), [(True, BY_TOKEN), (False, BY_SEQUENCE)])
def test_the_trainer_computes_the_golden_advantages(token_weighted, expected, tiny_model, problems, tmp_path):
    """With truncation, `scale_rewards="none"` and the higher upper clip: TRL's own options."""
    seen = {}

    class Spy(ConciseGRPOTrainer):
        def _compute_loss(self, model, inputs):
            tokens = inputs["completion_mask"].sum(dim=1).tolist()
            seen.update(zip(tokens, inputs["advantages"].tolist(), strict=True))
            return super()._compute_loss(model, inputs)

    def correct(completions, **kwargs):
        return [value for group in REWARDS for value in group]

    args = ConciseGRPOConfig(
        **tiny.settings(tmp_path, max_steps=1, scale_rewards="none", epsilon_high=0.28, max_completion_length=400)
    )
    trainer = Spy(
        tiny_model,
        [correct],
        args,
        problems,
        advantage=BatchWhitening(token_weighted),
        rollout_func=tiny.rollouts_of([[length - 1 for length in LENGTHS]]),  # and EOS
    )
    trainer.train()
    # Right completions of 100 and 200 tokens, wrong ones of 400 in both groups: the last two values share a length.
    assert (seen[100], seen[200]) == pytest.approx((expected[0], expected[4]), abs=1e-3)
    assert seen[400] == pytest.approx(expected[1], abs=1e-3) or seen[400] == pytest.approx(expected[7], abs=1e-3)


def test_advantages_that_are_scaled_already_are_refused(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    with pytest.raises(ValueError, match='Set scale_rewards="none"'):
        ConciseGRPOTrainer(tiny_model, [tiny.even_reward], args, problems, advantage=BatchWhitening())
    args = ConciseGRPOConfig(
        **tiny.settings(tmp_path, scale_rewards="none", multi_objective_aggregation="normalize_then_sum")
    )
    with pytest.raises(ValueError, match="Set it to 'sum_then_normalize'"):
        ConciseGRPOTrainer(tiny_model, [tiny.even_reward], args, problems, advantage=BatchWhitening())


def test_as_a_token_credit_it_works_with_a_warning(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, scale_rewards="none"))
    with pytest.warns(FutureWarning, match="Pass BatchWhitening as advantage="):
        trainer = ConciseGRPOTrainer(tiny_model, [tiny.even_reward], args, problems, token_credit=[BatchWhitening()])
    assert len(trainer.advantages) == 1 and trainer.token_credits == []
