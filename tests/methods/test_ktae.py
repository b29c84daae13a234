# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the equations of the paper and the authors' code, independently of this package."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.ktae import KTAE, _association, key_token_values


def golden_group() -> tuple[list[list[int]], list[bool]]:
    """Token 1: 8 of the 800 tokens of four correct completions, in each of them; 2 of the 1,000 of four wrong ones, in one."""
    correct = [[1, 1] + [100 + i] * 198 for i in range(4)]
    wrong = [[1, 1] + [200] * 248] + [[300 + i] * 250 for i in range(3)]
    return correct + wrong, [True] * 4 + [False] * 4


def test_golden_parts_of_a_value():
    fisher, gain, direction = (table[4, 1] for table in _association(4, 4))
    assert fisher == pytest.approx(0.751477, abs=1e-6)  # p = 1/7
    assert gain == pytest.approx(0.548795, abs=1e-6)
    assert direction == pytest.approx(1.047198, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "expected"), [({}, 0.969529), ({"gain_weight": 2}, 0.962298), ({"term_frequency": False}, 0.327844)]
)
def test_golden_values(settings, expected):
    values = key_token_values(*golden_group(), **settings)
    for i in range(5):  # the completions that have the token: its value is the same in all
        assert values[i][:2].tolist() == pytest.approx([expected] * 2, abs=1e-6)


def batch_of(ids: list[list[int]], correct: list[float]) -> tuple[Rollouts, dict[str, torch.Tensor]]:
    width = max(map(len, ids))
    padded = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    lengths = torch.tensor([len(row) for row in ids])
    rollouts = Rollouts(("prompt",) * len(ids), lengths, torch.tensor(correct), len(ids))
    return rollouts, {"completion_ids": padded, "completion_mask": mask}


def test_golden_advantages():
    ids, correct = golden_group()
    rollouts, batch = batch_of(ids, [float(verdict) for verdict in correct])
    advantages = torch.tensor([0.935413] * 4 + [-0.935413] * 4)
    values, keep = KTAE().assign(rollouts, batch, advantages)
    assert keep is None and values.shape == (8, 250)
    assert values[0, 0].item() == pytest.approx(1.904942, abs=1e-5)  # in a correct completion
    assert values[4, 0].item() == pytest.approx(0.034116, abs=1e-5)  # in the wrong one that has it


def naive_p_value(a: int, b: int, c: int, d: int) -> float:
    """Fisher's two-sided exact test in float64 with a tolerance, as a sum of hypergeometric probabilities."""
    n, row, column = a + b + c + d, a + b, a + c

    def probability(k: int) -> float:
        if not max(0, row - (n - column)) <= k <= min(row, column):
            return 0.0
        logs = [math.lgamma(x + 1) for x in (column, n - column, row, n - row)]
        cells = [math.lgamma(x + 1) for x in (k, column - k, row - k, n - column - row + k)]
        return math.exp(sum(logs) - sum(cells) - math.lgamma(n + 1))

    own = probability(a)
    return sum(p for k in range(n + 1) if 0 < (p := probability(k)) <= own * (1 + 1e-7))


@pytest.mark.parametrize(("correct", "wrong"), [(1, 1), (3, 5), (4, 4), (9, 7)])
def test_fisher_is_the_two_sided_exact_test(correct, wrong):
    fisher, gain, direction = _association(correct, wrong)
    for a, b in product(range(correct + 1), range(wrong + 1)):
        p = naive_p_value(a, b, correct - a, wrong - b)
        assert fisher[a, b] == pytest.approx(0 if p > 1 - 1e-9 else math.exp(-2 * p), abs=1e-9)
        assert -1e-12 <= gain[a, b] <= 1 + 1e-12 and abs(direction[a, b]) <= math.pi / 2 + 1e-12


GROUPS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=8), min_size=2, max_size=6)


@given(GROUPS, st.data())
def test_properties_of_the_values(ids, data):
    correct = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    values = np.concatenate(key_token_values(ids, correct))
    assert np.isfinite(values).all() and (abs(values) <= 1).all()
    if len(set(correct)) == 1:  # all correct or all wrong
        assert not values.any()
    plain = np.concatenate(key_token_values(ids, correct, term_frequency=False))
    swapped = np.concatenate(key_token_values(ids, [not verdict for verdict in correct], term_frequency=False))
    np.testing.assert_allclose(plain, -swapped, atol=1e-12)  # the two outcomes have symmetric roles
    in_all = set.intersection(*map(set, ids))
    everywhere = np.concatenate([np.isin(row, list(in_all)) for row in ids])
    assert not plain[everywhere].any()  # a token of every completion says nothing


