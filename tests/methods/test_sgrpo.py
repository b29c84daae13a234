# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig, GRPOTrainer

from tests import tiny
from trl_concise import HAPOConfig, HAPOTrainer, SGRPOConfig, SGRPOTrainer, StochasticTokens
from trl_concise.batch.rollouts import CompletionTokens
from trl_concise.methods.sgrpo import stochastic_token_mask


# The draw

UNIFORMS = [0.6, 0.4, 0.45, 0.7, 0.2, 0.9, 0.1, 0.3, 0.4, 0.8]  # below 0.5: 1, 2, 4, 6, 7, 8


def chosen(cutoff, max_tokens, probability=0.5, length=10, **settings) -> set[int]:
    mask = (torch.arange(10) < length)[None]
    keep = stochastic_token_mask(
        mask,
        cutoff=cutoff,
        max_tokens=max_tokens,
        probability=probability,
        uniforms=torch.tensor([UNIFORMS]),
        **settings,
    )
    return set(keep.nonzero()[:, 1].tolist())


@pytest.mark.parametrize(
    ("cutoff", "max_tokens", "settings", "expected"),
    [
        (3, 5, {}, {0, 1, 2, 4, 6}),
        (6, 5, {}, {0, 1, 2, 3, 4, 5}),
        (3, 5, {"count_forced": False}, {0, 1, 2, 4, 6, 7, 8}),
        (3, 2, {"count_forced": False}, {0, 1, 2, 4, 6}),
        (6, 5, {"count_forced": False}, {0, 1, 2, 3, 4, 5, 6, 7, 8}),
        (3, 0, {"probability": 1}, {0, 1, 2}),
        (3, 5, {"probability": 0}, {0, 1, 2}),
        (3, 5, {"probability": 1}, {0, 1, 2, 3, 4}),
        (3, 5, {"length": 2}, {0, 1}),
        (0, 2, {}, {1, 2}),
        # By hand: of the drawn 4 (0.2), 6 (0.1), 7 (0.3) and 8 (0.4) the cap of 5 leaves room for the two smallest.
        (3, 5, {"cap": "random"}, {0, 1, 2, 4, 6}),
        (5, 7, {"cap": "random"}, {0, 1, 2, 3, 4, 6, 7}),
        (0, 3, {"cap": "random"}, {4, 6, 7}),
        (0, 3, {"cap": "left"}, {1, 2, 4}),
        (3, 1, {"cap": "random", "count_forced": False}, {0, 1, 2, 6}),
        (6, 5, {"cap": "random"}, {0, 1, 2, 3, 4, 5}),
        (3, 50, {"cap": "random"}, {0, 1, 2, 4, 6, 7, 8}),
    ],
)
def test_golden_masks(cutoff, max_tokens, settings, expected):
    assert chosen(cutoff, max_tokens, **settings) == expected


settings = st.fixed_dictionaries(
    {
        "cutoff": st.integers(0, 12),
        "max_tokens": st.integers(0, 12),
        "probability": st.floats(0, 1),
        "count_forced": st.booleans(),
        "cap": st.sampled_from(["left", "random"]),
    }
)
masks = st.lists(st.lists(st.integers(0, 1), min_size=10, max_size=10), min_size=1, max_size=4).map(torch.tensor)


@given(masks, settings)
def test_bounds(mask, settings):
    keep = stochastic_token_mask(mask, **settings)
    assert not (keep & (mask == 0)).any()
    forced = torch.minimum(mask.sum(1), torch.tensor(settings["cutoff"]))
    for row in range(len(mask)):
        candidates = mask[row].nonzero()[:, 0]
        assert keep[row, candidates[: settings["cutoff"]]].all()
        limit = max(int(forced[row]), settings["max_tokens"])
        if not settings["count_forced"]:
            limit = int(forced[row]) + settings["max_tokens"]
        assert keep[row].sum() <= limit


def test_a_cutoff_at_the_cap_is_deterministic():
    mask = torch.ones(50, 20)
    keep = stochastic_token_mask(mask, cutoff=8, max_tokens=8, probability=0.9)
    assert torch.equal(keep, (torch.arange(20) < 8).expand(50, 20))


def test_the_frequency_is_the_probability():
    keep = stochastic_token_mask(
        torch.ones(4000, 12), cutoff=2, max_tokens=12, probability=0.3, generator=torch.Generator().manual_seed(0)
    )
    frequencies = keep.float().mean(0)
    assert frequencies[:2].tolist() == [1, 1]
    assert (frequencies[2:] - 0.3).abs().max() < 0.03  # four standard deviations


def test_bad_settings():
    for settings, message in [
        ({"cutoff": -1}, "at least 0, got -1"),
        ({"probability": 1.5}, r"probability must lie in \[0, 1\], got 1.5"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"cutoff": 0, "probability": 0}, "keeps no token at all"),
    ]:
        with pytest.raises(ValueError, match=message):
            StochasticTokens(**settings)
    with pytest.raises(ValueError, match=r"uniforms must be \(1, 3\), got \(1, 2\)"):
        stochastic_token_mask(torch.ones(1, 3), cutoff=1, max_tokens=1, probability=0, uniforms=torch.zeros(1, 2))


# The component


def tokens(lengths, **place) -> CompletionTokens:
    return CompletionTokens([[7] * n for n in lengths], [[1] * n for n in lengths], num_generations=4, **place)


