# SPDX-License-Identifier: Apache-2.0
"""
Golden values: printed by the authors' functions (prime-rl @ f8a146063 and 559b447; JET @ 89cf33e), and computed by hand from the formulas
of GR3 and Long2Short.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.gated_brevity import (
    RULES,
    BrevityReward,
    gated_brevity,
    gr3_rescaling,
    jet_length_reward,
    long2short,
    pass_rate_penalty,
)


MIXED, MIXED_LENGTHS = [1, 1, 1, 0, 0], [800, 1500, 2600, 500, 4000]
ALL, ALL_LENGTHS = [1, 1, 1, 1], [100, 200, 300, 400]
ONE, ONE_LENGTHS = [1, 0, 0, 0], [900, 100, 300, 400]


def shaped(function, rewards, lengths, **settings) -> torch.Tensor:
    """Return the rewards of one group, with what the function adds."""
    rewards = torch.tensor([rewards], dtype=torch.float32)
    return (rewards + function(torch.tensor([lengths]), rewards, **settings))[0]


def advantages(function, rewards, lengths) -> list[float]:
    total = shaped(function, rewards, lengths)
    return (total - total.mean()).tolist()


@pytest.mark.parametrize(
    ("function", "rewards", "lengths", "expected"),
    [
        (gated_brevity, MIXED, MIXED_LENGTHS, [0.791837, 0.363265, 0.281633, -0.718367, -0.718367]),
        (gated_brevity, ONE, ONE_LENGTHS, [0.75, -0.25, -0.25, -0.25]),
        (gated_brevity, [0, 0, 0], [1, 2, 3], [0, 0, 0]),
        (gated_brevity, ALL, ALL_LENGTHS, [0.4, 0, -0.2, -0.2]),
        (gated_brevity, ALL, [7, 7, 7, 7], [0, 0, 0, 0]),
        (gated_brevity, [1, 1, 0, 0], [7, 7, 7, 7], [0.5, 0.5, -0.5, -0.5]),
        (gated_brevity, [1, 1, -1, -1], [100, 300, 200, 400], [1.375, 0.875, -1.125, -1.125]),
        (gated_brevity, [0.9, 0.5, 0.9, 0], [100, 50, 300, 200], [0.6625, -0.1875, 0.2125, -0.6875]),
        (gated_brevity, [1, 1, 0], [1, 10000, 5000], [0.999867, 0.000067, -0.999933]),
        (pass_rate_penalty, MIXED, MIXED_LENGTHS, [0.4405, 0.41425, 0.373, -0.54825, -0.6795]),
        (pass_rate_penalty, ONE, ONE_LENGTHS, [0.717014, -0.227431, -0.241319, -0.248264]),
        (pass_rate_penalty, [0, 0, 0], [1, 2, 3], [0, 0, 0]),
        (pass_rate_penalty, ALL, ALL_LENGTHS, [0.09375, 0.03125, -0.03125, -0.09375]),
        (pass_rate_penalty, ALL, [7, 7, 7, 7], [0, 0, 0, 0]),
        (pass_rate_penalty, [1, 1, 0, 0], [7, 7, 7, 7], [0.5, 0.5, -0.5, -0.5]),
        (pass_rate_penalty, [1, 1, -1, -1], [100, 300, 200, 400], [1, 1, -1, -1]),
        (pass_rate_penalty, [-1, -1, -1], [1, 2, 3], [0, 0, 0]),  # prime-rl: the longest gains
        (gr3_rescaling, MIXED, MIXED_LENGTHS, [0.40585, 0.320563, 0.215617, -0.471015, -0.471015]),
        (gr3_rescaling, [1, 1, 0, 0], [7, 7, 7, 7], [0.37594, 0.37594, -0.37594, -0.37594]),
        (gr3_rescaling, [-1, -1, -1], [1, 2, 3], [0, 0, 0]),  # the formula: the longest gains
    ],
)
def test_golden_advantages(function, rewards, lengths, expected):
    assert advantages(function, rewards, lengths) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("function", "rewards", "lengths", "expected"),
    [
        (gr3_rescaling, MIXED, MIXED_LENGTHS, [0.876866, 0.791579, 0.686633, 0, 0]),
        (gr3_rescaling, ONE, ONE_LENGTHS, [0.588643, 0, 0, 0]),
        (gr3_rescaling, ALL, ALL_LENGTHS, [0.883392, 0.791139, 0.716332, 0.65445]),
        (gr3_rescaling, ALL, [7, 7, 7, 7], [0.75188] * 4),
        (long2short, [1, 1, 1], [100, 200, 400], [1.2, 0.96, 0.84]),
        (long2short, [1, 0, 1, 1], [100, 1, 200, 400], [1.2, 0, 0.96, 0.84]),
        (long2short, ONE, ONE_LENGTHS, ONE),
        (long2short, ALL, [7, 7, 7, 7], ALL),
        (long2short, [1, 1], [100, 1000], [1.2, 0.8]),
    ],
)
def test_golden_rewards(function, rewards, lengths, expected):
    assert shaped(function, rewards, lengths).tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("correct", "lengths", "expected"),
    [
        (MIXED, MIXED_LENGTHS, [2.19, 1.746667, 1.05, 0.1, 0.1]),
        (ONE, ONE_LENGTHS, [1.05, 0.1, 0.1, 0.1]),
        ([0, 0], [1, 2], [0.1, 0.1]),
        (ALL, ALL_LENGTHS, [2.19, 1.81, 1.43, 1.05]),
        (ALL, [7, 7, 7, 7], [1.05] * 4),
        ([1, 1], [100, 200], [2.19, 1.05]),  # pooled over two questions, as in JET's code, they are 2.19 and 2.13
        ([1, 1], [1000, 2000], [2.19, 1.05]),
    ],
)
def test_golden_totals_of_jet(correct, lengths, expected):
    correct = torch.tensor([correct], dtype=torch.float32)
    total = 0.9 * correct + 0.1 + jet_length_reward(torch.tensor([lengths]), correct)  # 0.1: every format is valid
    assert total[0].tolist() == pytest.approx(expected, abs=2e-6)


def test_the_penalty_of_prime_rl_has_a_term_for_each_measure():
    rewards = torch.tensor([[1.0, 1, 0]])
    terms = [([10, 20, 30], 0.25), ([100, 200, 50], 0.1), ([1, 2, 4], 0.1)]  # generated, read, turns
    total = rewards + sum(pass_rate_penalty(torch.tensor([own]), rewards, strength=weight) for own, weight in terms)
    expected = pytest.approx([0.416667, 0.311111, -0.727778], abs=1e-6)
    assert (total - total.mean())[0].tolist() == expected


GROUPS = st.lists(st.tuples(st.integers(0, 10**5), st.sampled_from([0.0, 1.0, math.nan])), min_size=1, max_size=10)
FUNCTIONS = {rule: published.function for rule, published in RULES.items()}


def columns(group) -> tuple[torch.Tensor, torch.Tensor]:
    lengths, correct = zip(*group, strict=True)
    return torch.tensor([lengths]), torch.tensor([correct])


@given(st.sampled_from(list(FUNCTIONS)), GROUPS, st.floats(0, 0.99))
def test_no_correct_completion_falls_below_a_wrong_one_and_no_wrong_one_gains(rule, group, strength):
    lengths, correct = columns(group)
    added = FUNCTIONS[rule](lengths, correct, strength=strength)
    assert (added.isnan() == correct.isnan()).all()
    total = (correct + added)[0]
    right, wrong = total[correct[0] == 1], total[correct[0] == 0]
    if len(right) and len(wrong):
        assert right.min() > wrong.max()
    assert (wrong <= 0).all()
    if rule != "pass-rate" or not len(right):
        assert (wrong == 0).all()  # without a correct completion, there is no length term at all


@given(st.sampled_from(list(FUNCTIONS)), GROUPS)
def test_shorter_correct_completions_earn_at_least_as_much(rule, group):
    lengths, correct = columns(group)
    added = FUNCTIONS[rule](lengths, correct)[0]
    own, own_lengths = added[correct[0] == 1], lengths[0][correct[0] == 1]
    in_order = own[own_lengths.argsort(stable=True)]
    assert (in_order[1:] <= in_order[:-1] + 1e-6).all()
    if len(own) and own_lengths.min() == own_lengths.max():
        assert own.unique().numel() == 1


@given(st.sampled_from(["gated", "gr3", "jet", "pass-rate", "long2short"]), GROUPS, st.integers(2, 50))
def test_only_ratios_of_lengths_count_and_jet_ignores_a_shift_too(rule, group, factor):
    lengths, correct = columns(group)
    lengths = lengths + 1
    function, expected = FUNCTIONS[rule], FUNCTIONS[rule](lengths, correct)
    torch.testing.assert_close(function(lengths * factor, correct), expected, equal_nan=True)
    if rule == "jet":
        torch.testing.assert_close(function(lengths + factor, correct), expected, equal_nan=True)


@given(GROUPS, st.floats(0, 5))
def test_ranges(group, strength):
    lengths, correct = columns(group)
    is_correct = correct == 1
    bonus = gated_brevity(lengths, correct)[is_correct]
    assert ((bonus >= 0) & (bonus <= 1)).all()
    factor = 1 + gr3_rescaling(lengths, correct, strength=strength)[is_correct]
    assert ((factor >= 1 / (1 + strength * len(group)) - 1e-6) & (factor <= 1)).all()
    moved = long2short(lengths, correct)[is_correct]
    assert (moved.abs() <= 0.2 + 1e-6).all() and moved.sum().item() == pytest.approx(0, abs=1e-5)
    jet = jet_length_reward(lengths, correct)[is_correct]
    assert ((jet >= 0.05 - 1e-6) & (jet <= 1.19 + 1e-6)).all()


# The component


def batch(**fields) -> Rollouts:
    """Two groups: `MIXED`, and five of which one has an unknown correctness."""
    correct = torch.tensor([*MIXED, 1.0, 1, math.nan, 0, 0])
    return Rollouts(("a",) * 5 + ("b",) * 5, torch.tensor([*MIXED_LENGTHS, 2, 4, 1, 9, 9]), correct, 5, **fields)


@pytest.mark.parametrize("rule", RULES)
def test_the_component_applies_its_rule_to_each_group(rule):
    rollouts, function = batch(), FUNCTIONS[rule]
    scores = BrevityReward(rule).score(rollouts)
    for group in (slice(0, 5), slice(5, 10)):
        expected = function(rollouts.lengths[None, group], rollouts.correct[None, group])[0]
        torch.testing.assert_close(scores[group], expected, equal_nan=True)
    assert scores[7].isnan() and scores[5] > scores[6]
    stronger = BrevityReward(rule, strength=0.5).score(rollouts)
    torch.testing.assert_close(
        stronger,
        function(*map(rollouts.by_group, (rollouts.lengths, rollouts.correct)), strength=0.5).flatten(),
        equal_nan=True,
    )


def graded(completion_ids, **kwargs):
    return [[0.9, 0.5, 0.9, 0][index % 4] for index in range(len(completion_ids))]


def graded_half(completion_ids, **kwargs):
    return [2 * value for value in graded(completion_ids)]


def test_rewards_are_scaled_where_they_are_wanted(tiny_model, problems, tmp_path):
    """Two reward functions with weights of 0.5 and 0.25, whose sum is the graded reward of the golden values."""
    settings = tiny.settings(
        tmp_path,
        scale_rewards="none",
        reward_weights=[0.5, 0.25, 1.0],
        max_completion_length=400,
        max_steps=1,
        per_device_train_batch_size=4,
    )
    args = ConciseGRPOConfig(**settings)
    reward = BrevityReward(use_rewards=True)
    trainer = tiny.spy(ConciseGRPOTrainer)(
        tiny_model, [graded, graded_half, reward], args, problems, rollout_func=tiny.rollouts_of([[100, 50, 300, 200]])
    )
    trainer.train()
    ((inputs, *_),) = trainer.seen
    lengths = (inputs["completion_mask"].sum(dim=1) - 1).tolist()
    expected = {100: 0.6625, 50: -0.1875, 300: 0.2125, 200: -0.6875}
    assert dict(zip(lengths, inputs["advantages"].tolist(), strict=True)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("gated", [0.791837, 0.363265, 0.281633, -0.718367]),
        ("pass-rate", [0.4405, 0.41425, 0.373, -0.54825, -0.6795]),
        ("gr3", [0.40585, 0.320563, 0.215617, -0.471015]),
        ("long2short", [0.6, 0.358407, 0.241593, -0.6]),
        ("jet", [1.192667, 0.749333, 0.052667, -0.997333]),
    ],
)
def test_training_uses_the_golden_advantages_of_each_rule(rule, expected, tiny_model, problems, tmp_path):
    """The lengths are a hundredth of [`MIXED_LENGTHS`], which changes none of them."""
    lengths = [length // 100 for length in MIXED_LENGTHS]
    settings = tiny.settings(
        tmp_path,
        scale_rewards="none",
        num_generations=5,
        max_completion_length=50,
        max_steps=1,
        per_device_train_batch_size=5,
    )
    args = ConciseGRPOConfig(**settings)

    def correct(completion_ids, **kwargs):
        return [float(reward) for reward in MIXED]

    rewards = [correct, BrevityReward(rule)]
    trainer = tiny.spy(ConciseGRPOTrainer)(
        tiny_model, rewards, args, problems, rollout_func=tiny.rollouts_of([lengths])
    )
    trainer.train()
    ((inputs, loss, _),) = trainer.seen
    used = dict(zip((inputs["completion_mask"].sum(dim=1) - 1).tolist(), inputs["advantages"].tolist(), strict=True))
    expected = expected if len(expected) == 5 else [*expected, expected[-1]]  # both wrong ones
    assert [used[length] for length in lengths] == pytest.approx(expected, abs=2e-6)


def test_a_rule_brings_its_paper_and_its_published_strength():
    assert {rule: BrevityReward(rule).strength for rule in RULES} == {
        "gated": 1, "pass-rate": 0.25, "gr3": 0.33, "long2short": 0.2, "jet": 1.2
    }  # fmt: skip
    papers = {rule: BrevityReward(rule).paper for rule in RULES}
    assert papers["gated"] is None and papers["pass-rate"] is None
    assert [papers[rule].id for rule in ("gr3", "long2short", "jet")] == ["2603.10535", "2606.16140", "2509.23392"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "shorter"}, r"rule must be one of \('gated', .*\), got 'shorter'"),
        ({"strength": -0.1}, "strength must be at least 0 for the rule 'gated', got -0.1"),
        ({"strength": math.nan}, "strength must be at least 0 for the rule 'gated', got nan"),
        (
            {"rule": "long2short", "strength": 1.0},
            "strength must be at least 0 and below 1 for the rule 'long2short', got 1.0",
        ),
        ({"rule": "jet", "use_rewards": True}, "'jet' uses correctness. Leave it False"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BrevityReward(**settings)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_scales_rewards_refuses_a_division_by_the_deviation(rule, tiny_model, problems, tmp_path):
    def build(**changes):
        args = ConciseGRPOConfig(**tiny.settings(tmp_path, **changes))
        return ConciseGRPOTrainer(tiny_model, [tiny.even_reward, BrevityReward(rule)], args, problems)

    if not RULES[rule].scales:
        build(scale_rewards="group")
        return
    with pytest.raises(ValueError, match='Set scale_rewards="none"'):
        build(scale_rewards="batch")
    with pytest.raises(ValueError, match="Set it to 'sum_then_normalize'"):
        build(scale_rewards="none", multi_objective_aggregation="normalize_then_sum")
