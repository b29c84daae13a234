# SPDX-License-Identifier: Apache-2.0
"""
Decide whether a completion is finished and whether it thought, for rewards, `trl-concise eval` and its `--budgets`.

The only module that reads the markers around the reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .extraction import answer_tag, has_open_box, last_boxed, without_reasoning


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Keys of a parsed message with its reasoning, in the response templates of TRL and transformers.
REASONING_FIELDS = ("reasoning_content", "thinking")
_OPENING_TOKENS = 16  # at the end of a prompt; enough for `<think>`, an ellipsis and line breaks in any tokenizer
_BLANK = re.compile(r"[\s.…]*")  # AutoThink's prompts open the reasoning with an ellipsis, which is not a thought


@dataclass(frozen=True)
class ThinkingMarkers:
    """
    The texts around the reasoning of a completion.

    Args:
        start (`str`, *optional*, defaults to `"<think>"`): Before the reasoning. The prompt may end with it.
        end (`str`, *optional*, defaults to `"</think>"`): After the reasoning.

    The defaults are those of Qwen3, of DeepSeek-R1 and its distilled models, and of the embedded model. Other models use, for
    example, `[THINK]` and `[/THINK]`.

    Raises:
        `ValueError`: If a marker is empty, or both are the same.
    """

    start: str = "<think>"
    end: str = "</think>"

    def __post_init__(self):
        if not self.start.strip() or not self.end.strip() or self.start == self.end:
            raise ValueError(
                f"The thinking markers are {self.start!r} and {self.end!r}. They must be two different texts that are not blank, "
                "for example '<think>' and '</think>'."
            )


MARKERS = ThinkingMarkers()


def is_finished(
    text: str, *, truncated: bool = False, reasoning_opened: bool = False, markers: ThinkingMarkers = MARKERS
) -> bool:
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
        markers ([`ThinkingMarkers`], *optional*): The texts around the reasoning.

    Examples:
        >>> is_finished(r"<think>6 * 7</think> \boxed{42}"), is_finished("<think>6 * 7 = 42. But wait, 6")
        (True, False)
        >>> is_finished(r"\boxed{42"), is_finished(r"\boxed{42}", truncated=True), is_finished("42", reasoning_opened=True)
        (False, False, False)
    """
    start, end = text.rfind(markers.start), text.rfind(markers.end)
    if truncated or start > end or (reasoning_opened and end < 0):
        return False
    answer = without_reasoning(text, markers.end)
    if "<answer>" in answer:
        return answer_tag(answer) is not None
    return not has_open_box(answer) or last_boxed(answer) is not None


def has_thought(text: str, *, reasoning_opened: bool = False, markers: ThinkingMarkers = MARKERS) -> bool | None:
    r"""
    Say whether a completion thought before its answer: whether there is text in its reasoning, closed or not.

    A reasoning that holds nothing but white space or an ellipsis was skipped: `<think>\n\n</think>`, or a completion that begins with
    `</think>` after a prompt that ends with `<think>`. With several reasonings, one that is not blank is enough.

    Args:
        text (`str`): The completion.
        reasoning_opened (`bool`, *optional*, defaults to `False`): Whether the prompt leaves the model inside its reasoning (see
            [`opens_reasoning`]).
        markers ([`ThinkingMarkers`], *optional*): The texts around the reasoning.

    Returns:
        `bool`, *optional*: `None` if neither the completion nor the end of its prompt has a marker, as with a model without
        them: whether it thought is then unknown.

    Examples:
        >>> has_thought("<think>6 * 7</think> 42"), has_thought("<think>\n\n</think> 42"), has_thought("42")
        (True, False, None)
        >>> has_thought("6 * 7</think> 42", reasoning_opened=True), has_thought("</think> 42", reasoning_opened=True)
        (True, False)
    """
    if not reasoning_opened and markers.start not in text and markers.end not in text:
        return None
    *closed, last = text.split(markers.end)
    # What precedes the first end marker is reasoning without a start marker too; between two end markers is an answer.
    reasonings = [
        part.rpartition(markers.start)[2] for i, part in enumerate(closed) if i == 0 or markers.start in part
    ]
    if markers.start in last:
        reasonings.append(last.partition(markers.start)[2])
    elif reasoning_opened and not closed:
        reasonings.append(last)
    return not all(_BLANK.fullmatch(reasoning) for reasoning in reasonings)


def opens_reasoning(prompt: Any, *, markers: ThinkingMarkers = MARKERS) -> bool:
    r"""
    Say whether a prompt leaves the model inside its reasoning: it ends with `<think>`, or with `<think>` and an ellipsis as
    AutoThink's does.

    Args:
        prompt (`str` or `list[dict]`): Text, or messages, of which the last may be the beginning of the completion.
        markers ([`ThinkingMarkers`], *optional*): The texts around the reasoning.

    Examples:
        >>> opens_reasoning("What is 6 * 7?<|Assistant|><think>\n"), opens_reasoning([{"role": "user", "content": "6 * 7?"}])
        (True, False)
    """
    if isinstance(prompt, list):
        last = prompt[-1] if prompt else {}
        prompt = last.get("content") if isinstance(last, dict) and last.get("role") == "assistant" else ""
    if not isinstance(prompt, str):
        return False
    before, start, after = prompt.rpartition(markers.start)
    return bool(start) and _BLANK.fullmatch(after) is not None


def prompt_opens_reasoning(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], *, markers: ThinkingMarkers = MARKERS
) -> bool:
    """[`opens_reasoning`] of a prompt that the chat template has rendered and that is known by its token ids."""
    return opens_reasoning(tokenizer.decode(prompt_ids[-_OPENING_TOKENS:], skip_special_tokens=False), markers=markers)


def completions_open_reasoning(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any], prompt_ids: Sequence[list[int]]
) -> list[bool]:
    """
    [`prompt_opens_reasoning`] of each prompt, `False` where TRL takes the reasoning out of the completion: it parses messages, and so
    tool calls, with the tokenizer's `response_template`, and what is left has no `</think>`.
    """
    template = getattr(tokenizer, "response_template", None) or {}
    is_parsed = any(name in template.get("fields", {}) for name in REASONING_FIELDS)
    return [
        not (is_parsed and not isinstance(prompt, str)) and prompt_opens_reasoning(tokenizer, ids)
        for prompt, ids in zip(prompts, prompt_ids, strict=True)
    ]
