# SPDX-License-Identifier: Apache-2.0
"""Byte-level tokenizer of the embedded model: Qwen's pre-tokenization and chat markup, a few hundred tokens."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast


VOCAB_SIZE = 384  # 256 bytes, 5 markers, and merges for the words of the traces
PAD, TURN_START, TURN_END = "<|pad|>", "<|im_start|>", "<|im_end|>"
THINK_START, THINK_END = "<think>", "</think>"

# Qwen2's pattern: every digit is a token of its own, words take their leading space.
PRE_TOKENIZATION = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# ChatML without a default system message. As with DeepSeek-R1, the generation prompt opens the reasoning.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """
    Train the tokenizer. Every text round-trips, since all 256 bytes are in the vocabulary and nothing is normalized.

    Args:
        texts (`Iterable[str]`): Texts whose frequent words become tokens.

    Returns:
        `PreTrainedTokenizerFast`: Tokenizer that pads on the left.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENIZATION), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 2,  # the two reasoning markers follow
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[PAD, TURN_START, TURN_END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    # Not special: they stay in the text when special tokens are skipped, as in Qwen3's tokenizer.
    tokenizer.add_tokens([THINK_START, THINK_END])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
    )
