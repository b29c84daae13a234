# SPDX-License-Identifier: Apache-2.0
"""
Parsing and comparing answers with math-verify, and the verdicts of its that are corrected.

`judge_process.py` loads this file by its path, so it imports nothing from this package. math-verify and sympy are imported inside
the functions.
"""

from __future__ import annotations

import contextlib
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=4096)
def read(text: str, is_bare: bool, keeps_case: bool = True) -> tuple[Any, ...]:
    """
    Parse an answer, or find and parse the one in prose.

    A bare answer is LaTeX as a whole. math-verify's own fallback, which strips trailing letters as units, lowers the case of
    letters, and searches what it cannot parse for a number, is for prose only.
    """
    from math_verify import parse
    from math_verify.grader import should_treat_as_complex
    from math_verify.parser import get_last_eq

    if not is_bare:
        found = parse(text, parsing_timeout=None)
        return (with_imaginary_unit(found[0]), *found[1:]) if found else ()
    normalize, convert = _latex_reader(keeps_case)
    latex = normalize(text)
    for part in dict.fromkeys(
        (latex, get_last_eq(latex))
    ):  # as math-verify does: all of it, or the end of a chain of equations
        with contextlib.suppress(Exception):  # whatever the grammar or sympy raises
            return (with_imaginary_unit(convert(part, is_real=not should_treat_as_complex(part))), latex)
    return (latex,) if latex else ()


@lru_cache(maxsize=2)
def _latex_reader(keeps_case: bool) -> tuple[Any, Any]:
    from functools import partial

    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex

    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="last"
    )
    conversion = ConversionConfig(lowercase_symbols=not keeps_case)
    return partial(normalize_latex, config=normalization), partial(
        latex2sympy, convert_degrees=False, normalization_config=None, conversion_config=conversion
    )


def with_imaginary_unit(expression: Any) -> Any:
    """Take `i` for the imaginary unit where it is the only letter: in `e^{i\\pi}`, not in `2i + j`."""
    import sympy

    letters: set[Any] = getattr(expression, "free_symbols", set())
    if {str(letter) for letter in letters} != {"i"}:
        return expression
    return expression.subs({letter: sympy.I for letter in letters})


def equal(parsed_reference: tuple[Any, ...], parsed_answer: tuple[Any, ...]) -> bool:
    """math-verify's verdict, without its own deadline: that one needs a signal, and a signal is not enough."""
    from math_verify import verify

    if parsed_reference and parsed_answer:
        one, other = parsed_reference[0], parsed_answer[0]
        if are_set_and_tuple(parsed_reference, parsed_answer) or are_set_and_tuple(parsed_answer, parsed_reference):
            return False
        if is_not_rounded(parsed_reference, other) or is_not_rounded(parsed_answer, one) or differ(one, other):
            return False
    return verify(list(parsed_reference), list(parsed_answer), timeout_seconds=None)


