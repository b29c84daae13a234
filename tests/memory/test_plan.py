# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import GRPOConfig, GRPOTrainer

from tests import tiny
from trl_concise.cli.commands import TRAINING
from trl_concise.memory import Architecture, PlanSettings, formulas, plan
from trl_concise.memory.plan import GIB
from trl_concise.memory.settings import CROPPED_METHODS, OFFLINE_METHODS, ONLINE_METHODS
from trl_concise.memory.shapes import KNOWN_SHAPES, known_config


QWEN = Architecture.from_config(known_config("Qwen/Qwen2-1.5B-Instruct"))
LORA = {"dtype": "bfloat16", "use_peft": True, "lora_target_modules": ["all-linear"]}


PARAMETERS = {  # as published, tied embeddings counted once
    "Qwen/Qwen2-0.5B": 494_032_768,
    "Qwen/Qwen2-1.5B": 1_543_714_304,
    "Qwen/Qwen2-7B": 7_615_616_512,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-Math-7B": 7_615_616_512,
    "Qwen/Qwen2.5-Coder-0.5B": 494_032_768,
    "Qwen/Qwen2.5-Coder-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-Coder-3B": 3_085_938_688,
    "Qwen/Qwen2.5-Coder-7B": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": 7_615_616_512,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": 14_770_033_664,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "miromind-ai/MiroMind-M1-SFT-7B": 7_615_616_512,  # that of Qwen2.5-Math-7B
}


def test_known_shapes_have_the_published_number_of_parameters():
    counted = {}  # of each shape once
    for name, shape in KNOWN_SHAPES.items():
        key = tuple(shape.items())
        counted[key] = counted.get(key) or Architecture.from_config(known_config(name)).parameters
        assert counted[key] == PARAMETERS[name.removesuffix("-Instruct").removesuffix("-Base")], name
    assert {name.removesuffix("-Instruct").removesuffix("-Base") for name in KNOWN_SHAPES} == PARAMETERS.keys()
    assert known_config("qwen/qwen3-0.6b").tie_word_embeddings and known_config("Qwen/Qwen3-0.6B-FP8") is None


def test_memory_components_by_hand():
    made = plan(PlanSettings("hapo", max_completion_length=3584, beta=0.04, **LORA), QWEN)
    loss = made.parts["loss"]
    assert loss["weights"] == 2 * QWEN.parameters
    # r = 16 times inputs and outputs of q, k, v, o, gate, up, down, in 28 layers, in float32
    adapter = 4 * 28 * 16 * (2 * 3072 + 2 * 1792 + 3 * 10496)
    assert loss["adapter"] == loss["gradients"] == adapter and loss["optimizer"] == 2 * adapter
    assert made.parts["generation"]["KV cache"] == 8 * 4096 * 28672  # 28 KiB per token
    assert made.parts["generation"].get("gradients") is None  # freed by the optimizer step
    assert made.activations[True] == 8 * 4096 * (28 * 1536 * 2 + 4096)  # inputs of the layers, and the mask
    assert loss["reference model"] == 0  # the model without its adapter
    assert 0.25 * GIB < made.parts["log-probs"]["LM head"] < GIB  # all logits would be 9.3 GiB
    # The last layer's forward pass is larger than the head: three times the hidden and four times the MLP width, in bf16.
    assert loss["forward pass"] == 8 * 4096 * 2 * (3 * 1536 + 4 * 8960) and "LM head" not in loss


def test_phases():
    assert list(plan(PlanSettings("grpo", **LORA), QWEN).parts) == ["generation", "loss", "backward"]
    assert "log-probs" in plan(PlanSettings("grpo", use_vllm=True, **LORA), QWEN).parts
    assert "generation" not in plan(PlanSettings("grpo", use_vllm=True, vllm_mode="server", **LORA), QWEN).parts
    assert list(plan(PlanSettings("redi", **LORA), QWEN).parts) == ["loss", "backward"]


def test_full_fine_tuning_keeps_a_reference_and_a_cast():
    made = plan(PlanSettings("grpo", beta=0.1), QWEN)
    assert made.parts["loss"]["reference model"] == made.parts["loss"]["weights"] == 4 * QWEN.parameters
    assert made.parts["loss"]["optimizer"] == 8 * QWEN.parameters
    assert plan(PlanSettings("crisp"), QWEN).parts["loss"]["reference model"] == 4 * QWEN.parameters  # the teacher
    assert made.activations[False] > formulas.BFLOAT16 * QWEN.linear_parameters


def test_vllm_uses_its_share_and_sleep_mode():
    awake = plan(PlanSettings("hapo", use_vllm=True, **LORA), QWEN)
    asleep = plan(PlanSettings("hapo", use_vllm=True, vllm_enable_sleep_mode=True, **LORA), QWEN)
    assert awake.parts["backward"]["vLLM"] == awake.parts["generation"]["vLLM"] == pytest.approx(12 * GIB)
    assert asleep.parts["backward"]["vLLM"] == GIB
    small = plan(PlanSettings("hapo", use_vllm=True, vllm_gpu_memory_utilization=0.1, **LORA), QWEN)
    assert not small.fits and "vllm_gpu_memory_utilization must be at least 0.12" in small.problem


