# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the authors' code (HCY123902/HAPO @ c91ae3b: utils.py, grpo_trainer.py)."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, HAPOConfig, HAPOLengthReward, HAPOTrainer
from trl_concise.batch.rollouts import Rollouts, prompt_key
from trl_concise.methods.hapo import hapo_length_reward, hapo_repetition_penalty


lengths = st.integers(0, 10**5)
histories = st.none() | st.integers(1, 10**5)
shapes = st.sampled_from(["cosine", "linear"])


def rollouts(rows, num_generations=1, **changes) -> Rollouts:
    """Rows of (prompt, length, correct)."""
    keys, lengths, correct = zip(*rows, strict=True)
    return Rollouts(
        keys, torch.tensor(lengths), torch.tensor(correct, dtype=torch.float32), num_generations, **changes
    )


# The equation


@pytest.mark.parametrize(
    ("length", "history", "correct", "expected"),
    [
        (500, 1000, True, 0.707107),
        (1000, 1000, True, 0.0),
        (1600, 1000, True, -0.7),  # raw -0.809017
        (2500, 1000, True, -0.7),
        (500, 1000, False, 0.0),
        (1600, 1000, False, -0.809017),
        (2500, 1000, False, -1.0),
        (0, 1000, True, 1.0),
        (50, 100, True, 0.707107),
        (150, 100, False, -0.707107),
        (400, 100, False, -1.0),
        (7, None, True, 0.0),
        (7, None, False, 0.0),
    ],
)
def test_cosine(length, history, correct, expected):
    assert hapo_length_reward(length, history, correct) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("length", "correct", "expected"),
    [
        (500, True, 0.5),
        (1000, True, 0.0),
        (1050, True, 0.0),
        (1100, True, 0.0),
        (1600, True, -0.5),
        (1800, True, -0.7),
        (2500, True, -0.7),
        (500, False, 0.0),
        (1100, False, 0.0),
        (1600, False, -0.5),
        (2100, False, -1.0),
        (2500, False, -1.0),
    ],
)
def test_linear(length, correct, expected):
    assert hapo_length_reward(length, 1000, correct, shape="linear") == pytest.approx(expected, abs=1e-12)


def test_the_floor_is_reached_at_one_and_a_half_times_the_history():
    ratio = 2 / math.pi * math.acos(-0.7)
    assert ratio == pytest.approx(1.493634, abs=1e-6)
    assert hapo_length_reward(round(ratio * 10**6) + 1, 10**6, True) == -0.7
    assert hapo_length_reward(round(ratio * 10**6) - 1, 10**6, True) > -0.7


def test_a_wrong_completion_of_the_shortest_length_gets_exactly_zero():
    assert hapo_length_reward(100, 100, False) == 0.0


@given(lengths, lengths, histories, st.booleans(), shapes)
def test_a_longer_completion_never_earns_more(a, b, history, correct, shape):
    shorter, longer = min(a, b), max(a, b)
    assert hapo_length_reward(longer, history, correct, shape=shape) <= hapo_length_reward(
        shorter, history, correct, shape=shape
    )


@given(lengths, lengths, histories, st.floats(0, 1), shapes)
def test_every_correct_completion_outranks_every_wrong_one(right, wrong, history, weight, shape):
    reward = 1 + weight * hapo_length_reward(right, history, True, shape=shape)
    assert reward > weight * hapo_length_reward(wrong, history, False, shape=shape)


@given(lengths, histories, shapes, st.floats(-1, 0))
def test_range(length, history, shape, floor):
    assert floor <= hapo_length_reward(length, history, True, shape=shape, floor=floor) <= 1
    assert -1 <= hapo_length_reward(length, history, False, shape=shape, floor=floor) <= 0


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape must be one of \('cosine', 'linear'\), got 'square'"):
        hapo_length_reward(1, 1, True, shape="square")


@pytest.mark.parametrize(
    ("ids", "expected"), [([1, 2, 3, 1, 2, 3], -0.5), ([1, 1, 1, 1], -0.75), ([1, 2], 0.0), ([], 0.0)]
)
def test_repetition_penalty(ids, expected):
    assert hapo_repetition_penalty(ids, penalty=-1.0, ngram_size=3) == expected


def test_a_repetition_bonus_is_refused():
    with pytest.raises(ValueError, match="at most 0"):
        hapo_repetition_penalty([1], penalty=0.5)


