# SPDX-License-Identifier: Apache-2.0
"""
Golden values: own arithmetic from the paper's equations (2509.19170), no code of the authors was found. Gradients: PyTorch's autograd of the
paper's loss, from all logits of an untouched model.
"""

from __future__ import annotations

import json
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl.data_utils import maybe_apply_chat_template

from tests import tiny
from tests.component_rows import correct_if_even
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, DynamicSampling, demo, math_accuracy_reward
from trl_concise.experimental.soft_tokens import RLOO, SoftRollout, SoftTokensTrainer, boxed_answer_reward
from trl_concise.experimental.soft_tokens_config import SoftTokensConfig
from trl_concise.experimental.soft_tokens_equations import (
    embedding_noise_scale,
    gaussian_logps,
    rloo_advantages,
    soft_embedding,
)
from trl_concise.experimental.soft_tokens_generation import SoftThinking, soft_generate, write_completions
from trl_concise.experimental.soft_tokens_scoring import check_plain_embeddings, check_plain_head, reading
from trl_concise.methods.campo import StagedBudget
from trl_concise.methods.sgrpo import StochasticTokens


EMBEDDINGS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
LOGITS = torch.tensor([2.0, 1, 0, -1])
DEMO = {"cot_end": "</think>", "answer_prefix": "\n\\boxed{"}
QUICK = {"cot_end": "!", "answer_prefix": "?", "max_cot_length": 4, "max_answer_length": 3}
near = partial(pytest.approx, abs=2e-6)


# Equations


def test_golden_noise_scale():
    assert embedding_noise_scale(EMBEDDINGS, 1.0).item() == near(0.707107)
    assert embedding_noise_scale(EMBEDDINGS).item() == near(0.233345)


@pytest.mark.parametrize(
    ("temperature", "mixture"),
    [(1.0, [0.675973, 0.268941, 0.119203]), (0.5, [0.867099, 0.119203, 0.017986]), (1e-4, [1.0, 0.0, 0.0])],
)
def test_golden_mixtures(temperature, mixture):
    assert soft_embedding(LOGITS, EMBEDDINGS, temperature).tolist() == near(mixture)


def test_golden_probabilities_and_entropy():
    p = soft_embedding(LOGITS, torch.eye(4), 0.5)
    assert p.tolist() == near([0.864955, 0.117059, 0.015842, 0.002144])
    assert torch.special.entr(p).sum().item() == near(0.455429)


@pytest.mark.parametrize(("gap", "probability"), [(0.001, 0.999955), (0.0001, 0.731059), (0.0, 0.5)])
def test_golden_fuzzy_probabilities(gap, probability):
    logits = torch.tensor([gap, 0.0, -3.0], dtype=torch.float64)
    assert soft_embedding(logits, torch.eye(3), 1e-4)[0].item() == pytest.approx(probability, abs=1e-5)


def test_golden_density_and_its_gradients():
    logits = LOGITS.clone().requires_grad_()
    mean = soft_embedding(logits, EMBEDDINGS, 0.5)
    mean.retain_grad()
    sigma = embedding_noise_scale(EMBEDDINGS)
    embeds = (mean + sigma * torch.tensor([1.0, -2.0, 0.5])).detach()
    assert embeds.tolist() == near([1.100444, -0.347488, 0.134659])
    logp = gaussian_logps(embeds, mean, sigma)
    assert logp.item() == near(-2.625)
    constant = -1.5 * torch.log(2 * torch.pi * sigma**2)
    assert (logp + constant).item() == near(-1.016107)
    logp.backward()
    assert mean.grad.tolist() == pytest.approx([4.285496, -8.570991, 2.142748], abs=2e-5)
    assert logits.grad.tolist() == pytest.approx([2.686021, -2.646419, -0.018695, -0.020906], abs=2e-5)
    assert logits.grad.sum().item() == pytest.approx(0.0, abs=1e-5)


def test_golden_advantages_and_loss():
    advantages = rloo_advantages(torch.tensor([[100.0, 10.0, 0.0, 0.0]]))
    assert advantages[0].tolist() == pytest.approx([96.666667, -23.333333, -36.666667, -36.666667])
    loss = -(advantages * torch.tensor([[-3.0, -5.0, -2.0, -4.0]])).mean()
    assert loss.item() == pytest.approx(-11.666667)
    assert rloo_advantages(torch.full((1, 4), 100.0)).tolist() == [[0.0] * 4]


