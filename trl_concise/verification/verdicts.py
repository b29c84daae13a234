# SPDX-License-Identifier: Apache-2.0
"""
Prompts that ask a model whether a solution is correct, and the verdicts that it writes, for self-verification in training and in
`trl-concise eval --vote verify`.
"""

from __future__ import annotations

import re
from typing import Any

from .finished import MARKERS, ThinkingMarkers, opens_reasoning


CUE = "Is the answer correct (Yes/No)?"
INSTRUCTION = (
    "Please verify the solution step by step. At the end of the solution verification, when you give your final grade, write it in "
    f'the form "{CUE} X", where X is either Yes or No.'
)
_VERDICT = re.compile(r"[\s*_\"'`]*(?P<word>Yes|No)(?![\w/])")


def solution_after_reasoning(
    completion: str, *, reasoning_opened: bool = False, markers: ThinkingMarkers = MARKERS
) -> str | None:
    r"""
    Return what a completion says after its reasoning.

    Args:
        completion (`str`): Its text.
        reasoning_opened (`bool`, *optional*, defaults to `False`): Whether the prompt ends with `<think>`.
        markers ([`ThinkingMarkers`], *optional*): The texts around the reasoning.

    Returns:
        `str`, *optional*: The text after the last `</think>`, the whole text without reasoning; `None` if the reasoning does not end, or
        nothing follows it.

    Examples:
        >>> solution_after_reasoning("<think>6 * 7</think>\n\\boxed{42}"), solution_after_reasoning("It is 42.")
        ('\\boxed{42}', 'It is 42.')
        >>> solution_after_reasoning("6 * 7 is", reasoning_opened=True) is None
        True
    """
    start, end = completion.rfind(markers.start), completion.rfind(markers.end)
    if start > end or (reasoning_opened and end < 0):
        return None
    return completion.rpartition(markers.end)[2].strip() or None


def verification_prompt(prompt: str | list[dict[str, Any]], solution: str) -> str | list[dict[str, Any]]:
    """
    Return a prompt that asks for a verification: the problem, the solution, and [`INSTRUCTION`].

    Args:
        prompt (`str` or `list[dict]`): The problem's prompt. If it ends with the beginning of a completion that opens the reasoning,
            this is left out.
        solution (`str`): A solution without its reasoning.

    Returns:
        `str` or `list[dict]`: Text for a prompt that is text; otherwise messages: those of the problem, the solution as the assistant's,
        and the instruction as the user's.

    Examples:
        >>> [message["role"] for message in verification_prompt([{"role": "user", "content": "6 * 7?"}], "42")]
        ['user', 'assistant', 'user']
    """
    is_opened = opens_reasoning(prompt)
    if isinstance(prompt, str):
        problem = prompt.rpartition(MARKERS.start)[0] if is_opened else prompt
        return f"{problem}{solution}\n\n{INSTRUCTION}\n\n"
    problem_messages, begun = list(prompt), ""
    if problem_messages and problem_messages[-1]["role"] == "assistant":  # the beginning of the completion
        last = problem_messages.pop()
        begun = "" if is_opened else last["content"]
    return [
        *problem_messages,
        {"role": "assistant", "content": f"{begun}{solution}"},
        {"role": "user", "content": INSTRUCTION},
    ]


def find_verdict(text: str) -> re.Match[str] | None:
    """Return the match of the word, `Yes` or `No`, after the last [`CUE`] of a text; `None` if another text follows the cue."""
    place = text.rfind(CUE)
    return _VERDICT.match(text, place + len(CUE)) if place >= 0 else None


def read_verdict(
    text: str,
    *,
    truncated: bool = False,
    reasoning_opened: bool = False,
    markers: ThinkingMarkers = MARKERS,
) -> bool | None:
    """
    Read the verdict of a verification.

    Args:
        text (`str`): What the model wrote after a [`verification_prompt`].
        truncated (`bool`, *optional*, defaults to `False`): Whether it reached the token limit. It then has no verdict.
        reasoning_opened (`bool`, *optional*, defaults to `False`): Whether the prompt ends with `<think>`.
        markers ([`ThinkingMarkers`], *optional*): The texts around the reasoning, in which a verdict does not count.

    Returns:
        `bool`, *optional*: `True` for Yes, `False` for No, `None` without a verdict. The last one counts.

    Examples:
        >>> read_verdict("6 * 7 = 42. Is the answer correct (Yes/No)? Yes")
        True
        >>> read_verdict("Is the answer correct (Yes/No)? Maybe") is None
        True
    """
    after = None if truncated else solution_after_reasoning(text, reasoning_opened=reasoning_opened, markers=markers)
    found = find_verdict(after) if after is not None else None
    return found["word"] == "Yes" if found is not None else None
