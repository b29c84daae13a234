# SPDX-License-Identifier: Apache-2.0
"""REDI: its equation, its batches, and training without a reference model."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import math
import runpy
from pathlib import Path

import pytest
import torch
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    Qwen2MoeConfig,
    TrainerState,
    TrainingArguments,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.chat_template_utils import deepseek_r1_distill_chat_template, get_training_chat_template
from trl.trainer import dpo_trainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from tests import tiny
from tests.distributed import redi as distributed
from trl_concise import REDIConfig, REDITrainer
from trl_concise.callbacks import CollapseCallback
from trl_concise.methods.redi import redi_loss, redi_loss_of_rows
from trl_concise.methods.redi_rows import DataCollatorForREDI


# Log-probabilities of the tokens of two pairs: correct completions of 3 and 4 tokens, incorrect ones of 2 and 3.
CHOSEN = [[-0.1, -0.2, -0.3], [-0.4, -0.4, -0.4, -0.8]]
REJECTED = [[-0.5, -1.5], [-0.25, -0.75, -0.5]]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def padded(tokens: list[list[float]]) -> torch.Tensor:
    return torch.tensor([row + [0.0] * (4 - len(row)) for row in tokens], requires_grad=True)


def lengths(tokens: list[list[float]]) -> torch.Tensor:
    return torch.tensor([len(row) for row in tokens])


def train(model, dataset, output_dir, config_class=REDIConfig, trainer_kwargs=None, **changes) -> REDITrainer:
    args = config_class(**distributed.settings(output_dir, **changes))
    trainer = REDITrainer(model, args=args, train_dataset=dataset, **(trainer_kwargs or {}))
    trainer.train()
    return trainer


def first_loss(trainer, batch):
    """Loss and gradients of one batch, by the trainer itself."""
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def assert_same_weights(ours, theirs, **tolerance):
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.fixture
def pairs() -> Dataset:
    return distributed.pairs()


@pytest.fixture
def rows(pairs) -> Dataset:
    """The pairs, one row per trace."""
    return Dataset.from_list(
        [
            {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
            for pair in pairs
            for side in ("chosen", "rejected")
        ]
    )


@pytest.fixture
def trainer(tiny_model, pairs, tmp_path) -> REDITrainer:
    return REDITrainer(tiny_model, args=REDIConfig(**distributed.settings(tmp_path)), train_dataset=pairs)


# The equation


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0.0, [0.2, 0.5]), (0.2, [0.0, 0.4]), (0.5, [-0.3, 0.25]), (0.8, [-0.6, 0.1]), (1.0, [-0.8, 0.0])],
)
def test_golden_values(alpha, expected):
    losses = redi_loss(padded(CHOSEN).sum(1), lengths(CHOSEN), padded(REJECTED).sum(1), lengths(REJECTED), alpha=alpha)
    torch.testing.assert_close(losses, torch.tensor(expected))


def test_gradient_of_every_token():
    chosen, rejected = padded(CHOSEN), padded(REJECTED)
    redi_loss(chosen.sum(1), lengths(CHOSEN), rejected.sum(1), lengths(REJECTED)).mean().backward()
    # -1 / (2 pairs * tokens), and 0.8 / (2 pairs * tokens)
    torch.testing.assert_close(chosen.grad[:, 0], torch.tensor([-0.166667, -0.125]), atol=1e-6, rtol=0)
    torch.testing.assert_close(rejected.grad[:, 0], torch.tensor([0.2, 0.133333]), atol=1e-6, rtol=0)
    assert all((row == row[0]).all() for row in [*chosen.grad, *rejected.grad])


def test_an_empty_completion_counts_as_one_token():
    zero = torch.zeros(1)
    assert redi_loss(zero, zero, torch.tensor([-2.0]), torch.tensor([2.0])).item() == pytest.approx(-0.8)


logps = st.floats(-50, 0, width=32)
counts = st.integers(1, 1000)


@given(logps, counts, logps, counts, st.floats(0, 1))
def test_the_loss_is_affine_in_alpha_and_independent_of_length(
    chosen, chosen_length, rejected, rejected_length, alpha
):
    def loss(alpha, times=1):
        values = (chosen * times, chosen_length * times, rejected * times, rejected_length * times)
        return redi_loss(*(torch.tensor([value], dtype=torch.float64) for value in values), alpha=alpha)

    torch.testing.assert_close(loss(alpha), loss(0.0) + alpha * (loss(1.0) - loss(0.0)))
    torch.testing.assert_close(loss(alpha, times=7), loss(alpha))


def test_rows_of_pairs_are_pairs():
    sums = torch.cat([padded(CHOSEN).sum(1), padded(REJECTED).sum(1)])
    sizes = torch.cat([lengths(CHOSEN), lengths(REJECTED)])
    losses = redi_loss_of_rows(sums, sizes, torch.tensor([1.0, 1, -1, -1]), torch.ones(4))
    assert losses.mean().item() == pytest.approx(-0.25)  # as the two pairs
    half = redi_loss_of_rows(sums, sizes, torch.tensor([1.0, 1, -1, -1]), torch.full((4,), 0.5))
    torch.testing.assert_close(half, losses / 2)


# The batch


def test_a_batch_of_pairs_is_that_of_trl(pairs, tiny_model, trainer):
    examples = [trainer.train_dataset[i] for i in range(4)]
    ours, theirs = (
        collator(pad_token_id=0, max_length=40)(examples)
        for collator in (DataCollatorForREDI, DataCollatorForPreference)
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_single_rows_carry_sign_and_weight():
    batch = DataCollatorForREDI(pad_token_id=9, max_length=4)(
        [
            {"prompt_ids": [1, 2], "completion_ids": [3], "label": False, "weight": 0.5},
            {"prompt_ids": [4], "completion_ids": [5, 6, 7, 8], "label": True},
            {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3, 4]},
        ]
    )
    assert batch["input_ids"].tolist() == [[4, 5, 6, 7], [1, 2, 9, 9], [1, 2, 3, 9], [1, 3, 4, 9]]
    assert batch["attention_mask"].sum(1).tolist() == [4, 2, 3, 3]
    assert batch["completion_mask"].sum(1).tolist() == [3, 1, 1, 2]
    assert batch["sign"].tolist() == [1, 1, -1, -1] and batch["weight"].tolist() == [1, 1, 0.5, 1]


def test_an_empty_completion_is_reported(caplog):
    logging.Logger.warning_once.cache_clear()  # another test may have been first
    with caplog.at_level(logging.WARNING):
        batch = DataCollatorForREDI(pad_token_id=0)([{"prompt_ids": [1], "chosen_ids": [], "rejected_ids": [2]}])
    assert batch["completion_mask"].sum(1).tolist() == [0, 1]
    assert "A completion has no tokens" in caplog.text


# The trainer's loss


def reference_loss(model, batch, alpha: float) -> torch.Tensor:
    """The objective, written once more with the model's own logits."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    tokens = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    mask = batch["completion_mask"][:, 1:]
    chosen, rejected = ((tokens * mask).sum(1) / mask.sum(1)).chunk(2)
    return (-chosen + alpha * rejected).mean()


