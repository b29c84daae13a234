# SPDX-License-Identifier: Apache-2.0
"""The turns of Thinker's dialogue: what the user says in each, how a dialogue continues, and how a verdict is read."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from ..verification.extraction import without_reasoning
from .rows import add_prompt_suffix


# The wording is ours. The instruction of the fast turn follows the problem; each of the others is a message of the user.
FAST_INSTRUCTION = "Answer in a few concise steps, and put the final answer within \\boxed{}."
VERIFICATION_INSTRUCTION = (
    "Is your answer correct? Verify each step. Then write \\boxed{Yes} if it is correct, or \\boxed{No} if it is not."
)
SLOW_INSTRUCTION = "Your answer may be wrong. Think about possible errors and other approaches, and put the final answer within \\boxed{}."
SUMMARY_INSTRUCTION = (
    "Your answer is correct. Summarize the steps that lead to it, and put the final answer within \\boxed{}."
)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\w*\{)?\s*(yes|no)\b", re.IGNORECASE)
_LINE = re.compile(r"(?:(?:final )?(?:answer|verdict)\W+)?(yes|no)\W*", re.IGNORECASE)

AnyDataset = TypeVar("AnyDataset")


def with_fast_instruction(dataset: AnyDataset, instruction: str = FAST_INSTRUCTION) -> AnyDataset:
    """
    Ask for a fast answer in every prompt of a dataset.

    Args:
        dataset (`Dataset`, `IterableDataset` or a dictionary of them): Rows with a `prompt`: text, or messages, of which the last one of the
            user is extended.
        instruction (`str`, *optional*): Text after the problem.

    Examples:
        >>> from datasets import Dataset
        >>> dataset = Dataset.from_list([{"prompt": "What is 2 + 3?"}])
        >>> with_fast_instruction(dataset, "Be brief.")[0]
        {'prompt': 'What is 2 + 3? Be brief.'}
    """
    return dataset.map(add_prompt_suffix, fn_kwargs={"suffix": instruction})  # type: ignore[attr-defined]


def next_turn(prompt: str | list[dict[str, Any]], completion: str | list[dict[str, Any]], instruction: str) -> Any:
    r"""
    Return the prompt of the next turn: the dialogue so far, and an instruction.

    Args:
        prompt (`str` or `list[dict]`): Prompt of the turn before: text, or messages.
        completion (`str` or `list[dict]`): What the model wrote, in the same form.
        instruction (`str`): What the user says next.

    Examples:
        >>> next_turn("2 + 3?", " 5", "Is that correct?")
        '2 + 3? 5\n\nIs that correct?\n\n'
        >>> next_turn([{"role": "user", "content": "2 + 3?"}], [{"role": "assistant", "content": "5"}], "Sure?")[-1]
        {'role': 'user', 'content': 'Sure?'}
    """
    if isinstance(prompt, str):
        return f"{prompt}{completion}\n\n{instruction}\n\n"
    messages: list[dict[str, Any]] = [*prompt, *completion]  # type: ignore[list-item]
    if prompt[-1]["role"] == "assistant":  # the beginning of the completion
        begun, answer = messages[len(prompt) - 1 : len(prompt) + 1]
        messages[len(prompt) - 1 : len(prompt) + 1] = [{**answer, "content": f"{begun['content']}{answer['content']}"}]
    return [*messages, {"role": "user", "content": instruction}]


def read_verdict(text: str) -> bool | None:
    r"""
    Read a verdict, Yes or No, after the reasoning: the last one in `\boxed{}`, or else the last line if it says nothing else.

    Returns:
        `bool`: Whether the verdict is Yes; `None` without a verdict.

    Examples:
        >>> [read_verdict(text) for text in ("2+3=5\n\\boxed{Yes}", "Wrong.\n**No.**", "Yes, all steps agree.")]
        [True, False, None]
    """
    answer = without_reasoning(text)
    boxed = _BOXED.findall(answer)
    line = _LINE.fullmatch(answer.rpartition("\n")[2].strip(" \t*_#`\"'"))
    found = boxed[-1] if boxed else line[1] if line else None
    return found.lower() == "yes" if found is not None else None
