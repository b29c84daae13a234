# SPDX-License-Identifier: Apache-2.0
"""TrRa: the mix of logits, its loss, and training on fixed text. Golden values are computed by hand from the formulas."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from datasets import Dataset, IterableDataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DistillationConfig

from tests import tiny
from tests.distributed import realignment as distributed
from trl_concise.methods.realignment import (
    FusedTeacher,
    TrRaConfig,
    TrRaTrainer,
    completion_ids,
    kl_over_positions,
    mix_logits,
    realignment_kl,
)


tensor = torch.tensor
ALIGNED, REFERENCE = tensor([[[2.0, 0, -1], [0, 1, 0]]]), tensor([[[0.0, 1, -1], [0, 0, 0]]])  # (1, 2, 3)
BOTH = torch.ones(1, 2)
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


# The equations


@pytest.mark.parametrize(
    ("lambda_", "expected"),
    [
        (0, [0.2447, 0.6652, 0.0900]),
        (0.5, [0.5741, 0.3482, 0.0777]),
        (1, [0.8438, 0.1142, 0.0420]),
        (1.5, [0.9537, 0.0288, 0.0175]),
        (2, [0.9867, 0.0066, 0.0066]),
    ],
)
def test_golden_mixes(lambda_, expected):
    mixed = mix_logits(ALIGNED[0, 0], REFERENCE[0, 0], lambda_).softmax(-1)
    assert mixed.tolist() == pytest.approx(expected, abs=5e-5)


def test_golden_losses():
    mixed = mix_logits(ALIGNED, REFERENCE, 1.5)
    assert realignment_kl(REFERENCE, mixed, tensor([[1, 0]])).item() == pytest.approx(1.178227, abs=1e-6)
    assert realignment_kl(mixed, REFERENCE, tensor([[1, 0]])).item() == pytest.approx(1.903443, abs=1e-6)  # not this
    assert realignment_kl(REFERENCE, mixed, tensor([[0, 1]])).item() == pytest.approx(0.2668, abs=5e-5)
    assert realignment_kl(REFERENCE, mixed, BOTH).item() == pytest.approx(0.722508, abs=1e-6)
    assert kl_over_positions(REFERENCE, mixed, BOTH).item() == pytest.approx(0.665504, abs=1e-6)


logits = st.lists(st.floats(-8, 8), min_size=5, max_size=5)


@given(logits, logits, st.floats(-3, 10), st.floats(-5, 5))
def test_the_mix_is_a_product_of_probabilities_and_ignores_constants(aligned, reference, lambda_, constant):
    h_a, h_r = tensor([aligned, reference], dtype=torch.float64)
    mixed = mix_logits(h_a, h_r, lambda_).softmax(-1)
    product = mix_logits(h_a.log_softmax(-1), h_r.log_softmax(-1), lambda_)
    torch.testing.assert_close(product.softmax(-1), mixed)
    torch.testing.assert_close(mix_logits(h_a + constant, h_r - 2 * constant, lambda_).softmax(-1), mixed)


def test_padding_does_not_count():
    wide = [torch.cat([one, torch.full((1, 3, 3), 7.0) * torch.arange(3)], dim=1) for one in (ALIGNED, REFERENCE)]
    mask = tensor([[1, 1, 0, 0, 0]])
    for loss in (realignment_kl, kl_over_positions):
        narrow = loss(REFERENCE, mix_logits(ALIGNED, REFERENCE, 1.5), BOTH)
        assert loss(wide[1], mix_logits(*wide, 1.5), mask).item() == pytest.approx(narrow.item(), abs=1e-6)
    assert realignment_kl(REFERENCE, ALIGNED, torch.zeros(1, 2)) == 0


# The fused teacher


@pytest.fixture(scope="module")
def aligned(tiny_model):
    return distributed.aligned_model(tiny_model)


@pytest.mark.parametrize("lambda_", [-0.5, 0, 1, 1.5])
def test_the_fused_teacher_has_the_mixed_logits(lambda_, tiny_model, aligned):
    reference = tiny.load(tiny_model)
    ids, mask = torch.arange(3, 15).reshape(2, 6), tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    with torch.no_grad():
        expected = mix_logits(*(model(ids, attention_mask=mask).logits for model in (aligned, reference)), lambda_)
        found = FusedTeacher(aligned, reference, lambda_)(ids, mask)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-4)


def test_models_of_different_widths_can_be_mixed(tmp_path, tiny_model):
    config = tiny.load(tiny_model).config
    config.hidden_size, config.tie_word_embeddings = 32, False
    torch.manual_seed(0)
    narrow = AutoModelForCausalLM.from_config(config).float()
    ids, mask, reference = torch.arange(3, 9)[None], torch.ones(1, 6), tiny.load(tiny_model)
    with torch.no_grad():
        expected = mix_logits(narrow(ids).logits, reference(ids).logits, 1.5)
        torch.testing.assert_close(FusedTeacher(narrow, reference, 1.5)(ids, mask), expected, atol=1e-5, rtol=1e-4)


def test_models_that_cannot_be_mixed_are_refused(tmp_path, tiny_model, aligned):
    other = tiny.load(tiny.make_model(tmp_path / "more", more_tokens=["<a>"]))
    with pytest.raises(ValueError, match=r"vocabulary of 260 entries .* one of 259"):
        FusedTeacher(other, aligned, 1.5)
    capped = tiny.load(tiny.make_model(tmp_path / "gemma", architecture="gemma2"))
    adapter = get_peft_model(tiny.load(tiny_model), LoraConfig(r=2, target_modules=["lm_head"])).base_model.model
    for refused in (capped, adapter):
        with pytest.raises(ValueError, match="not a plain projection of its last hidden states"):
            FusedTeacher(aligned, refused, 1.5)


# Training


@pytest.fixture
def trainer(tiny_model, aligned, tmp_path) -> TrRaTrainer:
    return TrRaTrainer(tiny_model, aligned, TrRaConfig(**distributed.settings(tmp_path)), distributed.rows())


def step(trainer):
    """Return the batch, the loss of a step and the gradients."""
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return batch, loss.item(), {name: p.grad for name, p in trainer.model.named_parameters()}


def test_loss_and_gradient_are_those_of_the_equation(trainer, tiny_model, aligned):
    batch, loss, gradients = step(trainer)
    model, reference = tiny.load(tiny_model), tiny.load(tiny_model)
    ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], 1) for x in ("ids", "mask"))
    width = batch["completion_ids"].size(1)
    student, first, second = (
        m(ids, attention_mask=mask).logits[:, -width - 1 : -1] for m in (model, aligned, reference)
    )
    expected = realignment_kl(student, mix_logits(first, second, 1.5), batch["completion_mask"])
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6) and loss > 1e-3
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-3)
    assert all(
        parameter.grad is None and not parameter.requires_grad for parameter in trainer.teacher_model.parameters()
    )


@pytest.mark.parametrize("normalize_over", ["vocabulary", "positions"])
def test_nothing_is_learned_with_a_weight_of_zero(normalize_over, tiny_model, aligned, tmp_path):
    settings = distributed.settings(tmp_path, lambda_=0, normalize_over=normalize_over)
    _, loss, gradients = step(TrRaTrainer(tiny_model, aligned, TrRaConfig(**settings), distributed.rows()))
    assert loss == pytest.approx(0, abs=1e-6)
    assert all(gradient.abs().max() < 1e-5 for gradient in gradients.values())


def test_the_loss_over_positions_is_that_of_the_equation(tiny_model, aligned, tmp_path):
    """The prompt counts, padding does not: each row by itself, as the authors train."""
    args = TrRaConfig(**distributed.settings(tmp_path, normalize_over="positions"))
    batch, loss, _ = step(TrRaTrainer(tiny_model, aligned, args, distributed.rows()))
    reference, losses = tiny.load(tiny_model), []
    for i in range(4):
        kept = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)[i].bool()
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)[i][kept][None]
        first, second = (model(ids).logits for model in (aligned, reference))
        teacher = mix_logits(first, second, 1.5).softmax(1)
        own = torch.nn.functional.kl_div(second.log_softmax(1)[0], teacher[0], reduction="batchmean")  # their call
        losses.append(own.item())
    assert loss == pytest.approx(sum(losses) / 4, rel=1e-3)


def test_the_student_reaches_the_teacher(tiny_model, aligned, tmp_path):
    """With a weight of 1 the teacher is the aligned model."""
    changes = {"lambda_": 1.0, "max_steps": 12, "learning_rate": 5e-3, "lr_scheduler_type": "constant"}
    losses = tiny.losses(distributed.train(tiny_model, tmp_path, **changes))
    assert max(losses[-3:]) < 0.7 * losses[0]


def test_rows_are_tokenized_as_generation_does(trainer, tiny_model):
    batch, _, _ = step(trainer)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = {
        tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True): row["completion"][0][
            "content"
        ]
        for row in distributed.rows()
    }
    for i in range(4):
        prompt, completion = (
            tokenizer.decode(batch[f"{x}_ids"][i][batch[f"{x}_mask"][i].bool()]) for x in ("prompt", "completion")
        )
        assert rows[prompt] + "<|im_end|>" == completion
    assert completion_ids("ab<|im_end|>", tokenizer, 7) == completion_ids("ab", tokenizer, 7)  # one end token
    assert completion_ids("ab", tokenizer, 7)[-1] == 2
    assert_no_second_think(tiny_model, trainer)
    for invalid in (None, [], [{"role": "user", "content": "a"}] * 2, [{"role": "assistant", "content": None}]):
        with pytest.raises(ValueError, match="one message"):
            completion_ids(invalid, tokenizer, 7)


def assert_no_second_think(path, trainer):
    """A template that opens the thinking is followed by a completion that does not."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    trainer._completions = ["<think>\na"]
    ids = tokenizer("<|im_start|>assistant\n<think>\n").input_ids
    with pytest.raises(ValueError, match="Remove it from the completions"):
        trainer._generate_single_turn([ids], None, {})
    trainer._completions = ["a"]
    with pytest.raises(ValueError, match="A prompt has no tokens"):
        trainer._generate_single_turn([[]], None, {})
    assert len(trainer._generate_single_turn([ids], None, {})) == 1


