# SPDX-License-Identifier: Apache-2.0
r"""
What the brackets around several values mean: `\{1, 2\}` is a set, `(1, 2)` a point or an interval, `1, 2` either of them.

math-verify equates a set with a point, and matches the members of a list in any order, also where the other answer has an order.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple


class Several(NamedTuple):
    """Several values, with or without brackets."""

    kind: str  # "set": {1, 2}; "tuple": (1, 2); "interval": [1, 2], [1, 2), (1, 2]; "list": 1, 2
    members: tuple[str, ...]
    opening: str = ""
    closing: str = ""


_PAIRS = {"(": ")", "[": "]", r"\{": r"\}", "{": "}"}
_TOKEN = re.compile(r"\\[{}]|[()\[\]{},]")
_KINDS = {"()": "tuple", "[]": "interval", "[)": "interval", "(]": "interval", r"\{\}": "set"}
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MEMBER_NAME = re.compile(r"(?P<name>\\?[A-Za-z]+(?:_(?:\w|\{[^{}]*\}))?(?:\([^()]*\))?)=(?P<value>[^=<>]+)")
_SIGNS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")


@lru_cache(maxsize=16_384)
def several(text: str) -> Several | None:
    r"""
    Take apart a normalized text that consists of several values; `None` if it is one value, or may be one.

    Examples:
        >>> several("(1,x+2)")
        Several(kind='tuple', members=('1', 'x+2'), opening='(', closing=')')
        >>> several("1,2").kind, several(r"\{(1,2),(3,4)\}").members, several("1,234"), several("f(1,2)")
        ('list', ('(1,2)', '(3,4)'), None, None)
    """
    open_brackets: list[tuple[str, int]] = []  # with their positions
    outer: list[int] = []  # commas outside of all brackets
    inner: list[int] = []  # commas inside one pair of brackets
    closing = ""  # the last bracket, where it closes the first one
    for match in _TOKEN.finditer(text):
        token, position = match[0], match.start()
        if token in _PAIRS:
            open_brackets.append((token, position))
        elif token == ",":
            if len(open_brackets) < 2:
                (inner if open_brackets else outer).append(position)
        else:
            opening, start = open_brackets.pop() if open_brackets else ("", 0)
            if _PAIRS.get(opening) != token and not {opening, token} <= set("([)]"):
                return None
            if start == 0 and not open_brackets and match.end() == len(text) and text.startswith(opening):
                closing = token
    if open_brackets:
        return None
    if outer:
        return None if _GROUPED.fullmatch(text) else Several("list", _split(text, outer, 0, len(text)))
    opening = r"\{" if text.startswith(r"\{") else text[:1]
    kind = _KINDS.get(opening + closing)
    if kind is None or not inner and kind != "set":
        return None
    return Several(kind, _split(text, inner, len(opening), len(text) - len(closing)), opening, closing)


def _split(text: str, commas: list[int], start: int, end: int) -> tuple[str, ...]:
    borders = [start - 1, *commas, end]
    return tuple(text[left + 1 : right].strip() for left, right in zip(borders, borders[1:], strict=False))


def align(reference: str, answer: str) -> tuple[str, str] | None:
    r"""
    Write two values with the same brackets where they may mean the same; `None` if their brackets, or their orders, differ.

    Args:
        reference (`str`): Normalized value of the reference answer.
        answer (`str`): Normalized value of the answer.

    Returns:
        `tuple[str, str]` or `None`: Both, one of them rewritten: a list without brackets as a point, where the other is a point;
        values with names in the order of the names, where the other values have none.

    Examples:
        >>> align("(1,2)", "1,2"), align("(1,2)", r"\{1,2\}"), align("x=1,y=2", "(1,2)")
        (('(1,2)', '(1,2)'), None, ('(1,2)', '(1,2)'))
    """
    one, other = several(reference), several(answer)
    if one is None or other is None:
        known, text = (one, answer) if one is not None else (other, reference)
        is_ordered = known is not None and known.kind in ("tuple", "interval")
        return None if is_ordered and _SIGNS.search(text) else (reference, answer)
    if one.kind == "set" and len(one.members) == 1 and other.kind != "set":
        return align(one.members[0], answer)
    if other.kind == "set" and len(other.members) == 1 and one.kind != "set":
        return align(reference, other.members[0])
    kinds = {one.kind, other.kind}
    if kinds in ({"set", "tuple"}, {"set", "interval"}):
        return None
    if kinds == {"tuple", "interval"} and 2 in (len(one.members), len(other.members)):
        return None
    if {*_kinds_inside(one), *_kinds_inside(other)} == {"set", "tuple"}:
        return None
    if kinds & {"tuple", "interval"} and any(_are_solutions(item) for item in (one, other)):
        return None
    named = [_values_of_names(item) for item in (one, other)]
    if "list" in kinds and (named[0] is None) != (named[1] is None):
        values = [
            of_names if of_names is not None else item.members
            for item, of_names in zip((one, other), named, strict=True)
        ]
        if kinds <= {"list", "tuple"}:
            return _as_point(values[0]), _as_point(values[1])
    elif kinds == {"list", "tuple"}:
        return _as_point(one.members), _as_point(other.members)
    return reference, answer


def _as_point(members: tuple[str, ...]) -> str:
    return f"({','.join(members)})"


def _kinds_inside(item: Several) -> list[str]:
    """The kinds of the members that are sets or tuples themselves."""
    inside = (several(member) for member in item.members)
    return [member.kind for member in inside if member is not None and member.kind in ("set", "tuple")]


def _are_solutions(item: Several) -> bool:
    """Whether a list gives several values to the same name: x = 1, x = 2."""
    matches = [_MEMBER_NAME.fullmatch(member) for member in item.members]
    return item.kind == "list" and None not in matches and len({match["name"] for match in matches if match}) == 1


def _values_of_names(item: Several) -> tuple[str, ...] | None:
    """The values of `x = 1, y = 2` in the order of the names; `None` where not every member has a name of its own."""
    matches = [_MEMBER_NAME.fullmatch(member) for member in item.members]
    named = [(match["name"], match["value"]) for match in matches if match is not None]
    letters = {name.partition("_")[0] for name, _ in named}
    if item.kind != "list" or len(named) < len(item.members) or len(letters) < len(named):
        return None
    if all(len(name) == 1 for name, _ in named):
        named.sort()
    return tuple(value for _, value in named)
