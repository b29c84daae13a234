# SPDX-License-Identifier: Apache-2.0
"""
Recognize answers that math-verify would almost surely not parse within its deadline.

A guard is a cheap check of the text. No reference answer of the usual datasets is near its limits. Answers that pass it
and still take too long are stopped by the deadline.
"""

from __future__ import annotations

import re


LONGEST_ANSWER = 1_000  # characters; parsing 700 takes seconds
DEEPEST_NESTING = 20  # brackets; parsing slows with the square of the depth
TALLEST_TOWER = 2  # exponents on top of each other: 2^{2^{10}} passes, 5^{5^{5^5}} does not
LONGEST_EXPONENT = 6  # digits: 2^{1000000} does not pass

_OPENING, _CLOSING = "([{", ")]}"
_LONG_EXPONENT = re.compile(rf"(?:\^|\*\*)\s*[{{(]*\s*[+-]?\d{{{LONGEST_EXPONENT + 1}}}")


def guard(answer: str) -> str | None:
    """
    Say why an answer should not be parsed.

    Args:
        answer (`str`): A bare answer.

    Returns:
        `str` or `None`: `"length"`, `"nesting"`, `"power"` or `"tower"`; `None` if it may be parsed.

    Examples:
        >>> guard("5^{5^{5^5}}"), guard("10^{10000000}"), guard("2^{2^{10}}")
        ('tower', 'power', None)
    """
    if len(answer) > LONGEST_ANSWER:
        return "length"
    if _LONG_EXPONENT.search(answer):
        return "power"
    depth, tower = _depth_and_tower(answer)
    if depth > DEEPEST_NESTING:
        return "nesting"
    if tower > TALLEST_TOWER:
        return "tower"
    return None


def _depth_and_tower(answer: str) -> tuple[int, int]:
    """Return the depth of nested brackets, and the height of the tallest tower of exponents."""
    deepest = tallest = 0
    below = 0  # exponents that contain the open brackets
    chain = 0  # exponents in a row at this place, as in 5^5^5
    open_brackets: list[tuple[int, int]] = []  # (below, chain) to return to
    is_exponent = False  # whether the next token is an exponent
    previous = ""
    for character in answer.replace("**", "^"):
        if character == "^":
            chain += 1
            tallest = max(tallest, below + chain)
            is_exponent = True
        elif character in _OPENING:
            open_brackets.append((below, chain))
            deepest = max(deepest, len(open_brackets))
            below += chain if is_exponent else 0
            chain, is_exponent = 0, False
        elif character in _CLOSING and open_brackets:
            below, chain = open_brackets.pop()
        elif is_exponent:
            is_exponent = character.isspace()
        elif not (character.isdigit() and previous.isdigit()):
            chain = 0
        previous = character
    return deepest, tallest