def test_completions_are_truncated_and_counted(tiny_model, tmp_path):
    trainer = distributed.train(tiny_model, tmp_path, max_completion_length=3, max_steps=1)
    logged = trainer.state.log_history[0]
    assert logged["completions/max_length"] == 3 and 0 < logged["completions/clipped_ratio"] <= 1


def test_a_resumed_run_equals_an_uninterrupted_one_in_a_later_pass_too(tiny_model, tmp_path):
    changes = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    changes |= {"per_device_train_batch_size": 2}  # three steps a pass
    whole = distributed.train(tiny_model, tmp_path, **changes)
    resumed = distributed.train(tiny_model, tmp_path, resume=str(tmp_path / "checkpoint-4"), **changes)
    assert tiny.losses(resumed) == pytest.approx(tiny.losses(whole), rel=1e-5) and len(tiny.losses(whole)) == 6
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, whole.model.state_dict()[name], msg=name)
    card = (tmp_path / "README.md").read_text()
    assert "2506.12704" in card and "trra" in card
    assert not any("teacher" in path.name for path in tmp_path.rglob("*"))


def test_two_processes_are_one(tiny_model, tmp_path, two_processes):
    for name, changes in {"vocabulary": {}, "positions": {"normalize_over": "positions"}}.items():
        ranks = [torch.load(two_processes / "realignment" / f"{name}-rank{rank}.pt") for rank in (0, 1)]
        one = distributed.report(distributed.train(tiny_model, tmp_path / name, optim="sgd", **changes))
        assert one["world_size"] == 1 and one["logged"][0]["loss"] > 1e-3
        for rank in ranks:
            assert rank["world_size"] == 2
            for two, single in zip(rank["logged"], one["logged"], strict=True):
                assert two == pytest.approx(single, rel=1e-3, abs=1e-6)
            for weight, value in rank["weights"].items():
                torch.testing.assert_close(value, one["weights"][weight], atol=1e-6, rtol=1e-4, msg=weight)


