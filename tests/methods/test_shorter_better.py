# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the authors' formula (JingyangYi/ShorterBetter, reward_manager/naive.py)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ShorterBetterConfig, ShorterBetterReward, ShorterBetterTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.shorter_better import shorter_better_reward


LENGTHS = [800, 1500, 2600, 500, 4000]

groups = st.lists(st.tuples(st.integers(0, 10**4), st.booleans()), min_size=1, max_size=8)


def rewards(lengths, correct, **settings) -> list[float]:
    """Rewards of one group."""
    return shorter_better_reward(torch.tensor([lengths]), torch.tensor([correct]).float(), **settings)[0].tolist()


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        ([1, 1, 1, 0, 0], [2.0, 1.3, 0.2, -0.3, -3.2]),
        ([0, 0, 0, 0, 0], [-1.08, -0.38, -0.72, -1.38, -2.12]),  # the target is their mean, 1880
    ],
)
def test_golden_values(correct, expected):
    assert rewards(LENGTHS, correct) == pytest.approx(expected, abs=1e-6)


def test_golden_advantages():
    values = torch.tensor(rewards(LENGTHS, [1, 1, 1, 0, 0]))
    advantages = (values - values.mean()) / (values.std() + 1e-6)
    assert advantages.tolist() == pytest.approx([0.998, 0.649, 0.1, -0.15, -1.597], abs=1e-3)


@given(groups)
def test_the_shortest_correct_completion_gets_exactly_alpha(group):
    lengths, correct = zip(*group, strict=True)
    solved = [length for length, right in group if right]
    if solved:
        best = group.index((min(solved), True))
        assert rewards(lengths, correct)[best] == 2.0


@given(groups, st.integers(0, 10**4))
def test_a_constant_added_to_every_length_changes_nothing(group, constant):
    lengths, correct = zip(*group, strict=True)
    moved = rewards([length + constant for length in lengths], correct)
    assert moved == pytest.approx(rewards(lengths, correct), abs=1e-4)


@given(groups, st.randoms(use_true_random=False))
def test_order_within_a_group_does_not_matter(group, order):
    shuffled = order.sample(group, len(group))
    by_row = sorted(zip(group, rewards(*zip(*group, strict=True)), strict=True))
    again = sorted(zip(shuffled, rewards(*zip(*shuffled, strict=True)), strict=True))
    assert [row for row, _ in by_row] == [row for row, _ in again]
    assert [reward for _, reward in by_row] == pytest.approx([reward for _, reward in again], abs=1e-4)


@given(groups)
def test_without_beta_only_correctness_counts(group):
    lengths, correct = zip(*group, strict=True)
    assert rewards(lengths, correct, beta=0.0) == [2.0 * right for right in correct]


# The part


def batch(lengths, correct, num_generations) -> Rollouts:
    keys = tuple(str(i // num_generations) for i in range(len(lengths)))
    return Rollouts(keys, torch.tensor(lengths), torch.tensor(correct, dtype=torch.float32), num_generations)


def test_with_the_correctness_it_is_the_papers_reward_and_groups_do_not_mix():
    rollouts = batch(LENGTHS + LENGTHS, [1, 1, 1, 0, 0] + [0] * 5, 5)
    total = rollouts.correct + ShorterBetterReward().score(rollouts)
    expected = [2.0, 1.3, 0.2, -0.3, -3.2, -1.08, -0.38, -0.72, -1.38, -2.12]
    assert total.tolist() == pytest.approx(expected, abs=1e-6)


def test_unknown_correctness_abstains_and_is_left_out_of_the_target():
    nan = math.nan
    scores = ShorterBetterReward().score(batch([100, 300, 900, 5, 7, 9], [0, 0, nan, nan, nan, nan], 3)).tolist()
    assert scores[:2] == pytest.approx([-0.1, -0.1])  # the mean is 200, not 433
    assert all(math.isnan(score) for score in scores[2:])


def test_metrics():
    reward = ShorterBetterReward()
    reward.observe(batch([10, 30, 50, 70], [1, 1, 0, 0], 2))
    assert reward.metrics() == {"solved_groups": 0.5, "optimal_length_mean": 10, "distance_mean": 10}
    reward.observe(batch([10, 30], [0, 0], 2))
    assert math.isnan(reward.metrics()["optimal_length_mean"])


def test_a_reward_for_distance_is_refused():
    with pytest.raises(ValueError, match="beta must be at least 0 and finite, got -1"):
        ShorterBetterReward(beta=-1)


# The trainer


def test_the_trainer_computes_the_golden_rewards(tiny_model, problems, tmp_path):
    def correct(completion_ids, **kwargs):
        return [1.0, 1.0, 0.0, 0.0]

    args = ShorterBetterConfig(
        **tiny.settings(tmp_path, max_steps=1, per_device_train_batch_size=4, log_completions=True)
    )
    trainer = ShorterBetterTrainer(
        tiny_model, correct, args, problems, rollout_func=tiny.rollouts_of([[800, 1500, 500, 4000]])
    )
    trainer.train()
    added = list(trainer._logs["rewards"]["ShorterBetterReward"])
    assert added == pytest.approx([1.0, 0.3, -0.3, -3.2], abs=1e-6)
    logged = trainer.state.log_history[0]
    assert logged["shorter_better/optimal_length_mean"] == 800 and logged["shorter_better/solved_groups"] == 1


def test_training_moves_the_weights(tiny_model, problems, tmp_path):
    args = ShorterBetterConfig(**tiny.settings(tmp_path))
    trainer = ShorterBetterTrainer(tiny_model, tiny.even_reward, args, problems)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
