# SPDX-License-Identifier: Apache-2.0
"""
Verdicts that need no algebra: the same text, two numerals, two words, or two points or intervals made of numerals.

Only what is certain is settled here; the rest is left to math-verify. Two numerals are compared as exact fractions, so no
rounding decides anything.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from .arithmetic import compare_formulas
from .normalization import LONGEST_ANSWER
from .numerals import Numeral, numeral
from .reading import Reading, has_relation, read


class Comparison(NamedTuple):
    """A verdict, or what math-verify has to compare."""

    verdict: bool | None
    reference: str = ""  # LaTeX
    answer: str = ""


_LIST = re.compile(r"([(\[])([^()\[\]]*)([)\]])")
_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_DIGITS = re.compile(r"\d+")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_TIME = re.compile(r"(\d{1,2}):([0-5]\d)")
_WORD = re.compile(r"[^\W\d_]+(?:[ '’-][^\W\d_]+)*\.?")
_GROUP = re.compile(r",\s?\d{3}(?!\d)")
_DOTS = r"\ldots"


def settle(reference: str, answer: str) -> bool | None:
    r"""
    Compare two bare answers where that is certain.

    Args:
        reference (`str`): Reference answer.
        answer (`str`): Answer to compare with it.

    Returns:
        `bool` or `None`: Whether they are equal; `None` if it takes math-verify to decide.

    Examples:
        >>> settle("1,000", "1000."), settle(r"\frac{1}{2}", "0.5"), settle("42", "43"), settle("x!", "y!")
        (True, True, False, None)
    """
    return compare(reference, answer).verdict


def compare(reference: str, answer: str) -> Comparison:
    r"""
    Compare two bare answers, and return what math-verify has to compare if the verdict is not certain.

    Examples:
        >>> compare(r"x = 5 \text{ cm}", r"\log_2(32)")
        Comparison(verdict=None, reference='5', answer='\\log_2(32)')
    """
    if max(len(reference), len(answer)) > LONGEST_ANSWER:
        same = reference.strip() == answer.strip()
        return Comparison(True if same else None, reference, answer)
    one, other = read(reference), read(answer)
    if _without_blanks(one.text) == _without_blanks(other.text):
        return Comparison(True)
    if one.choice:
        verdict = _compare_choices(one, other)
        if verdict is not None:
            return Comparison(verdict)
        if not one.value:  # a letter, and no choice in the answer
            return Comparison(None, to_latex(one.text), to_latex(other.text))
        one = read(one.value)
    elif other.choice:  # the reference is the text of a choice
        other = read(other.value) if other.value else other._replace(value=other.text)
    if _DOTS in one.text or _DOTS in other.text:  # math-verify does not see the dots
        return Comparison(one.value.replace(" ", "") == other.value.replace(" ", "") and _are_compatible(one, other))
    if not _are_compatible(one, other):
        return Comparison(False)
    if one.base or other.base:
        if _is_integer(one.value) and _is_integer(other.value) or one.base and other.base:
            return Comparison(one.value.lower().lstrip("0") == other.value.lower().lstrip("0"))
    if one.name and other.name and re.findall(r"\d+", one.name) != re.findall(r"\d+", other.name):
        return Comparison(False)  # f(80) and f(70), x_1 and x_2
    first, second = _values(one, other)
    verdict = _settle_lists(first, second)
    return Comparison(verdict, _latex_of(one, first), _latex_of(other, second))


def spell(answer: str) -> str:
    r"""
    The LaTeX of a bare answer as math-verify reads it as meant, for a comparison with prose.

    Examples:
        >>> spell(r"x = 5 \text{ cm}"), spell("1e3")
        ('x=5', '1000')
    """
    if len(answer) > LONGEST_ANSWER:
        return answer
    reading = read(answer)
    return _latex_of(reading, reading.text if reading.choice or reading.base else _with_name(reading))


def _latex_of(reading: Reading, value: str) -> str:
    """The LaTeX of a value. 30,150° is a list or a number, and math-verify decides by the sign."""
    return to_latex(f"{value}°" if reading.unit == "°" and "," in value else value)


def to_latex(text: str) -> str:
    r"""
    The LaTeX of a normalized answer, with numerals that math-verify misreads as fractions.

    Examples:
        >>> to_latex(r"0.\overline{3}"), to_latex("50%")
        ('\\frac{1}{3}', '50\\%')
    """
    number = numeral(text) if len(text) <= LONGEST_ANSWER else None
    if number is not None and number.is_misread and "," not in text:
        return _plain_latex(number.value, number.is_decimal) + (r"\%" if number.is_percent else "")
    return re.sub(r"(?<!\\)%", r"\\%", text).replace("°", r"^{\circ}")


def _plain_latex(value: Fraction, is_decimal: bool) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    if is_decimal:
        digits = next((digits for digits in range(1, 60) if 10**digits % value.denominator == 0), None)
        if digits is not None:  # a decimal stays one: math-verify rounds it
            whole, decimals = divmod(abs(value.numerator) * 10**digits // value.denominator, 10**digits)
            return f"{'-' if value < 0 else ''}{whole}.{decimals:0{digits}d}"
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _without_blanks(text: str) -> str:
    return text.replace(", ", ",")


def _are_compatible(one: Reading, other: Reading) -> bool:
    return all(
        not (mine and theirs) or mine == theirs for mine, theirs in ((one.unit, other.unit), (one.base, other.base))
    )


def _values(one: Reading, other: Reading) -> tuple[str, str]:
    """Return the values to compare. A name counts only if both answers have one, and they differ."""
    is_same_name = one.name == other.name
    is_same_condition = not (one.condition and other.condition) or one.condition == other.condition
    if not is_same_condition:
        return one.text, other.text
    if one.name and other.name and not is_same_name:
        return f"{one.name}={one.value}", f"{other.name}={other.value}"
    if (one.name and not other.name and has_relation(other.value)) or (
        other.name and not one.name and has_relation(one.value)
    ):
        return _with_name(one), _with_name(other)
    return one.value, other.value


def _with_name(reading: Reading) -> str:
    return f"{reading.name}={reading.value}" if reading.name else reading.value


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[0-9A-Za-z]+", text) is not None


def _compare_choices(reference: Reading, answer: Reading) -> bool | None:
    """A choice equals its letter. Where both give the text as well, it has to agree."""
    if not answer.choice:
        return None
    if reference.choice != answer.choice:
        return False
    if reference.value and answer.value:
        verdict = settle(reference.value, answer.value)
        return None if verdict is None else verdict
    return True


def _settle_lists(gold: str, answer: str) -> bool | None:
    """Points and intervals, member by member."""
    one, other = _LIST.fullmatch(gold), _LIST.fullmatch(answer)
    if _without_blanks(gold) == _without_blanks(answer):
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
    words = _letters(gold), _letters(answer)
    if all(words):
        return words[0] == words[1]
    one, other = numeral(gold), numeral(answer)
    if one is None or other is None:
        if any(words) and (one or other):
            return False
        times = _TIME.fullmatch(gold), _TIME.fullmatch(answer)
        if all(times):
            return [int(part) for part in times[0].groups()] == [int(part) for part in times[1].groups()]
        if any(mixed is not None and mixed.is_mixed for mixed in (one, other)):
            return None
        return _compare_lists_of_numbers(gold, answer) if "," in gold + answer else compare_formulas(gold, answer)
    if one.is_percent != other.is_percent:
        return _is_same_percentage(one, other)
    if one.value == other.value:
        return True
    if one.is_mixed or other.is_mixed or _are_reordered(gold, answer):
        return None
    if one.is_decimal or other.is_decimal:
        if one.is_decimal and not other.is_decimal and _DECIMAL_COMMA.fullmatch(answer):  # 1.234 and 1,234
            return None
        difference = abs(one.value - other.value)
        if difference > 2e-6 * max(abs(one.value), abs(other.value)):
            return False
        return None  # math-verify rounds to 6 decimals
    return False


def _compare_lists_of_numbers(one: str, other: str) -> bool | None:
    """Numbers with commas between them, in any order."""
    sides = [[numeral(member.strip()) for member in text.split(",")] for text in (one, other)]
    if any(_GROUP.search(text) for text in (one, other)):
        return None  # a list, or digits in groups
    if not all(
        number is not None and not number.is_percent and not number.is_decimal for side in sides for number in side
    ):
        return None
    if {number.value for number in sides[0]} != {number.value for number in sides[1]}:
        return False
    return True if len(sides[0]) == len(sides[1]) else None  # 0 and 0, 0


def _is_same_percentage(one: Numeral, other: Numeral) -> bool | None:
    """9% is 0.09. It is 9 as well, as the unit of the question, but 0.5% is not 0.5."""
    percent, plain = (one.value, other.value) if one.is_percent else (other.value, one.value)
    if plain == percent / 100 or (plain == percent and abs(plain) >= 1):
        return True
    close = abs(plain - percent / 100) <= 2e-6 * abs(plain)
    return None if close and (one.is_decimal or other.is_decimal) else False


def _letters(text: str) -> str:
    """The letters of a word or words, in lower case; nothing for a product of variables."""
    match = _WORD.fullmatch(text.strip("()"))
    letters = re.sub(r"[\W\d_]", "", text)
    if match is None or len(letters) < 3:
        return ""
    is_product = letters.islower() and not re.search("[aeiou]", letters) and letters.isascii()
    return "" if is_product else letters.casefold()


def _are_reordered(gold: str, answer: str) -> bool:
    """Whether both may be lists of the same members: 100,200 and 200,100."""
    return "," in gold and sorted(_DIGITS.findall(gold)) == sorted(_DIGITS.findall(answer))