def are_set_and_tuple(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether one is a set in braces and the other a point or an interval. math-verify equates them."""
    import sympy

    is_set = isinstance(one[0], sympy.FiniteSet) and re.fullmatch(r"\\\{.*\\\}", str(one[-1]).strip(), re.DOTALL)
    return bool(is_set) and isinstance(other[0], (sympy.Tuple, sympy.Interval))


# Relative differences above these are differences. math-verify's tolerances are absolute: they equate small numbers.
EXACT, ROUNDED = 1e-9, 5e-6  # six digits
DIGITS = 20  # of an evaluation
LONGEST_DECIMAL = 60  # characters


def is_not_rounded(parsed_decimal: tuple[Any, ...], value: Any) -> bool:
    """Whether one answer is a decimal, the other an exact number, and the decimal is not the number rounded to its last digit."""
    import sympy

    text = str(parsed_decimal[-1]).strip()
    match = re.fullmatch(r"[-+]?\d*\.(\d+)", text) if len(text) <= LONGEST_DECIMAL else None
    if match is None or not isinstance(value, sympy.Expr) or not value.is_number or value.has(sympy.Float):
        return False
    try:
        exact = value.evalf(DIGITS + len(text), maxn=150, strict=True)
        return exact.is_real and not is_rounding(
            Fraction(text), Fraction(str(exact)), Fraction(1, 10 ** len(match[1]))
        )
    except Exception:  # no value, or not enough digits
        return False


def is_rounding(decimal: Fraction, exact: Fraction, step: Fraction) -> bool:
    """
    Whether a decimal is a number that was rounded, or truncated, to a multiple of `step`, its last digit.

    Double-precision results may be off by a little more.
    """
    error = abs(decimal - exact)
    is_truncated = abs(decimal) < abs(exact) and error < step
    return is_truncated or error <= step / 2 or error <= abs(exact) / 10**15


def differ(one: Any, other: Any) -> bool:
    """
    Whether two expressions certainly differ: at a point where both have a value, the values differ.

    It is quick where the simplification of a difference that is not zero is slow, and it compares relatively. Decimals are
    compared exactly, unless they may be the rounded values of roots, of fractions such as 1/3, or of other numbers without
    an exact decimal.
    """
    import sympy
    from sympy.core.function import AppliedUndef

    if isinstance(one, sympy.Tuple) and isinstance(other, sympy.Tuple):
        return len(one) == len(other) and any(map(differ, one, other))
    if isinstance(one, sympy.MatrixBase) and isinstance(other, sympy.MatrixBase):
        return one.shape == other.shape and any(map(differ, one, other))
    if isinstance(one, sympy.Interval) and isinstance(other, sympy.Interval):
        return differ(one.start, other.start) or differ(one.end, other.end)
    if isinstance(one, sympy.Eq) and isinstance(other, sympy.Eq):
        return one.lhs == other.lhs and one.lhs.is_Symbol and differ(one.rhs, other.rhs)
    if isinstance(one, sympy.FiniteSet) and isinstance(other, sympy.FiniteSet):
        numbers = [[member for member in members.args if member.is_number] for members in (one, other)]
        if len(one) != len(other) or not len(numbers[0]) == len(numbers[1]) == len(one):
            return False
        with contextlib.suppress(Exception):  # numbers without an order
            return any(map(differ, *(sorted(members, key=lambda number: number.evalf(DIGITS)) for members in numbers)))
        return False
    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr)):
        return False
    if isinstance(one, sympy.Symbol) or isinstance(other, sympy.Symbol):
        return False  # math-verify compares names
    opaque = (
        AppliedUndef,
        sympy.UnevaluatedExpr,
        sympy.Integral,
        sympy.Sum,
        sympy.Product,
        sympy.Limit,
        sympy.Derivative,
    )
    if one.has(*opaque) or other.has(*opaque):
        return False
    try:
        is_rounded = one.has(sympy.Float) or other.has(sympy.Float)
        if is_rounded:
            one, other = _with_fractions(one), _with_fractions(other)
            is_rounded = not (_has_decimals_only(one) and _has_decimals_only(other))
        names = sorted(one.free_symbols | other.free_symbols, key=str)
        point = {name: sympy.Rational(7 + 5 * number, 11 + 2 * number) for number, name in enumerate(names)}
        values = [expression.evalf(DIGITS, subs=point) for expression in (one, other)]
        if not all(value.is_number and value.is_finite for value in values):
            return False
        if abs(values[0] - values[1]) > (ROUNDED if is_rounded else EXACT) * max(map(abs, values)):
            return True
        return not is_rounded and (one - other).evalf(DIGITS, subs=point, maxn=150, strict=True) != 0
    except Exception:  # no value there, or not enough digits: nothing is certain
        return False


def _with_fractions(expression: Any) -> Any:
    """An expression with its decimals as exact fractions."""
    import sympy

    return expression.xreplace({number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)})


def _has_decimals_only(expression: Any) -> bool:
    """Whether every number of an expression has an exact decimal: no roots, no functions, no divisions except by 2 and 5."""
    import sympy

    if expression.atoms(sympy.Function, sympy.NumberSymbol):
        return False
    for power in expression.atoms(sympy.Pow):
        if not power.exp.is_Integer or (power.exp < 0 and not power.base.is_Integer):
            return False
        if power.exp < 0 and not _has_decimals_only(1 / power.base):
            return False
    return all(set(sympy.factorint(number.q, limit=100)) <= {2, 5} for number in expression.atoms(sympy.Rational))
