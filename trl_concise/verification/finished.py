# SPDX-License-Identifier: Apache-2.0
"""Decide whether a completion is finished, for rewards, `trl-concise eval` and its `--budgets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .extraction import answer_tag, has_open_box, last_boxed, without_reasoning


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPEN_REASONING = "<think>"
_OPENING_TOKENS = 16  # at the end of a prompt; enough for `<think>` and a line break in any tokenizer


def is_finished(text: str, *, truncated: bool = False, reasoning_opened: bool = False) -> bool:
    r"""
    Say whether a completion is finished. An unfinished completion has no final answer and earns nothing.

    A completion is finished if the model ended it (with an EOS token or a stop string, before the limit), its reasoning is
    closed, and its answer is closed:

    - `truncated` completions are unfinished, whatever they contain;
    - a `<think>` needs its `</think>`, also where the prompt has opened it;
    - `\boxed{42` without its brace, or `<answer>42` without its closing tag, is unfinished, unless a closed box or tag
      precedes it.

    Args:
        text (`str`): The completion.
        truncated (`bool`, *optional*, defaults to `False`):
            Whether it reached the token limit before the model ended it. `False` if that is unknown.
        reasoning_opened (`bool`, *optional*, defaults to `False`):
            Whether the prompt ends with `<think>`, as some chat templates have it (see [`opens_reasoning`]).

    Examples:
        >>> is_finished(r"<think>6 * 7</think> \boxed{42}"), is_finished("<think>6 * 7 = 42. But wait, 6")
        (True, False)
        >>> is_finished(r"\boxed{42"), is_finished(r"\boxed{42}", truncated=True), is_finished("42", reasoning_opened=True)
        (False, False, False)
    """
    if truncated or text.rfind("<think>") > text.rfind("</think>") or (reasoning_opened and "</think>" not in text):
        return False
    answer = without_reasoning(text)
    if "<answer>" in answer:
        return answer_tag(answer) is not None
    return not has_open_box(answer) or last_boxed(answer) is not None


def opens_reasoning(prompt: Any) -> bool:
    r"""
    Say whether a prompt leaves the model inside its reasoning.

    Args:
        prompt (`str` or `list[dict]`): Text, or messages, of which the last may be the beginning of the completion.

    Examples:
        >>> opens_reasoning("What is 6 * 7?<|Assistant|><think>\n"), opens_reasoning([{"role": "user", "content": "6 * 7?"}])
        (True, False)
    """
    if isinstance(prompt, list):
        last = prompt[-1] if prompt else {}
        prompt = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else ""
    return isinstance(prompt, str) and prompt.rstrip().endswith(OPEN_REASONING)


def prompt_opens_reasoning(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int]) -> bool:
    """[`opens_reasoning`] of a prompt that the chat template has rendered and that is known by its token ids."""
    return opens_reasoning(tokenizer.decode(prompt_ids[-_OPENING_TOKENS:], skip_special_tokens=False))