@given(st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), min_size=4, max_size=4))
@example([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7], [1, 2, 3, 8, 8, 8], [9, 9, 3, 4, 5, 6]])
def test_swapping_the_outcomes_changes_the_sign_where_lengths_are_equal(ids):
    correct = [True, True, False, False]
    values = key_token_values(ids, correct)
    swapped = key_token_values(ids, [not verdict for verdict in correct])
    np.testing.assert_allclose(np.concatenate(values), -np.concatenate(swapped), atol=1e-12)
    in_both = [set(row) & set(other) for row in ids[:2] for other in ids[2:]]
    assert np.concatenate(values).any() or any(in_both)


@given(st.lists(st.permutations(range(6)), min_size=4, max_size=4))
def test_a_token_of_every_completion_has_no_value(ids):
    assert not np.concatenate(key_token_values(ids, [True, True, False, False])).any()


@given(GROUPS, st.integers(1, 3), st.data())
def test_masked_tokens_count_nowhere(ids, masked, data):
    correct = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    tail = data.draw(
        st.lists(st.lists(st.integers(0, 9), min_size=masked, max_size=masked), min_size=len(ids), max_size=len(ids))
    )
    longer = [row + extra for row, extra in zip(ids, tail, strict=True)]
    mask = [[1] * len(row) + [0] * masked for row in ids]
    for own, other in zip(key_token_values(ids, correct), key_token_values(longer, correct, mask), strict=True):
        np.testing.assert_array_equal(np.concatenate([own, np.zeros(masked)]), other)


def test_a_repeated_token_changes_the_term_frequency_only():
    correct = [True, False, False]
    once, twice = [[1, 2], [1, 3], [3, 4]], [[1, 2, 2], [1, 3], [3, 4]]
    of_once, of_twice = (key_token_values(ids, correct, term_frequency=False) for ids in (once, twice))
    assert of_once[0].tolist() == of_twice[0][:2].tolist()
    assert key_token_values(once, correct)[1][0] != key_token_values(twice, correct)[1][0]


def test_a_completion_without_tokens_or_verdict_counts_in_no_table():
    ids, correct = golden_group()
    rollouts, batch = batch_of([*ids, [1, 1]], [*map(float, correct), math.nan])
    values, _ = KTAE().assign(rollouts, batch, torch.zeros(9))
    assert values[0, 0].item() == pytest.approx(0.969529, abs=1e-6)
    assert not values[8].any()
    assert key_token_values([], []) == []  # a group without a known verdict
    with_empty = key_token_values([*ids, []], [*correct, False])
    assert with_empty[0][0] == pytest.approx(0.969529, abs=1e-6) and with_empty[8].size == 0


@given(GROUPS)
def test_a_group_with_one_outcome_keeps_its_advantages(ids):
    assume(len(ids) > 1)
    rollouts, batch = batch_of(ids, [1.0] * len(ids))
    advantages = torch.linspace(-1, 1, len(ids))  # of another reward
    values, _ = KTAE().assign(rollouts, batch, advantages)
    assert torch.equal(values, advantages[:, None].expand_as(values))


@pytest.mark.parametrize(
    "settings", [{"weight": -1}, {"gain_weight": math.nan}, {"fisher_weight": 0, "gain_weight": 0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="weight"):
        KTAE(**settings)


def test_sequence_level_ratios_are_refused(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, importance_sampling_level="sequence"))
    with pytest.raises(ValueError, match="KTAE gives each token a separate credit"):
        ConciseGRPOTrainer(tiny_model, tiny.even_reward, args, problems, token_credit=KTAE())


def test_training_adds_the_values_to_the_advantages_and_end_of_sequence_has_none(tiny_model, problems, tmp_path):
    trainer = tiny.spy(ConciseGRPOTrainer)(
        tiny_model,
        tiny.even_reward,
        ConciseGRPOConfig(**tiny.settings(tmp_path, num_generations=8)),  # one group per step
        problems,
        token_credit=KTAE(),
    )
    trainer.train()
    eos, sizes = trainer.processing_class.eos_token_id, []
    for inputs, _, _ in trainer.seen:
        masks = inputs["completion_mask"].bool()
        ids = [row[mask].tolist() for row, mask in zip(inputs["completion_ids"], masks, strict=True)]
        rewards = torch.tensor(tiny.even_reward(ids))
        assert 0 < rewards.sum() < 8 and any(eos in row for row in ids)
        whole = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        values = key_token_values(ids, (rewards > 0).tolist(), ignored_ids=[eos])
        for own, advantage, value, mask in zip(inputs["advantages"], whole, values, masks, strict=True):
            torch.testing.assert_close(own[mask], advantage + torch.from_numpy(value).float(), atol=1e-5, rtol=0)
        sizes.append(np.abs(np.concatenate(values)))
    logged = [entry["ktae/value"] for entry in trainer.state.log_history if "ktae/value" in entry]
    assert logged == pytest.approx([size[size > 0].mean() for size in sizes], abs=1e-5)
