# SPDX-License-Identifier: Apache-2.0
"""An optimizer step of every trainer on a pretrained model, with its tokenizer and its chat template."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer

import trl_concise as tc
from tests import every_method
from trl_concise import demo, math_accuracy_reward


SETTINGS = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "per_device_train_batch_size": 8,
    "max_steps": 1,
    "logging_steps": 1,
    "save_strategy": "no",
    "learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "model_init_kwargs": {"dtype": "float32"},
}
LORA = {"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def problems(rows: int) -> Dataset:
    """Problems of the demo, as a user message that asks for a box."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"{row['problem']} Put the answer in \\boxed{{}}."}],
                "solution": row["answer"],
                "target_length": 32,
            }
            for number, row in enumerate(demo.generate_problems(rows, seed=0))
        ]
    )


def mostly_short(completion_ids, **kwargs):
    """1 for the shorter half of each group of four: verdicts that vary, which a model this small does not give of itself."""
    lengths = [len(ids) for ids in completion_ids]
    groups = [lengths[first : first + 4] for first in range(0, len(lengths), 4)]
    return [float(length < sorted(group)[2]) for group in groups for length in group]


def check(trainer) -> list[dict]:
    """The step has a finite loss and gradient, and moved the adapter alone."""
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs and all(math.isfinite(entry["loss"]) and math.isfinite(entry["grad_norm"]) for entry in logs)
    weights = dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
    adapters = [value for name, value in weights.items() if "lora_B" in name]  # zero at the start
    assert adapters and any(value.abs().max() > 0 for value in adapters)
    return logs


@pytest.mark.parametrize("method", every_method.ONLINE)
def test_online(method, smollm2, tmp_path):
    settings = {"output_dir": str(tmp_path), "num_generations": 4, "max_completion_length": 48, **SETTINGS}
    functions = [mostly_short, math_accuracy_reward]
    trainer = every_method.build(method, smollm2, functions, settings, problems(8), peft_config=LoraConfig(**LORA))
    trainer.train()
    logs = check(trainer)
    assert logs[0]["accuracy"] > 0 and logs[0]["completions/mean_length"] > 0


def test_completions_end_where_the_chat_template_ends_them(smollm2, tmp_path):
    """The end of a turn, `<|im_end|>`, is not counted as a token of the completion, and the prompt is the template's."""
    trainer = tc.HAPOTrainer(
        smollm2,
        [mostly_short],
        args=tc.HAPOConfig(output_dir=str(tmp_path), num_generations=4, max_completion_length=256, **SETTINGS),
        train_dataset=problems(8),
    )
    rows = [trainer.train_dataset[0]]
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    generated = trainer.generate_rollouts(rows, 4)
    expected = tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, tokenize=False)
    assert generated.prompt_ids == [tokenizer(expected, add_special_tokens=False).input_ids] * 4
    ended = [ids for ids, cut in zip(generated.completion_ids, generated.truncated.tolist(), strict=True) if not cut]
    assert ended and all(ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>") for ids in ended)
    assert all(
        length == len(ids) - (not cut)
        for length, ids, cut in zip(
            generated.lengths.tolist(), generated.completion_ids, generated.truncated.tolist(), strict=True
        )
    )


def test_redi_from_text_traces(smollm2, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    traces = [
        {
            "problem": f"What is {a} + {b}?",
            "answer": str(a + b),
            "generations": [f"We add {a} and {b}. \\boxed{{{a + b}}}", f"I guess it is \\boxed{{{a + b + 1}}}"],
        }
        for a, b in [(3, 4), (12, 30), (25, 26), (7, 70)]
    ]
    pairs = tc.build_redi_pairs(traces, tokenizer=tokenizer)
    trainer = tc.REDITrainer(
        smollm2,
        args=tc.REDIConfig(output_dir=str(tmp_path), **SETTINGS),
        train_dataset=Dataset.from_list(list(pairs)),
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA),
    )
    trainer.train()
    check(trainer)


def test_cft_from_text_critiques(smollm2, tmp_path):
    rows = [
        {
            "question": f"What is {a} * {b}?",
            "solution": f"{a} * {b} = {a * b + wrong}. The answer is {a * b + wrong}.",
            "critique": f"{a} times {b} is {a * b}. Conclusion: {'wrong' if wrong else 'right'} [END]",
        }
        for a, b, wrong in [(3, 4, 0), (5, 6, 1), (7, 8, 0), (9, 2, 1)]
    ]
    trainer = tc.CFTTrainer(
        smollm2,
        args=tc.CFTConfig(output_dir=str(tmp_path), **SETTINGS),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(**LORA),
    )
    trainer.train()
    check(trainer)


@pytest.mark.slow
def test_two_steps_with_the_qwen_tokenizer(qwen, tmp_path):
    """Sums that the model knows, so that whatever is sampled in the first step, the second has a history."""
    settings = {**SETTINGS, "max_steps": 2, "num_train_epochs": 2}
    sums = [
        {
            "prompt": [{"role": "user", "content": f"What is {a} + {b}? Put the answer in \\boxed{{}}."}],
            "solution": str(a + b),
        }
        for a, b in [(3, 4), (20, 30)]
    ]
    trainer = tc.HAPOTrainer(
        qwen,
        [math_accuracy_reward],
        args=tc.HAPOConfig(output_dir=str(tmp_path), num_generations=4, max_completion_length=64, **settings),
        train_dataset=Dataset.from_list(sums),
        peft_config=LoraConfig(**LORA),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[0]["accuracy"] > 0 and logs[0]["hapo/history_coverage"] == 0 < logs[1]["hapo/history_coverage"]
    assert all(math.isfinite(entry["loss"]) for entry in logs)
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
