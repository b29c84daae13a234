# SPDX-License-Identifier: Apache-2.0
"""Golden values: printed by the authors' functions (alphadl/DDCA @ 75382a3, dca/advantage.py)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.ddca import DDCA, length_advantages, length_scores, reward_advantages


MIXED, MIXED_LENGTHS = [1, 1, 1, 0, 0], [800, 1500, 2600, 500, 4000]
NO_PASS_RATE = {"use_pass_rate": False}
GOLDEN = [
    (MIXED, MIXED_LENGTHS, {}, [0.846557, 0.821357, 0.781576, -1.224745, -1.224745]),
    (MIXED, MIXED_LENGTHS, NO_PASS_RATE, [0.866598, 0.824597, 0.758295, -1.224745, -1.224745]),
    (MIXED, MIXED_LENGTHS, {"baseline": "rloo"}, [0.545091, 0.507290, 0.447619, -0.75, -0.75]),
    ([0, 1, 0, 0], [7, 3, 900, 1], {}, [-0.57735, 1.732051, -0.57735, -0.57735]),
    ([0, 1, 0, 0], [7, 3, 900, 1], {"baseline": "rloo"}, [-1 / 3, 1, -1 / 3, -1 / 3]),
    ([0, 0, 0, 0], [7, 3, 900, 1], {}, [0, 0, 0, 0]),
    ([0, 0, 0, 0], [7, 3, 900, 1], {"baseline": "rloo"}, [0, 0, 0, 0]),
    ([1, 1, 1, 1], [100, 200, 300, 400], {}, [0.058552, 0.021995, -0.021995, -0.058552]),
    ([1, 1, 1, 1], [100, 200, 300, 400], {"baseline": "rloo"}, [0.078069, 0.029327, -0.029327, -0.078069]),
    ([1, 1, 1, 1], [16777217] * 4, {}, [0, 0, 0, 0]),
    ([1, 1, 0, 0], [9, 9, 9, 9], {}, [1, 1, -1, -1]),
    ([1, 1, 0, 0], [9, 9, 9, 9], {"baseline": "rloo"}, [2 / 3, 2 / 3, -2 / 3, -2 / 3]),
    ([1, 1, 0, 0], [1000, 1001, 10, 10], {}, [1.023106, 0.976894, -1, -1]),
    ([1] * 8, [100] * 7 + [100000], {}, [0.013178] * 7 + [-0.092248]),
]


def batch_of(correct: list, lengths: list, **fields) -> Rollouts:
    return Rollouts(
        ("a",) * len(correct),
        torch.tensor(lengths),
        torch.tensor(correct, dtype=torch.float32),
        len(correct),
        **fields,
    )


def advantages_of(rollouts: Rollouts, **settings) -> list[float]:
    return DDCA(**settings).compute(rollouts, torch.zeros(len(rollouts))).tolist()


@pytest.mark.parametrize(("correct", "lengths", "settings", "expected"), GOLDEN)
def test_golden_values(correct, lengths, settings, expected):
    assert advantages_of(batch_of(correct, lengths), **settings) == pytest.approx(expected, abs=2e-6)


def test_golden_scores():
    scores = length_scores(torch.tensor([MIXED_LENGTHS]), torch.tensor([MIXED]))[0]
    assert scores[:3].tolist() == pytest.approx([0.245121, 0.455129, 0.786637], abs=1e-6)
    assert scores[3:].isnan().all()


GROUPS = st.lists(st.tuples(st.sampled_from([0.0, 1.0, math.nan]), st.integers(1, 5000)), min_size=2, max_size=12)


@given(GROUPS, st.sampled_from(["grpo", "rloo"]), st.booleans())
def test_length_terms(group, baseline, use_pass_rate):
    correct, lengths = (torch.tensor([column]) for column in zip(*group, strict=True))
    settings = {"baseline": baseline, "use_pass_rate": use_pass_rate}
    terms = length_advantages(lengths, correct, **settings)
    is_correct = correct == 1
    assert terms.sum().item() == pytest.approx(0, abs=1e-5)  # of the correct completions; the others have none
    assert (terms[~is_correct] == 0).all() and terms.isfinite().all()
    own_terms, own_lengths = terms[is_correct], lengths[is_correct]
    shorter = own_lengths[:, None] < own_lengths[None]
    higher = own_terms[:, None] > own_terms[None]
    assert (higher == shorter).all()  # and equal lengths have equal terms
    if baseline == "grpo" and is_correct.any():
        assert (terms.abs() < (correct.nanmean() if use_pass_rate else 1)).all()
    for changed in (lengths + 1000, lengths * 3):
        torch.testing.assert_close(length_advantages(changed, correct, **settings), terms, atol=1e-4, rtol=0)


def test_no_correct_completion_falls_below_a_wrong_one():
    correct, lengths = [1, 1, 1, 0, 0], [1, 1, 30000, 1, 1]
    advantages = advantages_of(batch_of(correct, lengths), beta=1.0)
    assert min(advantages[:3]) > max(advantages[3:])


@pytest.mark.parametrize("baseline", ["grpo", "rloo"])
def test_without_a_length_term_it_is_grpo_or_rloo_on_the_weighted_rewards(baseline):
    component = DDCA(beta=0, baseline=baseline)
    plain = {"even_reward": torch.tensor([1.0, 0, 1, math.nan]), "short_first": torch.tensor([0.0, 1, 2, math.nan])}
    rollouts = batch_of(
        [1, 0, 1, math.nan], [5, 6, 7, 8], rewards=plain, weights={"even_reward": 1.0, "short_first": 0.5}
    )
    rewards = torch.tensor([1.0, 0.5, 2.0])
    expected = (rewards - rewards.mean()) / rewards.std(correction=0) if baseline == "grpo" else None
    if baseline == "rloo":
        expected = torch.stack([rewards[i] - rewards[torch.arange(3) != i].mean() for i in range(3)])
    assert component.compute(rollouts, torch.zeros(4)).tolist() == pytest.approx([*expected.tolist(), 0], abs=1e-6)


def test_the_length_term_grows_with_the_pass_rate_and_unknown_completions_do_not_count():
    two_of_four = length_advantages(torch.tensor([[10, 20, 5, 5]]), torch.tensor([[1.0, 1, 0, 0]]))
    two_of_three = length_advantages(torch.tensor([[10, 20, 5, 5]]), torch.tensor([[1.0, 1, 0, math.nan]]))
    torch.testing.assert_close(two_of_three, two_of_four * 4 / 3)


def test_a_smallest_deviation_weakens_differences_of_a_few_tokens():
    rollouts = batch_of([1, 1, 0, 0], [1000, 1001, 10, 10])
    first, second, *wrong = advantages_of(rollouts, min_std=50)
    assert 1 < first < 1.001 and 0.999 < second < 1 and wrong == pytest.approx([-1, -1])
    assert advantages_of(batch_of(MIXED, MIXED_LENGTHS), min_std=50) == pytest.approx(GOLDEN[0][3], abs=2e-6)


def test_groups_do_not_mix_and_an_unknown_reward_has_no_advantage():
    rewards = torch.tensor([[1.0, 0, math.nan], [math.nan] * 3, [0.1] * 3])
    for baseline in ("grpo", "rloo"):
        advantages = reward_advantages(rewards, baseline=baseline)
        assert advantages[0].tolist() == pytest.approx([1, -1, 0]) and (advantages[1:] == 0).all()


@pytest.mark.parametrize("baseline", ["grpo", "rloo"])
def test_the_trainer_uses_the_golden_advantages(baseline, tiny_model, problems, tmp_path):
    """Two steps, groups of 5, with lengths that tell the completions apart."""
    seen, correct = {}, [1.0, 1, 1, 0, 0]

    class Spy(ConciseGRPOTrainer):
        def _compute_loss(self, model, inputs):
            tokens = (inputs["completion_mask"].sum(dim=1) - 1).tolist()  # without EOS
            seen.update(zip(tokens, inputs["advantages"].tolist(), strict=True))
            return super()._compute_loss(model, inputs)

    def is_correct(completions, **kwargs):
        return correct

    settings = tiny.settings(tmp_path, num_generations=5, per_device_train_batch_size=5, max_completion_length=64)
    lengths = [length // 100 for length in MIXED_LENGTHS]
    trainer = Spy(
        tiny_model,
        [is_correct],
        ConciseGRPOConfig(**settings),
        problems,
        advantage=DDCA(baseline=baseline),
        rollout_func=tiny.rollouts_of([lengths]),
    )
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    expected = GOLDEN[0 if baseline == "grpo" else 2][3]
    assert [seen[length] for length in lengths] == pytest.approx(expected, abs=2e-6)
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))
    logged = trainer.state.log_history[0]
    assert logged["ddca/comparable_groups"] == 1 and 0 < logged["ddca/length_term"] < 0.2


def test_it_trains_on_sampled_completions(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    trainer = ConciseGRPOTrainer(tiny_model, [tiny.even_reward], args, problems, advantage=DDCA())
    trainer.train()
    assert trainer.state.global_step == 2 and all(map(math.isfinite, tiny.losses(trainer)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -0.1}, "beta must be at least 0, got -0.1"),
        ({"beta": math.nan}, "beta must be at least 0, got nan"),
        ({"baseline": "mean"}, r"baseline must be one of \('grpo', 'rloo'\), got 'mean'"),
        ({"min_std": -1}, "min_std must be at least 0 tokens, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DDCA(**settings)


def test_rewards_that_are_normalized_one_by_one_are_refused(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, multi_objective_aggregation="normalize_then_sum"))
    with pytest.raises(ValueError, match="Set it to 'sum_then_normalize'"):
        ConciseGRPOTrainer(tiny_model, [tiny.even_reward], args, problems, advantage=DDCA())