# The component

GROUP = [("p", 500, 1), ("p", 1600, 1), ("p", 500, 0), ("p", 2500, 0)]


def totals(reward: HAPOLengthReward, rows, weight: float = 1.0) -> torch.Tensor:
    batch = rollouts(rows, len(rows))
    return batch.correct + weight * reward.score(batch)


def advantages(rewards: torch.Tensor) -> list[float]:
    return ((rewards - rewards.mean()) / (rewards.std() + 1e-4)).tolist()


def test_a_group_with_history():
    reward = HAPOLengthReward()
    reward.history.update(["p"], [1000], [1])
    rewards = totals(reward, GROUP)
    assert rewards.tolist() == pytest.approx([1.707107, 0.3, 0, -1], abs=1e-6)
    assert (rewards.mean().item(), rewards.std().item()) == pytest.approx((0.251777, 1.118131), abs=1e-6)
    assert advantages(rewards) == pytest.approx([1.301458, 0.043125, -0.225156, -1.119426], abs=1e-6)
    assert totals(reward, GROUP, weight=0.5).tolist() == pytest.approx([1.353553, 0.65, 0, -0.5], abs=1e-6)
    reward.observe(rollouts(GROUP, 4))
    assert reward.history.shortest(["p"]).item() == 500


def test_a_group_without_history():
    reward = HAPOLengthReward()
    rewards = totals(reward, GROUP)
    assert rewards.tolist() == [1, 1, 0, 0]
    assert advantages(rewards) == pytest.approx([0.865875, 0.865875, -0.865875, -0.865875], abs=1e-6)
    reward.observe(rollouts(GROUP, 4))
    assert reward.history.shortest(["p"]).item() == 500


def test_a_group_of_two_erases_the_magnitude():
    reward = HAPOLengthReward()
    reward.history.update(["p"], [1000], [1])
    rewards = totals(reward, GROUP[:2])
    assert (rewards.mean().item(), rewards.std().item()) == pytest.approx((1.003553, 0.994975), abs=1e-6)
    assert advantages(rewards) == pytest.approx([0.707036, -0.707036], abs=1e-6)


def test_five_rows():
    reward = HAPOLengthReward()
    reward.history.update(["p"], [1000], [1])
    rows = [("p", 800, 1), ("p", 1500, 1), ("p", 2600, 1), ("p", 500, 0), ("p", 4000, 0)]
    assert totals(reward, rows).tolist() == pytest.approx([1.309017, 0.3, 0.3, 0, -1], abs=1e-6)


def test_mean_mode_folds_each_batch_once():
    reward = HAPOLengthReward(aggregate="mean")
    reward.observe(rollouts([("p", 500, 1), ("p", 1600, 1)], 2))
    assert reward.history.mean(["p"]).item() == 1050
    reward.observe(rollouts([("p", 300, 1)]))
    assert reward.history.mean(["p"]).item() == 800  # the authors' repeated fold may give 900
    batch = rollouts([("p", 400, 1)])
    assert reward.score(batch).item() == pytest.approx(math.cos(math.pi / 4))


def test_unknown_correctness_abstains_and_is_not_recorded():
    reward = HAPOLengthReward()
    batch = rollouts([("p", 5, math.nan), ("p", 9, 1)], 2)
    assert reward.score(batch).isnan().tolist() == [True, False]
    reward.observe(batch)
    assert reward.history.shortest(["p"]).item() == 9


rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 500), st.sampled_from([1, 0])), min_size=1)


@given(rows, rows, st.randoms(use_true_random=False))
def test_a_batch_sees_only_the_past_and_its_order_does_not_matter(past, batch, order):
    reward, permuted = HAPOLengthReward(), HAPOLengthReward()
    reward.observe(rollouts(past))
    permuted.observe(rollouts(order.sample(past, len(past))))
    before = reward.history.shortest("abc").nan_to_num(-1).tolist()
    scores = reward.score(rollouts(batch)).tolist()
    assert reward.history.shortest("abc").nan_to_num(-1).tolist() == before
    indices = order.sample(range(len(batch)), len(batch))
    assert permuted.score(rollouts([batch[i] for i in indices])).tolist() == [scores[i] for i in indices]


