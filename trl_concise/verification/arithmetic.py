# SPDX-License-Identifier: Apache-2.0
r"""
Formulas of numbers and variables, compared by their values at fixed points.

Without roots and `\pi` the values are fractions: two formulas that have the same values at the points are the same (a difference
of them is a polynomial whose zeros would have to lie there), and two that have not are different. With roots the values are
floating-point numbers, which only show a difference. Whatever else occurs is left to math-verify.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from .equality import ROUNDED


LONGEST_FORMULA = 120  # characters
MOST_BRACKETS = 20
LARGEST_POWER = 64
MOST_BITS = 65_536  # of a power of whole numbers; powers of powers would fill the memory

_TOKEN = re.compile(
    r"\s*(\d+(?:\.\d+)?|\\(?:frac|sqrt|pi|cdot|times)(?![A-Za-z])|[A-Za-df-hj-z](?:_(?:\w|\{\w+\}))?|[-+/^(){}\[\]])\s*"
)
# Two readings, or one that is easily mistaken: 2 3, (2)3, 2\frac12, x3, x^12, x^1.5, 1/2x, 1/\pi x
_AMBIGUOUS = re.compile(
    r"\d\s+\d|[)}]\s*\d|\d\s*\\frac|[A-Za-z]\d|_\d\d|\^\d[\d.]|\^\s*[-+\\]|/\s*(?:\w|\\pi|\\sqrt\{\w+\})\w*\s*(?:[A-Za-z(\\](?!cdot|times))|/\s*\\(?!pi|sqrt|frac)|//"
)
_SYMBOL = re.compile(r"\s*-?\s*[A-Za-z](?:_(?:\w|\{\w+\}))?\s*")

Value = Fraction | float


class _Unsupported(Exception):
    """The formula contains something else, or has no value at the point."""


def compare_formulas(one: str, other: str) -> bool | None:
    r"""
    Compare two normalized formulas.

    Examples:
        >>> compare_formulas("(x+1)^2", r"x^2+2\cdot x+1"), compare_formulas("2-c", "2-m"), compare_formulas(r"2\sqrt{3}", "2")
        (True, False, False)
        >>> compare_formulas(r"\sqrt{50}", r"5\sqrt{2}") is None
        True
    """
    if _SYMBOL.fullmatch(one) or _SYMBOL.fullmatch(other):
        return None  # math-verify compares names
    values = [[evaluate(text, point) for point in (0, 1)] for text in (one, other)]
    if None in values[0] or None in values[1]:
        return None
    if all(isinstance(value, Fraction) for side in values for value in side):
        has_decimals = "." in one or "." in other
        if values[0] == values[1]:
            return None if values[0] == [0, 0] else True  # math-verify may not see that (x - x) is zero
        if not has_decimals:
            return False
    different = any(
        abs(float(mine) - float(theirs)) > ROUNDED * max(abs(float(mine)), abs(float(theirs)))
        for mine, theirs in zip(*values, strict=True)
    )
    return False if different else None


@lru_cache(maxsize=16_384)
def evaluate(text: str, point: int) -> Value | None:
    """The value of a formula at one of the points; `None` if it is not made of numbers, variables and the usual operations."""
    if len(text) > LONGEST_FORMULA or text.count("(") + text.count("{") > MOST_BRACKETS or _AMBIGUOUS.search(text):
        return None
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        tokens.append(match[1])
        position = match.end()
    parser = _Parser(tokens, point)
    try:
        value = parser.sum()
        if parser.tokens:
            return None
        if isinstance(value, float) and not 1e-250 < abs(value) < 1e250:
            return None
        return value
    except (_Unsupported, ZeroDivisionError, OverflowError, ValueError, RecursionError):
        return None


class _Parser:
    def __init__(self, tokens: list[str], point: int):
        self.tokens = tokens[::-1]
        self.point = point

    def next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def take(self, expected: str | None = None) -> str:
        if not self.tokens or (expected is not None and self.tokens[-1] != expected):
            raise _Unsupported
        return self.tokens.pop()

    def sum(self) -> Value:
        sign = self.take() if self.next() in ("+", "-") else "+"
        value = self.product()
        value = -value if sign == "-" else value
        while self.next() in ("+", "-"):
            sign, term = self.take(), self.product()
            value = value - term if sign == "-" else value + term
        return value

    def product(self) -> Value:
        value = self.power()
        while self.next() and self.next() not in ("+", "-", ")", "}", "]"):
            if self.next() == "/":
                self.take()
                value = value / self.power()
            else:
                if self.next() in (r"\cdot", r"\times"):
                    self.take()
                value = value * self.power()
        return value

    def power(self) -> Value:
        base = self.atom()
        if self.next() != "^":
            return base
        self.take()
        exponent = self.group(self.sum) if self.next() == "{" else self.atom()
        if self.next() == "^" or not isinstance(exponent, Fraction):
            raise _Unsupported
        if exponent.denominator == 1 and abs(exponent) <= LARGEST_POWER and isinstance(base, Fraction):
            if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > MOST_BITS:
                raise _Unsupported
            return base ** int(exponent)
        if abs(exponent) > LARGEST_POWER or base <= 0:
            raise _Unsupported
        return float(base) ** float(exponent)

    def group(self, inside: Callable[[], Value], brackets: str = "{}") -> Value:
        self.take(brackets[0])
        value = inside()
        self.take(brackets[1])
        return value

    def atom(self) -> Value:
        token = self.next()
        if token == "(":
            return self.group(self.sum, "()")
        self.take()
        if token[0].isdigit():
            return Fraction(token)
        if token == r"\frac":
            return self.group(self.sum) / self.group(self.sum)
        if token == r"\pi":
            return math.pi
        if token == r"\sqrt":
            degree = self.group(self.sum, "[]") if self.next() == "[" else Fraction(2)
            radicand = self.group(self.sum)
            if radicand <= 0 or not isinstance(degree, Fraction) or not 2 <= degree <= LARGEST_POWER:
                raise _Unsupported
            return float(radicand) ** (1 / float(degree))
        if token[0].isalpha():
            return _coordinate(token.replace("{", "").replace("}", ""), self.point)
        raise _Unsupported


def _coordinate(name: str, point: int) -> Fraction:
    """The value of a variable at a point: no formula that a person writes has its zeros there."""
    seed = int.from_bytes(name.encode(), "big") * 2 + point
    return Fraction(10_007 + seed * 7_919 % 99_991, 50_021 + seed * 104_729 % 49_999)
