# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed with NumPy and SciPy from the equations, independently of this package."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.hub.settings import as_text
from trl_concise.methods.cost_constraints import (
    AccuracyLimit,
    CostConstraints,
    LengthLimit,
    augmented_costs,
    cost_advantages,
    margin_factor,
    next_multiplier,
)


LENGTHS = [40, 55, 38, 62, 47, 51, 44, 58, 49, 53]


def rollouts_of(lengths, correct, generations=4):
    return Rollouts(("a",) * len(lengths), torch.tensor(lengths), torch.tensor(correct), generations)


@pytest.mark.parametrize(
    ("n", "changes", "factor"),
    [
        (256, {}, 0.120858),
        (32, {}, 0.272036),
        (10, {}, 0.477905),
        (32, {"c1": 4.0, "c2": 2.0, "test_size": 100}, 1.183963),
    ],
)
def test_golden_factors(n, changes, factor):
    assert margin_factor(n, **changes) == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize(("limit", "violation", "multiplier"), [(60, -0.110422, 0.998896), (45, 0.186104, 1.001863)])
def test_golden_steps_of_the_multiplier(limit, violation, multiplier):
    constraints = CostConstraints(LengthLimit(limit))
    constraints.compute(rollouts_of(LENGTHS, [1.0] * 10, 10), torch.zeros(10))
    assert constraints.multipliers == {"length": 1}  # nothing was known before
    constraints.compute(
        rollouts_of([7] * 10, [1.0] * 10, 10), torch.zeros(10)
    )  # the estimate is that before the batch
    assert constraints.metrics()["length_violation"] == pytest.approx(violation, abs=1e-6)
    assert constraints.multipliers["length"] == pytest.approx(multiplier, abs=1e-6)


def test_golden_augmented_costs():
    costs = torch.tensor(LENGTHS).double() / 60 - 1
    augmented = augmented_costs(costs, costs.mean().item(), costs.std().item(), margin_factor(10))
    assert augmented[:4].tolist() == pytest.approx([-0.339549, -0.123733, -0.350714, 0.056745], abs=1e-6)
    assert augmented.mean().item() == pytest.approx(-0.199056, abs=1e-6)


@pytest.mark.parametrize(
    ("multiplier", "expected"),
    [(0.5, [0.777934, -0.252859, -0.741654, 0.216579]), (1.0, [0.916951, -0.629238, -0.362631, 0.074919])],
)
def test_golden_advantages(multiplier, expected):
    costs = torch.tensor(LENGTHS).double() / 60 - 1
    mean, std = costs.mean().item(), costs.std().item()
    group = torch.tensor([[40, 62, 47, 55]]).double() / 60 - 1
    own = cost_advantages(augmented_costs(group, mean, std, margin_factor(10)), std)
    assert own[0].tolist() == pytest.approx([-1.334001, 1.758377, -0.774438, 0.350063], abs=1e-5)
    rewards = torch.tensor([0.4999, 0.4999, -1.4997, 0.4999])
    total = (rewards - multiplier * own[0]) / (1 + multiplier)
    assert total.tolist() == pytest.approx(expected, abs=5e-5)


def test_a_base_that_solves_everything():
    """The accuracy may be written as an integer: every wrong completion is a loss."""
    constraints = CostConstraints(AccuracyLimit(0.1, base=1))
    batch = rollouts_of([5] * 4, [1.0, 0.0, 1.0, math.nan])
    for _ in range(2):
        constraints.compute(batch, torch.zeros(4))
    assert constraints.metrics()["accuracy_cost"] == pytest.approx(1 / 3)
    assert constraints.multipliers["accuracy"] > 1


def test_the_component_combines_the_functions():
    """Two groups of four, two limits: the formula of the class, written out."""
    limits = [LengthLimit(50), AccuracyLimit(0.1, base=0.75)]
    constraints = CostConstraints(limits, delta=0.2, test_size=50, c1=2.0, c2=0.5, multiplier=0.5)
    lengths, correct = [40, 55, 38, 62, 47, 51, 44, 58], [1.0, 0.0, 1.0, 1.0, math.nan, 1.0, 0.0, 0.0]
    first, rewards = rollouts_of(lengths, correct), torch.linspace(-1, 1, 8)
    assert torch.equal(constraints.compute(first, rewards), rewards)  # no cost is known
    assert constraints.multipliers == {"length": 0.5, "accuracy": 0.5}
    second = rollouts_of(lengths[::-1], correct)
    got = constraints.compute(second, rewards)
    kappa = margin_factor(8, delta=0.2, test_size=50, c1=2.0, c2=0.5)
    total = torch.zeros(8).double()
    for past, new in (
        (torch.tensor(lengths).double() / 50 - 1, torch.tensor(lengths[::-1]).double() / 50 - 1),
        (0.75 - torch.tensor(correct).double(), 0.75 - torch.tensor(correct).double()),
    ):
        past = past[~past.isnan()]
        mean, std = past.mean(), past.std()
        augmented = (new + kappa * (new**2 - 2 * new * mean) / (2 * std)).view(2, 4)
        total += ((augmented - augmented.nanmean(dim=1, keepdim=True)) / std).nan_to_num(nan=0.0).flatten()
    torch.testing.assert_close(got, ((rewards - 0.5 * total) / 2).float())
    assert set(constraints.metrics()) == {
        f"{name}_{figure}" for name in ("length", "accuracy") for figure in ("multiplier", "cost", "violation")
    }