@given(st.lists(rows, min_size=1, max_size=4))
def test_the_history_is_the_minimum_whatever_the_split(batches):
    whole, split = HAPOLengthReward(), HAPOLengthReward()
    whole.observe(rollouts([row for batch in batches for row in batch]))
    for batch in batches:
        split.observe(rollouts(batch))
    for prompt in "abc":
        solved = [length for batch in batches for key, length, correct in batch if key == prompt and correct]
        expected = min(solved) if solved else -1
        assert whole.history.shortest([prompt]).nan_to_num(-1).item() == expected
        assert split.history.shortest([prompt]).nan_to_num(-1).item() == expected


@given(rows, rows)
def test_a_batch_without_correct_completions_is_not_recorded(past, batch):
    assume(past)
    reward = HAPOLengthReward()
    reward.observe(rollouts(past))
    before = reward.history.shortest("abc").nan_to_num(-1).tolist()
    reward.observe(rollouts([(key, length, 0) for key, length, _ in batch]))
    assert reward.history.shortest("abc").nan_to_num(-1).tolist() == before


def test_metrics():
    reward = HAPOLengthReward()
    reward.observe(rollouts([("a", 100, 1), ("a", 120, 1), ("b", 9, 0), ("b", 9, 0)], 2))
    assert reward.metrics()["history_coverage"] == 0
    assert math.isnan(reward.metrics()["length_over_shortest"]) and math.isnan(reward.metrics()["improved_fraction"])
    reward.observe(rollouts([("a", 50, 1), ("a", 150, 1), ("b", 30, 1), ("b", 9, 0)], 2))
    assert reward.metrics() == {
        "history_coverage": 0.5,  # a was solved before, b was not
        "shortest_mean": 40,  # 50 and 30, after this batch
        "length_over_shortest": 1.0,  # (50 / 100 + 150 / 100) / 2
        "improved_fraction": 1.0,  # of the one that could improve
    }


@pytest.mark.parametrize(
    "setting", [{"shape": "square"}, {"aggregate": "max"}, {"floor": 0.5}, {"floor": -2}, {"tolerance": -0.1}]
)
def test_settings_are_checked_at_construction(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        HAPOLengthReward(**setting)


# The trainer


def test_defaults_are_the_authors(tmp_path):
    config = HAPOConfig(**tiny.settings(tmp_path))
    assert (config.length_reward_weight, config.length_reward_shape) == (1.0, "cosine")
    assert (config.length_reward_floor, config.history_aggregate) == (-0.7, "min")


@pytest.mark.parametrize("weight", [-0.5, 1.5])
def test_the_weight_is_checked_at_construction(weight, tiny_model, problems, tmp_path):
    args = HAPOConfig(**tiny.settings(tmp_path, length_reward_weight=weight))
    with pytest.raises(ValueError, match=r"length_reward_weight must lie in \[0, 1\]"):
        HAPOTrainer(tiny_model, tiny.even_reward, args, problems)


@pytest.mark.parametrize(
    ("name", "value"), [("length_reward_shape", "cos"), ("length_reward_floor", 0.5), ("history_aggregate", "max")]
)
def test_an_invalid_value_is_reported_with_its_config_name(name, value, tiny_model, problems, tmp_path):
    args = HAPOConfig(**tiny.settings(tmp_path, **{name: value}))
    with pytest.raises(ValueError, match=f"got {value!r}.* In HAPOConfig it is {name}"):
        HAPOTrainer(tiny_model, tiny.even_reward, args, problems)


@pytest.mark.parametrize("changes", [{"reward_weights": [0.5]}, {"length_reward_floor": -1.0}])
def test_a_wrong_completion_may_not_earn_as_much_as_a_long_correct_one(changes, tiny_model, problems, tmp_path):
    args = HAPOConfig(**tiny.settings(tmp_path, **changes))
    with pytest.raises(ValueError, match="A long correct completion would earn no more than a wrong one"):
        HAPOTrainer(tiny_model, tiny.even_reward, args, problems)
    args.length_reward_weight = 0.4
    HAPOTrainer(tiny_model, tiny.even_reward, args, problems)


@pytest.mark.parametrize(
    ("correctness", "reward_weights", "refused"),
    [
        ("even_reward", [1.0, 0.1], "'even_reward', which says what is correct, has the weight 0.1"),
        ("even_reward", [0.1, 1.0], None),
        ("style", [0.1, 1.0], "'style', which says what is correct, has the weight 0.1"),
        (None, [0.7, 1.0], "'style', which says what is correct, has the weight 0.7"),
    ],
)
def test_the_weight_of_the_correctness_function_decides(
    correctness, reward_weights, refused, tiny_model, problems, tmp_path
):
    def style(completions, **kwargs):
        return [1.0] * len(completions)

    args = HAPOConfig(**tiny.settings(tmp_path, correctness=correctness, reward_weights=reward_weights))
    if refused is None:
        HAPOTrainer(tiny_model, [style, tiny.even_reward], args, problems)
        return
    with pytest.raises(ValueError, match=refused):
        HAPOTrainer(tiny_model, [style, tiny.even_reward], args, problems)


def test_the_order_is_checked_in_a_trainer_of_components_too(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, reward_weights=[0.1, 1.0]))
    with pytest.raises(ValueError, match="'even_reward', which says what is correct, has the weight 0.1"):
        ConciseGRPOTrainer(tiny_model, [tiny.even_reward, HAPOLengthReward()], args, problems)
    args.reward_weights = [1.0, 0.1]
    ConciseGRPOTrainer(tiny_model, [tiny.even_reward, HAPOLengthReward()], args, problems)


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_separately_normalized_rewards_are_warned_about(aggregation, tiny_model, problems, tmp_path, caplog):
    args = HAPOConfig(**tiny.settings(tmp_path, multi_objective_aggregation=aggregation))
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        HAPOTrainer(tiny_model, tiny.even_reward, args, problems)
    assert ("normalizes the length reward on its own" in caplog.text) == (aggregation == "normalize_then_sum")


