# SPDX-License-Identifier: Apache-2.0
"""
Numbers as they are written: a numeral, a fraction, a power, or an irrational number. Reading one fails where arithmetic is left.

The rules are in the table of `final_form.py`.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import NamedTuple


_LARGEST_POWER = 10_000  # exponents above are not evaluated
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|\\[{}|]|[-+*/^!()\[\]{}|_°]|[A-Za-z])")
VARIABLE = re.compile(r"(?<![\\A-Za-z])[a-df-hj-zA-Z](?![A-Za-z])")

_TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
_ARCS = {"arcsin": math.asin, "arccos": math.acos, "arctan": math.atan}
_LOGARITHMS = {"ln", "log", "lg"}
# Functions whose value is always shorter
WORKED_OUT = frozenset("binom min max gcd lcm lfloor lceil sum prod int lim det bmod pmod mod lvert vert".split())


class NotFinal(Exception):
    """Arithmetic is left to be done."""


class Unreadable(Exception):
    """Not a notation that this module knows."""


class Form(NamedTuple):
    """The properties of a number, or of a term of one."""

    kind: str  # "number" (a numeral), "fraction", "power" (a rational number all), or "irrational"
    value: float  # NaN if unknown
    exact: Fraction | None = None
    key: str = ""  # what makes it irrational: two terms with the same key could be added up
    symbols: frozenset[str] = frozenset()

    @property
    def is_rational(self) -> bool:
        return self.kind != "irrational"


class Reader:
    """Reads LaTeX by recursive descent. Raises `NotFinal` where a rule of the table is broken."""

    def __init__(self, text: str):
        self.tokens: list[str] = []
        position = 0
        text = text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise Unreadable(text)
            self.tokens.append(match[1])
            position = match.end()
        if not self.tokens:
            raise Unreadable("nothing")
        self.position = 0

    @property
    def next(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1] if self.position <= len(self.tokens) else ""

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise Unreadable(token)

    def read(self) -> Form:
        form = self.sum()
        if self.next:
            raise Unreadable(self.next)
        return form

    def sum(self) -> Form:
        terms = [self.signed()]
        while self.next in ("+", "-"):
            sign = self.take()
            terms.append(self.product() if sign == "+" else _negated(self.product()))
        if len(terms) == 1:
            return terms[0]
        irrational = [term.key for term in terms if not term.is_rational]
        if len(terms) - len(irrational) > 1 or len(set(irrational)) < len(irrational):
            raise NotFinal
        return Form(
            "irrational",
            sum(term.value for term in terms),
            key="+".join(sorted(irrational)) + "+",
            symbols=_symbols(terms),
        )

    def signed(self) -> Form:
        if self.next in ("+", "-"):
            return self.product() if self.take() == "+" else _negated(self.product())
        return self.product()

    def product(self) -> Form:
        factors = [self.power()]
        divided = False
        while True:
            if self.next == "*":
                self.take()
                factors.append(self.signed_factor())
            elif self.next == "/":
                self.take()
                divisor = self.signed_factor()
                top = _product(factors)
                factors, divided = [_fraction(top, divisor, chained=divided)], True
            elif self.next and (self.next[0].isalnum() or self.next[0] in "({\\.") and self.next not in (r"\}", r"\|"):
                if self.next[0].isdigit() and factors[-1].kind == "number":
                    raise Unreadable("two numbers in a row")
                factors.append(self.power(after=factors[-1]))
            else:
                return _product(factors)

    def signed_factor(self) -> Form:
        if self.next in ("+", "-"):
            return self.power() if self.take() == "+" else _negated(self.power())
        return self.power()

    def power(self, after: Form | None = None) -> Form:
        base = self.base(after)
        while self.next in ("^", "!", "°", "_"):
            token = self.take()
            if token == "!":
                if not base.symbols - {"e", "i"}:
                    raise NotFinal
                raise Unreadable("factorial of a symbol")
            if token == "_":
                raise Unreadable("subscript")
            if token == "^":
                base = _power(base, self.argument(signed=True))
        return base

    def argument(self, signed: bool = False) -> Form:
        """Read the argument of a command: one token, or braces."""
        if self.next == "{":
            return self.enclosed("{", "}")
        if self.next == "(":
            return self.enclosed("(", ")")
        if signed and self.next == "-":
            self.take()
            return _negated(self.argument())
        token = self.next
        if token[:1].isdigit() and len(token) > 1 and not signed:  # \frac12
            self.tokens[self.position : self.position + 1] = list(token)
        return self.base()

    def enclosed(self, opening: str, closing: str) -> Form:
        self.expect(opening)
        form = self.sum()
        self.expect(closing)
        return form

    def base(self, after: Form | None = None) -> Form:
        token = self.next
        if token == "(":
            if after is None and self.tokens[self.position + 2 : self.position + 3] == ["m"]:
                return self.mixed()
            return self.enclosed("(", ")")
        if token == "{":
            return self.enclosed("{", "}")
        if token == "[":
            return self.enclosed("[", "]")
        if token == "|":
            self.take()
            inside = self.sum()
            self.expect("|")
            if inside.symbols - {"e", "i"}:
                raise Unreadable("absolute value")
            raise NotFinal
        self.take()
        if re.fullmatch(r"\d+(?:\.\d+)?|\.\d+", token):
            return Form("number", float(token), Fraction(token))
        if re.fullmatch("[A-Za-z]", token):
            return Form("irrational", math.e if token == "e" else math.nan, key=token, symbols=frozenset(token))
        name = token[1:]
        if name == "pi":
            return Form("irrational", math.pi, key="pi")
        if name in ("frac", "tfrac"):
            return self.fraction(after)
        if name == "sqrt":
            return self.root()
        if name in _TRIGONOMETRIC or name in _ARCS or name in _LOGARITHMS:
            return self.function(name)
        if name in WORKED_OUT and not VARIABLE.search(" ".join(self.tokens)):
            raise NotFinal
        raise Unreadable(token)

    def mixed(self) -> Form:
        _, whole, _, numerator, _, denominator, _ = (self.take() for _ in range(7))
        value = int(whole) + Fraction(int(numerator), int(denominator))
        return Form("fraction", float(value), value)

    def fraction(self, after: Form | None) -> Form:
        top, bottom = self.argument(), self.argument()
        form = _fraction(top, bottom)
        whole = after.exact if after is not None and after.kind == "number" else None
        is_mixed = whole is not None and whole.denominator == 1 and form.exact is not None and 0 < form.exact < 1
        return form._replace(key="mixed") if is_mixed else form

    def root(self) -> Form:
        degree = 2
        if self.next == "[":
            index = self.enclosed("[", "]")
            if index.exact is None or index.exact.denominator != 1 or index.exact < 2:
                raise Unreadable("degree of a root")
            degree = int(index.exact)
        return _root(self.argument(), degree)

    def function(self, name: str) -> Form:
        base = None
        power = ""
        if self.next == "_":
            self.take()
            base = self.argument()
        if self.next == "^":
            self.take()
            power = self.take()
            if power == "{":
                raise Unreadable("power of a function")
        start = self.position
        inside = self.enclosed("(", ")") if self.next == "(" else self.power()
        if self.next == "^" or self.next == "°":
            self.take()
        while self.next and (self.next[0].isalnum() or self.next == r"\pi") and not self.next.startswith(r"\s"):
            inside = _product([inside, self.power()])
        words = " ".join(self.tokens[start : self.position])
        if inside.symbols - {"e", "i"}:
            raise Unreadable("function of a symbol")
        if _has_shorter_form(name, inside, base, is_degree="°" in words):
            raise NotFinal
        return Form("irrational", math.nan, key=f"{name}{power} {words}", symbols=inside.symbols - {"e"})


def _symbols(forms: list[Form]) -> frozenset[str]:
    return frozenset().union(*(form.symbols for form in forms))


def _negated(form: Form) -> Form:
    return form._replace(value=-form.value, exact=-form.exact if form.exact is not None else None)


def _product(factors: list[Form]) -> Form:
    if len(factors) == 1:
        return factors[0]
    rational = [factor for factor in factors if factor.is_rational]
    others = [factor.key for factor in factors if not factor.is_rational]
    value = math.prod(factor.value for factor in factors)
    exacts = [factor.exact for factor in rational if factor.exact is not None]
    exact = math.prod(exacts, start=Fraction(1)) if len(exacts) == len(rational) else None
    if len(rational) == 2 and not others:
        if rational[1].key == "mixed":
            total = sum(exacts, Fraction(0))
            return Form("fraction", float(total), total)
        if rational[1].key == "power of ten" and rational[0].kind == "number":
            return Form("power", value, exact)
    if len(rational) > 1 or any(factor.exact in (0, 1) and factor.kind == "number" for factor in rational):
        raise NotFinal
    roots = [key for key in others if key.startswith("root 2 ")]
    if len(set(others)) < len(others) or len(roots) > 1:
        raise NotFinal
    return Form("irrational", value, key="*".join(sorted(others)), symbols=_symbols(factors))


def _fraction(top: Form, bottom: Form, chained: bool = False) -> Form:
    symbols = _symbols([top, bottom])
    value = top.value / bottom.value if bottom.value else math.nan
    if not (top.is_rational and bottom.is_rational):
        if top.key and top.key == bottom.key:
            raise NotFinal  # pi over pi
        if not top.is_rational:
            return Form("irrational", value, key=top.key + ("/" + bottom.key if bottom.key else ""), symbols=symbols)
        return Form("irrational", value, key="1/" + bottom.key, symbols=symbols)
    exact = top.exact / bottom.exact if top.exact is not None and bottom.exact else None
    kinds = {top.kind, bottom.kind}
    are_whole = all(
        form.kind == "power" or (form.exact is not None and form.exact.denominator == 1) for form in (top, bottom)
    )
    if chained or "fraction" in kinds or not are_whole:
        raise NotFinal
    if kinds == {"number"} and exact is not None and exact.denominator == 1:
        raise NotFinal  # 12/4
    return Form("fraction", value, exact)


def _power(base: Form, exponent: Form) -> Form:
    symbols = _symbols([base, exponent])
    if not base.is_rational or not exponent.is_rational:
        if exponent.exact in (0, 1):
            raise NotFinal
        if base.is_rational and exponent.exact is None and base.exact in (0, 1):
            raise NotFinal
        value = (
            math.nan
            if exponent.exact is None or abs(exponent.exact) > _LARGEST_POWER
            else base.value ** float(exponent.exact)
        )
        return Form(
            "irrational", value, key=f"{base.key or base.exact}^{exponent.key or exponent.exact}", symbols=symbols
        )
    if base.exact is None or exponent.exact is None:
        return Form("power", math.nan)
    if exponent.exact in (0, 1) or base.exact in (0, 1):
        raise NotFinal
    if exponent.exact.denominator == 1:
        is_ten = base.exact == 10 and base.kind == "number"
        if abs(exponent.exact) > 400:
            return Form("power", math.nan, None, "power of ten" if is_ten else "")
        exact = base.exact ** int(exponent.exact)
        return Form("power", float(exact), exact, "power of ten" if is_ten else "")
    _root(Form("number", float(base.exact), base.exact), exponent.exact.denominator)
    return Form("irrational", math.nan, key=f"{base.exact}^{exponent.exact}")


def _root(inside: Form, degree: int) -> Form:
    if inside.exact is not None and inside.is_rational:
        if inside.exact < 0 and degree % 2 == 0:
            inside = _negated(inside)  # the root of -4 is 2i
        radicand = inside.exact or Fraction(0)
        parts = (abs(radicand.numerator), radicand.denominator)
        if all(_is_power(part, degree) for part in parts):
            raise NotFinal
    key = f"root {degree} {inside.key or inside.exact}"
    return Form("irrational", math.nan, key=key, symbols=inside.symbols)


def _is_power(number: int, degree: int) -> bool:
    if number < 2:
        return True
    if degree == 2:
        return math.isqrt(number) ** 2 == number
    if number.bit_length() <= degree:
        return False
    guess = round(number ** (1 / degree)) if number.bit_length() < 1000 else 0
    return any((guess + step) ** degree == number for step in (-1, 0, 1) if guess + step > 0)


def _has_shorter_form(name: str, inside: Form, base: Form | None, is_degree: bool) -> bool:
    """Whether the value of a function is a simple fraction, a root of one, or a simple multiple of pi."""
    if name in _LOGARITHMS:
        if inside.key.startswith("e") and inside.symbols == {"e"}:
            return True  # ln e^2
        if inside.exact is None or inside.exact <= 0:
            return False
        if inside.exact == 1:
            return True
        number = math.e if name == "ln" else (float(base.exact) if base is not None and base.exact else 10.0)
        if number <= 0 or number == 1:
            return False
        return name != "ln" and _is_simple(math.log(float(inside.exact)) / math.log(number))
    if math.isnan(inside.value):
        return False
    if name in _ARCS:
        return (
            abs(inside.value) <= 1
            and _is_simple(_ARCS[name](inside.value) / math.pi)
            or (name == "arctan" and _is_simple(math.atan(inside.value) / math.pi))
        )
    angle = inside.value / 180 if is_degree else inside.value / math.pi
    return abs(12 * angle - round(12 * angle)) < 1e-9 and (is_degree or inside.key == "pi" or inside.value == 0)


def _is_simple(value: float, largest: int = 12) -> bool:
    return abs(value - float(Fraction(value).limit_denominator(largest))) < 1e-9
