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
from .brackets import align, several
from .equality import ROUNDED, is_rounding
from .normalization import LONGEST_ANSWER
from .numerals import Numeral, numeral
from .reading import Reading, are_same_unit, count_things, has_relation, read


class Comparison(NamedTuple):
    """A verdict, or what math-verify has to compare."""

    verdict: bool | None
    reference: str = ""  # LaTeX
    answer: str = ""


_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")
_LABEL = re.compile(r"(?:m?\\[a-z]+)?([A-Z]{2,})")  # of a segment, an angle or a triangle
_DIGITS = re.compile(r"\d+")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_TIME = re.compile(r"(\d{1,2}):([0-5]\d)")
_HOUR = re.compile(r"(\d{1,2}):00")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{4}")
_WORD = re.compile(r"[^\W\d_]+(?:[ '’-][^\W\d_]+)*\.?")
_GROUP = re.compile(r",\s?\d{3}(?!\d)")
_AS_TEXT = re.compile(r"\\ldots|\\\{(?:\([^(){}]*\)|\{[^{}]*\}|[^{}(),])*:")  # 1, 2, \ldots and \{x : x > 1\}


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
    if _AS_TEXT.search(one.text) or _AS_TEXT.search(
        other.text
    ):  # math-verify does not see the dots, and reads x : x as x / x
        return Comparison(one.value.replace(" ", "") == other.value.replace(" ", "") and _are_compatible(one, other))
    if not _are_compatible(one, other):
        return Comparison(False)
    if one.base or other.base:
        if _is_integer(one.value) and _is_integer(other.value) or one.base and other.base:
            return Comparison(one.value.lower().lstrip("0") == other.value.lower().lstrip("0"))
    if one.name and other.name and re.findall(r"\d+", one.name) != re.findall(r"\d+", other.name):
        return Comparison(False)  # f(80) and f(70), x_1 and x_2
    labels = _LABEL.fullmatch(one.name), _LABEL.fullmatch(other.name)
    if labels[0] and labels[1] and labels[0][1] not in (labels[1][1], labels[1][1][::-1]):
        return Comparison(False)  # math-verify multiplies the letters of ABC and ACB
    first, second = _values(one, other)
    if one.name and not first.endswith("%"):
        second = _without_percent_sign(second)
    if {one.unit, other.unit} & {"am", "pm"}:
        first, second = (_HOUR.sub(r"\1", value) for value in (first, second))
    things = count_things(one.text), count_things(other.text)
    if all(things):
        return Comparison(sorted(things[0]) == sorted(things[1]))
    if things[0]:  # numbers without words have to be in the same order
        first = f"({','.join(number for number, _ in things[0])})"
    elif things[1]:
        second = f"({','.join(number for number, _ in things[1])})"
    aligned = align(first, second)
    if aligned is None:
        return Comparison(False)
    first, second = aligned
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
        return _plain_latex(number.value, number.step is not None) + (r"\%" if number.is_percent else "")
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
    """
    Whether units and bases agree where both answers have them.

    A unit is not a percent sign. A missing unit may mean any, but a multiple of pi without one is not in degrees.
    """
    if {one.unit, other.unit} == {"", "°"} and r"\pi" in one.value and r"\pi" in other.value:
        return False
    if (one.unit and other.value.endswith("%")) or (other.unit and one.value.endswith("%")):
        return False
    return are_same_unit(one.unit, other.unit) and (not (one.base and other.base) or one.base == other.base)


def _without_percent_sign(value: str) -> str:
    """The share that a percentage is: where a reference answer names a variable, as in `x = 5`, no percent sign can be missing in it."""
    number = numeral(value)
    if number is None or not number.is_percent:
        return value
    return _plain_latex(number.value / 100, number.step is not None)


def _values(one: Reading, other: Reading) -> tuple[str, str]:
    """Return the values to compare. A name counts only if both answers have one, and they differ."""
    one, other = (item._replace(name="") if item.name.startswith("(") else item for item in (one, other))
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
        return settle(reference.value, answer.value)
    return True


def _settle_lists(gold: str, answer: str) -> bool | None:
    """Points and intervals, member by member."""
    if _without_blanks(gold) == _without_blanks(answer):
        return True
    one, other = several(gold), several(answer)
    if one is None or other is None or "list" in (one.kind, other.kind) or "set" in (one.kind, other.kind):
        return _settle(gold, answer)
    if (one.opening, one.closing, len(one.members)) != (other.opening, other.closing, len(other.members)):
        return None
    if any(_THOUSANDS.fullmatch(text[1:-1]) for text in (gold, answer)):
        return None  # two numbers, or one
    verdicts = [_settle_lists(*members) for members in zip(one.members, other.members, strict=True)]
    return False if False in verdicts else (None if None in verdicts else True)


