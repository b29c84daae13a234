# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the authors' formulas (hkust-nlp/Laser, length_penalty.py)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import LASERConfig, LASERReward, LASERTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.laser import laser_base_score, laser_reward


LENGTHS = torch.tensor([3000, 4000, 4097, 9000, 16000])
SCORES = torch.tensor([1.0, 1, 1, -0.5, -1])

rows = st.lists(st.tuples(st.integers(0, 10**5), st.sampled_from([1.0, -0.5, -1.0])), min_size=1, max_size=8)


def test_golden_values():
    rewards = laser_reward(LENGTHS, SCORES, 4096)
    assert rewards.tolist() == [1.5, 1.5, 1.0, -0.5, -1]
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    assert advantages.tolist() == pytest.approx([0.853, 0.853, 0.426, -0.853, -1.279], abs=1e-3)


@given(rows, st.integers(1, 10**5))
def test_the_target_itself_still_earns_the_bonus(group, target):
    lengths, scores = (torch.tensor(column) for column in zip(*group, strict=True))
    assert laser_reward(torch.tensor([target, target + 1]), torch.ones(2), target).tolist() == [1.5, 1.0]
    changed = laser_reward(lengths, scores, target) != scores
    assert torch.equal(changed, (scores == 1) & (lengths <= target))


@given(rows, st.integers(1, 10**5), st.booleans())
def test_without_alpha_only_the_score_counts(group, target, explore):
    lengths, scores = (torch.tensor(column) for column in zip(*group, strict=True))
    explores = torch.ones_like(lengths, dtype=torch.bool) if explore else None
    assert torch.equal(laser_reward(lengths, scores, target, alpha=0.0, explores=explores), scores)


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        (r"thinking</think>\boxed{7}", "7", 1.0),
        (r"thinking</think>\boxed{8}", "7", -0.5),
        (r"\boxed{7}</think>7", "7", -1.0),  # right, but not in the right form
        (r"\boxed{7}", "7", -1.0),
        ("thinking", "7", -1.0),
        (r"thinking</think>\boxed{7}", None, None),
    ],
)
def test_base_score(text, gold, expected):
    assert laser_base_score([text], solution=[gold]) == [expected]
    assert laser_base_score([[{"role": "assistant", "content": text}]], answer=[gold]) == [expected]


# The part


def test_the_bonus_is_added_to_any_correctness_function():
    correct = torch.tensor([1.0, 1, 0, math.nan])
    rollouts = Rollouts(("a",) * 4, torch.tensor([10, 11, 9, 9]), correct, 4)
    reward = LASERReward(target_length=10, alpha=0.25)
    assert reward.score(rollouts).nan_to_num(-9).tolist() == [0.25, 0, 0, -9]
    reward.observe(rollouts)
    assert reward.metrics() == {"within_target": 0.5}


@pytest.mark.parametrize("settings", [{"target_length": 0}, {"target_length": 9, "alpha": -1}])
def test_settings_are_checked_at_construction(settings):
    with pytest.raises(ValueError, match="target_length must be at least 1 and alpha at least 0"):
        LASERReward(**settings)


# The trainer


def test_the_trainer_computes_the_golden_advantages(tiny_model, problems, tmp_path):
    """With the authors' scores as the reward function, which also say what is correct."""

    def score(completions, **kwargs):
        return SCORES[[0, 2, 3, 4]].tolist()

    args = LASERConfig(
        **tiny.settings(
            tmp_path,
            max_steps=1,
            per_device_train_batch_size=4,
            log_completions=True,
            target_length=30,
            max_completion_length=160,
        )
    )
    trainer = LASERTrainer(tiny_model, score, args, problems, rollout_func=tiny.rollouts_of([[30, 31, 90, 159]]))
    trainer.train()
    assert list(trainer._logs["rewards"]["LASERReward"]) == [0.5, 0, 0, 0]
    rewards = torch.tensor([1.5, 1, -0.5, -1])
    expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    assert list(trainer._logs["advantages"]) == pytest.approx(expected.tolist(), abs=1e-5)
    assert trainer.state.log_history[0]["laser/within_target"] == 0.5


def test_the_target_defaults_to_the_papers_share_of_the_limit(tiny_model, problems, tmp_path):
    args = LASERConfig(**tiny.settings(tmp_path, max_completion_length=16384))
    assert LASERTrainer(tiny_model, tiny.even_reward, args, problems).components[0].target_length == 8192


def test_a_target_that_everything_reaches_is_refused(tiny_model, problems, tmp_path):
    args = LASERConfig(**tiny.settings(tmp_path, target_length=8))
    with pytest.raises(ValueError, match="With target_length = 8 and max_completion_length = 8 every correct"):
        LASERTrainer(tiny_model, tiny.even_reward, args, problems)


def test_streaming(tiny_model, problems, tmp_path):
    args = LASERConfig(**tiny.settings(tmp_path))
    trainer = LASERTrainer(tiny_model, tiny.even_reward, args, problems.to_iterable_dataset())
    trainer.train()
    logged = [entry["laser/within_target"] for entry in trainer.state.log_history if "laser/within_target" in entry]
    assert len(logged) == 1  # in the first step nothing is correct, so nothing is within a target