def test_a_draw_depends_on_seed_step_and_row_only():
    credit = StochasticTokens(cutoff=2, max_tokens=100, probability=0.5, seed=3)
    whole = credit.select(tokens([30] * 8, step=5, local=slice(0, 8)))
    second = credit.select(tokens([30] * 4, step=5, local=slice(4, 8), start=4))  # the second of two processes
    assert torch.equal(whole[4:], second)
    later = credit.select(
        tokens([30] * 4, step=5, local=slice(0, 4), earlier=4)
    )  # the second of two batches of the step
    assert torch.equal(whole[4:], later)
    wider = credit.select(tokens([30] * 3 + [40], step=5, local=slice(0, 4)))
    assert torch.equal(whole[:3], wider[:3, :30])
    assert len({tuple(row) for row in whole.tolist()}) == 8  # fresh for each completion
    assert not torch.equal(whole, credit.select(tokens([30] * 8, step=6, local=slice(0, 8))))
    other = StochasticTokens(cutoff=2, max_tokens=100, probability=0.5, seed=4)
    assert not torch.equal(whole, other.select(tokens([30] * 8, step=5, local=slice(0, 8))))


def test_tool_output_is_neither_drawn_nor_counted():
    credit = StochasticTokens(cutoff=3, max_tokens=3, probability=0, seed=0)
    batch = CompletionTokens([[7] * 7], [[1, 0, 0, 1, 1, 1, 1]], num_generations=1, local=slice(0, 1))
    assert credit.select(batch).tolist() == [[True, False, False, True, True, False, False]]


# The trainer


def test_defaults(tmp_path):
    config = SGRPOConfig(**tiny.settings(tmp_path))
    assert config.loss_type == "grpo"
    assert (config.cutoff, config.max_tokens, config.probability, config.count_forced) == (50, 100, 0.5, True)


def reference_loss(loss_type, model, inputs, max_length) -> torch.Tensor:
    """The objective of each loss type written out: weights of the selected tokens, ratio pi / stopgrad(pi)."""
    log_probs, keep = tiny.whole_logps(model, inputs), inputs["tool_mask"] * inputs["completion_mask"]
    per_token = -(log_probs - log_probs.detach()).exp() * inputs["advantages"][:, None] * keep
    if loss_type == "cispo":  # same gradient, another value
        per_token = -log_probs * inputs["advantages"][:, None] * keep
    if loss_type == "luspo":
        return per_token.sum(1).mean()
    if loss_type == "dr_grpo":
        return per_token.sum() / (len(keep) * max_length)
    if loss_type in ("grpo", "sapo"):
        return (per_token.sum(1) / keep.sum(1).clamp(min=1)).mean()
    return per_token.sum() / keep.sum()  # bnpo, dapo, cispo: one micro-batch is the whole batch here


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "bnpo", "dr_grpo", "cispo", "luspo", "sapo"])
def test_loss_and_gradients_are_those_of_the_objective(loss_type, tiny_model, problems, tmp_path):
    args = SGRPOConfig(
        **tiny.settings(
            tmp_path,
            max_steps=1,
            loss_type=loss_type,
            epsilon_high=5.0,  # a cap below 1, as TRL's default, would scale the gradient of cispo
            cutoff=1,
            max_tokens=4,
            probability=0.5,
            max_completion_length=12,
        )
    )
    trainer = tiny.spy(SGRPOTrainer)(tiny_model, tiny.even_reward, args, problems)
    trainer.train()
    inputs, loss, gradients = trainer.seen[0]
    model = tiny.load(tiny_model)  # as it was in the first step
    keep = inputs["tool_mask"] * inputs["completion_mask"]
    assert 0 < keep.sum() < inputs["completion_mask"].sum() and keep.sum(1).max() <= 4
    assert inputs["advantages"].abs().max() > 0
    expected = reference_loss(loss_type, model, inputs, trainer.max_completion_length)
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()))
    assert max(gradient.abs().max() for gradient in expected_gradients) > 1e-3
    if loss_type != "sapo":  # its value is that of a sigmoid
        torch.testing.assert_close(loss, expected.detach(), atol=1e-6, rtol=1e-4)
    for ours, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-3)
    assert trainer.state.log_history[0]["sgrpo/kept_fraction"] == pytest.approx(
        (keep.sum() / inputs["completion_mask"].sum()).item()
    )


def test_all_tokens_selected_is_grpo(tiny_model, problems, tmp_path):
    settings = tiny.settings(tmp_path, loss_type="grpo")
    theirs = GRPOTrainer(tiny_model, tiny.even_reward, GRPOConfig(**settings), problems)
    ours = SGRPOTrainer(
        tiny_model, tiny.even_reward, SGRPOConfig(**settings, cutoff=0, max_tokens=99, probability=1), problems
    )
    theirs.train(), ours.train()
    assert tiny.losses(ours) == pytest.approx(tiny.losses(theirs), abs=1e-6)


def test_equal_rewards_leave_the_model_alone(tiny_model, problems, tmp_path):
    def equal(completions, **kwargs):
        return [1.0] * len(completions)

    trainer = tiny.spy(SGRPOTrainer)(tiny_model, equal, SGRPOConfig(**tiny.settings(tmp_path, max_steps=1)), problems)
    trainer.train()
    assert all(gradient.abs().max() == 0 for gradient in trainer.seen[0][2])


def test_with_another_reward(tiny_model, problems, tmp_path):
    trainer = HAPOTrainer(
        tiny_model,
        tiny.even_reward,
        HAPOConfig(**tiny.settings(tmp_path)),
        problems,
        token_credit=StochasticTokens(cutoff=2, max_tokens=4),
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert "hapo/history_coverage" in logged and 0 < logged["sgrpo/kept_fraction"] < 1


def test_a_second_selection_of_the_same_kind_is_refused(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match="SGRPOTrainer fills token_credit= with a StochasticTokens of its own"):
        SGRPOTrainer(
            tiny_model,
            tiny.even_reward,
            SGRPOConfig(**tiny.settings(tmp_path)),
            problems,
            token_credit=StochasticTokens(),
        )
