# SPDX-License-Identifier: Apache-2.0
"""Golden values: the equations by hand. All of them are reconstructions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig, GRPOTrainer

from tests import slot_rows, tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.reference import reference_tensors
from trl_concise.batch.rollouts import LocalRollouts
from trl_concise.methods.t1 import AnchoredKL, centered_penalty


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=16), st.floats(0, 2))
def test_the_penalties_of_a_batch_sum_to_0(kl, weight):
    penalties = centered_penalty(torch.tensor(kl, dtype=torch.float64), weight)
    assert penalties.sum().item() == pytest.approx(0, abs=1e-9)
    assert (penalties.diff().sign() * torch.tensor(kl, dtype=torch.float64).diff().sign() <= 0).all()


def make_trainer(model, dataset, folder, component, **changes):
    settings = {"learning_rate": 1e-2, "max_steps": 4, **changes}
    return ConciseGRPOTrainer(
        model, [tiny.even_reward, component], ConciseGRPOConfig(**tiny.settings(folder, **settings)), dataset
    )


def test_the_reference_is_a_moving_average(tiny_model, problems, tmp_path):
    component = AnchoredKL(tau=0.99)
    trainer = make_trainer(tiny_model, problems, tmp_path, component)
    reference = reference_tensors(trainer)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.fill_(1.0)
        for tensor in reference.values():
            tensor.zero_()
    for _ in range(100):
        component.follow()
    for tensor in reference_tensors(trainer).values():
        torch.testing.assert_close(tensor, torch.full_like(tensor, 1 - 0.99**100), atol=1e-5, rtol=0)
    assert 1 - 0.99**100 == pytest.approx(0.633968, abs=1e-6)


def test_a_copy_has_no_divergence_and_a_frozen_reference_does_not_move(tiny_model, problems, tmp_path):
    copied = make_trainer(tiny_model, problems, tmp_path, AnchoredKL(tau=0.0))
    copied.train()
    logged = slot_rows.logged(copied)
    assert [entry["t1/kl"] for entry in logged] == [0] * 4 and any(entry["grad_norm"] for entry in logged)
    frozen = make_trainer(
        tiny_model, problems, tmp_path, AnchoredKL(tau=1.0), max_steps=2, save_strategy="steps", save_steps=2
    )
    before = {name: tensor.clone() for name, tensor in reference_tensors(frozen).items()}
    frozen.train()
    assert all(torch.equal(before[name], tensor) for name, tensor in reference_tensors(frozen).items())
    assert slot_rows.logged(frozen)[1]["t1/kl"] != 0 and not list(tmp_path.rglob("*reference*"))


def test_the_reward_is_the_centered_divergence_and_a_resumed_run_has_the_average(tiny_model, problems, tmp_path):
    seen = []

    class Noting(AnchoredKL):
        def measure(self, local):
            measured = super().measure(local)
            policy = self._trainer.score_logps(local.prompt_ids, local.completion_ids)
            reference = self._trainer.score_logps(local.prompt_ids, local.completion_ids, model="reference")
            seen.append((measured["kl"], (policy - reference).sum(dim=1)))
            return measured

        def score(self, rollouts):
            scores = super().score(rollouts)
            seen[-1] += (scores,)
            return scores

    whole = make_trainer(
        tiny_model, problems, tmp_path, Noting(tau=0.5, kl_weight=0.1), save_strategy="steps", save_steps=2
    )
    whole.train()
    for measured, expected, scores in seen:
        assert torch.equal(measured, expected)
        torch.testing.assert_close(scores, -0.1 * (expected - expected.mean()))
    assert not seen[0][0].any() and seen[1][0].any()
    component = AnchoredKL(tau=0.5, kl_weight=0.1)
    resumed = make_trainer(tiny_model, problems, tmp_path / "resumed", component)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    names = ("loss", "grad_norm", "t1/kl", "reward")
    for own, other in zip(slot_rows.logged(resumed), slot_rows.logged(whole), strict=True):
        assert [own[name] for name in names] == [other[name] for name in names]
    for name, tensor in reference_tensors(resumed).items():
        assert torch.equal(tensor, reference_tensors(whole)[name])


def test_without_its_ingredients_it_is_the_base_algorithm(tiny_model, problems, tmp_path):
    own = make_trainer(tiny_model, problems, tmp_path, AnchoredKL(tau=1.0, kl_weight=0.0), max_steps=2)
    own.train()
    assert own.ref_model is None
    settings = tiny.settings(tmp_path, learning_rate=1e-2, entropy_coef=0.0)
    plain = GRPOTrainer(tiny_model, tiny.even_reward, GRPOConfig(**settings), problems)
    plain.train()
    assert tiny.losses(own) == tiny.losses(plain)
    assert all(torch.equal(a, b) for a, b in zip(own.model.parameters(), plain.model.parameters(), strict=True))


def test_images_and_settings_out_of_range_are_refused(tiny_model, problems, tmp_path):
    component = AnchoredKL()
    make_trainer(tiny_model, problems, tmp_path, component)
    local = LocalRollouts(["p"], ["c"], [[5]], None, torch.tensor([1]), {"image": [None]}, 1, 0, True, [[5]])
    with pytest.raises(ValueError, match="scores text only.* Train without images"):
        component.measure(local)
    with pytest.raises(ValueError, match=r"tau must lie in \[0, 1\], got 1.5"):
        AnchoredKL(tau=1.5)
    with pytest.raises(ValueError, match="kl_weight must be at least 0 and finite, got nan"):
        AnchoredKL(kl_weight=math.nan)
