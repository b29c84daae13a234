# SPDX-License-Identifier: Apache-2.0
"""Golden values: printed by the authors' function (Optimization-AI/DRPO @ 405f702, compute_policy_loss_drpo)."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import LocalRollouts, Rollouts
from trl_concise.methods.drpo import DRPO, drpo_advantages, drpo_objective, positive_weights


SCORES, LENGTHS, LIMIT = [-0.5, -1.0, -0.25, -2.0], [2, 4, 3, 5], 8
WRONG = [0.543639, 0.456361]
GOLDEN = [  # correct, settings, derivative of the authors' loss with respect to the scores
    ([1, 1, 0, 0], {}, [-0.924142, -0.075858, *WRONG]),
    ([1, 1, 0, 0], {"length_temperature": 1.0}, [-0.562177, -0.437823, *WRONG]),
    ([1, 1, 0, 0], {"temperature": 1.0}, [-0.924142, -0.075858, 0.851953, 0.148047]),
    ([1, 1, 0, 0], {"length_temperature": math.inf}, [-0.5, -0.5, *WRONG]),
    ([0, 0, 1, 0], {}, [0.355627, 0.338283, -1, 0.306091]),
    ([1, 1, 0, 1], {}, [-0.904484, -0.074245, 1, -0.021271]),
    ([0, 0, 0, 0], {}, [0, 0, 0, 0]),
    ([1, 1, 1, 1], {}, [0, 0, 0, 0]),
]


def batch_of(correct: list, lengths: list, scores: list, size: int = 4, **fields) -> Rollouts:
    measured = {"drpo": {"score": torch.tensor(scores)}}
    verdicts = torch.tensor(correct, dtype=torch.float32)
    return Rollouts(("a",) * len(correct), torch.tensor(lengths), verdicts, size, measured=measured, **fields)


def advantages_of(rollouts: Rollouts, **settings) -> list[float]:
    return DRPO(max_length=LIMIT, **settings).compute(rollouts, torch.zeros(len(rollouts))).tolist()


@pytest.mark.parametrize(("correct", "settings", "expected"), GOLDEN)
def test_golden_derivatives(correct, settings, expected):
    scores = torch.tensor([SCORES], dtype=torch.float64, requires_grad=True)
    verdicts = torch.tensor([correct], dtype=torch.float64)
    drpo_objective(scores, torch.tensor([LENGTHS]), verdicts, max_length=LIMIT, **settings).backward()
    assert scores.grad[0].tolist() == pytest.approx(expected, abs=1e-6)
    advantages = advantages_of(batch_of(correct, LENGTHS, SCORES), **settings)
    assert [-advantage / 4 for advantage in advantages] == pytest.approx(expected, abs=1e-6)


def test_equal_lengths_are_weighted_alike():
    advantages = advantages_of(batch_of([1, 1, 0, 0], [3, 3, 3, 5], SCORES))
    assert advantages == pytest.approx([2, 2, *(-4 * wrong for wrong in WRONG)], abs=1e-5)


def test_questions_with_one_class_count_in_the_divisor():
    correct, lengths = torch.tensor([[1.0, 1, 0, 0], [1.0, 1, 1, 1]]), torch.tensor([LENGTHS] * 2)
    scores = torch.tensor([SCORES] * 2, requires_grad=True)
    both = drpo_objective(scores, lengths, correct, max_length=LIMIT)
    one = drpo_objective(scores[:1], lengths[:1], correct[:1], max_length=LIMIT)
    assert both.item() == pytest.approx(one.item() / 2)
    both.backward()
    assert scores.grad[0, 0].item() == pytest.approx(-0.462071, abs=1e-6) and (scores.grad[1] == 0).all()


@pytest.mark.parametrize(
    ("limit", "omega"), [(8000, [1.970752, 0.821532, 0.207716]), (4000, [2.531896, 0.439977, 0.028127])]
)
def test_golden_weights(limit, omega):
    weights = positive_weights(torch.tensor([[800, 1500, 2600]]), torch.ones(1, 3), max_length=limit)
    assert (3 * weights[0]).tolist() == pytest.approx(omega, abs=1e-6)


ROW = st.tuples(st.sampled_from([0.0, 1.0, math.nan]), st.integers(0, 4000), st.floats(-5, 0))
TEMPERATURES = st.sampled_from([0.01, 0.1, 1.0, 10.0, math.inf])


@given(st.lists(ROW, min_size=2, max_size=10), TEMPERATURES, TEMPERATURES)
def test_advantages_are_the_gradient_of_the_objective(rows, length_temperature, temperature):
    correct, lengths, scores = (torch.tensor([column], dtype=torch.float64) for column in zip(*rows, strict=True))
    settings = {"max_length": 4000, "length_temperature": length_temperature, "temperature": temperature}
    scores.requires_grad_()
    drpo_objective(scores, lengths, correct, **settings).backward()
    advantages = drpo_advantages(scores.detach(), lengths, correct, **settings)
    torch.testing.assert_close(-advantages / len(rows), scores.grad, atol=1e-6, rtol=0)
    assert (advantages[correct == 1] >= 0).all() and (advantages[correct == 0] <= 0).all()
    assert (advantages[correct.isnan()] == 0).all()
    if (correct == 1).any() and (correct == 0).any():
        assert advantages[correct == 1].sum().item() == pytest.approx(len(rows))
        assert advantages[correct == 0].sum().item() == pytest.approx(-len(rows))
    shifted = drpo_advantages(scores.detach(), lengths + 700, correct, **settings)
    torch.testing.assert_close(shifted, advantages, atol=1e-4, rtol=1e-4)


def test_completions_that_the_loss_leaves_out_take_no_weight():
    rollouts = batch_of([1, 1, 0, 0], LENGTHS, SCORES, loss_lengths=torch.tensor([0, 4, 3, 5]))
    assert advantages_of(rollouts) == pytest.approx([0, 4, *(-4 * wrong for wrong in WRONG)], abs=1e-5)


CORRECT = [1.0, 1, 0, 0, 1, 0, 1, 0]
TOKENS = [5, 9, 6, 13, 7, 4, 11, 8]  # EOS excluded: distinct, so that a shuffled row can be recognized


def make_trainer(trainer_class, model, problems, folder, component, **changes):
    def is_correct(completions, **kwargs):
        return CORRECT[: len(completions)]

    settings = {"loss_type": "grpo", "max_completion_length": 16, **changes}
    return trainer_class(
        model,
        [is_correct],
        ConciseGRPOConfig(**tiny.settings(folder, **settings)),
        problems,
        advantage=component,
        rollout_func=tiny.rollouts_of([TOKENS]),
    )


@pytest.mark.parametrize("temperature", [0.5, math.inf])
def test_two_steps_of_training_have_the_gradient_of_the_objective(temperature, tiny_model, problems, tmp_path):
    component = DRPO(temperature=temperature)
    trainer = make_trainer(tiny.spy(ConciseGRPOTrainer), tiny_model, problems, tmp_path, component)
    trainer.train()
    assert trainer.state.global_step == 2
    inputs, _, gradients = trainer.seen[0]
    model = tiny.load(tiny_model)
    mask = inputs["completion_mask"]
    scores = (tiny.whole_logps(model, inputs) * mask).sum(dim=1) / mask.sum(dim=1)
    found = (mask.sum(dim=1) - 1).tolist()
    scores = scores[[found.index(tokens) for tokens in TOKENS]].view(2, 4)
    lengths, correct = torch.tensor(TOKENS).view(2, 4), torch.tensor(CORRECT).view(2, 4)
    loss = drpo_objective(scores, lengths, correct, max_length=16, temperature=temperature)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for own, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-4)
    logged = trainer.state.log_history[0]
    assert logged["drpo/mixed_groups"] == 1
    if temperature == 0.5:
        assert logged["drpo/objective"] == pytest.approx(loss.item(), abs=1e-5)


def test_it_trains_on_sampled_completions(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, loss_type="grpo"))
    trainer = ConciseGRPOTrainer(tiny_model, [tiny.even_reward], args, problems, advantage=DRPO())
    trainer.train()
    assert trainer.state.global_step == 2 and all(map(math.isfinite, tiny.losses(trainer)))
    assert trainer.advantages[0].max_length == 8


def test_the_score_is_the_mean_over_the_tokens_that_the_model_wrote(tiny_model, problems, tmp_path):
    component = DRPO()
    trainer = make_trainer(ConciseGRPOTrainer, tiny_model, problems, tmp_path, component)
    prompts, ids, tool_mask = [[5, 6]] * 3, [[7, 8, 9, 2], [7, 2], []], [[1, 0, 0, 1], [1, 1], []]
    logps = trainer.score_logps(prompts, ids)
    local = LocalRollouts(["p"] * 3, ["c"] * 3, ids, tool_mask, torch.tensor([1, 1, 0]), {}, 3, 0, True, prompts)
    expected = [logps[0, [0, 3]].mean().item(), logps[1, :2].mean().item(), 0]
    assert component.measure(local)["score"].tolist() == pytest.approx(expected, abs=1e-6)


def test_several_steps_per_generation_are_named_an_approximation(tiny_model, problems, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make_trainer(ConciseGRPOTrainer, tiny_model, problems, tmp_path, DRPO())
        assert "DRPO is an approximation" not in caplog.text
        make_trainer(ConciseGRPOTrainer, tiny_model, problems, tmp_path, DRPO(), num_iterations=2)
    assert "DRPO is an approximation" in caplog.text


def test_other_losses_are_refused(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match='Set loss_type="grpo"'):
        make_trainer(ConciseGRPOTrainer, tiny_model, problems, tmp_path, DRPO(), loss_type="dapo")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length_temperature": 0}, "length_temperature must be above 0, got 0"),
        ({"temperature": math.nan}, "temperature must be above 0, got nan"),
        ({"max_length": 0}, "max_length must be at least 1 token, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DRPO(**settings)
