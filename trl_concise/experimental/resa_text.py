# SPDX-License-Identifier: Apache-2.0
"""The text of SAE-Tuning: problems with reference answers in the place of the reasoning, in chunks of equal length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..verification.finished import MARKERS


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


# The wording is ours. It has each marker once, so that the reasoning features of a layer are well defined.
SYSTEM_PROMPT = (
    "The user asks a question, and the assistant solves it. The assistant reasons between <think> and </think>, and then writes the "
    "answer between <answer> and its closing tag."
)
RESPONSE = "<think> {answer} </think>\n<answer> Answer: {answer}</answer>"
BOXED_RESPONSE = "<think>\n{answer}\n</think>\n\\boxed{{answer}}"


def question_answer_chunks(
    dataset: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    length: int = 2048,
    *,
    system_prompt: str | None = SYSTEM_PROMPT,
    response: str = RESPONSE,
) -> Dataset:
    r"""
    Write each problem with its reference answer as a text, join the texts with EOS, and split them into chunks of equal length.

    No text has reasoning: the reference answer is inside the tags of the reasoning, and again as the answer. A chunk may begin and end
    inside a text, and attention crosses the texts of a chunk, as in the release. Tokens after the last whole chunk are dropped.

    Args:
        dataset (`Dataset`): Columns `prompt` (text or messages) and `solution` (the reference answer), such as [`load_problems`] returns.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Has an EOS token, and a chat template for prompts of messages.
        length (`int`, *optional*, defaults to `2048`): Tokens of a chunk, at least 2.
        system_prompt (`str`, *optional*): System message before each problem; `None` for none. Default: `SYSTEM_PROMPT`, which explains the tags.
        response (`str`, *optional*): The assistant turn, with `{answer}` where the answer belongs. Default: `RESPONSE`, that of the release. `BOXED_RESPONSE` writes
            `\boxed{}`. A `<think>` that the chat template has opened is not repeated.

    Returns:
        `Dataset`: Column `input_ids`, lists of `length` token ids.

    Raises:
        `ValueError`: If the texts are shorter than one chunk, the columns are missing, or the tokenizer lacks EOS or a chat template.
    """
    from datasets import Dataset

    if length < 2:
        raise ValueError(f"length must be at least 2 tokens, got {length}.")
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has no EOS token, which separates the texts. Set tokenizer.eos_token.")
    if "{answer}" not in response:
        raise ValueError(f"response must contain {{answer}}, got {response!r}. The default is {RESPONSE!r}.")
    stream: list[int] = []
    for row in dataset:
        if not {"prompt", "solution"} <= set(row):
            raise ValueError(
                f"The dataset needs the columns `prompt` and `solution`, it has {sorted(row)}. Load it with load_problems, or rename its columns."
            )
        text = _write(row["prompt"], str(row["solution"]), tokenizer, system_prompt, response)
        stream += [tokenizer.eos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    chunks = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]
    if not chunks:
        raise ValueError(
            f"The texts have {len(stream)} tokens, which is less than one chunk of {length}. Use more problems, or a smaller length."
        )
    return Dataset.from_dict({"input_ids": chunks})


def _write(
    prompt: Any, answer: str, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None, response: str
) -> str:
    system = [{"role": "system", "content": system_prompt}] if system_prompt is not None else []
    if isinstance(prompt, str):
        before = f"{system_prompt}\n{prompt}\n" if system_prompt is not None else f"{prompt}\n"
    elif tokenizer.chat_template is None:
        raise ValueError(
            "The tokenizer has no chat template for prompts of messages. Set tokenizer.chat_template, or give prompts as text."
        )
    else:
        messages = [*system, *(message for message in prompt if not (system and message["role"] == "system"))]
        before = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    after = response.replace("{answer}", answer)
    if before.rstrip().endswith(MARKERS.start) and after.startswith(MARKERS.start):
        after = after.removeprefix(MARKERS.start)
        before = before.rstrip()  # the response has the space after the marker
    return before + after
