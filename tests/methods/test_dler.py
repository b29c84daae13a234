# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the paper's equations, with verl's weighting by tokens, and printed by the authors' functions."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig

from tests import slot_rows, tiny
from trl_concise import (
    BatchWhitening,
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    DLERConfig,
    DLERTrainer,
    math_accuracy_reward,
)
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.dler import (
    DifficultyTruncation,
    TruncationFactor,
    difficulty_limit,
    judge_truncated,
    truncation_factor_reward,
    whiten,
)


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


# The authors' code (NVlabs/DLER @ ea7d4f7): unbiased variance, boost 0.1, in fp64


def dler_rollouts(groups, lengths, truncated=(), **fields) -> Rollouts:
    """Return the rollouts of groups of scores, and where they are truncated."""
    correct = torch.tensor(groups, dtype=torch.float64).flatten()
    is_truncated = torch.zeros(len(correct), dtype=torch.bool)
    is_truncated[list(truncated)] = True
    lengths = torch.tensor(lengths).flatten()
    keys = tuple(str(i // len(groups[0])) for i in range(len(correct)))
    return Rollouts(keys, lengths, correct, len(groups[0]), truncated=is_truncated, **fields)


def dler_advantages(rollouts: Rollouts, factor: float, **settings) -> torch.Tensor:
    """Return what the components make of the scores, as TRL calls them with `scale_rewards="none"`."""
    rewards = rollouts.by_group(rollouts.correct + TruncationFactor(factor).score(rollouts))
    centered = (rewards - rewards.mean(dim=1, keepdim=True)).flatten()
    whitening = BatchWhitening(skip_zero_variance=False, unbiased=True, **settings)
    return whitening.compute(rollouts, centered)


@pytest.mark.parametrize(
    ("groups", "lengths", "truncated", "factor", "whitened", "boosted"),
    [
        (
            REWARDS,
            LENGTHS,
            [],
            0.1,
            [2.400458, *[-0.228615] * 3, *[1.085922] * 3, -1.543152],
            [2.500458, *[-0.228615] * 3, *[1.185922] * 3, -1.543152],
        ),
        (
            [[1, 1, 1, 0]],
            [2, 3, 4, 4],
            [2],
            0.1,
            [1.210934, 1.210934, -0.653267, -0.860401],
            [1.310934, 1.310934, -0.553267, -0.860401],
        ),
        (
            [[1, 1, 1, 0]],
            [2, 3, 4, 4],
            [2],
            0.0,
            [1.215287, 1.215287, -0.759555, -0.759555],
            [1.315287, 1.315287, -0.659555, -0.759555],
        ),
        (
            [[0, 1, 0, 0]],
            [2, 3, 4, 3],
            [],
            0.1,
            [-0.552771, 1.658312, -0.552771, -0.552771],
            [-0.552771, 1.758312, -0.552771, -0.552771],
        ),
        ([[0, 0, 0, 0]], [2, 3, 4, 3], [], 0.1, [0] * 4, [0] * 4),
        ([[1, 1, 1, 1]], [2, 3, 4, 3], [], 0.1, [0] * 4, [0.1] * 4),
        (
            [[1, 1, 1, 1]],
            [2, 3, 4, 3],
            [2],
            0.1,
            [0.677003, 0.677003, -1.354006, 0.677003],
            [0.777003, 0.777003, -1.254006, 0.777003],
        ),
        ([[1, 1, 0, 0]], [3] * 4, [], 0.1, [0.957427] * 2 + [-0.957427] * 2, [1.057427] * 2 + [-0.957427] * 2),
        ([[1, 0], [1, 1]], [2] * 4, [], 0.1, [1.322876, -1.322876, 0, 0], [1.422876, -1.322876, 0.1, 0.1]),
    ],
)
def test_golden_values_of_the_authors_code(groups, lengths, truncated, factor, whitened, boosted):
    rollouts = dler_rollouts(groups, lengths, truncated)
    assert dler_advantages(rollouts, factor).tolist() == pytest.approx(whitened, abs=2e-6)
    assert dler_advantages(rollouts, factor, boost=0.1).tolist() == pytest.approx(boosted, abs=2e-6)


def test_the_two_variances_differ_by_half_of_the_inverse_number_of_tokens():
    rollouts = dler_rollouts(REWARDS, LENGTHS)
    ratio = BatchWhitening().compute(rollouts, ADVANTAGES) / BatchWhitening(unbiased=True).compute(
        rollouts, ADVANTAGES
    )
    tokens = sum(LENGTHS)
    assert ratio.tolist() == pytest.approx([1 + 1 / (2 * tokens)] * 8, abs=1e-6)
    assert whiten(torch.tensor([3.0]), torch.ones(1), unbiased=True).tolist() == [
        0
    ]  # one token has no unbiased variance


def test_a_truncated_correct_completion_has_the_boost_unless_it_is_switched_off():
    rollouts = dler_rollouts([[1, 1, 1, 0]], [2, 3, 4, 4], truncated=[2])
    with_it, without = (dler_advantages(rollouts, 0.1, boost=0.1, boost_truncated=value) for value in (True, False))
    assert (with_it - without).tolist() == pytest.approx([0, 0, 0.1, 0])


def test_the_factor_belongs_to_training_and_needs_a_verdict():
    correct, truncated = torch.tensor([1.0, 0.0, 1.0, math.nan]), torch.tensor([True, True, False, True])
    reward = truncation_factor_reward(correct, truncated, factor=0.1)
    assert reward.tolist()[:3] == pytest.approx([-0.9, 0, 0]) and reward[3].isnan()
    assert not truncation_factor_reward(correct, truncated, factor=1.0)[:3].any()  # f = 1: no length term
    in_evaluation = dler_rollouts([[1, 0]], [4, 4], truncated=[0, 1], training=False)
    assert not TruncationFactor().score(in_evaluation).any()


# DA-DLER, as far as it is known


def test_the_limit_of_a_group_depends_on_its_share_of_correct_completions():
    rollouts = dler_rollouts([[1, 1, 1, 0], [1, 1, 0, 0], [math.nan] * 4], [1999, 2000, 3000, 2500] * 3, truncated=[4])
    component = DifficultyTruncation()
    assert component.truncated(rollouts).tolist() == [False, True, True, True, True, *[False] * 7]
    reward = component.score(rollouts)
    assert reward[:8].tolist() == [0, -1, -1, 0, -1, 0, 0, 0] and reward[8:].isnan().all()
    component.observe(rollouts)
    assert component.metrics() == {
        "truncated_fraction": pytest.approx(4 / 12),
        "truncated_correct_fraction": pytest.approx(3 / 12),
    }


@given(
    st.lists(st.floats(0, 0.99), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(1, 5000), min_size=5, max_size=5),
    st.lists(st.integers(0, 8), min_size=2, max_size=2),
)
def test_an_easier_group_never_has_a_longer_limit(thresholds, limits, counts):
    limits = sorted(limits[: len(thresholds) + 1], reverse=True)
    correct = torch.stack([(torch.arange(8) < count).float() for count in sorted(counts)])
    hard, easy = difficulty_limit(correct, limits=limits, thresholds=sorted(thresholds)).tolist()
    assert easy <= hard and {easy, hard} <= set(limits)


# The trainer


def limited(prompts, trainer):
    """Two groups of four: completions of 2, 3 and 4 tokens with EOS, and one of 4 tokens without it."""
    ids = [[10, 2], [10, 11, 2], [10, 11, 12, 13], [10, 11, 12, 2]] * 2
    return {"prompt_ids": [[5, 6, 7]] * len(prompts), "completion_ids": ids, "logprobs": None}


def correct_of(*groups):
    def correct(completions, **kwargs):
        return [float(value) for group in groups for value in group]

    return correct


def dler_trainer(model, folder, correct, config=DLERConfig, **changes):
    args = config(**tiny.settings(folder, **{"max_steps": 1, "max_completion_length": 4, **changes}))
    trainer = tiny.spy(DLERTrainer)(model, correct, args, slot_rows.problems(), rollout_func=limited)
    trainer.train()
    return trainer


def test_the_trainer_computes_the_authors_advantages(tiny_model, tmp_path):
    """With the settings of their script. The second group is all correct, and truncated once: the refill is on the score, so it is out."""
    settings = {"truncation_factor": 0.1, "advantage_boost": 0.1, "unbiased_variance": True, "max_refills": 0}
    trainer = dler_trainer(tiny_model, tmp_path, correct_of([1, 1, 1, 0], [1, 1, 1, 1]), **settings)
    assert (trainer.args.scale_rewards, trainer.args.epsilon_high) == ("none", 0.28)
    inputs = trainer.seen[0][0]
    golden = [1.310934, 1.310934, -0.553267, -0.860401]
    assert sorted(inputs["advantages"].tolist()) == pytest.approx(sorted([*golden, *[0] * 4]), abs=1e-5)
    (entry,) = slot_rows.logged(trainer)
    assert entry["rewards/TruncationFactor/mean"] == pytest.approx(-0.9 * 2 / 8)
    assert entry["dler_truncation/truncated_fraction"] == 0.25


def test_groups_without_a_signal_are_replaced(tiny_model, tmp_path):
    rounds = iter([[0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1, 0, 0]])

    def correct(completions, **kwargs):
        return [float(value) for value in next(rounds)]

    trainer = dler_trainer(tiny_model, tmp_path, correct, max_refills=3)
    (entry,) = slot_rows.logged(trainer)
    assert (entry["refill/rounds"], entry["refill/missing_fraction"]) == (1, 0) and trainer.seen[0][0][
        "advantages"
    ].all()


def test_without_penalty_and_boost_it_is_reinforce_plus_plus(tiny_model, tmp_path):
    trainer = dler_trainer(
        tiny_model, tmp_path, correct_of([1, 1, 1, 0], [0, 1, 0, 0]), truncation_factor=1.0, max_refills=0
    )
    inputs = trainer.seen[0][0]
    weights = inputs["completion_mask"].sum(dim=1) / inputs["completion_mask"].sum()
    advantages = inputs["advantages"]
    assert (weights * advantages).sum().item() == pytest.approx(0, abs=1e-5)
    assert (weights * advantages.square()).sum().item() == pytest.approx(1, abs=1e-4)
    assert {entry["rewards/TruncationFactor/mean"] for entry in slot_rows.logged(trainer)} == {0}


def test_a_plain_config_works(tiny_model, tmp_path):
    trainer = dler_trainer(tiny_model, tmp_path, correct_of([1, 1, 1, 0], [0, 1, 0, 0]), GRPOConfig)
    assert trainer.args.scale_rewards == "none" and trainer.args.truncation_factor == 0


@pytest.mark.parametrize("scale_rewards", ["batch", "group"])
def test_another_scale_than_its_own_is_refused(scale_rewards, tiny_model, tmp_path):
    with pytest.raises(
        ValueError, match=f"scale_rewards='{scale_rewards}' divides them first. Set scale_rewards=\"none\""
    ):
        dler_trainer(tiny_model, tmp_path, correct_of([1, 0]), scale_rewards=scale_rewards)


def test_the_difficulty_aware_variant_is_a_setting(tiny_model, tmp_path):
    trainer = dler_trainer(
        tiny_model,
        tmp_path,
        correct_of([1, 1, 1, 0], [0, 1, 0, 0]),
        difficulty_limits=[4, 2],
        difficulty_thresholds=[0.6],
        max_refills=0,
    )
    (component,) = trainer.group_rewards.values()
    assert (component.limits, component.thresholds) == ([4, 2], [0.6])
    (entry,) = slot_rows.logged(trainer)
    assert entry["rewards/DifficultyTruncation/mean"] == -2 / 8  # the second and third completion of the first group


def test_a_factor_without_a_verdict_on_truncated_completions_warns(tiny_model, tmp_path, caplog):
    dataset = slot_rows.problems()
    for correct, warns in ((math_accuracy_reward, True), (judge_truncated(math_accuracy_reward), False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            args = DLERConfig(**tiny.settings(tmp_path, truncation_factor=0.1))
            DLERTrainer(tiny_model, correct, args, dataset)
        assert ("Pass judge_truncated(math_accuracy_reward)" in caplog.text) == warns


def test_a_truncated_completion_is_judged_by_its_text():
    texts = [r"<think>4</think> \boxed{4} is", r"<think>\boxed{4} is", r"\boxed{4"]
    columns = {"completions": texts, "solution": ["4"] * 3, "completion_finished": [False] * 3}
    assert math_accuracy_reward(**columns) == [0, 0, 0]
    assert judge_truncated(math_accuracy_reward)(**columns) == [1, 0, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruncationFactor(1.5), "factor must be between 0 and 1, got 1.5"),
        (lambda: BatchWhitening(boost=-0.1), "boost must be at least 0 and finite, got -0.1"),
        (lambda: DifficultyTruncation([4000]), "limits must have one more value than thresholds"),
        (lambda: DifficultyTruncation([2000, 4000]), "limits must be at least 1 token and must not rise"),
        (lambda: DifficultyTruncation([3, 2, 1], [0.5, 0.5]), "thresholds must rise and lie in"),
        (lambda: DifficultyTruncation([3, 2], [1.0]), "thresholds must rise and lie in"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_truncated_completions_have_to_be_in_the_loss(tiny_model, tmp_path):
    args = DLERConfig(**tiny.settings(tmp_path, mask_truncated_completions=True))
    with pytest.raises(
        ValueError, match="mask_truncated_completions=True removes truncated completions from the loss, but DLER"
    ):
        DLERTrainer(tiny_model, tiny.even_reward, args, slot_rows.problems())
