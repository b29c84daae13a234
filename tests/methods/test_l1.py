# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the authors' code (cmu-l3/l1, math_reward.py) and from the paper's form of L1-Max."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, L1Reward
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.l1 import l1_exact_reward, l1_max_reward, with_target_length


LENGTHS = torch.tensor([800, 1500, 2600, 500, 4000])
CORRECT = torch.tensor([1.0, 1, 1, 0, 0])

length = st.integers(0, 10**5)


def test_exact():
    rewards = l1_exact_reward(LENGTHS, torch.full((5,), 1000), CORRECT)
    assert rewards.tolist() == pytest.approx([0.94, 0.85, 0.52, -0.15, -0.9], abs=1e-6)


@pytest.mark.parametrize(
    ("released", "expected"), [(False, [0.86, 0.65, 0.32, 0, 0]), (True, [0.68, 0.575, 0.41, 0, 0])]
)
def test_max(released, expected):
    rewards = l1_max_reward(LENGTHS, torch.full((5,), 2000), CORRECT, released=released)
    assert rewards.tolist() == pytest.approx(expected, abs=1e-6)


@given(length, length, length, st.booleans())
def test_max_never_rewards_length_and_stays_in_range(a, b, target, released):
    shorter, longer = sorted((a, b))
    numbers = torch.tensor([shorter, longer]), torch.tensor([target, target]), torch.ones(2)
    first, second = l1_max_reward(*numbers, released=released).tolist()
    assert 1 >= first >= second >= 0


@pytest.mark.parametrize("form", ["exact", "max", "max-released"])
def test_with_the_correctness_it_is_the_papers_reward(form):
    keys, target = ("p",) * 5, torch.full((5,), 1500.0)
    rollouts = Rollouts(keys, LENGTHS, CORRECT, 5, measured={"l1": {"target": target}})
    total = CORRECT + L1Reward(form).score(rollouts)
    if form == "exact":
        expected = l1_exact_reward(LENGTHS, target, CORRECT)
    else:
        expected = l1_max_reward(LENGTHS, target, CORRECT, released=form == "max-released")
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"alpha": 0.0, "form": "max", "delta": 1.0}])
def test_without_alpha_only_correctness_counts(settings):
    rollouts = Rollouts(("p",) * 5, LENGTHS, CORRECT, 5, measured={"l1": {"target": torch.ones(5)}})
    assert L1Reward(**settings).score(rollouts).tolist() == [0] * 5


# The prompts


def test_the_length_asked_for_is_a_column_and_in_the_prompt():
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": f"{i}?"}], "solution": "1"} for i in range(200)])
    asking = rows.map(with_target_length, fn_kwargs={"mode": "max"})
    row = asking[0]
    assert row["prompt"][0]["content"] == f"0? Think for maximum {row['target_length']} tokens."
    assert row["solution"] == "1"
    assert min(asking["target_length"]) >= 100 and max(asking["target_length"]) <= 4000
    assert len(set(asking["target_length"])) > 150


def test_a_prompt_is_asked_for_the_same_length_whatever_its_row():
    row = {"prompt": "What is 1 + 1?"}
    assert with_target_length(row) == with_target_length({**row, "row": 7})
    assert with_target_length(row) != with_target_length(row, seed=1)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"mode must be one of \('exact', 'max'\), got 'min'"):
        with_target_length({"prompt": "?"}, mode="min")


# Training


def test_the_trainer_computes_the_golden_rewards(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(
        **tiny.settings(tmp_path, max_steps=1, per_device_train_batch_size=4, log_completions=True)
    )
    trainer = ConciseGRPOTrainer(
        tiny_model,
        [two_correct, L1Reward()],
        args,
        problems.add_column("target_length", [1000] * 16),
        rollout_func=tiny.rollouts_of([[800, 1500, 500, 4000]]),
    )
    trainer.train()
    assert list(trainer._logs["rewards"]["L1Reward"]) == pytest.approx([-0.06, -0.15, -0.15, -0.9], abs=1e-6)
    logged = trainer.state.log_history[0]
    assert (logged["l1/distance_mean"], logged["l1/over_target_fraction"]) == (1050, 0.5)


def two_correct(completions, **kwargs):
    return [1.0, 1.0, 0.0, 0.0]


def test_a_missing_target_is_named(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    with pytest.raises(ValueError, match="needs the dataset column `target_length`"):
        ConciseGRPOTrainer(tiny_model, [tiny.even_reward, L1Reward()], args, problems).train()


def test_problems_without_a_target_can_be_evaluated(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    trainer = ConciseGRPOTrainer(tiny_model, [tiny.even_reward, L1Reward()], args, problems, problems.select(range(2)))
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1


def test_a_prompt_of_several_messages_asks_for_a_length():
    row = {"prompt": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}]}
    parts = with_target_length(row, low=9, high=9)["prompt"][0]["content"]
    assert [part["text"] for part in parts] == ["What is it?", " Think for 9 tokens."]


@pytest.mark.parametrize("setting", [{"form": "min"}, {"alpha": -1}])
def test_settings_are_checked_at_construction(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        L1Reward(**setting)