@given(st.lists(st.lists(st.sampled_from([0.0, 10.0, 100.0]), min_size=5, max_size=5), min_size=1, max_size=4))
def test_advantages_of_a_group_sum_to_zero_and_compare_with_the_others(rewards):
    advantages = rloo_advantages(torch.tensor(rewards))
    assert advantages.sum(dim=1).tolist() == pytest.approx([0.0] * len(rewards), abs=1e-3)
    for row, own in zip(rewards, advantages.tolist(), strict=True):
        assert own == pytest.approx([r - (sum(row) - r) / 4 for r in row], abs=1e-3)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        rloo_advantages(torch.zeros(3, 1))


def test_rewards_are_100_10_and_0():
    texts = [r"x</think>\boxed{4}", r"x</think>\boxed{5}", r"x</think>\boxed{ }", r"x</think>\boxed{4"]
    right = math_accuracy_reward(texts, solution=["4"] * 4, completion_finished=[True, True, True, False])
    boxed = boxed_answer_reward([[{"role": "assistant", "content": text}] for text in texts])
    assert [90 * a + 10 * b for a, b in zip(right, boxed, strict=True)] == [100, 10, 0, 0]
    assert boxed_answer_reward(texts) == boxed


# Generation


@pytest.fixture(scope="module")
def prompts():
    return demo.problem_dataset(6, operations=(2, 3))["prompt"]


def test_without_noise_and_temperature_the_chain_of_thought_is_the_greedy_one(model, tokenizer, prompts):
    soft = soft_generate(
        model, tokenizer, prompts, cot="fuzzy", noise=0.0, temperature=1e-6, max_cot_length=90, **DEMO
    )
    hard = soft_generate(model, tokenizer, prompts, cot="hard", noise=0.0, max_cot_length=90, **DEMO)
    assert any(soft.stopped)
    for ids, length, greedy in zip(soft.completion_ids, soft.cot_lengths, hard.completion_ids, strict=True):
        assert ids[:length] == greedy[:length] and length > 10


def test_layout_of_stopped_and_of_truncated_completions(model, tokenizer, prompts):
    whole = soft_generate(model, tokenizer, prompts, noise=0.0, max_cot_length=60, **DEMO)
    assert {True, False} == set(whole.stopped)
    for ids, mask, length, stopped in zip(
        whole.completion_ids, whole.mask, whole.cot_lengths, whole.stopped, strict=True
    ):
        forced = tokenizer(("" if stopped else "</think>") + "\n\\boxed{").input_ids
        assert mask == [1] * length + [0] * len(forced) + [1] * (len(ids) - length - len(forced))
        assert ids[length : length + len(forced)] == forced
        assert tokenizer.decode(ids[:length]).endswith("</think>") == stopped and (stopped or length == 60)
    assert not whole.embeds[0, whole.cot_lengths[0] :].any()


def test_a_row_does_not_depend_on_where_the_others_stop(model, tokenizer, prompts):
    write = partial(
        write_completions,
        model,
        tokenizer,
        thinking=SoftThinking(max_cot_length=12, max_answer_length=4, noise_scale=0.1, **DEMO),
        end_ids={tokenizer.eos_token_id},
        sampling={"do_sample": True, "temperature": 1.0, "top_k": 0},
    )
    row = tokenizer(maybe_apply_chat_template({"prompt": prompts[0]}, tokenizer)["prompt"]).input_ids
    calculation = "94-5=89\n89+6=95\n95+4=99\n"
    check = f"Let me check again.\n{calculation}That agrees.\n"
    thought = f"{calculation}{check.replace('Let me check again', 'Wait, let me check')}{check}{check}"
    found = []
    for other in (row, [*row, *tokenizer(thought).input_ids]):
        torch.manual_seed(0)
        found.append(write(prompt_ids=[row, other]))
    assert [one.cot_lengths[1] for one in found] == [12, 1]
    assert found[0].completion_ids[0] == found[1].completion_ids[0]
    assert torch.allclose(found[0].embeds[0], found[1].embeds[0], atol=1e-4)


def test_no_chain_of_thought_at_all(model, tokenizer, prompts):
    written = soft_generate(model, tokenizer, prompts[:2], max_cot_length=0, **DEMO)
    forced = tokenizer("</think>\n\\boxed{").input_ids
    assert written.embeds.shape == (2, 0, 192) and written.cot_lengths == [0, 0]
    assert all(ids[: len(forced)] == forced for ids in written.completion_ids)