@pytest.mark.parametrize(("values", "warnings"), [((0.5, 0.2), 1), ((1.0, 0.0), 0), ((1.0, -1.0), 0)])
def test_graded_correctness_is_warned_about_once(values, warnings, tiny_model, problems, tmp_path, caplog):
    def grade(completion_ids, **kwargs):
        return [values[reward == 0] for reward in tiny.even_reward(completion_ids)]

    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        HAPOTrainer(tiny_model, grade, HAPOConfig(**tiny.settings(tmp_path)), problems).train()
    assert caplog.text.count("The reward function 'grade' returned 0.") == warnings


def test_the_trainer_computes_the_golden_advantages(tiny_model, problems, tmp_path):
    def correct(completion_ids, **kwargs):
        return [1.0, 1.0, 0.0, 0.0]

    args = HAPOConfig(
        **tiny.settings(tmp_path, max_steps=1, per_device_train_batch_size=4, log_completions=True, learning_rate=0)
    )
    rollout = tiny.rollouts_of([[500, 1600, 500, 2500]])
    trainer = HAPOTrainer(tiny_model, correct, args, problems.select([3]), rollout_func=rollout)
    key = prompt_key(problems[3])
    trainer.history.update([key], [1000], [1])
    trainer.train()
    assert list(trainer._logs["advantages"]) == pytest.approx([1.301458, 0.043125, -0.225156, -1.119426], abs=1e-5)
    assert list(trainer._logs["rewards"]["HAPOLengthReward"]) == pytest.approx([0.707107, -0.7, 0, -1], abs=1e-6)
    assert trainer.history.shortest([key]).item() == 500
    logged = trainer.state.log_history[0]
    assert logged["hapo/history_coverage"] == 1 and logged["hapo/improved_fraction"] == 1
    assert logged["hapo/length_over_shortest"] == pytest.approx(1.05) and logged["hapo/shortest_mean"] == 500


def test_a_completion_is_recorded_once_however_often_it_is_trained_on(tiny_model, problems, tmp_path):
    """Two generation batches of four prompts, each trained on for four steps."""
    rows, rewards = [], []

    def reward(completion_ids, row, **kwargs):
        rows.append(row)
        rewards.extend(tiny.even_reward(completion_ids))
        return rewards[-len(row) :]

    changes = {"max_steps": 8, "num_iterations": 2, "steps_per_generation": 2}
    trainer = HAPOTrainer(tiny_model, reward, HAPOConfig(**tiny.settings(tmp_path, **changes)), problems)
    trainer.train()
    assert [len(set(batch)) for batch in rows] == [4, 4]
    history = trainer.history.to_pandas()
    assert set(history.index) == {prompt_key(problems[row]) for batch in rows for row in batch}
    assert len(history) == 8 and (history["visits"] == 1).all()
    assert history["correct"].sum() == sum(rewards) > 0
