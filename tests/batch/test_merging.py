# SPDX-License-Identifier: Apache-2.0
"""`merge_adapter_for_generation`: the same completions and the same training, and base weights that nothing writes to."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, HAPOConfig, HAPOTrainer
from trl_concise.batch.merging import check_mergeable, merged_adapter


LORA = {"r": 4, "target_modules": "all-linear", "lora_dropout": 0.0, "init_lora_weights": False}  # random: it matters
FOUR_BITS = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
ADAPTERS = {
    "lora": LoraConfig(**LORA),
    "dora": LoraConfig(**LORA, use_dora=True),
    "biases": LoraConfig(**LORA | {"target_modules": ["q_proj", "k_proj"]}, lora_bias=True),
    "embedding": LoraConfig(**LORA | {"target_modules": ["embed_tokens", "q_proj"]}),
    "tied head": LoraConfig(**LORA | {"target_modules": ["lm_head", "q_proj"]}),
    "ia3": IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    ),
}
TOKENS = torch.arange(5, 37)[None]


def build(tiny_model, problems, folder, trainer=HAPOTrainer, config=HAPOConfig, adapter=None, **changes):
    arguments = {name: changes.pop(name) for name in ("quantization_config",) if name in changes}
    torch.manual_seed(0)
    return trainer(
        tiny_model,
        tiny.even_reward,
        args=config(**tiny.settings(folder, **changes)),
        train_dataset=problems,
        peft_config=adapter or LoraConfig(**LORA),
        **arguments,
    )


def contents(model) -> dict[str, tuple[int, int, torch.Tensor]]:
    """What identifies each parameter: the object, its memory, its bits."""
    return {
        name: (id(value), value.data_ptr(), value.detach().clone())
        for name, value in model.named_parameters(remove_duplicate=False)
    }


def assert_untouched(model, before) -> None:
    after = contents(model)
    assert after.keys() == before.keys()
    for name, (identity, address, value) in before.items():
        assert after[name][:2] == (identity, address), name
        assert torch.equal(after[name][2].view(torch.uint8), value.view(torch.uint8)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_merged_weights_compute_the_same_and_the_originals_are_restored(kind, dtype, tiny_model):
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype), ADAPTERS[kind])
    for name, value in model.named_parameters():
        if "lora_" in name or "ia3_" in name:
            torch.nn.init.normal_(value, 1.0 if "ia3_" in name else 0.0, 0.1)
    check_mergeable(model, is_sharded=False)
    before = contents(model)
    with torch.no_grad():
        expected = model(input_ids=TOKENS).logits
        with merged_adapter(model):
            merged = model(input_ids=TOKENS).logits
            assert any(layer.merged for layer in model.modules() if hasattr(layer, "merged_adapters"))
        assert_untouched(model, before)
        assert torch.equal(model(input_ids=TOKENS).logits, expected)
        with model.disable_adapter():
            plain = model(input_ids=TOKENS).logits
    assert (plain - expected).abs().max() > 0.01  # the adapter matters
    tolerance = 1e-5 if dtype == torch.float32 else 0.02  # bfloat16 rounds the sum of weight and adapter
    torch.testing.assert_close(merged, expected, atol=tolerance, rtol=tolerance)


def test_an_exception_in_generation_leaves_the_base_weights(tiny_model, problems, tmp_path, monkeypatch):
    trainer = build(tiny_model, problems, tmp_path, merge_adapter_for_generation=True)
    before = contents(trainer.model)
    monkeypatch.setattr(trainer.generation_config, "max_new_tokens", -1)  # transformers refuses
    monkeypatch.setitem(trainer.generation_kwargs, "max_new_tokens", -1)
    with pytest.raises(ValueError, match="max_new_tokens"):
        trainer.train()
    assert_untouched(trainer.model, before)
    assert not any(layer.merged for layer in trainer.model.modules() if hasattr(layer, "merged_adapters"))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_is_the_same_and_changes_only_the_adapter(checkpointing, tiny_model, problems, tmp_path):
    """In float32 the merged policy draws the same tokens, so a run with merging is the run without it."""
    runs = {}
    for merges in (False, True):
        trainer = build(
            tiny_model,
            problems,
            tmp_path / f"{merges}",
            max_steps=3,
            merge_adapter_for_generation=merges,
            gradient_checkpointing=checkpointing,
        )
        before = contents(trainer.model)
        trainer.train()
        frozen = {
            name for name, value in trainer.model.named_parameters(remove_duplicate=False) if not value.requires_grad
        }
        assert_untouched_of(trainer.model, before, frozen)
        extra = trainer.generate_rollouts([problems[0], problems[1]], 2)
        greedy = trainer.generate_rollouts([problems[0]], 1, greedy=True)
        adapter = {name: value.clone() for name, value in trainer.model.state_dict().items() if "lora_" in name}
        lengths = [entry["completions/mean_length"] for entry in trainer.state.log_history if "loss" in entry]
        runs[merges] = (adapter, lengths, extra.completion_ids, greedy.completion_ids)
    assert runs[False][1:] == runs[True][1:]
    for name, value in runs[False][0].items():
        torch.testing.assert_close(runs[True][0][name], value, atol=1e-6, rtol=1e-5)


def assert_untouched_of(model, before, names) -> None:
    after = contents(model)
    assert names
    for name in names:
        assert after[name][:2] == before[name][:2] and torch.equal(after[name][2], before[name][2]), name


def test_a_resumed_run_equals_the_original_run(tiny_model, problems, tmp_path):
    changes = {"merge_adapter_for_generation": True, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    whole = build(tiny_model, problems, tmp_path / "whole", **changes)
    whole.train()
    resumed = build(tiny_model, problems, tmp_path / "resumed", **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


@pytest.mark.usefixtures("plain_nf4")
def test_four_bit_weights_are_merged_without_being_quantized_again(tiny_model, problems, tmp_path):
    trainer = build(
        tiny_model,
        problems,
        tmp_path,
        max_steps=2,
        merge_adapter_for_generation=True,
        quantization_config=FOUR_BITS,
        model_init_kwargs={"dtype": "float32"},
    )
    model = trainer.model
    before = contents(model)
    with torch.no_grad():
        model.eval()
        expected = model(input_ids=TOKENS).logits
        with merged_adapter(model):
            merged = model(input_ids=TOKENS).logits
            assert not any(
                type(module).__name__ == "Linear4bit" and "base_layer" in name
                for name, module in model.named_modules()
            )
        with model.disable_adapter():
            plain = model(input_ids=TOKENS).logits
    assert_untouched(model, before)
    assert (merged - expected).abs().max() < 0.05 * (plain - expected).abs().max()
    trainer.train()
    frozen = {name for name, value in model.named_parameters(remove_duplicate=False) if not value.requires_grad}
    assert_untouched_of(model, before, frozen)


REFUSED = {
    "tokens instead of weights": PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
    "some tokens only": LoraConfig(**LORA, alora_invocation_tokens=[5]),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_unmergeable_adapters_are_refused_before_training(reason, tiny_model):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), REFUSED[reason])
    with pytest.raises(ValueError, match=f"cannot be merged: .*{reason}.*Set it to False"):
        check_mergeable(model, is_sharded=False)


def test_sharded_and_other_quantized_weights_are_refused(tiny_model):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(**LORA))
    with pytest.raises(ValueError, match="sharded"):
        check_mergeable(model, is_sharded=True)
    layer = next(layer for layer in model.modules() if hasattr(layer, "merged_adapters"))
    layer.base_layer.weight = torch.nn.Parameter(layer.base_layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="cannot be merged: it adapts a Linear with weights of torch.int8"):
        check_mergeable(model, is_sharded=False)


def test_the_trainer_refuses_and_a_model_without_an_adapter_passes(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match="merge_adapter_for_generation=True, but the adapter cannot be merged"):
        build(
            tiny_model,
            problems,
            tmp_path,
            adapter=PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
            merge_adapter_for_generation=True,
        )
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=1, merge_adapter_for_generation=True))
    ConciseGRPOTrainer(tiny_model, tiny.even_reward, args=args, train_dataset=problems).train()