def test_generation_keeps_the_random_state_and_takes_text_and_a_batch_of_one(model, tokenizer):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    texts = [soft_generate(model, tokenizer, ["1+1="], seed=seed, max_cot_length=5).completion_ids for seed in (0, 0)]
    assert torch.equal(torch.rand(1), expected) and texts[0] == texts[1]


# Training


def build(model, folder, trainer=SoftTokensTrainer, config=SoftTokensConfig, dataset=None, rewards=None, **changes):
    slots = {name: changes.pop(name) for name in list(changes) if name.endswith(("_schedule", "_credit", "_filter"))}
    slots |= {name: changes.pop(name) for name in ("rollout", "advantage", "peft_config") if name in changes}
    own = QUICK if config is SoftTokensConfig else {}
    settings = tiny.settings(folder, **{"max_completion_length": 12, "beta": 0.0, **own, **changes})
    rows = dataset or [{"prompt": f"{i}?" * (1 + i % 3), "solution": str(i)} for i in range(8)]
    return trainer(model, rewards or correct_if_even, config(**settings), Dataset.from_list(rows), **slots)


def paper_loss(model, inputs):
    """The loss of the paper for a batch, from all logits of a model that TRL has not touched."""
    width, start = inputs["completion_ids"].size(1), inputs["prompt_ids"].size(1)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    weight = model.get_input_embeddings().weight
    embeds = weight[ids].clone()
    total = 0.0
    for row, length in enumerate(inputs["soft_lengths"].tolist()):
        embeds[row, start : start + length] = inputs["soft_embeds"][row, :length]
    logits = model(inputs_embeds=embeds, attention_mask=attention).logits[:, start - 1 : -1]
    tokens = logits.log_softmax(-1).gather(2, inputs["completion_ids"][..., None])[..., 0]
    for row, length in enumerate(inputs["soft_lengths"].tolist()):
        mean = (logits[row, :length] / 0.5).softmax(-1) @ weight
        soft = -(inputs["soft_embeds"][row, :length] - mean).square().sum() / (2 * inputs["soft_noise"][row] ** 2)
        mask = (inputs["completion_mask"] * inputs["tool_mask"])[row, length:width]
        total = total - inputs["advantages"][row] * (soft + (tokens[row, length:] * mask).sum())
    return total / len(ids)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_gradient_is_that_of_the_papers_loss(accumulation, tiny_model, tmp_path):
    trainer = build(
        tiny_model,
        tmp_path,
        tiny.spy(SoftTokensTrainer),
        max_steps=1,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=accumulation == 2,
    )
    trainer.train()
    model = tiny.load(tiny_model)
    assert len(trainer.seen) == accumulation and any(inputs["advantages"].any() for inputs, *_ in trainer.seen)
    for inputs, _, gradients in trainer.seen:
        loss = paper_loss(model, inputs) / accumulation
        expected = torch.autograd.grad(loss, list(model.parameters()))
        for own, other in zip(gradients, expected, strict=True):
            assert torch.allclose(own, other, rtol=1e-3, atol=1e-3 * other.abs().max().item() + 1e-7)


class KeepsScores(SoftRollout):
    """Keeps the log-probabilities of the loss, and where they are those of soft positions."""

    def scoring(self, model, tensors):
        outer = super().scoring(model, tensors)

        class Scoring:
            def __enter__(context):
                replace = outer.__enter__()

                def keep(logps):
                    self.kept = (tensors, logps.detach(), replace(logps))
                    return self.kept[2]

                return keep

            def __exit__(context, *error):
                return outer.__exit__(*error)

        return Scoring()


@pytest.mark.parametrize("half", [False, True])
def test_scores_are_those_of_the_drawn_noise_and_forced_or_padded_positions_have_no_effect(half, tiny_model, tmp_path):
    rollout = KeepsScores(max_cot_length=5, max_answer_length=3, cot_end="!", answer_prefix="?")
    drawn = []

    def remember(shape, device):
        drawn.append(torch.normal(0.0, 1.0, shape))
        return drawn[-1].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", remember)
        trainer = build(
            tiny_model,
            tmp_path,
            ConciseGRPOTrainer,
            ConciseGRPOConfig,
            rollout=rollout,
            advantage=RLOO(),
            max_steps=1,
            bf16=half,
        )
        trainer.train()
    tensors, plain, own = rollout.kept
    lengths = tensors["soft_lengths"]
    is_soft = torch.arange(own.size(1)) < lengths[:, None]
    assert torch.equal(own[~is_soft], plain[~is_soft]) and own[is_soft].lt(plain[is_soft]).any()
    expected = -drawn[0].square().sum(-1) / 2  # (b, L), in the order before TRL shuffles
    for row, length in enumerate(lengths.tolist()):
        difference = (expected[:, :length] - own[row, :length]).abs().amax(dim=1)
        assert difference.min().item() < (1.0 if half else 0.02)  # of 32, half of the dimension
    mask = tensors["completion_mask"] * tensors["tool_mask"]
    assert (mask.sum(1) < tensors["completion_mask"].sum(1)).all()  # the forced tokens
    gradient = torch.autograd.grad((own * mask).sum(), own)[0]
    assert not gradient[mask == 0].any()


