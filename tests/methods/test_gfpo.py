# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the paper's equations by an independent implementation."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import slot_rows, tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.gfpo import GFPO, AdaptiveGFPO, KeptBaseline, best_k, filter_scores, kept_advantages


LENGTHS = [100, 200, 300, 400, 500, 600, 700, 800]
MIXED = [0, 1, 1, 0, 1, 1, 0, 1]
ONE = [0, 0, 0, 0, 0, 0, 0, 1]
GRADED = [0.9, -0.5, 0.6, 0.4, -0.7, 0.2, -0.9, 0.1]


def signed(rewards):
    return [reward if reward else -1 for reward in rewards]


def rollouts(rewards, lengths=LENGTHS, size=8, **fields) -> Rollouts:
    rewards = torch.tensor(rewards, dtype=torch.float32)
    keys = tuple(str(i // size) for i in range(len(rewards)))
    return Rollouts(keys, torch.tensor(lengths), rewards, size, rewards={"reward": rewards}, **fields)


def filtered(component, batch: Rollouts) -> Rollouts:
    return Rollouts(**{**vars(batch), "kept": component.keep(batch)})


@pytest.mark.parametrize(
    ("rewards", "metric", "kept", "advantages"),
    [
        (MIXED, "length", [0, 1, 2, 3], [-1, 1, 1, -1]),
        (MIXED, "efficiency", [1, 2, 4, 5], [0, 0, 0, 0]),
        (signed(MIXED), "length", [0, 1, 2, 3], [-1, 1, 1, -1]),
        (ONE, "length", [0, 1, 2, 3], [0, 0, 0, 0]),
        (ONE, "efficiency", [0, 1, 2, 7], [-0.5774, -0.5774, -0.5774, 1.7321]),
        (signed(ONE), "efficiency", [4, 5, 6, 7], [-0.5774, -0.5774, -0.5774, 1.7321]),
        ([0] * 8, "length", [0, 1, 2, 3], [0] * 4),
        ([0] * 8, "efficiency", [0, 1, 2, 3], [0] * 4),
        ([1] * 8, "efficiency", [0, 1, 2, 3], [0] * 4),
        ([0.1] * 8, "length", [0, 1, 2, 3], [0] * 4),  # in float32, the standard deviation is not exactly 0
        (GRADED, "length", [0, 1, 2, 3], [1.0536, -1.6283, 0.4789, 0.0958]),
        (GRADED, "efficiency", [0, 2, 3, 5], [1.4501, 0.2900, -0.4834, -1.2568]),
    ],
)
def test_golden_values(rewards, metric, kept, advantages):
    batch = filtered(GFPO(4, metric), rollouts(rewards))
    assert batch.kept.nonzero().flatten().tolist() == kept
    computed = KeptBaseline().compute(batch, torch.full((8,), 9.0))
    assert computed[batch.kept].tolist() == pytest.approx(advantages, abs=1e-4)
    assert not computed[~batch.kept].any()


@pytest.mark.parametrize(("metric", "kept"), [("length", [0, 1, 2, 3]), ("efficiency", [1, 2, 4, 5])])
def test_of_equal_scores_the_first_are_kept(metric, kept):
    batch = filtered(GFPO(4, metric), rollouts(MIXED, [300] * 8))
    assert batch.kept.nonzero().flatten().tolist() == kept


def test_whole_groups_are_filtered():
    """TRL's port filtered windows that overlap, and kept the lengths 8 and 7 of the second group."""
    batch = filtered(GFPO(2), rollouts([1, 0, 1, 0] * 2, [1, 2, 3, 4, 8, 7, 6, 5], size=4))
    assert batch.lengths[batch.kept].tolist() == [1, 2, 6, 5]


groups = st.integers(2, 6).flatmap(
    lambda size: st.tuples(
        st.lists(st.tuples(st.floats(-2, 2, width=32), st.integers(0, 50)), min_size=size, max_size=size),
        st.integers(1, size),
    )
)


@given(groups, st.sampled_from(["length", "efficiency"]))
def test_exactly_k_are_kept_and_their_advantages_sum_to_zero(group, metric):
    rows, k = group
    rewards, lengths = (torch.tensor(column)[None] for column in zip(*rows, strict=True))
    scores = filter_scores(rewards, lengths, metric=metric)
    kept = best_k(scores, k)
    assert kept.sum() == k and scores[kept].min() >= scores[~kept].max() if k < len(rows) else kept.all()
    advantages = kept_advantages(rewards, kept)
    assert advantages.sum().item() == pytest.approx(0, abs=1e-4) and not advantages[~kept].any()
    if k == len(rows) and rewards.std(correction=0) > 1e-2:
        plain = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-8)
        assert torch.allclose(advantages, plain, atol=1e-4)


@given(groups, st.floats(-5, 5))
def test_a_constant_reward_changes_nothing_with_the_shortest(group, constant):
    rows, k = group
    rewards, lengths = (torch.tensor(column)[None] for column in zip(*rows, strict=True))
    kept, moved = (best_k(filter_scores(r, lengths), k) for r in (rewards, rewards + constant))
    assert torch.equal(kept, moved)
    if rewards[kept].std(correction=0) > 1e-2:
        assert torch.allclose(kept_advantages(rewards, kept), kept_advantages(rewards + constant, kept), atol=1e-3)


def test_an_unknown_reward_is_kept_only_if_too_few_are_known():
    batch = filtered(
        GFPO(3), rollouts([math.nan, 1, 0, 1, math.nan, math.nan, math.nan, 1], [1, 5, 6, 7, 2, 3, 4, 9], 4)
    )
    assert batch.kept.tolist() == [False, True, True, True, True, True, False, True]
    advantages = KeptBaseline().compute(batch, torch.zeros(8))
    assert advantages.isfinite().all() and not advantages[4:].any()


def test_the_reward_is_the_weighted_sum(tiny_model, tmp_path):
    def minus_one_in_hundred(completion_ids, **kwargs):
        return [-0.01 * len(ids) for ids in completion_ids]

    class Noted(GFPO):
        def keep(self, rollouts):
            self.weights = rollouts.weights
            return super().keep(rollouts)

    trainer = gfpo_trainer(
        tiny_model,
        tmp_path,
        [tiny.even_reward, minus_one_in_hundred],
        filter=Noted(2, "efficiency"),
        reward_weights=[1.0, 3.0],
    )
    trainer.train()
    weights = trainer.group_filter.weights
    assert weights == {"even_reward": 1.0, "minus_one_in_hundred": 3.0}
    rewards = {
        "even_reward": torch.tensor([0.0, 1.0, 1.0, 0.0]),
        "minus_one_in_hundred": torch.tensor([-1.0, -1.0, -0.1, math.nan]),
    }
    batch = Rollouts(("a",) * 4, torch.tensor([4, 4, 4, 4]), torch.ones(4), 4, rewards=rewards, weights=weights)
    assert trainer.group_filter.keep(batch).tolist() == [False, False, True, True]  # -3, -2, 0.7, 0


# The adaptive variant


MEANS = [*(i / 8 for i in range(8)), 1.0, 0.0, 0.5, 0.7, 0.5]
KEPT = [8, 8, 8, 8, 8, 8, 8, 4, 4, 8, 6, 6, 6]


def one_group(mean: float) -> Rollouts:
    return rollouts([mean] * 16, list(range(16)), size=16)


def run(component: AdaptiveGFPO, means: list[float]) -> list[int]:
    kept = []
    for mean in means:
        batch = filtered(component, one_group(mean))
        component.observe(batch)
        kept.append(int(batch.kept.sum()))
    return kept


def test_adaptive_golden_values():
    component = AdaptiveGFPO()
    assert run(component, MEANS[:8]) == KEPT[:8]
    quartiles = [component.metrics()[name] for name in ("q25", "q50", "q75")]
    assert quartiles == pytest.approx([0.21875, 0.4375, 0.65625])
    assert run(component, MEANS[8:]) == KEPT[8:]
    assert component.metrics()["k"] == 6


def test_all_groups_of_a_batch_are_in_its_quartiles():
    component = AdaptiveGFPO(1, 2, 3, 4, min_groups=4)
    batch = filtered(component, rollouts([0.1] * 4 + [0.2] * 4 + [0.3] * 4 + [0.4] * 4, [1] * 16, size=4))
    assert rollouts_k(batch) == [4, 3, 2, 1]
    unknown = rollouts([math.nan] * 4 + [0.2] * 4, [1] * 8, size=4)
    component.observe(batch)
    assert rollouts_k(filtered(component, unknown)) == [4, 2]  # 0.2 is the first quartile and the median
    component.observe(filtered(component, unknown))
    assert len(component.state_dict()["means"]) == 5 and component.state_dict()["means"].isfinite().all()


def rollouts_k(batch: Rollouts) -> list[int]:
    return batch.by_group(batch.kept).sum(dim=1).tolist()


def test_k_never_exceeds_the_group():
    batch = filtered(AdaptiveGFPO(), rollouts([1, 0, 1, 0], [1, 2, 3, 4], size=4))
    assert batch.kept.all()


def test_the_state_is_saved_and_asking_does_not_change_it():
    component = AdaptiveGFPO()
    run(component, MEANS[:9])
    before = copy.deepcopy(component.state_dict())
    component.keep(one_group(0.3))
    assert torch.equal(component.state_dict()["means"], before["means"])
    restored = AdaptiveGFPO()
    restored.load_state_dict(before)
    assert run(restored, MEANS[9:]) == KEPT[9:] == run(component, MEANS[9:])


# In training


def gfpo_trainer(model, folder, reward_funcs, filter, rollout_func=None, **changes):
    args = ConciseGRPOConfig(**tiny.settings(folder, **changes))
    slots = {"group_filter": filter, "advantage": KeptBaseline(), "rollout_func": rollout_func}
    return tiny.spy(ConciseGRPOTrainer)(model, reward_funcs, args, slot_rows.problems(), **slots)


@pytest.mark.parametrize("divisor", ["all", "kept"])
def test_completions_that_are_not_kept_have_no_gradient(divisor, tiny_model, tmp_path):
    """The loss, against one computed from all logits of an untouched model, for both divisors."""
    trainer = gfpo_trainer(
        tiny_model, tmp_path, [slot_rows.correct_if_even], GFPO(2, divisor=divisor), slot_rows.rollout, max_steps=1
    )
    trainer.train()
    ((inputs, loss, gradients),) = trainer.seen
    tokens, advantages = inputs["completion_mask"].sum(dim=1), inputs["advantages"]
    expected = torch.zeros(8)
    kept = torch.zeros(8, dtype=torch.bool)
    rewards = (tokens % 2).float()
    keys = inputs["prompt_ids"][:, -2].tolist()
    for key in set(keys):  # TRL has shuffled the batch
        rows = [row for row in range(8) if keys[row] == key]
        chosen = sorted(rows, key=lambda row: tokens[row].item())[:2]
        kept[chosen] = True
        spread = rewards[chosen].std(correction=0)
        expected[chosen] = (rewards[chosen] - rewards[chosen].mean()) / (spread + 1e-8)
    assert (
        advantages.tolist() == pytest.approx(expected.tolist(), abs=1e-4)
        and expected.any()
        and not expected[~kept].any()
    )
    model = tiny.load(tiny_model)
    logps = tiny.whole_logps(model, inputs)
    total = tokens[kept].sum() if divisor == "kept" else tokens.sum()
    own = -((logps - logps.detach()).exp() * expected[:, None] * inputs["completion_mask"])[kept].sum() / total
    assert loss.item() == pytest.approx(own.item(), abs=1e-5)
    for one, other in zip(gradients, torch.autograd.grad(own, list(model.parameters())), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_training_keeps_fewer_completions_of_easier_groups(tiny_model, tmp_path):
    """
    Two groups a step, whose mean rewards are given. From the second step on there are four means, with the quartiles 0.175, 0.3, 0.5;
    then six with 0.225, 0.345, 0.3975.
    """
    means = [(0.2, 0.4), (0.1, 0.8), (0.3, 0.39)]
    kept = [(4, 4), (4, 1), (3, 2)]
    lengths, offsets = [3, 5, 7, 9, 4, 6, 8, 10], [0.06, -0.02, 0.02, -0.06]

    def graded(completion_ids, trainer_state, **kwargs):
        return [mean + offset for mean in means[trainer_state.global_step] for offset in offsets]

    component = AdaptiveGFPO(1, 2, 3, 4, min_groups=4)
    changes = {"max_steps": 3, "max_completion_length": 12}
    trainer = gfpo_trainer(tiny_model, tmp_path, [graded], component, tiny.rollouts_of([lengths]), **changes)
    trainer.train()
    # of the shortest k: the offsets less their mean, divided by their population standard deviation
    expected = {
        4: [1.341641, -0.447214, 0.447214, -1.341641],
        3: [1.224745, -1.224745, 0, 0],
        2: [1, -1, 0, 0],
        1: [0, 0, 0, 0],
    }
    assert len(trainer.seen) == 3
    for (inputs, _, _), own in zip(trainer.seen, kept, strict=True):
        sizes = (inputs["completion_mask"].sum(dim=1) - 1).tolist()
        used = dict(zip(sizes, inputs["advantages"].tolist(), strict=True))
        assert [used[length] for length in lengths] == pytest.approx(expected[own[0]] + expected[own[1]], abs=1e-4)
    logged = slot_rows.logged(trainer)
    assert [entry["gfpo/k"] for entry in logged] == [4, 2.5, 2.5]
    assert [entry["gfpo/kept_length"] for entry in logged] == pytest.approx([6.5, (24 + 4) / 5, (15 + 10) / 5])
    assert [logged[2][f"gfpo/{name}"] for name in ("q25", "q50", "q75")] == pytest.approx([0.225, 0.345, 0.3975])


def test_without_the_baseline_of_the_kept_it_warns(tiny_model, tmp_path, caplog):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    with caplog.at_level(logging.WARNING):
        ConciseGRPOTrainer(tiny_model, [tiny.even_reward], args, slot_rows.problems(), group_filter=GFPO(2))
    assert "Pass advantage=KeptBaseline() to compare kept completions with each other" in caplog.text


def test_it_warns_once_where_the_efficiency_selects_equal_rewards(caplog):
    component = GFPO(4, "efficiency")
    with caplog.at_level(logging.WARNING):
        for rewards in (ONE, MIXED, MIXED):
            component.observe(filtered(component, rollouts(rewards)))
    (record,) = caplog.records
    assert "has selected completions of equal reward in 100 % of the groups" in record.message
    assert component.metrics() == {"k": 4, "kept_length": pytest.approx(400), "lost_groups": 1}
    caplog.clear()
    component = GFPO(4, "efficiency")
    component.observe(filtered(component, rollouts(signed(MIXED))))
    assert not caplog.records


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GFPO(0), "k must be a whole number of completions, at least 1, got 0"),
        (lambda: GFPO(2.5), "k must be a whole number of completions, at least 1, got 2.5"),
        (lambda: GFPO(4, "tokens"), r"metric must be one of \('length', 'efficiency'\), got 'tokens'"),
        (lambda: GFPO(4, divisor="none"), r"divisor must be one of \('kept', 'all'\), got 'none'"),
        (lambda: AdaptiveGFPO(medium=0), "medium must be a whole number of at least 1, got 0"),
        (lambda: AdaptiveGFPO(min_groups=0), "min_groups must be a whole number of at least 1, got 0"),
        (lambda: AdaptiveGFPO(easy=4.5), "easy must be a whole number of at least 1, got 4.5"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_the_trainer_is_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match=r"GFPO\(k=5\) cannot keep more than num_generations=4"):
        gfpo_trainer(tiny_model, tmp_path, [tiny.even_reward], GFPO(5))
    with pytest.raises(ValueError, match=r"GFPO uses the sum of the rewards, but .*='normalize_then_sum'"):
        gfpo_trainer(
            tiny_model, tmp_path, [tiny.even_reward], GFPO(2), multi_objective_aggregation="normalize_then_sum"
        )
