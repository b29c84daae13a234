# SPDX-License-Identifier: Apache-2.0
"""Golden values: the equations by hand, and PyTorch's autograd of the KL penalty."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import TrainerCallback

from tests import slot_rows, tiny
from trl_concise import BatchWhitening, ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.reference import reference_tensors
from trl_concise.batch.rollouts import LocalRollouts, Rollouts
from trl_concise.methods.prorl import K2Penalty, ReferenceReset, k2, k2_slope


def test_golden_values():
    assert k2(torch.tensor(0.3)).item() == pytest.approx(0.045)
    assert 1e-4 * k2(torch.tensor(-0.3)).item() == pytest.approx(4.5e-6)
    assert k2(torch.tensor([5.0, 30.0])).tolist() == [10, 10]
    assert k2(torch.tensor([30.0]), max_penalty=math.inf).tolist() == [200]
    rewards = torch.tensor([1.0, 1, 0, 0])
    rollouts = Rollouts(("a",) * 4, torch.full((4,), 7), rewards, 4, rewards={"correct": rewards})
    advantages = BatchWhitening().compute(rollouts, rewards - rewards.mean())
    assert advantages.tolist() == pytest.approx([1, 1, -1, -1])


@given(st.lists(st.floats(-40, 40), min_size=1, max_size=6), st.floats(1, 30), st.floats(0.5, 20))
def test_the_slope_is_the_derivative(values, max_log_ratio, max_penalty):
    log_ratio = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    k2(log_ratio, max_log_ratio, max_penalty).sum().backward()
    slope = k2_slope(log_ratio, max_log_ratio, max_penalty)
    assert not slope.requires_grad
    torch.testing.assert_close(slope, log_ratio.grad)


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.integers(1, 500)), min_size=4, max_size=8).filter(
        lambda x: len(x) % 2 == 0
    )
)
def test_whitened_advantages_have_token_weighted_mean_0_and_variance_1(completions):
    centered, lengths = (torch.tensor(column) for column in zip(*completions, strict=True))
    rollouts = Rollouts(("a",) * len(lengths), lengths, torch.ones(len(lengths)), len(lengths))
    advantages = BatchWhitening(skip_zero_variance=False).compute(rollouts, centered).double()
    share = lengths / lengths.sum()
    spread = (share * (centered - (share * centered).sum()).square()).sum().sqrt()
    if spread > 1e-3:
        assert (share * advantages).sum().item() == pytest.approx(0, abs=1e-3)
        assert (share * advantages.square()).sum().item() == pytest.approx(1, abs=1e-3)


# Training


def varied_reward(completion_ids, **kwargs):
    """Rewards that differ within every group."""
    return [sum(ids) % 97 / 97 for ids in completion_ids]


LORA = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": "gaussian"}


class Watch(TrainerCallback):
    """Notes the policy, the reference, the moments and the learning rates after each step, when everything else is done."""

    def __init__(self, trainer):
        self.trainer = trainer
        self.same, self.references, self.moments, self.rates = {}, {}, {}, {}

    def note(self, state, optimizer):
        step, own = state.global_step, dict(self.trainer.model.named_parameters())
        reference = {name: tensor.clone() for name, tensor in reference_tensors(self.trainer).items()}
        pairs = [(tensor, own.get(name.replace(".ref.", ".default."))) for name, tensor in reference.items()]
        self.same[step] = all(torch.equal(tensor, other) for tensor, other in pairs if other is not None)
        self.references[step] = reference
        self.moments[step] = len(optimizer.state)
        self.rates[step] = [group["lr"] for group in optimizer.param_groups]

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        self.note(state, optimizer)

    def on_evaluate(self, args, state, control, optimizer=None, **kwargs):
        self.note(state, optimizer)


def make_trainer(model, dataset, folder, component, adapter=False, credit=None, evaluates=False, **changes):
    settings = {"learning_rate": 1e-2, "beta": 0.1, "max_steps": 5, "lr_scheduler_type": "linear", **changes}
    if evaluates:
        settings |= {"eval_strategy": "steps", "eval_steps": 1}
    trainer = tiny.spy(ConciseGRPOTrainer)(
        model,
        varied_reward,
        ConciseGRPOConfig(**tiny.settings(folder, **settings)),
        dataset,
        eval_dataset=dataset.select(range(2)) if evaluates else None,
        advantage=component,
        token_credit=credit,
        peft_config=LoraConfig(**LORA) if adapter else None,
    )
    watch = Watch(trainer)
    trainer.add_callback(watch)  # after the component's own
    return trainer, watch


@pytest.mark.parametrize("adapter", [False, True])
def test_the_reference_is_reset_and_a_resumed_run_has_it_from_the_checkpoint(adapter, tiny_model, problems, tmp_path):
    def build(folder, **changes):
        component = ReferenceReset(every=2, clear_optimizer=adapter)
        return make_trainer(tiny_model, problems, folder, component, adapter=adapter, **changes)

    whole, watch = build(tmp_path, save_strategy="steps", save_steps=1)
    whole.train()
    assert [watch.same[step] for step in range(1, 6)] == [False, True, False, True, False]
    expected = slot_rows.logged(whole)
    assert [entry["kl"] == 0 for entry in expected] == [True, False, True, False, True]
    assert [entry["prorl/reference_age"] for entry in expected] == [0, 1, 0, 1, 0]
    assert expected[-1]["prorl/resets"] == 2
    cleared = [watch.moments[step] == 0 for step in range(1, 6)]
    assert cleared == [False, adapter, False, adapter, False]  # version 1 clears the moments, version 2 keeps them
    for step in range(1, 6):
        assert watch.rates[step] == pytest.approx([1e-2 * (1 - step / 5)] * len(watch.rates[step]))
    resumed, own = build(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{2 if adapter else 3}"))
    assert slot_rows.logged(resumed) == expected
    for name, tensor in own.references[5].items():
        assert torch.equal(tensor, watch.references[5][name]), name
    for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_kl_spike_resets_the_reference(tiny_model, problems, tmp_path):
    component = ReferenceReset(every=0, max_kl=1e-9)
    trainer, watch = make_trainer(tiny_model, problems, tmp_path, component, save_strategy="steps", save_steps=2)
    trainer.train()
    kls = [entry["kl"] for entry in slot_rows.logged(trainer)]
    # Logged after the step: the reference is reset after steps 2 and 4, so that the KL of steps 3 and 5 is 0.
    assert [kl > 1e-9 for kl in kls] == [False, True, False, True, False] and component._resets == 2
    # The checkpoint of the step of a reset holds the new reference.
    resumed_component = ReferenceReset(every=0, max_kl=1e-9)
    resumed, own = make_trainer(tiny_model, problems, tmp_path / "resumed", resumed_component, max_steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert slot_rows.logged(resumed)[-1]["kl"] == 0 and resumed_component._resets == 1


def test_a_stalled_evaluation_resets_the_reference(tiny_model, problems, tmp_path):
    component = ReferenceReset(every=0, patience=2, metric="eval_completions/max_length")  # 8 in every evaluation
    trainer, watch = make_trainer(tiny_model, problems, tmp_path, component, evaluates=True)
    trainer.train()
    # The first evaluation is the best one; after those of steps 2 and 3, and 4 and 5, nothing has improved.
    assert [watch.same[step] for step in range(1, 6)] == [False, False, True, False, True]
    unknown, _ = make_trainer(
        tiny_model, problems, tmp_path, ReferenceReset(patience=1, metric="eval_x"), evaluates=True, max_steps=1
    )
    with pytest.raises(ValueError, match="waits for 'eval_x' to improve, but the evaluation has .*'eval_reward'"):
        unknown.train()


def test_k2_has_the_gradient_of_the_penalty(tiny_model, problems, tmp_path):
    """In the second step, when policy and reference differ: the loss of GRPO plus the coefficient times the mean penalty."""
    credit = K2Penalty(coefficient=0.5, max_log_ratio=0.25, max_penalty=0.02)
    trainer, _ = make_trainer(tiny_model, problems, tmp_path, None, credit=credit, beta=0.0, max_steps=2)
    policies = []

    class Keep(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            policies.append([parameter.detach().clone() for parameter in model.parameters()])

    trainer.add_callback(Keep())
    trainer.train()
    inputs, _, gradients = trainer.seen[1]
    model, reference = tiny.load(tiny_model), tiny.load(tiny_model)
    for parameter, value in zip(model.parameters(), policies[1], strict=True):
        parameter.data.copy_(value)
    mask = inputs["completion_mask"].bool()
    logps = tiny.whole_logps(model, inputs)
    with torch.no_grad():
        log_ratio = logps - tiny.whole_logps(reference, inputs)
    penalty = k2((logps - logps.detach()) + log_ratio, 0.25, 0.02)
    limited = (log_ratio.abs() >= 0.2)[mask]  # 0.5 x^2 = 0.02
    assert limited.any() and not limited.all()
    rewards = torch.tensor(
        varied_reward([row[own].tolist() for row, own in zip(inputs["completion_ids"], mask, strict=True)])
    )
    groups = {}
    for row, prompt in enumerate(inputs["prompt_ids"].tolist()):
        groups.setdefault(tuple(prompt), []).append(row)
    advantages = torch.zeros(len(rewards))
    for rows in groups.values():
        advantages[rows] = (rewards[rows] - rewards[rows].mean()) / (rewards[rows].std() + 1e-4)
    ratio = (logps - logps.detach()).exp()
    loss = ((-advantages[:, None] * ratio + 0.5 * penalty) * mask).sum() / mask.sum()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for own, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-3)
    logged = slot_rows.logged(trainer)
    assert logged[0]["k2_penalty/kl"] == 0
    assert logged[1]["k2_penalty/kl"] == pytest.approx((penalty * mask).sum().item() / mask.sum().item(), abs=1e-6)


class Correcting(ConciseGRPOTrainer):
    """TRL's correction of log-probabilities from another engine, without vLLM."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.use_vllm, self._last_loaded_step = True, 0