def test_golden_layout_of_the_sum():
    kinds = ["soft"] * 4 + ["forced"] * 2 + ["answer"] * 4
    logps = torch.tensor([-2.625, -1.5, 0.0, 0.0, -9.0, -9.0, -0.1, -0.2, 0.0, 0.0])
    mask = torch.tensor([kind != "forced" for kind in kinds])
    assert mask.sum() == 8 and (logps * mask).sum().item() == pytest.approx(-4.425)


def trained(trainer) -> list[torch.Tensor]:
    trainer.train()
    return [parameter.detach() for parameter in trainer.model.parameters()]


def test_hard_training_is_that_of_the_rloo_advantage_bit_for_bit(tiny_model, tmp_path):
    shared = {"max_completion_length": 8, "max_steps": 2}
    own = build(tiny_model, tmp_path / "own", cot="hard", **shared)
    weights = trained(own)
    plain = build(
        tiny_model,
        tmp_path / "plain",
        ConciseGRPOTrainer,
        ConciseGRPOConfig,
        advantage=RLOO(),
        loss_type="luspo",
        importance_sampling_level="sequence",
        scale_rewards="none",
        **shared,
    )
    assert all(torch.equal(a, b) for a, b in zip(weights, trained(plain), strict=True))
    assert tiny.losses(own) == tiny.losses(plain) and any(tiny.losses(own))


def test_outside_of_the_loss_the_model_is_an_ordinary_one(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, max_steps=1)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    after = trained(trainer)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(module._forward_hooks for module in trainer.model.modules())
    trainer.save_model()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(saved(ids).logits, trainer.model(ids).logits)
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert 1 <= logged["soft_tokens/cot_length"] <= 4 and 0 <= logged["soft_tokens/stopped_fraction"] <= 1
    assert logged["soft_tokens/mixture_entropy"] > 0 and logged["soft_tokens/noise_to_signal"] > 0
    assert logged["completions/max_length"] <= 7  # without forced tokens
    metrics = trainer.evaluate(trainer.train_dataset.select(range(2)))
    assert "eval_reward" in metrics and "eval_soft_tokens/cot_length" not in metrics  # ordinary tokens


def test_the_hooks_are_removed_after_an_error(tiny_model):
    model = tiny.load(tiny_model)
    with pytest.raises(RuntimeError, match="stop"), reading(model, torch.zeros(1, 1, 64), torch.ones(1, 1).bool()):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in model.modules())


def test_an_adapter_is_trained_on_messages_in_bfloat16(tiny_model, tmp_path):
    from peft import LoraConfig

    rows = [{"prompt": [{"role": "user", "content": f"{i}?"}], "solution": str(i)} for i in range(4)]
    trainer = build(
        tiny_model,
        tmp_path,
        dataset=rows,
        peft_config=LoraConfig(target_modules=["q_proj"], r=2),
        max_steps=1,
        cot="fuzzy",
        bf16=True,
        gradient_checkpointing=True,
    )
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed and all("lora_B" in name for name in changed)


def test_groups_are_replaced_with_their_soft_positions(tiny_model, tmp_path):
    def constant_then_even(completion_ids, trainer_state, **kwargs):
        return correct_if_even(completion_ids)

    trainer = build(
        tiny_model, tmp_path, group_filter=DynamicSampling(max_refills=1), rewards=constant_then_even, max_steps=2
    )
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


