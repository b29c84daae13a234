# SPDX-License-Identifier: Apache-2.0
r"""
Whether an answer is in final form, or leaves arithmetic to be done.

math-verify evaluates what it compares: `\boxed{60 + 180 + 126}` equals 366. A policy that is rewarded for that learns to box the calculation
instead of the result. So if the reference answer is a number in final form, the answer has to be one, too. The rules, which
`tests/verification/test_final_form.py` repeats as a table:

| Form | Final | Not final |
|---|---|---|
| sum | `1 + \sqrt{2}`, `3 - 4i`: one rational number at most | `60 + 180`, `2^{10} - 1`, `\sqrt{2} + 3\sqrt{2}` |
| product | `2\sqrt{3}`, `4\pi`, `3 \times 10^8` | `403 \times 233`, `2(3)`, `\sqrt{2}\sqrt{3}` |
| fraction | `\frac{3}{4}`, `6/4`, `\frac{\sqrt{3}}{2}` | `\frac{12}{4}`, `\frac{1.5}{2}`, `\frac{60 + 3}{2}` |
| power | `2^{10}`, `2^{-1}`, `2^{1/2}` | `42^1`, `4^{1/2}`, `2^{3 + 4}` |
| root | `\sqrt{12}`, `\sqrt[3]{2}` | `\sqrt{1764}`, `\sqrt[3]{8}` |
| function | `\ln 2`, `\sin 40^\circ`, `\arctan 2` | `\log_2 8`, `\sin 30^\circ`, `\arctan 1`, `5!`, `\binom{9}{2}`, `\min(1, 2)`, `\|-3\|` |
| equation | `18 - 9 = 9` is read as `9` | `9 = 18 - 9` |

Mixed numbers, percent signs, degrees, units, currency signs and grouped digits do not matter. Other notations are left to
math-verify, unless an operator is between two digits.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple


LONGEST_ANSWER = 200  # characters; a longer one is not a number in final form anyway
_LARGEST_POWER = 10_000  # exponents above are not evaluated

_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[\u2212\u2013\u2012]", "-"),
        ("[×·⋅∙✕✖]|\\\\(?:times|cdot|ast)(?![A-Za-z])|\\*", "*"),
        ("÷|\\\\div(?![A-Za-z])|⁄", "/"),
        (r"√", r"\\sqrt "),
        (r"π", r"\\pi "),
        (
            r"\\(?:text|mbox|mathrm|textbf|mathbf|textit|operatorname)\s*\{\s*(?=(?:sin|cos|tan|ln|log|lcm|gcd|min|max)\s*\})",
            r"{\\",
        ),
        (r"\\(?:text|mbox|textbf|textit|textrm)\s*\{[^{}\d]*\}(?:\^\{?\d\}?)?", " "),
        (r"\\mathrm\s*\{\s*([ei])\s*\}", r"\1 "),
        (r"\\mathrm\s*\{[^{}\d]*\}(?:\^\{?\d\}?)?", " "),
        (r"\\(?:boldsymbol|mathbf|mathit)\s*(?=\{)", ""),
        (r"\\!|\\displaystyle(?![A-Za-z])|\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?", ""),
        (r"\\[,;: ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\{,\}", ","),
        (r"(?<=\d)[, _](?=\d{3}(?!\d))", ""),
        (r"\^\s*\{?\s*(?:\\circ|°)\s*\}?|\\degree(?![A-Za-z])|°", "°"),
        (r"\\?[%$]|[€£¥]", ""),
        # Units and other words: not a name of a function or of a constant
        (
            r"(?<![\\A-Za-z])(?!(?:sqrt|pi|sin|cos|tan|ln|log|lcm|gcd|min|max|exp)\b)[A-Za-z]{2,}\.?(?:\^\{?\d\}?)?",
            " ",
        ),
        (r"(?<![\\A-Za-z])(sqrt|pi|sin|cos|tan|ln|log|lcm|gcd|min|max|exp)(?![A-Za-z])", r"\\\1 "),
        (r"[.,;:]\s*\Z", ""),
    )
)
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|\\[{}|]|[-+*/^!()\[\]{}|_°]|[A-Za-z])")
_MIXED = re.compile(r"(?<![\d./])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_OPERATION = re.compile(r"\d[)}\s]*[-+*/][({\s]*-?\.?\d|\d\s*!")

_TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
_ARCS = {"arcsin": math.asin, "arccos": math.acos, "arctan": math.atan}
_LOGARITHMS = {"ln", "log", "lg"}
# Functions whose value is always shorter
_WORKED_OUT = {
    "binom",
    "min",
    "max",
    "gcd",
    "lcm",
    "lfloor",
    "lceil",
    "sum",
    "prod",
    "int",
    "lim",
    "det",
    "bmod",
    "pmod",
    "mod",
    "lvert",
    "vert",
}


_FUNCTION = re.compile(rf"\\(?:{'|'.join(_WORKED_OUT)})(?![A-Za-z])")
_BINDS = re.compile(r"\\(?:sum|prod|int|lim)(?![A-Za-z])")  # a variable of their own
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[a-df-hj-zA-Z](?![A-Za-z])")
_SEVERAL = re.compile(r"[<>,;]|\\(?:pm|mp|le|ge|in|cup|cap|infty|begin)(?![A-Za-z])")


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


def is_number(text: str) -> bool:
    r"""
    Say whether a reference answer is one number in final form.

    Examples:
        >>> [is_number(text) for text in ("366", r"\frac{3}{4}", r"2\sqrt{3}", "x + 1", "2^6 3^5", "(1, 2)")]
        [True, True, True, False, False, False]
    """
    return _read_number(text) is not None


@lru_cache(maxsize=16_384)
def _read_number(text: str) -> Form | None:
    try:
        form = _Reader(_prepare(text)).read()
    except (NotFinal, Unreadable, OverflowError, ZeroDivisionError, ValueError, RecursionError):
        return None
    return form if form.symbols <= {"e", "i"} else None


@lru_cache(maxsize=16_384)
def leaves_arithmetic(answer: str) -> bool:
    r"""
    Say whether an answer, which should be a number, leaves arithmetic to be done.

    Args:
        answer (`str`): A bare answer, without an equation (see [`result_of`]).

    Examples:
        >>> [leaves_arithmetic(text) for text in ("60 + 180 + 126", r"403 \times 233", r"\sqrt{1764}", "5!")]
        [True, True, True, True]
        >>> [leaves_arithmetic(text) for text in (r"\frac{3}{4}", r"2\sqrt{3}", "2^{10}", r"3 \times 10^8", "42 dollars")]
        [False, False, False, False, False]
    """
    if len(answer) > LONGEST_ANSWER:
        return False
    prepared = _prepare(answer)
    try:
        _Reader(prepared).read()
    except NotFinal:
        return True
    except (Unreadable, OverflowError, ZeroDivisionError, ValueError, RecursionError):
        if _FUNCTION.search(prepared):
            return _BINDS.search(prepared) is not None or not _VARIABLE.search(prepared)
        return not _SEVERAL.search(prepared) and _OPERATION.search(prepared) is not None
    return False


def result_of(answer: str) -> str:
    r"""
    The right-hand side of an equation between numbers; any other answer as it is.

    Examples:
        >>> result_of("18 - 9 = 9"), result_of("x = 3 + 4 = 7"), result_of("x = 7"), result_of("7")
        ('9', '7', 'x = 7', '7')
    """
    left, equals, right = answer.rpartition("=")
    if not equals or not right.strip() or not re.search(r"\d", left) or re.search(r"[<>\\]\s*\Z", left):
        return answer
    return right.strip()


_LAST_MATH = re.compile(r"(?<!\\)\$\$?([^$]+?)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_LAST_WORK = re.compile(r"(?:\b(?:is|be|get|equals|are)\b|[=:])\s*([-\d(\\$][^=:\n]*?)(?:\s+[A-Za-z]+){0,3}[\s.*]*\Z")


def stated_work(prose: str) -> str | None:
    """
    Return the answer that prose states at its very end; `None` if it is not clear.

    Examples:
        >>> stated_work("The answer is $60 + 180$."), stated_work("So it is 60 + 180 apples."), stated_work("Hardly any.")
        ('60 + 180', '60 + 180', None)
    """
    end = prose[-400:]
    math_spans = list(_LAST_MATH.finditer(end))
    if math_spans:
        last = math_spans[-1]
        if re.search(r"\d", end[last.end() :]) is None:
            return next(group for group in last.groups() if group is not None).rpartition("=")[2].strip()
        return None
    match = _LAST_WORK.search(end)
    return match[1].strip() if match else None


def _prepare(text: str) -> str:
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return _MIXED.sub(lambda m: f"({m[1]}m{m[2]}/{m[3]})", text.strip())


class _Reader:
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
        if name in _WORKED_OUT and not _VARIABLE.search(" ".join(self.tokens)):
            raise NotFinal
        raise Unreadable(token)

    def mixed(self) -> Form:
        _, whole, _, numerator, _, denominator, _ = (self.take() for _ in range(7))
        value = int(whole) + Fraction(int(numerator), int(denominator))
        return Form("fraction", float(value), value)

    def fraction(self, after: Form | None) -> Form:
        top, bottom = self.argument(), self.argument()
        form = _fraction(top, bottom)
        is_mixed = after is not None and after.kind == "number" and form.exact is not None and 0 < form.exact < 1
        return form._replace(key="mixed") if is_mixed and after.exact.denominator == 1 else form

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
    exact = (
        math.prod((f.exact for f in rational), start=Fraction(1))
        if all(f.exact is not None for f in rational)
        else None
    )
    if len(rational) == 2 and not others:
        if rational[1].key == "mixed":
            total = rational[0].exact + rational[1].exact
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
        parts = (abs(inside.exact.numerator), inside.exact.denominator)
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
