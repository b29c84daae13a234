# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, math_accuracy_reward, verify_answers
from trl_concise.verification.finished import (
    ThinkingMarkers,
    has_thought,
    is_finished,
    opens_reasoning,
    prompt_opens_reasoning,
)


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("The answer is 12.", True),
        ("", True),  # ended by the model; that it has no answer is another matter
        ("<think>3 * 4</think> It is 12.", True),
        ("3 * 4</think> It is 12.", True),
        (r"\boxed{12}", True),
        (r"\boxed{12} and later, again, \boxed{12", True),  # the closed one counts
        ("<answer>12</answer>", True),
        ("<answer>12", False),
        ("<answer>11</answer> or <answer>12", True),
        (r"\boxed{12", False),
        (r"So $\boxed{\frac{24}{2}$", False),
        (r"<think>\boxed{12}</think> Hence \boxed{12", False),
        ("<think>3 * 4 = 12. But wait, 3 * 4", False),
        (r"<think>It must be \boxed{12}", False),
        (r"<think>a</think> Hm. <think>It must be \boxed{12}", False),
    ],
)
def test_text(text, finished):
    assert is_finished(text) is finished
    assert not is_finished(text, truncated=True)
    assert is_finished(text, reasoning_opened=True) is (finished and "</think>" in text)


@pytest.mark.parametrize(
    ("gold", "completion"),
    [
        ("12", r"\boxed{12"),
        ("12", r"3 * 4 = 12, so \boxed{12"),
        ("9", r"\boxed{9"),  # of 96
        ("7", "<think>Let me see. 2 + 5 = 7. But then, 2 + 5"),
        ("12", r"<think>That is \boxed{12}, or"),
        ("12", "<answer>12"),
    ],
)
def test_unfinished_text_earns_nothing(gold, completion):
    assert verify_answers([gold], [completion]) == [False]
    assert math_accuracy_reward([completion], solution=[gold]) == [0.0]


def test_a_prompt_may_open_the_reasoning(tiny_model):
    assert opens_reasoning("Question.\n<think>\n")
    assert opens_reasoning([{"role": "user", "content": "?"}, {"role": "assistant", "content": "<think>"}])
    assert not opens_reasoning([{"role": "user", "content": "<think>"}])
    assert opens_reasoning("Question.\n<think>\n...\n") and opens_reasoning("<think> … ")  # AutoThink
    assert not opens_reasoning("Is <think> a tag?") and not opens_reasoning("<think>\n\n</think>\n\n")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert prompt_opens_reasoning(tokenizer, tokenizer("Question. " * 20 + "<think>\n").input_ids)
    assert not prompt_opens_reasoning(tokenizer, tokenizer("<think>a</think>").input_ids)
    prompts = ["3 * 4?<think>\n", "3 * 4?"]
    assert math_accuracy_reward(["3 * 4 = 12"] * 2, solution=["12"] * 2, prompts=prompts) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "alone", "opened"),  # without and with a prompt that opens the reasoning
    [
        ("<think>\n6 * 7\n</think>\n\n42", True, True),  # Qwen3
        ("<think>\n\n</think>\n\n42", False, False),  # Qwen3 that skips the reasoning
        ("6 * 7\n</think>\n\n42", True, True),  # DeepSeek-R1, whose template opens the reasoning
        ("</think>\n\n42", False, False),
        ("\n</think>\n6*7=42", False, False),
        ("<think>\n...\n</think>\n\n42", False, False),  # AutoThink
        ("</think> 6 * 7 </think> 42", False, False),  # an answer lies between two end markers
        ("</think> Hm. <think> 6 * 7 </think> 42", True, True),
        ("<think>6 * 7 = ", True, True),  # truncated
        ("6 * 7 = ", None, True),
        ("", None, False),
        ("42", None, True),
    ],
)
def test_thinking(text, alone, opened):
    assert has_thought(text) is alone
    assert has_thought(text, reasoning_opened=True) is opened


@given(st.text("ab ", max_size=6), st.text("ab<>/think", max_size=12), st.booleans())
def test_thinking_agrees_with_what_is_finished(reasoning, answer, opened):
    """A completion in one of the two forms thought exactly if its reasoning is not blank, whatever it answers."""
    answer = answer.replace("think", "")
    text = f"{'' if opened else '<think>'}{reasoning}</think>{answer}"
    assert is_finished(text, reasoning_opened=opened)
    assert has_thought(text, reasoning_opened=opened) is bool(reasoning.strip())
    cut = text[: text.index("</think>")]
    assert not is_finished(cut, reasoning_opened=opened)
    assert has_thought(cut, reasoning_opened=opened) is bool(reasoning.strip())


def test_markers_of_another_model():
    markers = ThinkingMarkers("[THINK]", "[/THINK]")
    assert has_thought("[THINK]6 * 7[/THINK]42", markers=markers)
    assert has_thought("[THINK] [/THINK]42", markers=markers) is False
    assert has_thought("<think>6 * 7</think>42", markers=markers) is None
    assert is_finished("[THINK]6 * 7[/THINK]42", markers=markers)
    assert not is_finished("[THINK]6 * 7", markers=markers) and is_finished("[THINK]6 * 7")
    assert opens_reasoning("6 * 7?[THINK]\n", markers=markers) and not opens_reasoning("6 * 7?[THINK]\n")


@pytest.mark.parametrize(("start", "end"), [("", "</think>"), ("<think>", " "), ("##", "##")])
def test_markers_that_mark_nothing_are_refused(start, end):
    with pytest.raises(ValueError, match="must be two different texts"):
        ThinkingMarkers(start, end)


def rollouts(tokenizer, texts):
    """A `rollout_func` that answers every prompt with the same completions, one per row; `|` is EOS."""

    def rollout(prompts, trainer):
        ids = [tokenizer(text).input_ids for text in texts]
        ids = [
            [*row[:-1], tokenizer.eos_token_id] if text.endswith("|") else row
            for row, text in zip(ids, texts, strict=True)
        ]
        template = tokenizer.apply_chat_template(prompts[0], add_generation_prompt=True, tokenize=False)
        return {"prompt_ids": [tokenizer(template).input_ids] * len(prompts), "completion_ids": ids, "logprobs": None}

    return rollout


@pytest.mark.parametrize("opens", [False, True])
def test_in_training(tiny_model, tmp_path, opens):
    """Truncated completions earn nothing, whatever they contain, and the template's `<think>` counts."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    if opens:
        tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
    texts = [
        r"\boxed{12}|",
        r"\boxed{12}...........",  # reaches the limit of 21 tokens
        r"</think>\boxed{12}|",
        r"</think>\boxed{12}",  # ended by a stop string, within the limit
        r"\boxed{12|",
        r"</think>12...........",
        r"<think>\boxed{12}|",
        r"13|",
    ]
    seen = []

    def watched(completions, **columns):
        seen.append((columns["completion_finished"], math_accuracy_reward(completions, **columns)))
        return seen[-1][1]

    trainer = ConciseGRPOTrainer(
        model=tiny_model,
        reward_funcs=watched,
        args=ConciseGRPOConfig(**tiny.settings(tmp_path, max_completion_length=21, max_steps=1, num_generations=8)),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "3 * 4?"}], "solution": "12"}] * 8),
        processing_class=tokenizer,
        rollout_func=rollouts(tokenizer, texts),
    )
    trainer.train()
    ((finished, rewards),) = seen
    assert finished == [not opens, False, True, True, False, False, False, not opens]
    assert rewards == [float(not opens), 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