# Input that is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_vllm": True}, "use_vllm=True: vLLM reads embeddings in the prompt only"),
        ({"beta": 0.1}, "beta = 0.1"),
        ({"num_iterations": 2}, "num_iterations = 2"),
        ({"steps_per_generation": 2}, "steps_per_generation = 2 with gradient_accumulation_steps = 1"),
        ({"cot_temperature": 0.0}, "cot_temperature must be positive, got 0.0"),
        ({"noise_scale": 0.0}, "noise_scale is 0"),
        ({"noise_scale": -1.0}, "noise_scale must be at least 0, got -1.0"),
        ({"cot_end": " "}, "cot_end is ' '"),
        ({"cot": "softer"}, "cot is 'softer', but must be one of 'soft', 'fuzzy', 'hard'"),
        ({"max_answer_length": 0}, "max_answer_length at least 1, got 4 and 0"),
        ({"max_completion_length": 8}, "max_completion_length = 8, but .* may have 9 tokens"),
        ({"token_credit": StochasticTokens()}, "StochasticTokens scores, selects or limits the tokens"),
        ({"budget_schedule": StagedBudget([8, 12], [1])}, "StagedBudget scores, selects or limits"),
    ],
)
def test_settings_that_are_refused(changes, message, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(tiny_model, tmp_path, **changes)


def test_tools_are_refused(tiny_model, tmp_path):
    rows = Dataset.from_list([{"prompt": "1?", "solution": "1"}] * 4)
    with pytest.raises(ValueError, match="tools would do so too"):
        SoftTokensTrainer(
            tiny_model, correct_if_even, SoftTokensConfig(**tiny.settings(tmp_path)), rows, tools=[demo.model_path]
        )


def test_empty_prompts_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="of 2 prompts, 1 are empty"):
        soft_generate(model, tokenizer, ["1", ""])
    with pytest.raises(ValueError, match="of 0 prompts"):
        soft_generate(model, tokenizer, [])


def test_an_adapter_of_the_embeddings_is_refused(tiny_model, tmp_path):
    from peft import LoraConfig

    with pytest.raises(ValueError, match=r"peft\..*Embedding, which does more than a lookup"):
        build(tiny_model, tmp_path, peft_config=LoraConfig(target_modules=["embed_tokens"]))


def test_a_prompt_that_leaves_no_room_is_refused(tiny_model, tmp_path):
    rows = [{"prompt": "1" * 4090, "solution": "1"}] * 4
    with pytest.raises(
        ValueError, match="A prompt of 4090 tokens .* 4099 tokens, but the context of the model has 4096"
    ):
        build(tiny_model, tmp_path, dataset=rows).train()


def small(architecture: str, **options):
    settings = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **{**settings, **heads, **options}))


def test_embeddings_that_do_more_than_a_lookup_are_refused():
    with pytest.raises(ValueError, match="Gemma3TextScaledWordEmbedding, which does more than a lookup"):
        check_plain_embeddings(small("gemma3_text"))


def test_a_head_whose_logits_are_scaled_is_refused(tiny_model):
    check_plain_head(tiny.load(tiny_model))
    with pytest.raises(ValueError, match="GraniteForCausalLM scales or caps its logits"):
        check_plain_head(small("granite", logits_scaling=8.0))


# The example


def test_example(tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[2] / "examples" / "soft_tokens.py"
    flags = f"--output_dir {tmp_path} --max_steps 1 --report_problems 1 --samples 2 --demo_steps 1 --demo_problems 4 --modes soft hard"
    quick = "--per_device_train_batch_size 4 --num_generations 2 --max_cot_length 4 --max_completion_length 16"
    monkeypatch.setattr(sys, "argv", [script.name, *f"{flags} {quick}".split()])
    runpy.run_path(str(script), run_name="__main__")
    rows = json.loads((tmp_path / "report.json").read_text())
    assert [(row["set"], row["mode"]) for row in rows] == [
        (name, mode) for name in ("test", "harder") for mode in ("before", "hard", "soft")
    ]
    assert "difference" in rows[2]["pass@2"] and "difference" not in rows[0]["greedy"]
    assert rows[2]["training"]["written"] > 0 and (tmp_path / "soft" / "model.safetensors").is_file()
    assert "| harder | soft |" in capsys.readouterr().out
    card = (tmp_path / "soft" / "README.md").read_text()
    assert "Soft Tokens" in card and "2509.19170" in card
    assert AutoTokenizer.from_pretrained(tmp_path / "soft").eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--samples 0", "--samples and --report_problems must be at least 1"),
        ("--modes soft soft", "--modes takes hard, fuzzy and soft, each at most once"),
        ("--cot fuzzy", "--cot fuzzy has no effect here, because --modes names the runs"),
        ("--max_completion_length 8", "is less than --max_cot_length and --max_answer_length together (56)"),
    ],
)
def test_errors_of_the_example_come_before_any_training(flags, message, tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[2] / "examples" / "soft_tokens.py"
    monkeypatch.setattr(sys, "argv", [script.name, "--output_dir", str(tmp_path / "out"), *flags.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
