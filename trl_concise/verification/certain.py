# SPDX-License-Identifier: Apache-2.0
"""
Verdicts that need no algebra: the same text, two plain numerals, or two points or intervals made of them.

Only what is certain is settled here; the rest is math-verify's to judge. Two numerals are compared as exact fractions, so
no rounding decides anything.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple


LONGEST_ANSWER = 1_000  # characters that are worth normalizing and keeping
LONGEST_NUMERAL = 80  # characters
LARGEST_EXPONENT = 400  # of ten; a numeral beyond is left to math-verify


class Numeral(NamedTuple):
    """A plain numeral, read exactly."""

    value: Fraction
    is_percent: bool  # `value` is the number before the sign
    is_decimal: bool  # math-verify compares decimals after rounding them
    is_mixed: bool  # 2 1/2 may be a product
    is_misread: bool  # math-verify takes it for something else, or for nothing


# What differs in writing only. Order matters: a command is removed before the blanks it leaves.
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[\u2212\u2013]", "-"),  # minus sign and en dash
        (r"(?<=\d)(?:\\,|[\u2009\u202f])(?=\d{3}(?!\d))", ""),  # a thin space groups digits
        (r"\\!\s*|\\displaystyle(?![A-Za-z])", ""),
        (r"\\(?:[,;: ]|\Z)|\\q?quad(?![A-Za-z])|~", " "),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\{,\}", ","),
        (r"\\([%$])", r"\1"),
        (r"\^\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])", "°"),
        (r"\\times(?![A-Za-z])|\u00d7", r"\\times "),
        (r"\\cdot(?![A-Za-z])|\u00b7", r"\\cdot "),
        (r"[.,]\s*\Z", ""),  # the end of a sentence
        (r"\s+", " "),
        # Blanks, but for those between digits, and the one that tells a list from a number: 30, 150 is not 30,150.
        (r" (?!\d)|(?<!\d)(?<!\d,) |(?<=\d,) (?!\d{3}(?!\d))", ""),
    )
)
_LIST = re.compile(r"([(\[])([^()\[\]]*)([)\]])")
_ONLY_TEXT = re.compile(r"\\(?:text\w*|mbox|mathrm|mathbf)\{([^{}\\]*)\}")

# A full stop or a comma that ends the sentence, not one that is part of a command.
_END = re.compile(r"(?:\s|\\(?:[,;:! ]|\Z)|~|(?<!\\)(?<!\\left)(?<!\\right)[.,])+\Z")

_WHOLE = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)"
_FRACTION = r"\\frac(?:\{(?P<n1>[+-]?\d+)\}|(?P<n2>\d))\s?(?:\{(?P<d1>\d+)\}|(?P<d2>\d))"
_NUMERAL = re.compile(
    rf"""
    (?P<sign>[+-]?)[$€£¥]?(?:
        (?P<mixed>\d+)(?:{_FRACTION}|\ (?P<n3>\d+)/(?P<d3>\d+))
      | {_FRACTION.replace("<n", "<a").replace("<d", "<b")}
      | (?P<a3>{_WHOLE})/(?P<b3>{_WHOLE})
      | (?P<whole>{_WHOLE})?
        (?:\.(?P<decimals>\d*)(?:\\(?:overline|bar)\{{(?P<repeating>\d+)\}})?)?
        (?:(?:[eE]|(?:\\times|\\cdot|\*)10\^)\{{?(?P<exponent>[+-]?\d+)\}}?)?
    )(?P<suffix>%|°)?
    """,
    re.VERBOSE,
)


_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_DIGITS = re.compile(r"\d+")


def settle(gold: str, answer: str) -> bool | None:
    r"""
    Compare two bare answers where that is certain.

    Args:
        gold (`str`): Gold answer.
        answer (`str`): Answer to compare with it.

    Returns:
        `bool` or `None`: Whether they are equal; `None` if it takes math-verify to say.

    Examples:
        >>> settle("1,000", "1000."), settle(r"\frac{1}{2}", "0.5"), settle("42", "43"), settle("x + 1", "1 + x")
        (True, True, False, None)
    """
    if max(len(gold), len(answer)) > LONGEST_ANSWER:
        return True if gold.strip() == answer.strip() else None
    plain_gold, plain_answer = normalize(gold), normalize(answer)
    return _settle_lists(plain_gold, plain_answer)


def _settle_lists(gold: str, answer: str) -> bool | None:
    """Points and intervals, member by member."""
    one, other = _LIST.fullmatch(gold), _LIST.fullmatch(answer)
    if _close_up(gold) == _close_up(answer):
        return True
    if one is None or other is None or one.group(1, 3) != other.group(1, 3):
        return _settle(gold, answer)
    members = [match.group(2).split(",") for match in (one, other)]
    if len(members[0]) != len(members[1]) or len(members[0]) < 2:
        return None
    if any(_THOUSANDS.fullmatch(match.group(2)) for match in (one, other)):
        return None  # two numbers, or one
    verdicts = [_settle(one.strip(), other.strip()) for one, other in zip(*members, strict=True)]
    return False if False in verdicts else (None if None in verdicts else True)


def _settle(gold: str, answer: str) -> bool | None:
    if gold == answer:
        return True
    one, other = numeral(gold), numeral(_value_of_assignment(answer))
    if one is None or other is None:
        return None
    if one.is_percent != other.is_percent:
        # math-verify takes 9% for 9 as well as for 0.09. Only the latter is certain.
        values = [n.value / 100 if n.is_percent else n.value for n in (one, other)]
        return True if values[0] == values[1] else None
    if one.value == other.value:
        return True
    if one.is_mixed or other.is_mixed or _are_reordered(gold, answer):
        return None
    if one.is_decimal or other.is_decimal:
        close = 2e-6 * max(1, abs(one.value), abs(other.value))  # math-verify rounds to 6 decimals
        return None if abs(one.value - other.value) <= close else False
    return False


def _value_of_assignment(answer: str) -> str:
    """An answer may name the unknown, `x = 5`, where the gold does not."""
    name, equals, value = answer.partition("=")
    return value if equals and len(name) == 1 and name.isalpha() else answer


def _are_reordered(gold: str, answer: str) -> bool:
    """Whether both may be lists of the same members: 100,200 and 200,100."""
    return "," in gold and sorted(_DIGITS.findall(gold)) == sorted(_DIGITS.findall(answer))


def _close_up(text: str) -> str:
    """The text alone, whose lists may be written with blanks or without."""
    return text.replace(", ", ",")


@lru_cache(maxsize=16_384)
def normalize(answer: str) -> str:
    r"""
    Write an answer in one way where LaTeX and typography know several.

    Examples:
        >>> normalize(r"\left( 3, \dfrac{\pi}{2} \right)."), normalize(r"11,\! 111"), normalize(r"\text{Evelyn}")
        ('(3,\\frac{\\pi}{2})', '11,111', 'Evelyn')
    """
    text = answer.strip()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    only_text = _ONLY_TEXT.fullmatch(text)
    return only_text.group(1).strip() if only_text else text


@lru_cache(maxsize=16_384)
def numeral(text: str) -> Numeral | None:
    r"""
    Read a normalized text that is a plain numeral and nothing else.

    Integers (with thousands separators), decimals, repeating decimals, fractions, mixed numbers and scientific notation, with
    a sign, a currency sign, a percent sign or a degree sign.

    Examples:
        >>> numeral(r"0.1\overline{6}").value, numeral(r"137\frac{1}{2}").value, numeral("4.5e33").value == 45 * 10**32
        (Fraction(1, 6), Fraction(275, 2), True)
        >>> numeral("x") is None
        True
    """
    match = _NUMERAL.fullmatch(text) if len(text) <= LONGEST_NUMERAL else None
    if match is None:
        return None
    part = {name: value.replace(",", "") for name, value in match.groupdict().items() if value is not None}
    numerator = (
        part.get("n1") or part.get("n2") or part.get("n3") or part.get("a1") or part.get("a2") or part.get("a3")
    )
    if numerator is not None:
        denominator = int(
            part.get("d1") or part.get("d2") or part.get("d3") or part.get("b1") or part.get("b2") or part["b3"]
        )
        mixed = part.get("mixed")
        if denominator == 0 or (mixed and numerator.startswith(("+", "-"))):
            return None
        value = Fraction(int(numerator), denominator) + int(mixed or 0)
    else:
        mixed = None
        value = _decimal(part)
        if value is None:
            return None
    return Numeral(
        value=-value if part["sign"] == "-" else value,
        is_percent=part.get("suffix") == "%",
        is_decimal="decimals" in part or "exponent" in part,
        is_mixed=mixed is not None,
        is_misread="exponent" in part or "repeating" in part or "n3" in part or text.endswith("°"),
    )


def _decimal(part: dict[str, str]) -> Fraction | None:
    whole, decimals, repeating = part.get("whole", ""), part.get("decimals", ""), part.get("repeating", "")
    exponent = int(part.get("exponent", "0"))
    if not (whole or decimals or repeating) or abs(exponent) > LARGEST_EXPONENT:
        return None
    scale = 10 ** len(decimals)
    value = Fraction(int((whole or "0") + decimals), scale)
    if repeating:  # 0.1666... = 1/10 + 6/9 * 1/10
        value += Fraction(int(repeating), scale * (10 ** len(repeating) - 1))
    return value * Fraction(10) ** exponent


def rewrite(answer: str) -> str:
    r"""
    Write an answer in the way math-verify reads as meant: no full stop at the end, numerals it misreads as fractions.

    Examples:
        >>> rewrite(r"x + 1\,."), rewrite(r"0.\overline{3}"), rewrite("0.5")
        ('x + 1', '\\frac{1}{3}', '0.5')
    """
    if len(answer) > LONGEST_ANSWER:
        return answer
    plain = normalize(answer)
    number = numeral(plain)
    if number is None or not number.is_misread or "," in plain:  # 30,150° may be two numbers
        return _END.sub("", answer.strip()).replace("°", r"^\circ")
    fraction = str(number.value.numerator)
    if number.value.denominator != 1:
        fraction = rf"\frac{{{number.value.numerator}}}{{{number.value.denominator}}}"
    return fraction + (r"\%" if number.is_percent else "")