def test_texts_streams_evaluation_and_a_plain_config(tiny_model, aligned, tmp_path):
    rows = [{"prompt": f"{i}?", "completion": "a" * (i + 1), "other": i} for i in range(8)]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    plain = DistillationConfig(**distributed.settings(tmp_path, max_steps=1, remove_unused_columns=True))
    assert plain.beta == 1
    trainer = TrRaTrainer(tiny_model, aligned, plain, stream, {"test": Dataset.from_list(rows)})
    trainer.train()
    assert trainer.args.beta == 0 and trainer.args.lambda_ == 1.5 and plain.beta == 1
    trainer.evaluate()
    logged = trainer.state.log_history[-1]
    assert logged["eval_test_loss"] > 0 and logged["eval_completions/mean_length"] == 5.5  # with EOS


def test_an_adapter_is_trained_or_aligned(tiny_model, aligned, tmp_path):
    """The reference of an adapter run is the model without it; an aligned adapter is merged."""
    args = TrRaConfig(**distributed.settings(tmp_path, lambda_=0.0, max_steps=1))
    torch.manual_seed(0)
    adapter = get_peft_model(tiny.load(tiny_model), LoraConfig(**LORA, init_lora_weights=False))
    merged = copy.deepcopy(adapter).merge_and_unload()
    trainer = TrRaTrainer(tiny_model, adapter, args, distributed.rows(), peft_config=LoraConfig(**LORA))
    trainer.train()
    assert tiny.losses(trainer)[0] == pytest.approx(0, abs=1e-6)
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad and "lora" not in name} == set()
    ids, mask = torch.arange(3, 9)[None], torch.ones(1, 6)
    teacher = FusedTeacher(merged, tiny.load(tiny_model), 1.0)(ids, mask)
    trainer = TrRaTrainer(adapter, adapter, TrRaConfig(**distributed.settings(tmp_path, lambda_=1.0)), distributed.rows(), processing_class=AutoTokenizer.from_pretrained(tiny_model), ref_model=tiny_model)  # fmt: skip
    torch.testing.assert_close(trainer.teacher_model(ids, mask), teacher, atol=1e-5, rtol=1e-4)
    assert any(parameter.requires_grad for parameter in trainer.model.parameters())


