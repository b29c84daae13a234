# SPDX-License-Identifier: Apache-2.0
"""Byte-level tokenizer of the embedded model: Qwen2's tokenizer and chat markup, with a few hundred tokens."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import Qwen2Tokenizer


VOCAB_SIZE = 384  # at most: 256 bytes, 5 markers, and merges for the words of the traces
PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
THINK_START, THINK_END = "<think>", "</think>"

# ChatML without a default system message. As with DeepSeek-R1, the generation prompt opens the reasoning.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str]) -> Qwen2Tokenizer:
    """
    Train the tokenizer. Any text round-trips, since all 256 bytes are in the vocabulary; as with every Qwen2 tokenizer
    it comes back in Unicode's composed form (NFC).

    Args:
        texts (`Iterable[str]`): Texts whose frequent words become tokens.

    Returns:
        `Qwen2Tokenizer`: Tokenizer that pads on the left.
    """
    untrained = Qwen2Tokenizer(
        pad_token=PAD,
        eos_token=TURN_END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer = untrained.train_new_from_iterator(
        texts,
        VOCAB_SIZE - 2,  # the two reasoning markers follow
        new_special_tokens=[TURN_START],
        show_progress=False,
    )
    # Not special: they stay in the text when special tokens are skipped, as in Qwen3's tokenizer.
    tokenizer.add_tokens([THINK_START, THINK_END])
    return tokenizer