@settings(deadline=None)  # a quantile is computed once, and remembered
@given(
    st.lists(st.lists(st.integers(1, 4096), min_size=4, max_size=4), min_size=1, max_size=4),
    st.floats(1, 5000),
    st.floats(1e-6, 1e6),
)
def test_sums_of_groups_and_bounds_of_multipliers(groups, limit, multiplier):
    lengths = [length for group in groups for length in group]
    constraints = CostConstraints(LengthLimit(limit), multiplier=multiplier, multiplier_learning_rate=1.0)
    batch = rollouts_of(lengths, [1.0] * len(lengths))
    constraints.compute(batch, torch.zeros(len(lengths)))
    advantages = constraints.compute(batch, torch.zeros(len(lengths)))
    largest = advantages.abs().max().item()
    assert advantages.isfinite().all()
    assert batch.by_group(advantages).sum(dim=1).abs().max().item() <= 1e-5 * (1 + largest)
    for _ in range(5):
        constraints.compute(batch, advantages)
    assert 1e-6 <= constraints.multipliers["length"] <= 1e6


@given(st.floats(0, 1e6), st.floats(-1e9, 1e9))
def test_a_step_is_at_most_a_factor_of_e(multiplier, violation):
    after = next_multiplier(multiplier, violation)
    if multiplier == 0:
        assert after == 0
    else:
        assert 1e-6 <= after <= 1e6
        if multiplier >= 1e-6:
            assert multiplier / math.e * (1 - 1e-9) <= after <= multiplier * math.e * (1 + 1e-9)


def train(model, problems, folder, advantage, reward=tiny.even_reward, **changes):
    extra = {name: changes.pop(name) for name in ("watch_dataset", "callbacks") if name in changes}
    arguments = tiny.settings(folder, **{"max_steps": 4, "correctness": "even_reward", **changes})
    trainer = tiny.spy(ConciseGRPOTrainer)(
        model, reward, ConciseGRPOConfig(**arguments), problems, advantage=advantage, **extra
    )
    trainer.train()
    return trainer