def test_completions_end_within_the_context_of_vllm():
    run = PlanSettings("hapo", max_completion_length=4096, use_vllm=True, **LORA)
    assert plan(dataclasses.replace(run, vllm_max_model_length=4608), QWEN).fits
    made = plan(dataclasses.replace(run, vllm_max_model_length=4607), QWEN)
    assert not made.fits and "may have 4,608 tokens, more than vllm_max_model_length = 4,607" in made.problem
    assert plan(dataclasses.replace(made.settings, vllm_mode="server"), QWEN).fits  # a server has its own


@pytest.mark.parametrize(
    ("steps_per_generation", "num_iterations", "within"), [(1, 1, True), (2, 1, False), (1, 2, False), (3, 1, True)]
)
def test_gradients_are_there_where_a_step_generates_more_than_once(
    steps_per_generation, num_iterations, within, tiny_model, problems, tmp_path
):
    steps = {
        "gradient_accumulation_steps": 2,
        "steps_per_generation": steps_per_generation,
        "num_iterations": num_iterations,
    }
    seen = []

    def reward(completions, **kwargs):  # asked within TRL's generation
        seen.append(any(parameter.grad is not None for parameter in trainer.model.parameters()))
        return [float(len(text)) for text in completions]

    args = GRPOConfig(**tiny.settings(tmp_path, per_device_train_batch_size=4, max_steps=3, **steps))
    trainer = GRPOTrainer(tiny_model, reward, args, train_dataset=problems)
    trainer.train()
    assert any(seen) == within
    made = plan(PlanSettings("grpo", per_device_train_batch_size=8, **steps, **LORA), QWEN)
    assert made.parts["generation"].get("gradients", 0) == within * made.parts["loss"]["gradients"]
    assert ("log-probs" in made.parts) == (2 % (steps_per_generation * num_iterations) != 0)


def test_stochastic_tokens_crop():
    methods = ("grpo", "sgrpo", "combined")
    made = {method: plan(PlanSettings(method, max_completion_length=4096, **LORA), QWEN) for method in methods}
    assert made["combined"].parts == made["sgrpo"].parts
    assert made["sgrpo"].settings.last_trained_token == 50 + 130  # 50 successes at 0.5: 100 draws, and three times 10
    assert made["sgrpo"].activations[True] < 0.16 * made["grpo"].activations[True]


def test_every_training_command_can_be_planned():
    assert set(TRAINING) <= {*ONLINE_METHODS, *OFFLINE_METHODS}
    peaks = {
        method: plan(PlanSettings(method, **LORA), QWEN).peak
        for method in ONLINE_METHODS
        if method not in CROPPED_METHODS
    }
    assert set(peaks.values()) == {peaks["grpo"]}


def test_realignment_holds_two_frozen_models_and_a_copy_of_their_heads():
    made = plan(PlanSettings("realignment", max_completion_length=1024, **LORA), QWEN).parts["loss"]
    assert made["reference model"] == 2 * (made["weights"] + 2 * QWEN.vocab_size * QWEN.hidden_size)  # bfloat16
    assert PlanSettings("realignment", max_completion_length=1024, max_length=64).length == 512 + 1024


@pytest.mark.parametrize("method", OFFLINE_METHODS)
def test_short_sequences_have_completions_too(method):
    plans = [plan(PlanSettings(method, max_length=length), QWEN) for length in (2, 256, 512, 1024)]
    heads = [parts["LM head"] for one in plans for parts in one.parts.values() if "LM head" in parts]
    assert all(head > 0 for head in heads) and heads == sorted(heads)


def test_unknown_targets_are_refused():
    with pytest.raises(ValueError, match=r"names \['lm_head'\]"):
        plan(PlanSettings("hapo", use_peft=True, lora_target_modules=["lm_head"]), QWEN)


runs = st.builds(
    lambda method, rows, length, **rest: PlanSettings(
        method, per_device_train_batch_size=8 * rows, max_completion_length=length, max_length=512 + length, **rest
    ),
    st.sampled_from(["grpo", "hapo", "sgrpo", "tspmo", "redi", "cft"]),
    st.integers(1, 4),
    st.integers(1, 20_000),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    use_peft=st.booleans(),
    use_vllm=st.booleans(),
    beta=st.sampled_from([0.0, 0.04]),
    gradient_checkpointing=st.booleans(),
)


@given(runs, st.integers(1, 1000))
@settings(max_examples=50, deadline=None)
def test_more_tokens_and_rows_never_take_less(run, more):
    peak = plan(run, QWEN).peak
    longer = dataclasses.replace(
        run, max_completion_length=run.max_completion_length + more, max_length=run.max_length + more
    )
    wider = dataclasses.replace(run, per_device_train_batch_size=2 * run.per_device_train_batch_size)
    assert plan(longer, QWEN).peak >= peak and plan(wider, QWEN).peak >= peak


@given(runs)
@settings(max_examples=50, deadline=None)
def test_checkpointing_saves_memory(run):
    made = plan(run, QWEN)
    assert made.activations[True] < made.activations[False]
