# SPDX-License-Identifier: Apache-2.0
"""What the trainer makes of completions that TRL has parsed, as it does with tools. The counts of calls are in tests/methods/test_otc.py."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from tests import tiny, tool_runs
from tests.tool_runs import END, call
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, math_accuracy_reward
from trl_concise.verification.finished import completions_open_reasoning


THOUGHTS = [
    [f"I add.</think>{call()}{END}", f"It is 3.</think>\\boxed{{3}}{END}"],
    [f"It is 3.</think>\\boxed{{3}}{END}"],
    [f"</think>\\boxed{{3}}{END}"],  # answers directly
    [f"I add, and the answer is 3{END}"],  # does not end its reasoning
] * 2


def test_reasoning_that_the_prompt_opens_may_be_parsed_out_of_the_completion(tiny_model, tmp_path):
    """A model that thinks, such as Qwen3.5: the template ends with `<think>`, and what TRL returns has no `</think>`."""
    tokenizer = tool_runs.tool_tokenizer(tiny_model)
    if getattr(tokenizer, "response_template", None) is None:
        pytest.skip("needs transformers 5.13, which parses with a response_template")
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant\n<think>\n")
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=1, max_completion_length=256))
    trainer = tool_runs.scripted(ConciseGRPOTrainer, lambda step, row: THOUGHTS[row])(
        *(tiny_model, math_accuracy_reward, args, tool_runs.problems()),
        processing_class=tokenizer,
        tools=[tool_runs.add],
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["accuracy"] == 0.75 and logged["tools/call_frequency"] == 0.25
    metrics = trainer.evaluate(tool_runs.problems(2))
    assert metrics["eval_accuracy"] == 0.75 and metrics["eval_thinking_fraction"] == 0.75


def test_what_is_not_parsed_has_to_close_the_reasoning_that_the_prompt_opens(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids, prompts = [tokenizer(text)["input_ids"] for text in ("a<think>\n", "a", "a<think>\n")], [[], [], "a"]
    assert completions_open_reasoning(tokenizer, prompts, ids) == [True, False, True]
    tokenizer.response_template = {"fields": {"reasoning_content": {}, "content": {}}}
    assert completions_open_reasoning(tokenizer, prompts, ids) == [False, False, True]  # a string is not parsed
    tokenizer.response_template = {"fields": {"content": {}}}
    assert completions_open_reasoning(tokenizer, prompts, ids) == [True, False, True]
