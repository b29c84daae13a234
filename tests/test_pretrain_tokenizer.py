# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of the embedded model."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers.normalizers import NFC


@pytest.fixture
def script(monkeypatch):
    """The module that built it."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("pretrain_tokenizer")


@settings(max_examples=300, deadline=None)
@given(text=st.text())
@example("Angstrom é å, 中文 and 😀\u200d\n\r\n\t  two  blanks ")
@example("Angstrom e\u0301 \u212b")
@example("2 , 3 . don't 's <think>a</think>\n\\boxed{42}<|im_end|>")
@example(" .,!?' ' ")
def test_any_text_round_trips(tokenizer, text):
    composed = NFC().normalize_str(text)  # what every Qwen2 tokenizer does
    assert tokenizer.decode(tokenizer(text).input_ids) == composed


def test_each_digit_is_a_separate_token(tokenizer):
    assert tokenizer.tokenize("1999=7") == ["1", "9", "9", "9", "=", "7"]


def test_markers(tokenizer, script):
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"
    assert len(tokenizer) <= script.VOCAB_SIZE
    for marker in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"):
        assert len(tokenizer(marker).input_ids) == 1


def test_reasoning_markers_survive_where_special_tokens_are_skipped(tokenizer):
    ids = tokenizer("<think>\n1+1=2\n</think>\n\\boxed{2}<|im_end|><|endoftext|>").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>\n1+1=2\n</think>\n\\boxed{2}"


def test_chat_template(tokenizer, script):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
    assert tokenizer.chat_template == script.CHAT_TEMPLATE
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )
    answer = {"role": "assistant", "content": "<think>\n1+1=2\n</think>\n\\boxed{2}"}
    whole = tokenizer.apply_chat_template([*messages, answer], tokenize=False)
    assert whole.endswith("<|im_start|>assistant\n<think>\n1+1=2\n</think>\n\\boxed{2}<|im_end|>\n")
