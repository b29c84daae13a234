# SPDX-License-Identifier: Apache-2.0
"""Resa: golden values of docs/experimental/resa.md, the SAE, its insertion, the trainer, and the example on the embedded model."""

from __future__ import annotations

import json
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch.nn import functional as F
from transformers import AutoTokenizer

from tests import tiny
from tests.distributed import resa as distributed
from trl_concise import demo
from trl_concise.evaluation import Completion
from trl_concise.experimental import resa
from trl_concise.experimental.resa import (
    SAETuningConfig,
    SAETuningTrainer,
    TopKSAE,
    kl_sum,
    question_answer_chunks,
    reasoning_features,
    sae_inserted,
    train_sae,
)
from trl_concise.experimental.resa_layers import InsertedSAE, decoder, layer_output, select_reasoning_features
from trl_concise.experimental.resa_sae import fvu
from trl_concise.experimental.resa_text import BOXED_RESPONSE, SYSTEM_PROMPT
from trl_concise.experimental.resa_training import ScheduleFreeSign, sae_learning_rate


X = torch.tensor([[2, 0.7, 0.5], [0.2, 2, 1], [1, -1, -1]])


def golden_sae(k: int) -> TopKSAE:
    sae = TopKSAE(3, 4, k)
    weight = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 2], [-1, 1, 0]])
    with torch.no_grad():
        sae.encoder.weight.copy_(weight)
        sae.encoder.bias.copy_(torch.tensor([0, 0.5, 0, 0]))
        sae.b_dec.copy_(torch.tensor([0.5, 0, 0]))
        sae.W_dec.copy_(weight)
    sae.normalize_decoder()
    return sae.requires_grad_(False)


def identity_sae(width: int) -> TopKSAE:
    """An SAE that reconstructs every activation exactly."""
    sae = TopKSAE(width, 2 * width, width)
    weight = torch.cat([torch.eye(width), -torch.eye(width)])
    with torch.no_grad():
        sae.encoder.weight.copy_(weight)
        sae.W_dec.copy_(weight)
    return sae


def close(value, expected, tolerance: float = 2e-6):
    torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(expected), atol=tolerance, rtol=1e-5)


# Golden values


def test_latents_reconstruction_and_fvu():
    sae = golden_sae(4)
    values, indices = sae.encode(X)
    latents = torch.zeros(3, 4).scatter(1, indices, values)
    close(latents, [[1.5, 1.2, 1, 0], [0, 2.5, 2, 2.3], [0.5, 0, 0, 0]])
    one = golden_sae(1)(X)
    close(one, [[2.0, 0, 0], [0.5, 2.5, 0], [1, 0, 0]])
    close((X - one).square().sum(), 4.08)
    close((X - X.mean(dim=0)).square().sum(), 8.32)
    close(fvu(X, one), 0.490385)
    two = golden_sae(2)(X)
    close(two, [[2, 1.2, 0], [-1.126346, 4.126346, 0], [1, 0, 0]])
    close(fvu(X, two), 1.175545)


def test_the_jacobian_of_the_sae():
    found = torch.autograd.functional.jacobian(golden_sae(2), X[1])
    close(found, [[0.707107, -0.707107, 0], [-0.707107, 1.707107, 0], [0, 0, 0]])


def test_learning_rate_and_projected_gradient():
    assert (sae_learning_rate(65_536), sae_learning_rate(16_384)) == (0.0025, 0.005)
    assert sae_learning_rate(2_560) == pytest.approx(0.012649, abs=1e-6)
    sae = TopKSAE(3, 1, 1)
    sae.W_dec.data = torch.tensor([[0, 0.6, 0.8]])
    sae.W_dec.grad = torch.tensor([[1.0, 2, 3]])
    sae.remove_parallel_gradient()
    close(sae.W_dec.grad, [[1, -0.16, 0.12]])


TEACHER, STUDENT = torch.tensor([[[2.0, 0, -1], [0, 1, 0]]]), torch.tensor([[[1.0, 1, -1], [0, 0, 0]]])