@pytest.mark.parametrize("alpha", [0.0, 0.8, 1.0])
def test_loss_and_gradient_are_those_of_a_plain_forward_pass(alpha, tiny_model, trainer):
    trainer.args.alpha = alpha
    batch = next(iter(trainer.get_train_dataloader()))
    loss, gradients = first_loss(trainer, batch)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    expected = reference_loss(model, batch, alpha)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_alpha_zero_does_not_see_the_incorrect_traces(trainer):
    trainer.args.alpha = 0.0
    batch = next(iter(trainer.get_train_dataloader()))
    loss, gradients = first_loss(trainer, batch)
    rejected = slice(len(batch["input_ids"]) // 2, None)
    batch["input_ids"][rejected] = (batch["input_ids"][rejected] + 1) % 100
    other_loss, other_gradients = first_loss(trainer, batch)
    assert loss == other_loss and all(torch.equal(gradients[name], other_gradients[name]) for name in gradients)


def test_alpha_zero_is_sft_on_the_correct_traces(tiny_model, pairs, tmp_path):
    """One trace a step, so that TRL's mean over the tokens of a batch is the mean over a trace."""
    changes = {"per_device_train_batch_size": 1, "optim": "sgd", "max_steps": 4}
    ours = train(tiny_model, pairs, tmp_path / "redi", alpha=0.0, **changes)
    correct = pairs.rename_column("chosen", "completion").remove_columns("rejected")
    args = SFTConfig(**distributed.settings(tmp_path / "sft", **changes))
    theirs = SFTTrainer(tiny_model, args=args, train_dataset=correct)
    theirs.train()
    assert tiny.losses(ours) == pytest.approx(tiny.losses(theirs), abs=1e-5)
    assert_same_weights(ours.model, theirs.model, atol=1e-6, rtol=1e-5)


def test_padding_changes_nothing(trainer):
    examples = [trainer.train_dataset[i] for i in range(4)]
    tight, wide = (DataCollatorForREDI(pad_token_id=0, pad_to_multiple_of=n)(examples) for n in (None, 64))
    assert wide["input_ids"].shape[1] == 64 > tight["input_ids"].shape[1]
    (loss, gradients), (padded_loss, padded_gradients) = first_loss(trainer, tight), first_loss(trainer, wide)
    assert padded_loss == pytest.approx(loss, abs=1e-6)
    for name in gradients:
        torch.testing.assert_close(padded_gradients[name], gradients[name], atol=1e-6, rtol=1e-5)


def test_log_probabilities_are_float32_in_a_bfloat16_model(tiny_model, pairs, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    args = REDIConfig(**distributed.settings(tmp_path))
    trainer = REDITrainer(model, args=args, train_dataset=pairs, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    assert trainer.compute_loss(trainer.model, batch).dtype == torch.float32


def test_pairs_and_their_rows_train_alike(tiny_model, pairs, rows, tmp_path):
    """All sixteen pairs are one step, and so are their 32 rows."""
    whole = train(tiny_model, pairs, tmp_path / "pairs", optim="sgd", max_steps=1, per_device_train_batch_size=16)
    single = train(tiny_model, rows, tmp_path / "rows", optim="sgd", max_steps=1, per_device_train_batch_size=32)
    assert tiny.losses(single) == pytest.approx(tiny.losses(whole), abs=1e-5)
    assert_same_weights(single.model, whole.model, atol=1e-6, rtol=1e-4)
    logged, expected = single.state.log_history[0], whole.state.log_history[0]
    assert set(expected) - set(logged) == {"rewards/margins", "rewards/accuracies"}
    assert all(logged[key] == pytest.approx(expected[key], abs=1e-3) for key in logged if "/" in key)


def test_traces_of_one_kind_only(tiny_model, rows, tmp_path):
    """Negatives alone, weighted: their log-probability falls, and nothing is logged about positives."""
    negatives = rows.filter(lambda row: not row["label"]).map(lambda row: {"weight": 0.5})
    trainer = train(tiny_model, negatives, tmp_path, max_steps=3)
    first, last = trainer.state.log_history[0], trainer.state.log_history[2]
    key = "redi/rejected_logps_per_token"
    assert last[key] < first[key] and "logps/chosen" not in first
    # Every row is half a pair: 2 * 0.8 * 0.5 * mean log-probability per token.
    assert first["loss"] == pytest.approx(0.8 * first[key], abs=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.1, 5.0])
def test_beta_changes_nothing(beta, tiny_model, pairs, tmp_path):
    plain = train(tiny_model, pairs, tmp_path, DPOConfig, beta=beta)
    assert isinstance(plain.args, REDIConfig)
    assert tiny.losses(plain) == tiny.losses(train(tiny_model, pairs, tmp_path))


def test_a_collator_of_your_own(tiny_model, pairs, tmp_path):
    trls = train(tiny_model, pairs, tmp_path, trainer_kwargs={"data_collator": DataCollatorForPreference(0)})
    assert tiny.losses(trls) == tiny.losses(train(tiny_model, pairs, tmp_path))


def test_micro_batches_give_the_gradient_of_the_whole_batch(tiny_model, pairs, tmp_path):
    whole = train(tiny_model, pairs, tmp_path / "whole", max_steps=2, optim="sgd")
    split = train(
        tiny_model,
        pairs,
        tmp_path / "split",
        max_steps=2,
        optim="sgd",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
    )
    assert tiny.losses(split) == pytest.approx(tiny.losses(whole), abs=1e-5)
    assert_same_weights(split.model, whole.model, atol=1e-6, rtol=1e-5)


def test_two_processes_give_the_gradient_of_the_whole_batch(tiny_model, tmp_path, two_processes):
    folder = two_processes / "redi"
    two = torch.load(folder / "rank0.pt", weights_only=True)
    one = distributed.report(distributed.train(tiny_model, tmp_path / "one", pairs_per_process=8))
    assert (two["world_size"], one["world_size"]) == (2, 1)
    for name, weights in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weights, atol=1e-6, rtol=1e-5)
    assert len(one["logged"]) == 2 and "redi/rejected_length" in one["logged"][0]
    for ours, theirs in zip(two["logged"], one["logged"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


# No reference model


@pytest.fixture
def watched(monkeypatch):
    """What TRL loads and hashes from here on; both go on as before."""
    seen = {"loads": 0, "hashes": 0}
    for name, key in [("create_model_from_path", "loads"), ("hash_module", "hashes")]:
        original = getattr(dpo_trainer, name)

        def watch(*args, original=original, key=key, **kwargs):
            seen[key] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(dpo_trainer, name, watch)
    return seen


def parameter_bytes() -> int:
    """Memory of all parameters that are alive."""
    gc.collect()
    storages = {
        item.untyped_storage().data_ptr(): item.untyped_storage().nbytes()
        for item in gc.get_objects()
        if isinstance(item, torch.nn.Parameter)
    }
    return sum(storages.values())


def count_forwards(trainer) -> int:
    """Forward passes of every model, in two steps of two micro-batches."""
    forwards = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: forwards.append(type(module).__name__)
    )
    try:
        trainer.train()
    finally:
        hook.remove()
    return forwards.count("Qwen2Model")


def build(trainer_class, config_class, model, pairs, output_dir, **kwargs):
    args = config_class(
        **distributed.settings(output_dir, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    )
    return trainer_class(model, args=args, train_dataset=pairs, **kwargs)


@pytest.mark.parametrize("peft", [None, LORA])
def test_no_reference_model_is_loaded_hashed_or_run(peft, tiny_model, pairs, tmp_path, watched):
    kwargs = {"peft_config": LoraConfig(**peft)} if peft else {}
    before = parameter_bytes()
    trainer = build(REDITrainer, REDIConfig, tiny_model, pairs, tmp_path, **kwargs)
    ours = parameter_bytes() - before
    assert watched == {"loads": 1, "hashes": 0} and trainer.ref_model is None
    policy = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in trainer.model.parameters()}
    assert ours == sum(policy.values()) + 8  # the two numbers in its place, which accelerate keeps
    assert count_forwards(trainer) == 4
    theirs = build(DPOTrainer, DPOConfig, tiny_model, pairs, tmp_path, **kwargs)
    assert count_forwards(theirs) == 8


def test_an_adapter_is_not_copied(tiny_model, pairs, tmp_path):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(**LORA))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    trainer = build(REDITrainer, REDIConfig, model, pairs, tmp_path, processing_class=tokenizer)
    assert list(trainer.model.peft_config) == ["default"]
    trainer.train()


@pytest.mark.usefixtures("plain_nf4")
def test_qlora(tiny_model, pairs, tmp_path, watched):
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    trainer = build(
        REDITrainer,
        REDIConfig,
        tiny_model,
        pairs,
        tmp_path,
        quantization_config=four_bits,
        peft_config=LoraConfig(**LORA),
    )
    assert trainer.model.is_loaded_in_4bit and watched == {"loads": 1, "hashes": 0}
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert count_forwards(trainer) == 4
    after = dict(trainer.model.named_parameters())
    assert before and all(not torch.equal(after[name], value) for name, value in before.items())


# Running it


def test_training_raises_the_correct_and_lowers_the_incorrect(tiny_model, pairs, tmp_path):
    trainer = train(
        tiny_model,
        pairs,
        tmp_path,
        max_steps=12,
        eval_strategy="steps",
        eval_steps=12,
        trainer_kwargs={"eval_dataset": pairs.select(range(6))},
    )
    logs = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert logs[-1]["rewards/margins"] > logs[0]["rewards/margins"] + 0.5
    first = logs[0]
    assert first["loss"] == pytest.approx(-first["rewards/chosen"] + 0.8 * first["rewards/rejected"], abs=1e-3)
    assert first["rewards/margins"] == pytest.approx(first["rewards/chosen"] - first["rewards/rejected"], abs=1e-3)
    evaluation = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    assert {f"eval_{key}" for key in first if "/" in key} <= set(evaluation)


def test_a_resumed_run_equals_the_uninterrupted_run(tiny_model, pairs, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = train(tiny_model, pairs, tmp_path / "whole", **changes)
    resumed = REDITrainer(
        tiny_model, args=REDIConfig(**distributed.settings(tmp_path / "resumed", **changes)), train_dataset=pairs
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert tiny.losses(resumed) == tiny.losses(whole)
    assert_same_weights(resumed.model, whole.model, atol=0, rtol=0)


def test_a_streamed_run_resumes_in_its_epoch(tiny_model, pairs, tmp_path):
    """16 pairs are 2 steps."""
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    whole = train(tiny_model, pairs.to_iterable_dataset(), tmp_path / "whole", **changes)
    args = REDIConfig(**distributed.settings(tmp_path / "resumed", **changes))
    resumed = REDITrainer(tiny_model, args=args, train_dataset=pairs.to_iterable_dataset())
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert tiny.losses(resumed) == tiny.losses(whole)
    assert_same_weights(resumed.model, whole.model, atol=0, rtol=0)


def test_streaming_and_plain_text(tiny_model, pairs, tmp_path):
    plain = pairs.map(
        lambda row: (
            {"prompt": row["prompt"][0]["content"]}
            | {side: row[side][0]["content"] for side in ("chosen", "rejected")}
        )
    )
    trainer = train(tiny_model, plain.to_iterable_dataset(), tmp_path)
    assert len(tiny.losses(trainer)) == 2


def test_mixture_of_experts_adds_its_auxiliary_loss(tiny_model, pairs, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = Qwen2MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        output_router_logits=True,
        router_aux_loss_coef=0.5,
    )
    model = AutoModelForCausalLM.from_config(config)
    trainer = train(model, pairs, tmp_path, max_steps=1, trainer_kwargs={"processing_class": tokenizer})
    logged = trainer.state.log_history[0]
    alone = -logged["rewards/chosen"] + 0.8 * logged["rewards/rejected"]
    assert logged["aux_loss"] > 0
    assert logged["loss"] == pytest.approx(alone + 0.5 * logged["aux_loss"], abs=1e-3)


def test_compute_metrics_sees_logits(tiny_model, pairs, tmp_path):
    trainer = train(
        tiny_model,
        pairs,
        tmp_path,
        max_steps=1,
        trainer_kwargs={"eval_dataset": pairs, "compute_metrics": lambda outputs: {"rows": len(outputs.predictions)}},
    )
    assert trainer.evaluate()["eval_rows"] == 32


def test_the_callers_config_does_not_change(tiny_model, pairs, tmp_path):
    args = REDIConfig(**distributed.settings(tmp_path))
    before = repr(vars(args))
    trainer = REDITrainer(tiny_model, args=args, train_dataset=pairs.to_iterable_dataset())
    assert repr(vars(args)) == before and trainer.args is not args


def test_takes_the_arguments_of_dpo_trainer_by_position():
    ours, theirs = (list(inspect.signature(t.__init__).parameters) for t in (REDITrainer, DPOTrainer))
    assert ours[:5] == theirs[:5]


# The example


EXAMPLE = Path(__file__).parents[2] / "examples" / "redi.py"


def test_the_example_runs_both_stages_on_traces_of_a_file(tiny_model, tmp_path):
    traces = [
        {"problem": f"What is {i} + {i}?", "answer": str(2 * i), "generations": [r"\boxed{99}", rf"\boxed{{{2 * i}}}"]}
        for i in range(4)
    ]
    file = tmp_path / "traces.jsonl"
    file.write_text("\n".join(map(json.dumps, traces)), encoding="utf-8")
    output = tmp_path / "out"
    flags = f"--dataset_name {file} --model_name_or_path {tiny_model} --output_dir {output} --max_steps 1 --use_cpu "
    flags += "--bf16 False --report_to none --save_strategy no --sft_num_train_epochs 1 --gradient_checkpointing False"
    runpy.run_path(str(EXAMPLE))["main"](flags.split())
    first, second = (load_file(output / stage / "model.safetensors") for stage in ("sft", "redi"))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert "REDI" in (output / "redi" / "README.md").read_text(encoding="utf-8")


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, r"alpha weighs the incorrect traces and lies in \[0, 1\]; got 1.5"),
        ({"alpha": -0.1}, "got -0.1"),
        ({"collapse_slope": 0.0}, "above 0, or None"),
        ({"loss_type": ["ipo"]}, r"loss_type=\['ipo'\] has no effect in REDI.* Leave it at \['sigmoid'\]"),
        ({"precompute_ref_log_probs": True}, "precompute_ref_log_probs=True has no effect"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1 has no effect"),
    ],
)
def test_settings_without_effect_are_refused(settings, message, tiny_model, pairs, tmp_path):
    with pytest.raises(ValueError, match=message):
        REDITrainer(tiny_model, args=REDIConfig(**distributed.settings(tmp_path, **settings)), train_dataset=pairs)


def test_a_reference_model_and_unlabeled_rows_are_refused(tiny_model, pairs, rows, tmp_path):
    args = REDIConfig(**distributed.settings(tmp_path))
    with pytest.raises(ValueError, match="leave ref_model out"):
        REDITrainer(tiny_model, AutoModelForCausalLM.from_pretrained(tiny_model), args=args, train_dataset=pairs)
    with pytest.raises(
        ValueError, match=r"`label` \(true if correct\); the train dataset has \['completion', 'prompt'\]"
    ):
        REDITrainer(tiny_model, args=args, train_dataset=rows.remove_columns("label"))
    with pytest.raises(TypeError, match="REDIConfig or a DPOConfig, got a SFTConfig"):
        REDITrainer(tiny_model, args=SFTConfig(str(tmp_path), use_cpu=True, bf16=False), train_dataset=pairs)


# The warning


def falling(chosen: float, rejected: float, steps: int, every: int, caplog, alpha: float = 0.8) -> str:
    """The warnings of a run whose log-probabilities per token change by so much at each step."""
    state, callback = TrainerState(is_world_process_zero=True), CollapseCallback(0.01, alpha)
    args = TrainingArguments("unused", learning_rate=1e-6, use_cpu=True)
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        for step in range(every, steps + 1, every):
            noise = 0.02 * (-1) ** (step // every)
            logs = {"step": step}
            logs[callback.chosen], logs[callback.rejected] = -1 + chosen * step + noise, -1 + rejected * step - noise
            state.global_step = step
            state.log_history.append(logs)
            callback.on_log(args, state, None, logs=logs)
    return caplog.text


@pytest.mark.parametrize("every", [1, 10])
def test_a_collapse_is_announced_once(every, caplog):
    text = falling(-0.02, -0.05, 100, every, caplog)
    assert text.count("lose likelihood together") == 1
    assert "Lower learning_rate (1e-06 now)." in text and "collapse_slope = 0.01" in text


def test_the_advice_names_alpha_when_it_is_above_the_papers(caplog):
    assert "or alpha (1 now; 0.8 is the paper's)" in falling(-0.02, -0.05, 30, 1, caplog, alpha=1.0)


@pytest.mark.parametrize(("chosen", "rejected"), [(-0.005, -0.005), (0.0, -0.1), (-0.1, 0.0), (0.1, -0.1)])
def test_a_slow_or_one_sided_decline_is_not_a_collapse(chosen, rejected, caplog):
    assert falling(chosen, rejected, 100, 1, caplog) == ""


def test_a_run_that_collapses_warns(tiny_model, pairs, tmp_path, caplog):
    """The same traces on both sides, of which only the incorrect ones count: what lowers these lowers the others."""
    rows = Dataset.from_list(
        [
            {"prompt": pair["prompt"], "completion": pair["chosen"], "label": label, "weight": float(not label)}
            for pair in pairs
            for label in (True, False)
        ]
    )
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        train(tiny_model, rows, tmp_path, max_steps=24)
    assert caplog.text.count("lose likelihood together") == 1


def test_a_template_that_drops_the_reasoning_is_refused(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    reply = [{"role": "assistant", "content": "<think>\n1 + 1 = 2</think>\n2"}]
    dataset = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": "1 + 1?"}], "chosen": reply, "rejected": reply}]
    )
    tokenizer.chat_template = deepseek_r1_distill_chat_template
    args = REDIConfig(**distributed.settings(tmp_path))
    with pytest.raises(ValueError, match="does not render the whole reply"):
        REDITrainer(tiny_model, args=args, train_dataset=dataset, processing_class=tokenizer)
    tokenizer.chat_template = get_training_chat_template(tokenizer)
    trainer = REDITrainer(tiny_model, args=args, train_dataset=dataset, processing_class=tokenizer)
    assert "1 + 1 = 2" in tokenizer.decode(trainer.train_dataset[0]["chosen_ids"])


@pytest.mark.parametrize("empty", [Dataset.from_list([]), IterableDataset.from_generator(lambda: iter(()))])
def test_an_empty_dataset_is_an_error(empty, tiny_model, tmp_path):
    args = REDIConfig(**distributed.settings(tmp_path))
    with pytest.raises(ValueError, match="The train dataset is empty"):
        REDITrainer(tiny_model, args=args, train_dataset=empty)


# Every row is checked


@pytest.mark.parametrize(
    ("column", "usual", "value"),
    [
        ("label", "false", "false"),
        ("label", 1, -1),
        ("label", True, None),
        ("label", 1.0, 0.5),
        ("weight", 1.0, math.nan),
        ("weight", 1.0, -0.5),
        ("weight", None, math.inf),
        ("weight", "heavy", "heavy"),
    ],
)
def test_a_label_or_weight_without_meaning_is_refused(column, usual, value, tiny_model, rows, tmp_path):
    """In the last row of a dataset and of a stream, and in a prepared row."""
    changed = rows.remove_columns(column) if column in rows.column_names else rows
    changed = changed.add_column(column, [usual] * (len(rows) - 1) + [value])
    args = REDIConfig(**distributed.settings(tmp_path))
    message = rf"{0 if usual == value else 31} has the {column} {value!r}\."
    with pytest.raises(ValueError, match=f"Row {message}"):
        REDITrainer(tiny_model, args=args, train_dataset=changed)
    with pytest.raises(ValueError, match=f"Row {message}"):
        list(REDITrainer(tiny_model, args=args, train_dataset=changed.to_iterable_dataset()).train_dataset)
    with pytest.raises(ValueError, match=rf"A row has the {column} {value!r}\."):
        DataCollatorForREDI(pad_token_id=0)([{"prompt_ids": [1], "completion_ids": [2], "label": True, column: value}])


def test_labels_of_numbers_and_missing_weights(tiny_model, rows, tmp_path):
    numbers = rows.map(lambda row: {"label": int(row["label"])}).add_column("weight", [None, 1.0] * (len(rows) // 2))
    trainer = train(tiny_model, numbers, tmp_path / "numbers", max_steps=1)
    assert tiny.losses(trainer) == tiny.losses(train(tiny_model, rows, tmp_path / "plain", max_steps=1))


def test_a_weight_of_pairs_is_checked(tiny_model, pairs, tmp_path):
    changed = pairs.add_column("weight", [1.0] * 15 + [-1.0])
    with pytest.raises(ValueError, match=r"Row 15 has the weight -1\.0"):
        REDITrainer(tiny_model, args=REDIConfig(**distributed.settings(tmp_path)), train_dataset=changed)


def assistant(content: str, **more) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content, **more}]


THINKING = "<think>so</think> 3"


@pytest.mark.parametrize(
    ("place", "changes", "message"),
    [
        (7, {"rejected": assistant(THINKING)}, "`content` in `rejected` of row 7"),
        (0, {"chosen": assistant(THINKING)}, "`content` in `chosen` of row 0"),
        (5, {"chosen": assistant("2", reasoning_content="so")}, "`reasoning_content` in `chosen` of row 5"),
        # The same text in the prompt does not count.
        (5, {"chosen": assistant("2", reasoning_content="What is 5")}, "`reasoning_content` in `chosen` of row 5"),
    ],
)
def test_reasoning_that_the_template_drops_is_found_in_every_row(place, changes, message, tiny_model, pairs, tmp_path):
    changed = Dataset.from_list([{**row, **changes} if i == place else row for i, row in enumerate(pairs)])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = deepseek_r1_distill_chat_template
    args = REDIConfig(**distributed.settings(tmp_path))
    with pytest.raises(ValueError, match=message):
        REDITrainer(tiny_model, args=args, train_dataset=changed, processing_class=tokenizer)
    with pytest.raises(ValueError, match=message):
        trainer = REDITrainer(
            tiny_model, args=args, train_dataset=changed.to_iterable_dataset(), processing_class=tokenizer
        )
        list(trainer.train_dataset)


def test_a_template_that_renders_reasoning_content_keeps_the_traces(tiny_model, pairs, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace(
        "m['content']", "m.get('reasoning_content', '') + m['content']"
    )
    changed = pairs.map(lambda row: {"chosen": assistant("2", reasoning_content="so")})
    args = REDIConfig(**distributed.settings(tmp_path))
    trainer = REDITrainer(tiny_model, args=args, train_dataset=changed, processing_class=tokenizer)
    assert tokenizer.decode(trainer.train_dataset[0]["chosen_ids"]).startswith("so2")
