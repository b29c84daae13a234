# SPDX-License-Identifier: Apache-2.0
"""
Golden values: printed by the authors' functions (EIT-NLP/On-Policy-SFT @ d788bc0, `_data_filter` and the loss of `dp_actor.py`), except
where a comment says that they are ours.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.on_policy_sft import OnPolicySFT, OnPolicySFTFilter, kept_completions


def batch_of(correct: list, lengths: list, truncated: list | None = None, size: int = 4, **fields) -> Rollouts:
    return Rollouts(
        ("a",) * len(correct),
        torch.tensor(lengths),
        torch.tensor(correct, dtype=torch.float32),
        size,
        torch.tensor(truncated if truncated is not None else [False] * len(correct)),
        **fields,
    )


@pytest.mark.parametrize(
    ("correct", "rows"),
    [([1, 0, 1, 1, 0], [0, 2, 3]), ([0] * 5, []), ([0, 0, 1, 0, 0], [2]), ([1] * 5, [0, 1, 2, 3, 4])],
)
def test_golden_filter(correct, rows):
    kept = kept_completions(torch.tensor(correct), torch.zeros(5, dtype=torch.bool), torch.full((5,), 9))
    assert kept.nonzero().flatten().tolist() == rows


def test_truncated_long_and_unknown_completions_are_not_kept():
    """Ours: the authors keep a completion that is truncated at the limit if its score is above 0."""
    correct = torch.tensor([1, 1, 1, 1, math.nan, 0.5])
    truncated = torch.tensor([False, False, False, True, False, False])
    kept = kept_completions(correct, truncated, torch.tensor([3, 7, 8, 7, 3, 3]), max_length=7)
    assert kept.tolist() == [True, True, False, False, False, False]


def on_policy_sft_loss(logps, mask, kept, *, normalization):
    """
    The cross-entropy of the kept completions. The authors' code divides by the kept tokens, the paper's Eq. 9 by the number of
    kept completions and the longest of them.
    """
    chosen = mask.bool() & kept[:, None]
    lengths = chosen.sum(dim=1)
    count = lengths.sum() if normalization == "tokens" else kept.sum() * lengths.max()
    return -torch.where(chosen, logps, 0.0).sum() / count.clamp(min=1)


LOGPS = torch.tensor([[-0.5, -0.5, 0, 0], [-1, -1, -1, -1], [-9, -9, -9, 0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]])


@pytest.mark.parametrize(("normalization", "loss", "slope"), [("tokens", 5 / 6, 1 / 6), ("longest", 0.625, 0.125)])
def test_golden_loss(normalization, loss, slope):
    """The weight of each token in the loss: its advantage, divided by the tokens of the kept completions."""
    in_loss = MASK.sum(dim=1)
    for correct in ([1, 1, 0], [0, 0, 0]):
        rollouts = batch_of(correct, (in_loss - 1).tolist(), size=3, loss_lengths=in_loss)
        advantages = OnPolicySFT(normalization=normalization).compute(rollouts, torch.zeros(3, dtype=torch.float64))
        kept = torch.tensor(correct) == 1
        assert (~advantages.isnan()).tolist() == kept.tolist()
        weights = advantages.nan_to_num()[:, None] * MASK / in_loss[kept].sum().clamp(min=1)
        torch.testing.assert_close(weights, slope * MASK.double() * kept[:, None])
        assert -(weights * LOGPS).sum().item() == pytest.approx(loss * kept.any().item())


ROW = st.tuples(st.sampled_from([0.0, 1.0, math.nan]), st.integers(1, 9), st.booleans())


@given(st.lists(ROW, min_size=1, max_size=8), st.sampled_from([None, 4]), st.sampled_from(["tokens", "longest"]))
def test_advantages_are_the_gradient_of_the_loss(rows, max_length, normalization):
    correct, lengths, truncated = map(list, zip(*rows, strict=True))
    in_loss = torch.tensor(lengths) + ~torch.tensor(truncated)  # with EOS
    rollouts = batch_of(correct, lengths, truncated, len(rows), loss_lengths=in_loss)
    component = OnPolicySFT(max_length, normalization)
    advantages = component.compute(rollouts, torch.zeros(len(rows)))
    kept = ~advantages.isnan()
    assert (advantages[kept] > 0).all()
    mask = (torch.arange(10) < in_loss[:, None]).long()
    logps = torch.zeros(len(rows), 10, requires_grad=True)
    on_policy_sft_loss(logps, mask, kept, normalization=normalization).backward()
    own = advantages.nan_to_num() / in_loss[kept].sum().clamp(min=1)  # what a loss per token divides by
    torch.testing.assert_close(-own[:, None] * mask, logps.grad)
    assert component.metrics()["kept_fraction"] == pytest.approx(kept.float().mean().item())


def test_what_a_filter_leaves_out_is_not_kept():
    rollouts = replace(batch_of([1, 1, 1, 0], [3, 5, 9, 2]), kept=torch.tensor([True, True, False, True]))
    advantages = OnPolicySFT(normalization="longest").compute(rollouts, torch.zeros(4))
    assert advantages[:2].tolist() == pytest.approx([4 / 5] * 2) and advantages[2:].isnan().all()
    assert OnPolicySFTFilter(max_length=5).keep(rollouts).tolist() == [True, True, False, False]


# Training

CORRECT = [1.0, 1, 0, 0, 1, 0, 1, 0]
TOKENS = [5, 9, 6, 13, 7, 4, 16, 8]  # EOS excluded; the completion of 16 tokens is truncated
KEPT = [0, 1, 4]


def make_trainer(model, problems, folder, component, correct=CORRECT, truncates=True, **changes):
    def is_correct(completions, completion_ids, **kwargs):
        return [correct[TOKENS.index(len(ids) - (len(ids) < 16))] for ids in completion_ids]

    def rollout(prompts, trainer):
        own = TOKENS[trainer.accelerator.process_index * len(prompts) :][: len(prompts)]
        return {
            "prompt_ids": [[5, 6, 7 + i] for i in range(len(own))],
            "completion_ids": [[10 + n % 7, *range(20, 19 + n), *([2] if n < 16 else [])] for n in own],
            "logprobs": None,
        }

    settings = {"max_completion_length": 16, "learning_rate": 1e-2, **changes}
    slots = {"advantage": component} if not isinstance(component, dict) else component
    args = ConciseGRPOConfig(**tiny.settings(folder, **settings))
    trainer_class = tiny.spy(ConciseGRPOTrainer)
    return trainer_class(model, [is_correct], args, problems, rollout_func=rollout, **slots)


def cross_entropy(model, chunks: list[dict], normalization: str = "tokens") -> list[torch.Tensor]:
    """Return the gradient of supervised fine-tuning on the kept rows, one padded batch per chunk, with one divisor."""
    rows = []
    for inputs in chunks:
        for prompt, ids, mask in zip(
            *(inputs[name] for name in ("prompt_ids", "completion_ids", "completion_mask")), strict=True
        ):
            ids = ids[mask.bool()]
            if len(ids) - 1 in [TOKENS[i] for i in KEPT]:
                rows.append((prompt, ids))
    lengths = [len(ids) for _, ids in rows]
    divisor = sum(lengths) if normalization == "tokens" else len(rows) * max(lengths)
    assert sorted(lengths) == sorted(TOKENS[i] + 1 for i in KEPT)
    total = torch.zeros((), dtype=torch.float64)
    for prompt, ids in rows:
        labels = torch.cat([torch.full_like(prompt, -100), ids])
        logits = model(input_ids=torch.cat([prompt, ids])[None]).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
    return list(torch.autograd.grad(total / divisor, list(model.parameters())))


@pytest.mark.parametrize("normalization", ["tokens", "longest"])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_two_steps_have_the_gradient_of_cross_entropy_on_the_kept_rows(
    normalization, accumulation, tiny_model, problems, tmp_path
):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    trainer = make_trainer(
        model,
        problems,
        tmp_path,
        OnPolicySFT(normalization=normalization),
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=8 // accumulation,
    )
    trainer.train()
    assert trainer.state.global_step == 2 and len(trainer.seen) == 2 * accumulation
    chunks = trainer.seen[:accumulation]
    expected = cross_entropy(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64),
        [inputs for inputs, _, _ in chunks],
        normalization,
    )
    own = [
        torch.stack(gradients).sum(dim=0) for gradients in zip(*(gradients for _, _, gradients in chunks), strict=True)
    ]
    for gradient, other in zip(own, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-6, rtol=0)
    assert max(gradient.abs().max() for gradient in expected) > 1e-2
    logged = trainer.state.log_history[0]
    assert logged["on_policy_sft/kept_fraction"] == pytest.approx(3 / 8)
    assert logged["on_policy_sft/kept_length"] == pytest.approx(7)
    assert logged["on_policy_sft/rejected_correct"] == pytest.approx(1 / 4)  # the truncated one


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_rejected_completions_do_not_matter(loss_type, tiny_model, problems, tmp_path):
    """Other tokens in the completions that are not kept: the same loss and the same weights."""

    def run(folder, first_token):
        trainer = make_trainer(tiny_model, problems, folder, OnPolicySFT(max_length=8), loss_type=loss_type)
        original = trainer.rollout_func

        def rollout(prompts, trainer):
            output = original(prompts, trainer)
            for tokens, ids in zip(TOKENS, output["completion_ids"], strict=True):
                if tokens not in (5, 7):
                    ids[0] = first_token
            return output

        trainer.rollout_func = rollout
        trainer.train()
        return tiny.losses(trainer), list(trainer.model.parameters())

    losses, weights = run(tmp_path / "a", 30)
    others, other_weights = run(tmp_path / "b", 31)
    assert losses == others and any(losses)
    assert all(torch.equal(a, b) for a, b in zip(weights, other_weights, strict=True))


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_a_step_in_which_nothing_is_kept_changes_no_weight(loss_type, tiny_model, problems, tmp_path):
    trainer = make_trainer(tiny_model, problems, tmp_path, OnPolicySFT(), correct=[0.0] * 8, loss_type=loss_type)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert trainer.state.global_step == 2 and tiny.losses(trainer) == [0, 0]
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.state.log_history[0]["on_policy_sft/kept_fraction"] == 0
    assert "on_policy_sft/kept_length" not in trainer.state.log_history[0]


def test_the_filter_replaces_prompts_of_which_nothing_is_kept(tiny_model, problems, tmp_path):
    """The first group of each batch keeps two completions, the second none."""
    slots = {"advantage": OnPolicySFT(), "group_filter": OnPolicySFTFilter(max_refills=1)}
    asked = []

    def is_correct(completions, completion_ids, **kwargs):
        asked.append(len(completions))
        return [float(i < 2) for i in range(len(completions))]

    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_completion_length=16))
    trainer = tiny.spy(ConciseGRPOTrainer)(
        tiny_model,
        [is_correct],
        args,
        problems,
        rollout_func=lambda prompts, trainer: tiny.rollouts_of([TOKENS[: len(prompts)]])(prompts, trainer),
        **slots,
    )
    trainer.train()
    assert asked == [8, 4, 8, 4]  # a batch of two groups, then the second again
    for inputs, _, _ in trainer.seen:
        assert inputs["advantages"].tolist().count(1) == 4 and (inputs["advantages"] >= 0).all()
    logged = trainer.state.log_history[0]
    assert logged["refill/replaced_fraction"] == 0.5 and logged["on_policy_sft/kept_fraction"] == 0.5


def test_it_trains_on_sampled_completions(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    trainer = ConciseGRPOTrainer(tiny_model, [tiny.even_reward], args, problems, advantage=OnPolicySFT())
    trainer.train()
    assert trainer.state.global_step == 2 and all(map(math.isfinite, tiny.losses(trainer)))


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"temperature": 0.6}, "samples with {'temperature': 0.6}"),
        ({"top_p": 0.9, "min_p": 0.1}, "samples with {'top_p': 0.9, 'min_p': 0.1}"),
        ({"num_iterations": 2}, "Each generation serves several optimizer steps"),
    ],
)
def test_settings_that_are_not_on_policy_warn(changes, warning, tiny_model, problems, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make_trainer(tiny_model, problems, tmp_path, OnPolicySFT())
        assert warning not in caplog.text
        make_trainer(tiny_model, problems, tmp_path, OnPolicySFT(), **changes)
    assert warning in caplog.text


def test_the_longest_completion_needs_a_loss_that_divides_by_tokens(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match=r'loss_type=.grpo.\. Set loss_type="dapo"'):
        make_trainer(tiny_model, problems, tmp_path, OnPolicySFT(normalization="longest"), loss_type="grpo")


@pytest.mark.parametrize(
    ("component", "settings", "message"),
    [
        (OnPolicySFT, {"max_length": 0}, "max_length must be at least 1 token or None, got 0"),
        (OnPolicySFT, {"normalization": "mean"}, r"normalization must be one of \('tokens', 'longest'\), got 'mean'"),
        (OnPolicySFTFilter, {"max_length": -1}, "max_length must be at least 1 token or None, got -1"),
        (OnPolicySFTFilter, {"max_refills": -1}, "max_refills must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(component, settings, message):
    with pytest.raises(ValueError, match=message):
        component(**settings)