# Invalid input


@pytest.mark.parametrize("lambda_", [math.nan, math.inf, True, None, "1"])
def test_a_weight_that_is_not_a_number_is_refused(lambda_, tmp_path):
    with pytest.raises(ValueError, match="lambda_ must be a finite number"):
        TrRaConfig(**distributed.settings(tmp_path, lambda_=lambda_))


def test_another_divergence_is_refused(tmp_path):
    with pytest.raises(ValueError, match="forward KL divergence"):
        TrRaConfig(**distributed.settings(tmp_path, beta=1.0))


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),  # of a plain config
    [
        ({"beta": 0.5}, {}, "forward KL divergence"),
        ({"use_vllm": True}, {}, "use_vllm would have no effect"),
        ({"max_completion_length": 0}, {}, "leaves no token to train on"),
        ({}, {"teacher_model": None}, "pass it as teacher_model"),
        ({}, {"tools": [len]}, "tools would have no effect"),
        ({}, {"train_dataset": Dataset.from_list([{"prompt": "a"}])}, "the train dataset has .'prompt'."),
        ({}, {"train_dataset": Dataset.from_list([])}, "train dataset is empty"),
        ({}, {"eval_dataset": {"a": Dataset.from_list([{"prompt": "a"}])}}, "the eval dataset has .'prompt'."),
    ],
)
def test_invalid_arguments(changes, arguments, message, tiny_model, aligned, tmp_path):
    args = DistillationConfig(**distributed.settings(tmp_path, **changes))
    given = {"teacher_model": aligned, "train_dataset": distributed.rows(), **arguments}
    with pytest.raises(ValueError, match=message):
        TrRaTrainer(tiny_model, args=args, **given)


def test_too_few_rows_for_a_step(tiny_model, aligned, tmp_path):
    args = TrRaConfig(**distributed.settings(tmp_path))
    trainer = TrRaTrainer(tiny_model, aligned, args, distributed.rows(3))
    with pytest.raises(ValueError, match="has 3 rows, but an optimizer step takes 4"):
        trainer.train()


def test_other_tokenizers_are_refused(tiny_model, tmp_path):
    """The sizes are the same, the words are not."""
    other = tiny.make_model(tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="of the student and of the aligned model have different vocabularies"):
        TrRaTrainer(tiny_model, other, TrRaConfig(**distributed.settings(tmp_path)), distributed.rows())