def test_a_multiplier_of_0_is_grpo_bit_for_bit(tiny_model, problems, tmp_path):
    constraints = CostConstraints(LengthLimit(1), multiplier=0.0)
    neutral = train(tiny_model, problems, tmp_path, constraints, max_steps=2)
    plain = train(tiny_model, problems, tmp_path, None, max_steps=2)
    assert tiny.losses(plain) == tiny.losses(neutral) and constraints.multipliers == {"length": 0}
    for own, other in zip(plain.model.parameters(), neutral.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_the_advantages_of_training(tiny_model, problems, tmp_path):
    class Noted(CostConstraints):
        seen: list = []

        def compute(self, rollouts, advantages):
            self.seen.append(super().compute(rollouts, advantages))
            return self.seen[-1]

    constraints = Noted([LengthLimit(2), AccuracyLimit(0.0, base="base_accuracy")], multiplier_learning_rate=10.0)
    rows = Dataset.from_list([{**row, "base_accuracy": index / 16} for index, row in enumerate(problems)])
    trainer = train(tiny_model, rows, tmp_path, constraints)
    for computed, (inputs, _, _) in zip(Noted.seen, trainer.seen, strict=True):
        assert sorted(inputs["advantages"].tolist()) == pytest.approx(sorted(computed.tolist()))
    logs = [log for log in trainer.state.log_history if "cost_constraints/length_multiplier" in log]
    # Completions are longer than 2 tokens: the multiplier rises, a step after the first costs are known.
    multipliers = [log["cost_constraints/length_multiplier"] for log in logs]
    assert multipliers[:2] == [1, 1] and multipliers[1] < multipliers[2] < multipliers[3]
    assert 0 < len(constraints._costs["accuracy"]) == len(constraints._costs["length"]) == 32


def falling_reward(completion_ids, row, trainer_state, **kwargs):
    """Everything is correct at first; from step 2 on, three of four problems."""
    return [float(trainer_state.global_step < 2 or number % 4 > 0) for number in row]


def test_a_limit_on_the_watch_set(tiny_model, problems, tmp_path):
    """The multiplier rises after the accuracy on the watch set has fallen, also in a resumed run."""
    arguments = {
        "watch_every": 1,
        "correctness": "falling_reward",
        "reward_weights": [0.0, 1.0],
        "save_strategy": "steps",
        "save_steps": 3,
        "watch_dataset": problems,
        "reward": [falling_reward, tiny.even_reward],
        "max_steps": 5,
    }
    limit = AccuracyLimit(0.1, on="watch")
    constraints = CostConstraints(limit, multiplier_learning_rate=1.0)
    whole = train(tiny_model, problems, tmp_path, constraints, **arguments)
    logs = [log for log in whole.state.log_history if "cost_constraints/watch_accuracy_multiplier" in log]
    std = math.sqrt(16 / 15 * 0.25 * 0.75)
    lost = 0.25 + margin_factor(16) * std - 0.1
    violations = [log["cost_constraints/watch_accuracy_violation"] for log in logs]
    assert violations == pytest.approx([-0.1, -0.1, lost, lost, lost])
    multipliers = [log["cost_constraints/watch_accuracy_multiplier"] for log in logs]
    expected = [1.0]
    for violation in violations[:-1]:
        expected.append(next_multiplier(expected[-1], violation, learning_rate=1.0))
    assert (
        multipliers == pytest.approx(expected) and multipliers[2] < multipliers[1] and multipliers[3] > multipliers[2]
    )
    again = CostConstraints(limit, multiplier_learning_rate=1.0)
    resumed = resume(tiny_model, problems, tmp_path, again, checkpoint="checkpoint-3", **arguments)
    assert again.state_dict() == constraints.state_dict() and tiny.losses(resumed) == tiny.losses(whole)


def resume(model, problems, folder, advantage, *, reward, watch_dataset, checkpoint, **changes):
    trainer = ConciseGRPOTrainer(
        model,
        reward,
        ConciseGRPOConfig(**tiny.settings(folder, **changes)),
        problems,
        advantage=advantage,
        watch_dataset=watch_dataset,
    )
    trainer.train(resume_from_checkpoint=str(folder / checkpoint))
    return trainer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LengthLimit(0), "max_tokens must be a positive number of tokens, got 0"),
        (lambda: LengthLimit(math.inf), "max_tokens must be a positive number of tokens, got inf"),
        (lambda: AccuracyLimit(2, base=0.5), r"max_loss must be a fraction in \[0, 1\)"),
        (lambda: AccuracyLimit(0.1), "AccuracyLimit needs base"),
        (lambda: AccuracyLimit(0.1, base=95), r"base must be an accuracy in \[0, 1\], got 95"),
        (lambda: AccuracyLimit(0.1, base=0.9, on="watch"), "Leave base out"),
        (lambda: AccuracyLimit(0.1, on="test"), "on must be 'train' or 'watch', got 'test'"),
        (lambda: CostConstraints([]), "limits must be LengthLimit or AccuracyLimit"),
        (lambda: CostConstraints(40), "limits must be LengthLimit or AccuracyLimit, one or several, got 40"),
        (lambda: CostConstraints([LengthLimit(4), LengthLimit(5)]), "two of one kind: length, length"),
        (lambda: CostConstraints(LengthLimit(4), delta=0.5), "delta must lie between 0 and 0.5"),
        (
            lambda: CostConstraints(LengthLimit(4), test_size=1),
            "test_size and window must be at least 2, got 1 and 256",
        ),
        (lambda: CostConstraints(LengthLimit(4), c1=-1), "c1 and c2 must be at least 0, got -1 and 1.0"),
        (lambda: CostConstraints(LengthLimit(4), multiplier=1e7), "multiplier must be 0, or between"),
        (lambda: CostConstraints(LengthLimit(4), multiplier_learning_rate=0), "must be positive, got 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (AccuracyLimit(0.1, on="watch"), "needs the trainer's watch_dataset, but there is none"),
        (AccuracyLimit(0.1, base="base_accuracy"), r"needs a dataset column of this name .* the columns are \["),
        (AccuracyLimit(0.1, base="row"), r"The column 'row' must hold accuracies in \[0, 1\], got "),
    ],
)
def test_what_a_limit_needs(limit, message, tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tiny_model, problems, tmp_path, CostConstraints(limit))


def test_limits_of_the_checkpoint_must_be_those_of_the_run():
    state = CostConstraints([LengthLimit(40)]).state_dict()
    with pytest.raises(ValueError, match="has limits on length, but this run on accuracy"):
        CostConstraints(AccuracyLimit(0.02, base=0.9)).load_state_dict(state)


def test_the_card_shows_the_limits():
    settings = as_text(CostConstraints([LengthLimit(40), AccuracyLimit(0.02, on="watch")]).config())
    accuracy = {"AccuracyLimit": {"max_loss": 0.02, "base": None, "on": "watch"}}
    assert settings["limits"] == [{"LengthLimit": {"max_tokens": 40}}, accuracy]
    assert settings["delta"] == 0.1
