# SPDX-License-Identifier: Apache-2.0
"""The tokens of a critique: labels, the end token, and the limit on the length of rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from .critiques import critique_example


IGNORED = -100  # label that the loss skips
OVERLONG = ("drop", "error")


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """
    Find the token that ends a reply.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The model's tokenizer.

    Returns:
        `int`: The first special token that the chat template writes after an assistant's message; it need not be the EOS
            (it is not in Qwen2.5's base models). Without a template, or if it writes none, the EOS.

    Raises:
        `ValueError`: If there is neither.
    """
    if tokenizer.chat_template is not None:
        request, reply = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Goodbye"}
        rest = tokenizer.apply_chat_template([request, reply], tokenize=False).rpartition("Goodbye")[2]
        special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        for index in tokenizer(rest, add_special_tokens=False).input_ids:
            if index in special:
                return index
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has no token to end a critique with. Set `tokenizer.eos_token`.")
    return tokenizer.eos_token_id


def tokenize_critique(
    row: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    *,
    template: str = "cft",
    system_prompt: str | None = None,
) -> dict[str, list[int]]:
    """
    Tokenize one row and label its critique.

    Prompt and critique are tokenized apart, so that training shows the model the prompt exactly as generation does, the
    assistant's header included. What a chat template writes after the end token (a newline, for Qwen) belongs to the next
    turn and is left out.

    Args:
        row (`dict[str, Any]`):
            `question`, `solution` and `critique`; or `prompt` and `completion`, both texts or both messages; or `input_ids`
            and `labels`, which stay as they are. `chat_template_kwargs` is passed to the chat template.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The model's tokenizer.
        end_token_id (`int`): Token that ends a reply, see [`end_of_turn`]. Texts end with the EOS.
        template, system_prompt: See [`critique_example`].

    Returns:
        `dict[str, list[int]]`: `input_ids` and `labels`, of the same length. Labels are -100 on all but the critique and its
            end token.
    """
    if "input_ids" in row:
        return {"input_ids": row["input_ids"], "labels": row["labels"]}
    example = row
    if "completion" not in row:
        texts = row["question"], row["solution"], row["critique"]
        example = critique_example(*texts, template=template, system_prompt=system_prompt)
    prompt, completion = example["prompt"], example["completion"]
    if isinstance(prompt, str):
        source, end_token_id = tokenizer(prompt).input_ids, tokenizer.eos_token_id
        completion = completion.removesuffix(tokenizer.eos_token)
    else:
        source = tokenizer.apply_chat_template(
            prompt,
            add_generation_prompt=True,
            return_dict=True,
            **(row.get("chat_template_kwargs") or {}),
        )["input_ids"]
        if len(completion) != 1:
            raise ValueError(f"A completion is one message, the critique; got {len(completion)}: {completion}.")
        completion = completion[0]["content"]
    target = [*tokenizer(completion, add_special_tokens=False).input_ids, end_token_id]
    return {"input_ids": source + target, "labels": [IGNORED] * len(source) + target}


@dataclass
class LengthLimit:
    """
    Decides which rows are short enough, and counts those that are not. A critique is never cut: its verdict comes last.

    Args:
        max_length (`int`, *optional*): Tokens that a row may have; no limit if `None`.
        overlong (`str`, *optional*, defaults to `"drop"`): `"drop"` or `"error"`.
    """

    max_length: int | None
    overlong: str = "drop"
    dropped: int = field(default=0, init=False)
    longest: int = field(default=0, init=False)  # tokens of the longest row that was dropped

    def __post_init__(self):
        if self.overlong not in OVERLONG:
            raise ValueError(f"overlong must be one of {OVERLONG}, got {self.overlong!r}.")

    def admits(self, row: dict[str, list[int]]) -> bool:
        length = len(row["input_ids"])
        if self.max_length is None or length <= self.max_length:
            return True
        if self.overlong == "error":
            raise ValueError(
                f"A row has {length} tokens, and max_length is {self.max_length}. A critique is not cut, since its verdict "
                "comes last: raise max_length, remove the row, or set overlong='drop' to leave out all that are too long."
            )
        self.dropped += 1
        self.longest = max(self.longest, length)
        return False
