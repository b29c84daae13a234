# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.verification.certain import settle, spell
from trl_concise.verification.normalization import normalize
from trl_concise.verification.numerals import numeral


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "42"),
        ("42", "42."),
        ("42", "$42$".strip("$")),
        ("025", "25"),
        ("1,000", "1000"),
        ("1000", r"1{,}000"),
        ("1000", r"1\,000"),
        (r"11,\! 111,\! 111", "11111111"),
        ("1000000", "1\u2009000\u202f000"),  # thin spaces
        ("-5", "\u22125"),
        ("0.5", ".50"),
        ("0.5", r"\frac{1}{2}"),
        (r"\frac43", r"\dfrac{4}{3}"),
        (r"\frac 59", "5/9"),
        (r"\frac{270}7", "270/7"),
        (r"\frac{-1}{2}", "-0.5"),
        (r"1\frac{4}{5}", "9/5"),
        ("137 \\frac{1}{2}", "137.5"),
        ("2 1/2", "2.5"),
        (r"-2\frac12", "-2.5"),
        (r"0.\overline{3}", r"\frac13"),
        (r"0.1\overline{6}", "1/6"),
        ("4.5e33", r"4.5\times10^{33}"),
        ("4.5e33", r"4.5 \cdot 10^{33}"),
        ("0.001", "1e-3"),
        (r"50\%", "0.5"),
        (r"50\%", "50%"),
        (r"336^\circ", "336"),
        (r"336^{\circ}", "336°"),
        (r"\$36", "36"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \dfrac{\pi}{2})"),
        (r"x^2 + 1", "x^2+1."),
        ("(1, 2)", "(1.0, 4/2)"),
        ("30, 150", "30,150"),
        ("(30, 150)", "(30,150)"),
        ("(0, 180)", r"(0.0,\ 180)"),
        ("x + 1", r"x+1\,"),
        (r"(-\infty, \frac12]", r"\left(-\infty, 0.5\right]"),
        ("x + 1", "1 + x"),
        ("xyz", "zyx"),
        ("x^2 - 1", "(x - 1)(x + 1)"),
        (r"\frac{x + 1}{2y}", r"\frac{x}{2y} + \frac{1}{2y}"),
        ("2, 1", "1, 2"),
    ],
)
def test_certainly_equal(gold, answer):
    assert settle(gold, answer) is True
    assert settle(answer, gold) is True


def test_an_answer_may_name_the_unknown():
    assert settle("1,024", "x = 1024") is True
    assert settle("5", "x = 6") is False
    assert settle("y = 5", "x = 5") is None


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "43"),
        ("1,024", "1,025"),
        ("42", "-42"),
        ("0.5", "0.6"),
        ("1/3", "0.3"),
        ("100000000000000000001", "100000000000000000002"),  # equal as floats
        (r"\frac12", r"\frac13"),
        (r"50\%", r"5\%"),
        ("4.5e33", "4.5e34"),
        (r"0.\overline{3}", "0.3"),
        ("(1, 2)", "(2, 1)"),
        ("[1, 2]", "(1, 2)"),
        (r"\{1, 2\}", "(1, 2)"),
        (r"\{a, b\}", "(a, b)"),
        ("1, 2", "(2, 1)"),
        (r"\pm 2", "(-2, 2)"),
        ("x = 1, y = 2", "(2, 1)"),
        ("x = 1, y = 2", "2, 1"),
        ("0.1234567890123456789", "0.1234567890123456788"),
        ("0.5", "0.50000001"),
        ("1/3", "0.33333334"),  # not its rounding
        ("2024-01-05", "2018"),
        ("1/2/2024", "1/4048"),
        (r"45^\circ", r"45\%"),
        (r"20^\circ\text{C}", r"20^\circ\text{F}"),
        (r"3\text{ blue}, 2\text{ red}", r"2\text{ blue}, 3\text{ red}"),
        (r"3\text{ blue}, 2\text{ red}", "2, 3"),
        (r"(2, \infty)", r"(5, \infty)"),
        ("(3, x)", "(4, y)"),
        ("C", "B"),
        ("5", "five"),
        (r"9\%", "8"),
        (r"0.5\%", "0.5"),
        ("0.0000001", "0.0000002"),
        ("2 - c", "2 - m"),
        (r"2\sqrt{3}", "2"),
        ("1, 2", "1, 3"),
        ("x^2 - 1", "(x - 1)(x + 2)"),
    ],
)
def test_certainly_unequal(gold, answer):
    assert settle(gold, answer) is False
    assert settle(answer, gold) is False


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\sin(x)", r"\cos(x)"),
        ("1/3", "0.333333"),  # math-verify rounds to 6 decimals
        ("100,200", "200,100"),  # two lists?
        ("1, 2", "1, 2, 2"),
        (r"\{1, 2\}", r"\{2, 1\}"),
        ("(1, 2)", "(1, 2, 3)"),
        ("(1, x)", "(1, y)"),
        ("(1,234)", "(1234)"),
        ("(1,0)", "(1,000)"),  # a point, or a thousand
        ("(30,150)", "(30, 151)"),
        ("0,180", "180"),  # no number is grouped like this
        ("200,100", r"100,200^\circ"),  # two lists?
        (r"60, 120^\circ", "60120"),
        ("2 1/2", "1"),  # a product?
        ("1 2", "12"),
        ("1/0", "0"),
        ("1e999999999", "5"),  # too large to write out
        ("9" * 200, "8" * 200),
        ("x_1 = 3", "3, 3"),
        (r"\sqrt{50}", r"5\sqrt{2}"),  # floating-point values show only a difference
        ("x" * 2000, "y" * 2000),
    ],
)
def test_uncertain(gold, answer):
    assert settle(gold, answer) is None
    assert settle(answer, gold) is None