def _settle(gold: str, answer: str) -> bool | None:
    if gold == answer:
        return True
    if _DATE.fullmatch(gold) or _DATE.fullmatch(answer):
        return False
    words = _letters(gold), _letters(answer)
    if all(words):
        return words[0] == words[1]
    one, other = numeral(gold), numeral(answer)
    if one is None or other is None:
        if any(words) and (one or other):
            return False
        times = [match.groups() for text in (gold, answer) if (match := _TIME.fullmatch(text))]
        if len(times) == 2:
            return times[0][1] == times[1][1] and int(times[0][0]) == int(times[1][0])
        if any(mixed is not None and mixed.is_mixed for mixed in (one, other)):
            return None
        return _compare_lists_of_numbers(gold, answer) if "," in gold + answer else compare_formulas(gold, answer)
    if one.is_percent != other.is_percent:
        return _is_same_percentage(one, other)
    if one.value == other.value:
        return True
    if one.is_mixed or other.is_mixed or _are_reordered(gold, answer):
        return None
    if one.step is not None and other.step is None and _DECIMAL_COMMA.fullmatch(answer):  # 1.234 and 1,234
        return None
    return None if _may_be_rounded(one, other) else False  # math-verify rounds to 6 decimals


def _may_be_rounded(one: Numeral, other: Numeral) -> bool:
    """Whether one is a decimal and the other a number without an exact decimal, such as 1/3, that it may approximate."""
    if (one.step is None) == (other.step is None):
        return False
    (decimal, step), exact = (
        ((other.value, other.step), one.value) if other.step is not None else ((one.value, one.step), other.value)
    )
    if step is None or _is_decimal(exact):
        return False
    return abs(decimal - exact) <= Fraction(ROUNDED) * abs(exact) and is_rounding(decimal, exact, step)


def _is_decimal(value: Fraction) -> bool:
    """Whether a fraction has an exact decimal: no prime factor of its denominator is other than 2 and 5."""
    digits = value.denominator.bit_length()
    return 10**digits % value.denominator == 0


def _compare_lists_of_numbers(one: str, other: str) -> bool | None:
    """Numbers with commas between them, in any order."""
    if any(_GROUP.search(text) for text in (one, other)):
        return None  # a list, or digits in groups
    sides = []
    for text in (one, other):
        numbers = [number for member in text.split(",") if (number := numeral(member.strip())) is not None]
        if len(numbers) <= text.count(",") or any(number.is_percent or number.step is not None for number in numbers):
            return None
        sides.append(({number.value for number in numbers}, len(numbers)))
    if sides[0][0] != sides[1][0]:
        return False
    return True if sides[0][1] == sides[1][1] else None  # 0 and 0, 0


def _is_same_percentage(reference: Numeral, answer: Numeral) -> bool | None:
    """
    9% is 0.09. It is 9 as well, as the unit of the question. Not so where the plain number may be a share or a ratio of its own.

    0.5% is not 0.5, and 1% is not 1. A reference answer that is a percentage without its sign is not written as a fraction.
    """
    percent, plain = (reference, answer) if reference.is_percent else (answer, reference)
    is_share = abs(plain.value) <= 1 or (plain is reference and plain.is_fraction)
    if plain.value == percent.value / 100 or (plain.value == percent.value and not is_share):
        return True
    share = percent._replace(value=percent.value / 100, step=percent.step / 100 if percent.step is not None else None)
    return None if _may_be_rounded(share, plain) else False


def _letters(text: str) -> str:
    """The letters of a word or words, in lower case; nothing for a product of variables."""
    match = _WORD.fullmatch(text.strip("()"))
    letters = re.sub(r"[\W\d_]", "", text)
    if len(letters) < 3 or match is None:
        return ""
    is_product = letters.islower() and not re.search("[aeiou]", letters) and letters.isascii()
    return "" if is_product else letters.casefold()


def _are_reordered(gold: str, answer: str) -> bool:
    """Whether both may be lists of the same members: 100,200 and 200,100."""
    return "," in gold and sorted(_DIGITS.findall(gold)) == sorted(_DIGITS.findall(answer))