def test_icepop_of_trl_gives_tokens_outside_its_range_the_weight_0(tiny_model, problems, tmp_path):
    def sampled(prompts, trainer):
        output = tiny.rollouts_of([[8] * 8])(prompts, trainer)
        output["logprobs"] = [[-5.5 + (0, 2.5, -2.5)[t % 3] for t in range(9)] for _ in prompts]
        return output

    settings = {
        "vllm_importance_sampling_mode": "token_mask",
        "vllm_importance_sampling_clip_min": 0.5,
        "vllm_importance_sampling_clip_max": 5.0,
    }
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=1, max_completion_length=9, **settings))
    trainer = tiny.spy(Correcting)(tiny_model, varied_reward, args, problems, rollout_func=sampled)
    trainer.train()
    inputs = trainer.seen[0][0]
    with torch.no_grad():
        ratio = (tiny.whole_logps(tiny.load(tiny_model), inputs) - inputs["sampling_per_token_logps"]).exp()
    weights = inputs["importance_sampling_ratio"]
    torch.testing.assert_close(weights, ratio * ((ratio >= 0.5) & (ratio <= 5)), atol=1e-4, rtol=1e-4)
    assert (ratio < 0.5).any() and (ratio > 5).any() and (weights > 0).any()


def test_what_does_not_fit_together_is_refused(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match="nothing uses it: beta is 0.* K2Penalty"):
        make_trainer(tiny_model, problems, tmp_path, ReferenceReset(), beta=0.0)
    make_trainer(tiny_model, problems, tmp_path, ReferenceReset(), beta=0.0, credit=K2Penalty())
    make_trainer(tiny_model, problems, tmp_path, ReferenceReset(every=0), beta=0.0)
    with pytest.raises(ValueError, match="replaces TRL's KL term, but beta = 0.1"):
        make_trainer(tiny_model, problems, tmp_path, None, credit=K2Penalty())
    component = K2Penalty()
    local = LocalRollouts(["p"], ["c"], [[5]], None, torch.tensor([1]), {"image": [None]}, 1, 0, True, [[5]])
    make_trainer(tiny_model, problems, tmp_path, None, beta=0.0, credit=component)
    with pytest.raises(ValueError, match="scores text only.* Train without images"):
        component.measure(local)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReferenceReset(every=-1), "every must be at least 0 steps, got -1"),
        (lambda: ReferenceReset(max_kl=0), "max_kl must be above 0 or None, got 0"),
        (lambda: ReferenceReset(patience=0), "patience must be at least 1 evaluation or None, got 0"),
        (lambda: K2Penalty(coefficient=math.nan), "coefficient must be at least 0 and finite, got nan"),
        (lambda: K2Penalty(max_penalty=0), "max_penalty must be above 0, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