@pytest.mark.parametrize("at_a_time", [1, 2, 1024])
def test_divergence_and_its_gradient(at_a_time, monkeypatch):
    monkeypatch.setattr(resa, "POSITIONS_AT_A_TIME", at_a_time)
    student = STUDENT.clone().requires_grad_()
    loss = kl_sum(TEACHER, student)
    close(loss, 0.441662)
    loss.backward()
    close(student.grad, [[[-0.375484, 0.354115, 0.021369], [0.121392, -0.242784, 0.121392]]])
    close(kl_sum(TEACHER, STUDENT, torch.tensor([[1, 0]])), 0.318377)
    close(kl_sum(TEACHER, STUDENT, torch.tensor([[0, 1]])), 0.123284)
    close(kl_sum(STUDENT, TEACHER), 0.530721)  # the other direction
    expected = F.kl_div(
        STUDENT.log_softmax(-1), TEACHER.softmax(-1), reduction="batchmean"
    )  # as the release computes it
    close(kl_sum(TEACHER, STUDENT) / len(TEACHER), expected)


@pytest.mark.parametrize(("gradient", "expected"), [(True, 0.118386), (False, 0.0)])
def test_the_gradient_through_the_sae(gradient, expected):
    a, c = torch.tensor(2.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    inserted = InsertedSAE(golden_sae(1), gradient)
    logits = c * inserted(torch.nn.Identity(), (), a * torch.tensor([[[1, 0.35, 0.25]]]))
    loss = kl_sum(torch.tensor([[[2, 0.7, 0.5]]]), logits)
    close(loss, 0.039119)
    loss.backward()
    close(c.grad, 0.236772)
    close(torch.tensor(0.0) if a.grad is None else a.grad, expected)


def test_reasoning_features():
    assert select_reasoning_features([{1, 2}, {2, 5, 7}, {3}, {5, 7, 9}, {7}], [1, 3]) == [5]


@given(st.integers(0, 1000), st.integers(1, 6))
def test_fvu_of_an_exact_reconstruction_and_of_the_mean(seed, width):
    x = torch.randn(7, width, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(identity_sae(width)(x), x)
    assert fvu(x, identity_sae(width)(x)) == 0
    close(fvu(x, x.mean(dim=0)), 1.0, 1e-5)
    with pytest.raises(ValueError, match="all 3 are equal"):
        fvu(x[:1].expand(3, -1), x[:3])


# The SAE


def test_sign_descent_averages_its_steps():
    parameter = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer, fast, average = ScheduleFreeSign([parameter], 0.1), 1.0, 1.0
    for step in range(1, 4):
        parameter.grad = torch.tensor([3.0 if step < 3 else -2.0])
        optimizer.step()
        fast -= 0.1 if step < 3 else -0.1
        average += (fast - average) / step
        close(parameter.data, [0.05 * fast + 0.95 * average])
    optimizer.finish()
    close(parameter.data, [average])


def test_an_sae_is_saved_in_the_format_of_sparsify(tmp_path):
    sae = TopKSAE(3, 6, 2, seed=3)
    sae.save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert {"d_in": 3, "num_latents": 6, "k": 2, "activation": "topk", "transcode": False}.items() <= config.items()
    assert torch.equal(TopKSAE.load(tmp_path)(X), sae(X))
    published = {"d_in": 3, "k": 2, "num_latents": 0, "expansion_factor": 2, "signed": False, "multi_topk": False}
    (tmp_path / "cfg.json").write_text(json.dumps(published))
    assert torch.equal(TopKSAE.load(tmp_path)(X), sae(X))
    for changes, message in (
        ({"k": 7}, "between 1 and num_latents=6, got 7"),
        ({"skip_connection": True}, "skip_connection=True, which is not supported"),
        ({"num_latents": 5}, "does not fit cfg.json"),
    ):
        (tmp_path / "cfg.json").write_text(json.dumps(published | changes))
        with pytest.raises(ValueError, match=message):
            TopKSAE.load(tmp_path)
    for text in ("{", "[]", "{}"):
        (tmp_path / "cfg.json").write_text(text)
        with pytest.raises(ValueError, match="does not describe an SAE"):
            TopKSAE.load(tmp_path)
    (tmp_path / "cfg.json").unlink()
    with pytest.raises(FileNotFoundError, match="sae.safetensors is there, cfg.json is missing"):
        TopKSAE.load(tmp_path)


@pytest.mark.parametrize("k", [0, 5])
def test_k_is_checked(k):
    with pytest.raises(ValueError, match="k must be between 1 and num_latents=4"):
        TopKSAE(3, 4, k)


@pytest.fixture
def tiny_target(tiny_model):
    return tiny.load(tiny_model)


def state(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(before: dict[str, torch.Tensor], module) -> None:
    after = module.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


def hooks(model) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_an_sae_is_trained(tiny_target, monkeypatch):
    norms, normalize = [], TopKSAE.normalize_decoder

    def measured(self):
        normalize(self)
        norms.append(self.W_dec.detach().norm(dim=1))

    monkeypatch.setattr(TopKSAE, "normalize_decoder", measured)
    before, logged = state(tiny_target), []
    rows = distributed.chunks(61)
    first = layer_output(tiny_target, 0, torch.tensor(rows[:1]["input_ids"]))[0]
    sae, records = train_sae(
        tiny_target, rows, 0, num_latents=32, k=4, batch_size=1, learning_rate=2e-4, on_log=logged.append
    )
    assert [record["step"] for record in records] == [61] and logged == records and records[0]["tokens"] == 61 * 12
    assert 0 < records[0]["fvu"] < 2 and 0 <= records[0]["dead"] < 1
    start = TopKSAE(64, 32, 4)
    start.b_dec.data = first.mean(dim=0)
    assert fvu(first, sae(first)) < fvu(first, start(first))
    assert len(norms) == 1 + 61 + 1 + 1  # new, each step, the end, `start`
    for norm in norms:
        close(norm, torch.ones(32))
    assert_same(before, tiny_target)
    assert not hooks(tiny_target) and not any(parameter.requires_grad for parameter in sae.parameters())
    again, records = train_sae(tiny_target, rows.select(range(2)), 0, sae=sae, batch_size=2)
    assert again is sae and len(records) == 1


def test_what_cannot_be_trained_on(tiny_target):
    rows = distributed.chunks(2)
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=f"layer must be between 0 and 1, got {layer}"):
            train_sae(tiny_target, rows, layer, num_latents=8, k=2)
    with pytest.raises(ValueError, match="width 3, the model 64"):
        train_sae(tiny_target, rows, 0, sae=golden_sae(1))
    with pytest.raises(ValueError, match="at least one chunk"):
        train_sae(tiny_target, rows.select([]), 0, num_latents=8, k=2)
    with pytest.raises(ValueError, match="chunks have different lengths"):
        train_sae(tiny_target, Dataset.from_dict({"input_ids": [[5, 6], [7]]}), 0, num_latents=8, k=2)
    with pytest.raises(ValueError, match="all 1 are equal"):
        train_sae(tiny_target, Dataset.from_dict({"input_ids": [[5]]}), 0, num_latents=8, k=2)


# Insertion


def test_an_inserted_sae_replaces_the_output_of_a_layer(tiny_target):
    ids = torch.tensor(distributed.chunks(2)["input_ids"])
    plain = tiny_target(ids).logits
    sae = distributed.sae()
    with sae_inserted(tiny_target, 1, sae) as inserted:
        changed = tiny_target(ids).logits
        with inserted.paused():
            assert torch.equal(tiny_target(ids).logits, plain)
    close(inserted.x, layer_output(tiny_target, 1, ids))
    expected = tiny_target.lm_head(tiny_target.model.norm(sae(inserted.x)))  # after the last layer
    close(changed, expected)
    with sae_inserted(tiny_target, 1, identity_sae(64)):
        assert torch.equal(tiny_target(ids).logits, plain)
    with pytest.raises(ZeroDivisionError), sae_inserted(tiny_target, 0, sae):
        raise ZeroDivisionError
    assert torch.equal(tiny_target(ids).logits, plain) and not hooks(tiny_target)
    with pytest.raises(ValueError, match="width 3, the model 64"), sae_inserted(tiny_target, 0, golden_sae(1)):
        pass


def test_layers_may_return_tuples(tiny_target):
    ids = torch.tensor(distributed.chunks(1)["input_ids"])
    hook = InsertedSAE(distributed.sae(), True)
    x = layer_output(tiny_target, 0, ids)
    changed, *others = hook(torch.nn.Identity(), (), (x, "cache"))
    assert torch.equal(changed, hook(torch.nn.Identity(), (), x)) and others == ["cache"]
    layer = decoder(tiny_target).layers[0]
    handle = layer.register_forward_hook(lambda module, args, output: (output, None))
    capture = {}
    reader = layer.register_forward_hook(lambda module, args, output: capture.setdefault("kind", type(output)))
    try:  # the hook that reads the layer sees a tuple; the model then fails on it
        with pytest.raises(Exception):  # noqa: B017
            layer_output(tiny_target, 0, ids)
    finally:
        handle.remove()
        reader.remove()
    assert capture["kind"] is tuple and not hooks(tiny_target)


def test_reasoning_features_of_the_embedded_model(model, tokenizer, tiny_target, tiny_model):
    sae = TopKSAE(192, 512, 8)
    features = reasoning_features(model, tokenizer, sae, 1)
    ids = tokenizer.encode(SYSTEM_PROMPT, add_special_tokens=False)
    assert tokenizer.decode(ids) == SYSTEM_PROMPT
    markers = [ids.index(tokenizer.convert_tokens_to_ids(marker)) for marker in ("<think>", "</think>")]
    values, indices = sae.encode(layer_output(model, 1, torch.tensor([ids]))[0])
    active = [set(row[kept].tolist()) for row, kept in zip(indices, values > 0, strict=True)]
    assert features == select_reasoning_features(active, markers)
    with pytest.raises(ValueError, match="'<think>' is one token; here it is 7"):
        reasoning_features(tiny_target, AutoTokenizer.from_pretrained(tiny_model), distributed.sae(), 0)
    with pytest.raises(ValueError, match="no marker '</think>'"):
        reasoning_features(model, tokenizer, sae, 1, text="a <think>")


# The text


def test_chunks_of_the_embedded_model(tokenizer):
    problems = demo.train_dataset(6)
    chunks = question_answer_chunks(problems, tokenizer, 16, system_prompt=None, response=BOXED_RESPONSE)
    assert {len(row) for row in chunks["input_ids"]} == {16}
    question, answer = problems[0]["prompt"][0]["content"], problems[0]["solution"]
    whole = tokenizer.decode([token for row in chunks["input_ids"] for token in row])
    assert whole.startswith(
        f"<|im_end|><|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n<think>\n{answer}\n</think>\n"
        f"\\boxed{{{answer}}}<|im_end|><|im_start|>user\n"
    )


def test_chunks_of_other_prompts(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    written = "<think> 4 </think>\n<answer> Answer: 4</answer>"

    def text(prompt, **options):
        length = len(tokenizer.encode(written)) + 1
        rows = question_answer_chunks([{"prompt": prompt, "solution": 4}] * 9, tokenizer, length, **options)[
            "input_ids"
        ]
        return tokenizer.decode([token for row in rows for token in row])

    assert text("2 + 2?", system_prompt=None).startswith(f"<|im_end|>2 + 2?\n{written}<|im_end|>2 + 2?")
    messages = [{"role": "system", "content": "Own."}, {"role": "user", "content": "2 + 2?"}]
    assert text(messages).startswith(
        f"<|im_end|><|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n{written}"
    )
    assert "Own." in text(messages, system_prompt=None)
    for arguments, message in (
        (([{"prompt": "a", "solution": "b"}], 2048), "less than one chunk of 2048"),
        (([{"prompt": "a"}], 8), "columns `prompt` and `solution`"),
        (([], 8), "The texts have 0 tokens"),
        (([{"prompt": "a", "solution": "b"}], 1), "at least 2 tokens, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            question_answer_chunks(arguments[0], tokenizer, arguments[1])
    with pytest.raises(ValueError, match="must contain {answer}"):
        question_answer_chunks([], tokenizer, 8, response="no")


# The trainer


def test_an_adapter_at_its_start_sees_base_and_sae(tiny_model, tmp_path):
    args = SAETuningConfig(**distributed.settings(tmp_path, per_device_eval_batch_size=1))
    rows = distributed.chunks(3)
    trainer = SAETuningTrainer(
        tiny_model, args, train_dataset=rows, eval_dataset=rows, sae=distributed.sae(), peft_config=distributed.lora()
    )
    base, ids = tiny.load(tiny_model), torch.tensor(rows["input_ids"])
    teacher = base(ids).logits
    with sae_inserted(base, 0, distributed.sae()):
        student = base(ids).logits
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
    close(outputs.logits, student, 1e-5)
    close(loss, kl_sum(teacher, student) / 3, 1e-4)
    padded = {"input_ids": F.pad(ids, (0, 3)), "attention_mask": F.pad(inputs["attention_mask"], (0, 3))}
    close(trainer.compute_loss(trainer.model, padded), loss, 1e-4)
    trainer._pop_metrics("train")
    metrics = trainer.evaluate()
    close(metrics["eval_loss"], loss.item(), 1e-4)  # batches of one chunk
    close(metrics["eval_resa/kl"], loss.item() / 12, 1e-5)
    x = layer_output(base, 0, ids).flatten(0, 1)
    assert metrics["eval_resa/fvu"] == pytest.approx(fvu(x, distributed.sae()(x)).item(), rel=1e-4)
    assert "eval_resa/grad_share_before" not in metrics and not hooks(trainer.model)


def test_an_identity_has_loss_0_and_no_gradient(tiny_model, tmp_path):
    args = SAETuningConfig(**distributed.settings(tmp_path, max_steps=1))
    trainer = SAETuningTrainer(
        tiny_model, args, train_dataset=distributed.chunks(), sae=identity_sae(64), peft_config=distributed.lora()
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["loss"] == 0 and logged["resa/fvu"] == 0 and logged["grad_norm"] < 1e-4


@pytest.mark.parametrize("gradient", [True, False])
def test_training(gradient, tiny_model, tmp_path):
    sae = distributed.sae()
    sae.save(tmp_path / "sae")
    args = SAETuningConfig(**distributed.settings(tmp_path / "run", sae_gradient=gradient, max_steps=6))
    trainer = SAETuningTrainer(
        tiny_model,
        args,
        train_dataset=distributed.chunks(4),
        sae=str(tmp_path / "sae"),
        peft_config=distributed.lora(),
    )
    target = trainer.accelerator.unwrap_model(trainer.model)
    start = state(target)
    trainer.train()
    after = target.state_dict()
    changed = {name for name, value in start.items() if not torch.equal(value, after[name])}
    assert changed and all("lora_" in name for name in changed)
    assert any("layers.0." in name for name in changed) == gradient
    assert any("layers.1." in name for name in changed)
    assert_same(state(sae), trainer.sae)
    assert not hooks(target)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged[-1]["loss"] < logged[0]["loss"] and logged[0]["resa/kl"] == pytest.approx(
        logged[0]["loss"] / 12, rel=1e-4
    )
    assert (0 < logged[0]["resa/grad_share_before"] < 1) if gradient else logged[0]["resa/grad_share_before"] == 0

    trainer.save_model()
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"adapter_model.safetensors", "README.md"} <= files and not any("sae" in name for name in files)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "2506.09967" in card and "`layer`" in card
    ids = torch.tensor(distributed.chunks(2)["input_ids"])
    loaded = PeftModel.from_pretrained(tiny.load(tiny_model), tmp_path / "run").eval()
    close(loaded(ids).logits, target.eval()(ids).logits, 1e-5)


def test_mixed_precision(tiny_model, tmp_path):
    """The SAE keeps its precision."""
    trainer = distributed.train(tiny_model, tmp_path, bf16=True, max_steps=1)
    whole = distributed.train(tiny_model, tmp_path, max_steps=1)
    mixed, full = (run.state.log_history[0] for run in (trainer, whole))
    assert mixed["resa/fvu"] == pytest.approx(full["resa/fvu"], rel=0.02)
    assert mixed["loss"] == pytest.approx(full["loss"], rel=0.1)
    in_bf16 = {"model_init_kwargs": {"dtype": "bfloat16"}, "bf16": True, "max_steps": 1}
    rounded = distributed.train(tiny_model, tmp_path, **in_bf16).state.log_history[0]
    assert rounded["resa/fvu"] == pytest.approx(full["resa/fvu"], rel=0.05)


def test_streams_rows_of_any_length_and_a_model_with_an_adapter(tiny_model, tmp_path):
    rows = [{"input_ids": row[: 12 - i], "text": "unused"} for i, row in enumerate(distributed.chunks(8)["input_ids"])]
    model = get_peft_model(tiny.load(tiny_model), distributed.lora())
    for dataset in (Dataset.from_list(rows), IterableDataset.from_generator(lambda: iter(rows))):
        args = SAETuningConfig(**distributed.settings(tmp_path, max_steps=1, per_device_eval_batch_size=3))
        trainer = SAETuningTrainer(
            model, args, train_dataset=dataset, eval_dataset={"a": dataset}, sae=distributed.sae()
        )
        trainer.train()
        assert trainer.evaluate()["eval_a_loss"] > 0 and not hooks(model)
        trainer.log({})  # nothing was measured since


def test_a_resumed_run_and_gradient_checkpointing_change_nothing(tiny_model, tmp_path):
    whole = distributed.train(tiny_model, tmp_path / "whole", max_steps=4)
    options = {"max_steps": 4, "gradient_checkpointing": True, "save_strategy": "steps", "save_steps": 2}
    first = distributed.train(tiny_model, tmp_path / "other", **options)
    resumed = distributed.train(tiny_model, tmp_path / "other", tmp_path / "other" / "checkpoint-2", **options)
    reentrant = distributed.train(
        tiny_model,
        tmp_path / "reentrant",
        **options | {"save_strategy": "no"},
        gradient_checkpointing_kwargs={"use_reentrant": True},
    )
    for trainer in (first, resumed, reentrant):
        for name, value in distributed.report(trainer)["weights"].items():
            close(value, distributed.report(whole)["weights"][name], 1e-6)


def test_every_row_weighs_the_same(tiny_model, tmp_path):
    """In micro-batches, and in an uneven last batch: 10 rows in steps of four."""
    options = {"optim": "sgd", "num_train_epochs": 1, "max_steps": -1}
    one = distributed.report(distributed.train(tiny_model, tmp_path, **options))
    small = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    for rows in (distributed.chunks(10), distributed.chunks(4)):
        four = distributed.report(distributed.train(tiny_model, tmp_path, rows=rows, **options))
        micro = distributed.report(
            distributed.train(
                tiny_model,
                tmp_path,
                rows=rows,
                **options,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=4,
            )
        )
        assert len(four["logged"]) == len(micro["logged"])
        for a, b in zip(four["logged"], micro["logged"], strict=True):
            assert a == pytest.approx(b, rel=1e-3)
    assert len(one["logged"]) == 3
    uneven = distributed.train(tiny_model, tmp_path, rows=distributed.chunks(4), **options | small)
    for a, b in zip(distributed.report(uneven)["logged"], four["logged"], strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def test_two_processes_are_one(tiny_model, tmp_path, two_processes):
    for name, gradient in {"paper": True, "release": False}.items():
        ranks = [torch.load(two_processes / "resa" / f"{name}-rank{rank}.pt") for rank in (0, 1)]
        one = distributed.report(distributed.train(tiny_model, tmp_path / name, optim="sgd", sae_gradient=gradient))
        assert one["world_size"] == 1
        for rank in ranks:
            assert rank["world_size"] == 2
            for two, single in zip(rank["logged"], one["logged"], strict=True):
                assert two == pytest.approx(single, rel=1e-3, abs=1e-6)
            for weight, value in rank["weights"].items():
                torch.testing.assert_close(value, one["weights"][weight], atol=1e-6, rtol=1e-4, msg=weight)


def test_what_the_trainer_refuses(tiny_model, tmp_path, monkeypatch):
    def make(rows=None, adapter=True, **changes):
        args = SAETuningConfig(**distributed.settings(tmp_path, **changes))
        rows = rows if rows is not None else distributed.chunks()
        return SAETuningTrainer(
            tiny_model,
            args,
            train_dataset=rows,
            sae=distributed.sae(),
            peft_config=distributed.lora() if adapter else None,
        )

    for options, message in (
        ({"layer": None}, "layer is missing"),
        ({"layer": 2}, "layer must be between 0 and 1, got 2"),
        ({"adapter": False}, "no adapter config was given"),
        ({"packing": True}, "packing=True is not supported"),
        ({"assistant_only_loss": True}, "assistant_only_loss=True is not supported"),
        ({"rows": Dataset.from_list([{"text": "a"}])}, "column `input_ids`, it has"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)
    with pytest.raises(ValueError, match="width 3, the model 64"):
        SAETuningTrainer(
            tiny_model,
            SAETuningConfig(**distributed.settings(tmp_path)),
            train_dataset=distributed.chunks(),
            sae=golden_sae(1),
            peft_config=distributed.lora(),
        )
    monkeypatch.setattr(resa, "is_peft_available", lambda: False)
    with pytest.raises(ImportError, match=r"needs PEFT: pip install 'trl-concise\[experimental\]'"):
        make()


# The example


EXAMPLE = Path(__file__).parents[2] / "examples" / "resa.py"
QUICK = (
    "--output_dir out --use_cpu --report_problems 1 --hapo_steps 1 --demo_problems 40 --max_steps 2 --num_latents 64 --chunk_length 64 "
    "--logging_steps 1"
)
FROM_MODEL = f"--source_model_name_or_path {shlex.quote(str(demo.model_path()))}"
MODELS = ["(a) base", "source of (e)", "(b) SAE of the base", "(c) random SAE", "(d) SFT", "(e) SAE of the source"]


def run_example(tmp_path, monkeypatch, *options: str) -> dict:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["resa.py", *QUICK.split(), *shlex.split(" ".join(options))])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    results = Path("out/resa.json")
    return json.loads(results.read_text()) if results.is_file() else {}


def test_the_example_trains_the_controls(tmp_path, monkeypatch, capsys):
    run_example(tmp_path, monkeypatch, FROM_MODEL, "--report_problems 0")
    printed = capsys.readouterr().out
    assert all(f"{name}: 2 steps, 256 tokens" in printed for name in MODELS[2:])
    assert "Reasoning features of layer 1" in printed
    for folder in ("sae-of-base", "random-sae", "sft", "sae-of-source"):
        assert Path("out", folder, "adapter_model.safetensors").is_file()
    assert TopKSAE.load("out/sae-source").num_latents == 64


def test_the_example_compares_with_controls(tmp_path, monkeypatch, capsys):
    """The report, with completions that stand in for those of the models."""
    monkeypatch.chdir(tmp_path)
    report = runpy.run_path(str(EXAMPLE))["report"]
    written = {"a": (90, 0.9), "source": (40, 0.9), "b": (60, 0.8), "c": (61, 0.8), "d": (9, 0.1), "e": (60, 0.8)}

    def evaluate(path, sets, folder, **options):
        tokens, share = written[Path(folder).name]
        rows = [
            Completion(name, i, 0, "1", "", [1] * tokens, False, i < 40 * share) for name in sets for i in range(40)
        ]
        Path(folder).mkdir(parents=True)
        Path(folder, "completions.jsonl").write_text("".join(row.line() for row in rows))
        return [{"dataset": name} for name in sets]

    monkeypatch.setattr("trl_concise.evaluation.evaluate", evaluate)
    report({name: "same" for name in MODELS}, {}, 40, Path("out"), 0)
    results = json.loads(Path("out/resa.json").read_text())
    assert results["verdict"].startswith(
        "Nothing was transferred: the source changed tokens, demo; tokens, demo_harder"
    )
    row = results["sets"]["demo"]["(c) random SAE"]
    assert row["tokens change"] == [-29, -29, -29] and row["accuracy change"][0] == pytest.approx(-10)
    assert "| (c) random SAE | 80.0 | -10.0 [-20.0, -2.5] | 61.0 | -29.0 [-29.0, -29.0] |" in capsys.readouterr().out
    written["e"] = (50, 0.8)
    report({name: "same" for name in MODELS}, {}, 40, Path("out"), 0)
    assert "in the direction of the source: tokens, demo; tokens, demo_harder." in capsys.readouterr().out
    written["source"] = (90, 0.9)
    report({name: "same" for name in MODELS}, {}, 40, Path("out"), 0)
    assert "Nothing could be transferred" in capsys.readouterr().out


@pytest.mark.slow
def test_the_example_reports_every_control(tmp_path, monkeypatch, capsys):
    results = run_example(tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed and all(name in rows for rows in results["sets"].values()) for name in MODELS)
    assert results["verdict"] in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model_name_or_path model --use_peft --layer 1", "--source_model_name_or_path is missing"),
        ("--layer 5", "--layer must be between 0 and 2, got 5"),
        ("--hapo_steps 0", "--hapo_steps and --demo_problems must be at least 1, got 0"),
        (f"{FROM_MODEL} --model_name_or_path TINY --use_peft --layer 1", "have the widths 192 and 64"),
        ("--use_peft false", "--use_peft is missing"),
        ("--source_model_name_or_path OTHER", "have different vocabularies"),
    ],
)
def test_errors_of_the_example(options, message, tiny_model, tmp_path, monkeypatch, capsys):
    if "OTHER" in options:  # the same shapes with another tokenizer
        shutil.copytree(demo.model_path(), tmp_path / "other")
        shutil.copy(Path(tiny_model, "tokenizer.json"), tmp_path / "other")
        options = options.replace("OTHER", "other")
    with pytest.raises(SystemExit):
        run_example(tmp_path, monkeypatch, options.replace("TINY", shlex.quote(tiny_model)))
    assert message in capsys.readouterr().err
