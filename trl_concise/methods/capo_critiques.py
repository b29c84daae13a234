# SPDX-License-Identifier: Apache-2.0
"""The texts of CAPO: the request to a critic, the steps of a completion and their tokens, and reading critiques."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from ..data.teachers import Conversation


VOTES = ("intersection", "majority", "union", "average")

_REQUEST = """\
A student has solved the following problem. The solution is divided into numbered steps.
Find the steps that contain a mistake: a wrong calculation, a wrong conclusion, or a misreading of the problem. A step that continues \
correctly from a wrong one is not wrong itself.

Problem:
{problem}
{answer}
Solution:
{steps}

Check every step. Then end with one line: "Wrong steps: " and the numbers of all wrong steps, separated by commas, or "Wrong steps: none"."""
_VERDICT = re.compile(r"wrong[ _]steps?[\"'*_` ]*:(.*)", re.IGNORECASE)


def critic_request(problem: str, steps: Sequence[str], answer: str | None = None) -> Conversation:
    """
    Return the conversation that asks a critic for the wrong steps of a solution.

    Args:
        problem (`str`): The problem.
        steps (`Sequence[str]`): The steps of the solution.
        answer (`str`, *optional*): The reference answer.

    Returns:
        `list[dict[str, str]]`: One user message.
    """
    text = _REQUEST.format(
        problem=problem.strip(),
        answer=f"\nReference answer: {answer}\n" if answer is not None else "",
        steps="\n\n".join(f"Step {number}: {step.strip()}" for number, step in enumerate(steps, start=1)),
    )
    return [{"role": "user", "content": text}]


def split_steps(text: str, separator: str = r"\n\s*\n") -> list[tuple[int, int]]:
    r"""
    Divide a text into steps. A step includes the separator after it, so that every character belongs to one step.

    Args:
        text (`str`): A completion.
        separator (`str`, *optional*, defaults to `r"\n\s*\n"`): Regular expression between steps: blank lines.

    Returns:
        `list[tuple[int, int]]`: First character of each step, and the character after it. None of the steps is blank; a blank text has no
        steps.

    Examples:
        >>> split_steps("2 + 3 = 5\n\n5 * 2 = 10")
        [(0, 11), (11, 21)]
    """
    starts = [0]
    for found in re.finditer(separator, text):
        if text[starts[-1] : found.start()].strip():
            starts.append(found.end())
    if not text[starts[-1] :].strip():
        starts.pop()
    return list(zip(starts, [*starts[1:], len(text)], strict=False))


def step_tokens(ids: list[int], decode: Callable[[list[int]], str], start: int, end: int) -> range:
    r"""
    Return the tokens of a step: those whose text begins in it.

    Args:
        ids (`list[int]`): Token ids of a completion.
        decode (`Callable`): Returns the text of token ids, special tokens included.
        start, end (`int`): First character of the step, and the character after it, in the text of all ids.

    Returns:
        `range`: Positions in `ids`.

    Examples:
        >>> words = ["2 + 3", " = 5", ".\n\n", "Done."]
        >>> step_tokens([0, 1, 2, 3], lambda ids: "".join(words[i] for i in ids), 0, 12)
        range(0, 3)
    """

    def length(count: int) -> int:
        return len(decode(ids[:count]))

    def first_from(place: int) -> int:
        token = (
            bisect_right(range(len(ids) + 1), place, key=length) - 1
        )  # it holds, or begins, the character at `place`
        return token if length(token) == place else token + 1

    return range(first_from(start), first_from(end))


def read_wrong_steps(critique: str, steps: int) -> set[int] | None:
    """
    Read which steps a critique names in its last line of the form `Wrong steps: 2, 3`.

    Args:
        critique (`str`): The reply of the critic.
        steps (`int`): Number of steps of the solution.

    Returns:
        `set[int]`: Numbers from 1 to `steps`, empty if none is wrong; `None` if the critique cannot be read: it has no such line, says
        something else there, or names a step that does not exist.

    Examples:
        >>> read_wrong_steps("Step 2 adds wrongly.\\n**Wrong steps:** 2 and 4", steps=5)
        {2, 4}
        >>> read_wrong_steps("All is well. Wrong steps: none", steps=5)
        set()
        >>> read_wrong_steps("Wrong steps: 7", steps=5)
    """
    verdicts = _VERDICT.findall(critique)
    if not verdicts:
        return None
    words = re.findall(r"[^\W\d]+|\d+|[-–]", verdicts[-1].lower())
    numbers = {int(word) for word in words if word.isdecimal()}
    others = {word for word in words if not word.isdecimal()} - {"step", "steps", "and", "boxed", "text"}
    if not numbers:
        is_empty = "[]" in verdicts[-1].replace(" ", "")
        return set() if others == {"none"} or (is_empty and not others) else None
    return numbers if not others and numbers <= set(range(1, steps + 1)) else None


def vote(critiques: Sequence[set[int] | None], steps: int, rule: str = "majority") -> list[float]:
    r"""
    Return the share of the penalty that each step gets from several critiques.

    Args:
        critiques (`Sequence[set[int] | None]`): Numbers of the wrong steps, from 1; `None` for a critique that does not vote.
        steps (`int`): Number of steps.
        rule (`str`, *optional*, defaults to `"majority"`):
            `"intersection"`: named by all critiques; `"majority"`: by at least half of them; `"union"`: by one; `"average"`: the share
            of the critiques that name it.

    Returns:
        `list[float]`: One number per step, 0 or 1, or between them for `"average"`; all 0 without a vote.

    Examples:
        >>> vote([{1}, {1, 3}, {1}, {2}], steps=3)
        [1.0, 0.0, 0.0]
        >>> vote([{1}, {1, 3}, {1}, {2}], steps=3, rule="average")
        [0.75, 0.25, 0.25]
    """
    votes = [wrong for wrong in critiques if wrong is not None]
    counts = [sum(step in wrong for wrong in votes) for step in range(1, steps + 1)]
    if not votes or rule == "average":
        return [count / max(1, len(votes)) for count in counts]
    needed = {"intersection": len(votes), "majority": len(votes) / 2, "union": 1}[rule]
    return [float(count >= needed and count > 0) for count in counts]


def problem_text(prompt: str | list[dict[str, Any]]) -> str:
    """Return the problem of a prompt: the text, or that of the last user message."""
    if isinstance(prompt, str):
        return prompt
    content = next((message["content"] for message in reversed(prompt) if message["role"] == "user"), "")
    if isinstance(content, str):
        return content
    return "\n".join(item["text"] for item in content if item.get("type") == "text")