def test_blanks_between_digits_are_kept():
    assert normalize("1  2 x  +  3") == "1 2 x+3"


fractions = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6)


@given(fractions)
def test_fractions_are_read_exactly(value):
    text = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert numeral(text).value == value
    assert settle(text, f"{value.numerator}/{value.denominator}") is True


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12))
def test_decimals_are_read_exactly(value):
    assert numeral(f"{value:f}").value == Fraction(value)
    assert numeral(f"{value:,f}").value == Fraction(value)


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_repeating_decimals_are_read_exactly(numerator, denominator):
    """Long division, written down with a bar over the digits that repeat."""
    whole, remainder = divmod(numerator, denominator)
    digits, seen = "", {}
    while remainder not in seen and len(digits) < 60:
        seen[remainder] = len(digits)
        digit, remainder = divmod(10 * remainder, denominator)
        digits += str(digit)
    if remainder not in seen:
        return  # too long a period for a numeral
    start = seen[remainder]
    text = rf"{whole}.{digits[:start]}\overline{{{digits[start:]}}}"
    if len(text) <= 80:
        assert numeral(text).value == Fraction(numerator, denominator)


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_always_certain(one, other):
    assert settle(str(one), str(other)) is (one == other)


blanks = st.sampled_from([" ", "  ", r"\,", r"\ ", r"\;", "~", r"\, "])
members = st.lists(st.integers(-999, 999), min_size=2, max_size=4)


@given(members, blanks, st.integers(-(10**9), 10**9), st.sampled_from(["", r"^\circ", r"\%", "."]))
def test_a_list_is_not_a_number(values, blank, other, suffix):
    """0, 180 has a blank where 1,180 has none: it is neither 180 nor 1180, nor is a number the list of its digits."""
    text = f",{blank}".join(map(str, values)) + suffix
    assert numeral(normalize(text)) is None
    for number in (str(other), "".join(map(str, values)), str(values[-1]), f"{other:,}"):
        assert settle(text, number) is not True and settle(number, text) is not True
    assert settle(text, text.replace(blank, " ")) is True


@given(st.integers(1000, 10**12), st.sampled_from([r"\!", r"\! ", r"\!  "]))
def test_a_negative_space_does_not_make_a_list(value, space):
    assert settle(str(value), f"{value:,}".replace(",", f",{space}")) is True


@given(st.text(max_size=50))
def test_any_text_equals_itself(text):
    assert settle(text, text) is True


@given(st.text(st.sampled_from(list(r"0123456789.,/\frac{}%e-+$ °overlinetimes^")), max_size=40))
def test_any_text_is_safe(text):
    settle(text, "1/2")
    spell(text)


@pytest.mark.parametrize(
    ("answer", "spelled"),
    [
        ("42.", "42"),
        (r"x + 1\,.", "x+1"),
        (r"30, 150^\circ", r"30, 150^{\circ}"),
        (r"30,150^\circ", r"30,150^{\circ}"),  # one number or two
        ("60°, 120°", r"60^{\circ},120^{\circ}"),
        ("x" + "," * 200_000 + "x", "x" + "," * 200_000 + "x"),
        ("4.5e3", "4500"),
        ("4.5e-3", "0.0045"),
        (r"-0.\overline{3}", r"\frac{-1}{3}"),
        ("2 1/2", r"\frac{5}{2}"),
        ("1/2", "1/2"),
        ("336°", "336"),
        (r"0.\overline{3}\%", r"\frac{1}{3}\%"),
    ],
)
def test_spell(answer, spelled):
    assert spell(answer) == spelled
