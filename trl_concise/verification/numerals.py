# SPDX-License-Identifier: Apache-2.0
"""Plain numerals, read exactly."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple


LONGEST_NUMERAL = 80  # characters
LARGEST_EXPONENT = 400  # of ten; a larger one is left to math-verify


class Numeral(NamedTuple):
    """A plain numeral."""

    value: Fraction
    is_percent: bool  # `value` is the number before the sign
    step: Fraction | None  # the value of the last digit of a decimal; None for other numerals, which are exact
    is_mixed: bool  # 2 1/2 may be a product
    is_fraction: bool  # 3/4, not 2 3/4
    is_misread: bool  # math-verify reads something else, or nothing


_WHOLE = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)"
_FRACTION = r"\\frac(?:\{(?P<n1>[+-]?\d+)\}|(?P<n2>\d))\s?(?:\{(?P<d1>[+-]?\d+)\}|(?P<d2>\d))"
_NUMERAL = re.compile(
    rf"""
    (?P<sign>[+-]?)(?:
        (?P<mixed>\d+)\ ?(?:{_FRACTION}|(?<=\ )(?P<n3>\d+)/(?P<d3>\d+))
      | {_FRACTION.replace("<n", "<a").replace("<d", "<b")}
      | (?P<a3>{_WHOLE})/\(?(?P<b3>[+-]?{_WHOLE})\)?
      | (?P<whole>{_WHOLE})?
        (?:\.(?P<decimals>\d*)(?:\\(?:overline|bar)\{{(?P<repeating>\d+)\}})?)?
        (?:(?:[eE]|(?:\\times|\\cdot|\*)\ ?10\^)\{{?(?P<exponent>[+-]?\d+)\}}?)?
      | (?P<power>10)\^\{{?(?P<tens>[+-]?\d+)\}}?
    )(?P<percent>\\?%)?
    """,
    re.VERBOSE,
)


@lru_cache(maxsize=16_384)
def numeral(text: str) -> Numeral | None:
    r"""
    Read a normalized text that is a plain numeral and nothing else.

    Integers (with thousands separators), decimals, repeating decimals, fractions, mixed numbers, powers of ten and scientific
    notation, with a sign and a percent sign.

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

    def first(*names: str) -> str:
        return next((part[name] for name in names if name in part), "")

    numerator, denominator = first("n1", "n2", "n3", "a1", "a2", "a3"), first("d1", "d2", "d3", "b1", "b2", "b3")
    mixed = part.get("mixed")
    value: Fraction | None
    if numerator:
        if int(denominator) == 0:
            return None
        value = Fraction(int(numerator), int(denominator))
        if mixed is not None:
            if not 0 < value < 1:  # 4 10/3 is not a mixed number
                return None
            value += int(mixed)
    else:
        if "power" in part:
            part.update(whole="1", exponent=part["tens"])
        value = _decimal(part)
        if value is None:
            return None
    return Numeral(
        value=-value if part["sign"] == "-" else value,
        is_percent="percent" in part,
        step=_step(part),
        is_mixed=mixed is not None,
        is_fraction=bool(numerator) and mixed is None,
        is_misread="exponent" in part or "repeating" in part or "n3" in part,
    )


def _step(part: dict[str, str]) -> Fraction | None:
    """The value of the last digit of a decimal: 0.01 for 2.50, 1000 for 2.5e4. A decimal that repeats is exact."""
    is_decimal = "decimals" in part or ("exponent" in part and "power" not in part)
    if not is_decimal or "repeating" in part:
        return None
    return Fraction(10) ** (int(part.get("exponent", "0")) - len(part.get("decimals", "")))


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
