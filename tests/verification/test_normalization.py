# SPDX-License-Identifier: Apache-2.0
"""Kinds of spellings: variants of one value are equal, perturbed values are not. The pairs of each kind are judged in one call."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trl_concise.verification import equality, verify_answers
from trl_concise.verification.certain import _letters, compare, settle
from trl_concise.verification.extraction import final_answer, gold_answer
from trl_concise.verification.guards import guard
from trl_concise.verification.normalization import NORMALIZATIONS, normalize, normalize_prose
from trl_concise.verification.reading import read, unit_name


ROOT = Path(__file__).resolve().parents[2]
PAIRS = ROOT.parent / "shared" / "data" / "answer_pairs.jsonl"
PATIENT = 30.0  # seconds

# Reference answer, other spellings, other values
KINDS = {
    "percent": ("62.5", [r"62.5\%", r"62.50\%", r"62.5 \text{ percent}"], [r"6.25\%", r"625\%", r"-62.5\%"]),
    "small percent": ("0.3", [r"30\%"], [r"0.3\%", r"3\%"]),
    "dollar signs in a reference": ("$4$;$9$", ["4, 9", "9, 4", "$4$ and $9$"], ["9", "4", "4, 8"]),
    "a dollar sign in a reference": (r"12 and $17.5 \mathrm{~min}$", ["12, 17.5"], ["17.5", "12"]),
    "unit letters": ("3 - t", ["-t + 3", "3-t"], ["3 - s", "3", "3 + t", "3 - 1"]),
    "a coefficient": ("k = 6m", ["6m", "k=6m"], ["6", "6c", "k = 6"]),
    "a letter after a fraction": (r"\frac{3}{7} g", [r"\frac{3g}{7}"], [r"\frac{3}{7}", r"\frac{3h}{7}"]),
    "small numbers": ("0.0000003", [r"3 \times 10^{-7}", r"\frac{3}{10^7}"], ["0.0000004", "0", r"3 \times 10^{-8}"]),
    "powers": (r"\frac{1}{3^{70}}", ["3^{-70}"], [r"\frac{1}{3^{71}}", "0"]),
    "nearly one": (r"1-\frac{1}{2^{70}}", [r"\frac{2^{70}-1}{2^{70}}"], ["1", r"1-\frac{1}{2^{71}}"]),
    "sets of small numbers": (r"\{\frac{1}{5^{40}}, 2\}", [r"\{2, 5^{-40}\}"], [r"\{\frac{1}{5^{41}}, 2\}"]),
    "currency": (r"\$8", ["8", "8 dollars", "$8.00"], ["€8", "£8", r"\$8 \text{ million}", r"8 \text{ cents}"]),
    "magnitudes": ("3000000", [r"\$3 \text{ million}", "3 million"], [r"3 \text{ thousand}", "3 billion"]),
    "minus": ("-7", ["\u22127", "\u20137"], ["7"]),
    "roots": (r"\sqrt{7}+1", ["√7 + 1", r"1+\sqrt7", "sqrt(7)+1"], ["√8+1", "7+1"]),
    "vulgar fractions": (r"\frac{3}{4}", ["¾", "3⁄4"], ["¼", "⅔"]),
    "superscripts": ("x^2+x_1", ["x²+x₁"], ["x³+x₁", "x²+x₂"]),
    "infinity": (r"(2,\infty)", ["(2, ∞)", r"(2,+\infty)"], ["[2, ∞)", r"(2,-\infty)"]),
    "mathematical letters": ("x+y", ["𝑥 + 𝑦"], ["𝑥 + 𝑧"]),
    "digits": ("47", ["४७", "\uff14\uff17"], ["४८"]),
    "delimiters": (r"3(2-\sqrt{5})", [r"3\bigl(2-\sqrt5\bigr)", r"3\Big(2-\sqrt{5}\Big)"], [r"3\bigl(2+\sqrt5\bigr)"]),
    "brackets": ("[2, 5)", [r"\biggl[2, 5\biggr)"], [r"\biggl(2,5\biggr)", "5"]),
    "choice": ("D", ["(D)", r"\text{(D)}\ 31", "D. 31", r"\textbf{(D)}", r"\text{Answer: D}"], ["C", "(E) 31", "31"]),
    "choice with text": (r"\textbf{(B)}\ 34", ["B", "34", "(B) 34"], ["A", "35", "(B) 35"]),
    "groups": ("1234567", [r"1\,234\,567", "1 234 567", "1~234~567", "1_234_567", "1'234'567"], ["1 234 568", "567"]),
    "mixed numbers": (r"\frac{17}{5}", ["3 2/5", r"3\frac25", "3⅖"], ["3", r"\frac{6}{5}", "2 2/5"]),
    "named values": (r"\frac{5}{6}", [r"P_{\max} = \frac56", r"f(3) = \frac{5}{6}"], [r"P_{\max} = \frac67"]),
    "names": (r"\theta = 75^\circ", ["75", r"\theta=75"], [r"\alpha = 75^\circ", "74"]),
    "values of a function": ("g(6) = 2.5", ["2.5", "g(6)=2.5"], ["6", "g(5) = 2.5"]),
    "constants": (r"\frac{8}{4} = 2", ["2"], ["8", "4"]),
    "conditions": (r"3^n \text{ for all } n", ["3^n"], ["2^n", "3"]),
    "integers": (r"\pi k", [r"x = \pi k,\ k \in \mathbb{Z}"], [r"x = 2\pi k,\ k \in \mathbb{Z}"]),
    "bases": ("221_3", ["(221)_3", "221_{3}", "221"], ["221_4", "212_3", "(221)_5"]),
    "letters as digits": ("2F_{16}", ["2f_{16}"], ["2E_{16}", "2F_{17}"]),
    "escaped": (r"2 \\text{ or } 6", ["2, 6", r"6 \text{ or } 2"], ["6", "2"]),
    "escaped fractions": (r"\\frac{2}{9}", [r"\frac29"], [r"\frac{2}{8}", "2"]),
    "units": ("15", ["15 weeks", "15 cm^2", r"15\text{ cm}^{2}", r"15 \text{ square units}"], ["16 weeks", r"15 \text{ or more}"]),
    "two units": (r"4 \text{ km}", [r"4\ \mathrm{km}", "4 kilometers", "4"], [r"4 \text{ m}", r"4 \text{ km}^2"]),
    "areas": (r"9 \text{ square feet}", [r"9 \text{ ft}^2", "9"], [r"9 \text{ ft}", r"8 \text{ ft}^2"]),
    "times": ("4:45", ["4{:}45", r"4\!:\!45 \text{ p.m.}"], ["4:46", "5:45"]),
    "halves of the day": (r"4:45 \text{ p.m.}", [r"4:45 \text{ PM}"], [r"4:45 \text{ a.m.}"]),
    "ratios": ("3:5", [r"\frac{3}{5}", "6:10"], ["5:3"]),
    "real numbers": (r"\mathbb{R}", [r"\text{all real numbers}", r"(-\infty,\infty)"], [r"\mathbb{Z}", r"(0,\infty)"]),
    "fonts": ("9", [r"\color{red}{9}", r"\boldsymbol{9}", r"\mathbf{9}", r"\text{9}"], [r"\phantom{9}8", r"\mathbf{8}"]),
    "sequences": (r"2, 4, \ldots, 2n", [r"2,4,\dots,2n", "2, 4, ..., 2n"], [r"2, 6, \ldots, 2n", "2, 4, 2n"]),
    "words": ("parabola", ["Parabola", r"\text{parabola}"], ["hyperbola", "0"]),
    "orders": ("CABD", [r"\text{CABD}", "(CABD)"], ["ABCD", "C B A D", r"\text{DABC}"]),
    "case": (r"\frac{r}{R}", [r"\dfrac{r}{R}"], [r"\frac{R}{r}", r"\frac{r}{r}"]),
    "plus or minus": (r"\frac{3\pm\sqrt{2}}{2}", [r"\frac{3\mp\sqrt2}{2}"], [r"\frac{3+\sqrt{2}}{2}"]),
    "relations": ("2<x<6", [r"2<x \text{ and } x<6"], [r"2 \le x < 6"]),
    "relations with other names": (r"q \leqq 4", [r"q \le 4", r"q \leqslant 4", "q <= 4"], [r"q \ge 4", "q < 4"]),
    "ASCII": ("5*cos(pi*x/3)", [r"5\cos(\frac{\pi x}{3})"], [r"5\sin(\frac{\pi x}{3})"]),
    "points": ("(5, -2)", [r"\langle 5, -2 \rangle", "5, -2", "x = 5, y = -2"], [r"\{5, -2\}", "(-2, 5)", "[5, -2]", "-2, 5"]),
    "points with names": ("(x, y) = (5, 8)", ["(5, 8)", "5, 8"], [r"\{5, 8\}", "(8, 5)", "[5, 8]", "x = 8, y = 5"]),
    "sets": (r"\{4, 9\}", [r"\{9, 4\}", "9, 4", "x = 4 \\text{ or } x = 9"], ["(4, 9)", "[4, 9]", "[4, 9)", "13"]),
    "sets of points": (r"\{(1, 2), (3, 4)\}", ["(3, 4), (1, 2)"], [r"\{\{1, 2\}, \{3, 4\}\}", "(1, 4), (3, 2)"]),
    "values with names": ("m = 3, n = 8", ["n = 8, m = 3", "3, 8", "(3, 8)"], ["8, 3", "(8, 3)", "m = 8, n = 3"]),
    "solutions": ("x = 3, x = 8", ["8, 3", r"\{3, 8\}"], ["3", "3, 9"]),
    "signs": (r"\pm 6", ["-6, 6", r"\{6, -6\}"], ["(-6, 6)", "[-6, 6]", "6"]),
    "long decimals": ("0.1234567890123456789", ["0.12345678901234567890"], ["0.1234567890123456788", "0.123456789"]),
    "decimals of fractions": (r"\frac{2}{7}", ["0.285714", "0.2857142857"], ["0.2857", "0.285715", "0.28571429857"]),
    "exact decimals": (r"\frac{3}{8}", ["0.375", "0.3750"], ["0.3750001", "0.37500000000001"]),
    "decimals of roots": (r"\sqrt{3}", ["1.7320508", "1.732050808"], ["1.7320509", "1.73", "1.732051808"]),
    "decimals in a matrix": (r"\begin{pmatrix} 0.5 & 1 \end{pmatrix}", [r"\begin{bmatrix} \frac{1}{2} & 1 \end{bmatrix}"], [r"\begin{pmatrix} 0.50000001 & 1 \end{pmatrix}"]),
    "angles in functions": (r"\sin 30^\circ", [r"\frac12", "0.5", r"\sin\frac{\pi}{6}", r"\cos(60^\circ)"], [r"\frac{\sqrt3}{2}", r"\sin 60^\circ", r"\sin 30"]),
    "products of angles": (r"4\sin 20^\circ", [r"4\cos 70^\circ", r"4\sin(20^{\circ})"], [r"4\cos 20^\circ", r"4\sin 20"]),
    "temperatures": (r"30^\circ\text{C}", ["30", r"30^\circ", "30 degrees Celsius"], [r"30^\circ\text{F}", r"30\%"]),
    "pounds": ("£60", ["60 pounds", "60"], [r"60 \text{ lb}", r"\$60"]),
    "cents": (r"85 \text{ cents}", ["85¢", "85"], [r"\$85"]),
    "hours": (r"9 \text{ a.m.}", [r"9:00 \text{ a.m.}"], [r"9 \text{ p.m.}", r"9:30 \text{ a.m.}"]),
    "dates": ("2031-04-05", ["2031-04-05"], ["2031-05-04", "2022"]),
    "fractions of units": (r"7 \text{ m/s}^2", [r"7 \frac{\text{m}}{\text{s}^2}", "7"], [r"7 \frac{\text{m}}{\text{s}}"]),
    "counted things": (r"4 \text{ cats}, 6 \text{ dogs}", [r"6 \text{ dogs}, 4 \text{ cats}"], [r"6 \text{ cats}, 4 \text{ dogs}", "6, 4"]),
    "descending relations": ("1 < y \\le 6", [r"6 \ge y > 1"], [r"6 > y \ge 1", r"6 \ge y"]),
    "moduli": (r"x \equiv 4 \pmod 9", [r"x \equiv 4 \pmod{9}", r"x\equiv4\ (\text{mod } 9)"], [r"x \equiv 4 \pmod 7", r"x \equiv 5 \pmod 9"]),
    "the integers": (r"\mathbb{Z}", [r"\text{all integers}"], [r"\mathbb{R}", r"\text{all positive integers}"]),
    "derivatives": (r"\frac{dy}{dx} = 4x", ["4x"], ["5x"]),
    "complex numbers": (r"e^{i\pi/2}", ["i", r"\frac{2i}{2}"], ["-i", "1", "e"]),
    "choices with a label": ("B", [r"\text{Option B}", "Choice (B)"], ["Option C"]),
    "decimal exponents": (r"\sqrt{2}", ["2^{0.5}", "2^{.50}", "2^{1/2}"], ["2^{0.6}", "2^{5}", "2"]),
    "decimals after an exponent": ("4t^3", ["4t^{3.0}", "4t^{3}"], ["4t^3.0", "4t^{30}"]),
    "two currencies or units": (r"\$9.40", [r"\$9.40 \text{ per hour}", r"\$9.4 \text{ dollars}"], [r"\$9.4 \text{ cents}", r"\$9.4^\circ", r"\$9.4\%", r"\$9.4 \text{ kg}"]),
    "a currency with another unit": ("31", [r"\$31"], [r"\$31^\circ", r"\$31 \text{ cents}", r"\$31\%"]),
    "multiples of pi": (r"\frac{2\pi}{5}", [r"\frac{2\pi}{5} \text{ radians}"], [r"\frac{2\pi}{5}^\circ", r"72^\circ", r"\frac{2\pi}{5} \text{ degrees}"]),
    "percent of a ratio": (r"\frac{7}{4}", [r"175\%"], [r"\frac{7}{4}\%", r"1.75\%"]),
    "percent of a variable": ("r = 8", ["8", "r = 8"], [r"r = 8\%", r"8\%", r"0.08"]),
    "one": ("1", [r"100\%"], [r"1\%"]),
    "conditions of sets": (r"\{x \mid x > 4\}", [r"\{x : x > 4\}", "{x | x > 4}", r"\{ x\,|\,x>4 \}"], [r"\{x \mid x > 5\}", r"\{y : y < 4\}", r"\{x \mid x \ge 4\}", r"\{x : x < 4\}", "4"]),
    "conditions of sets of points": (r"\{(x, y) \mid x + y = 1\}", [r"\{(x,y) : x+y=1\}"], [r"\{(x,y) : x+y=2\}", r"\{(x,y) \mid x-y=1\}"]),
    "conditions with a set of numbers": (r"\{x \in \mathbb{R} \mid x \ne 6\}", [r"\{x\in\mathbb{R} : x\neq 6\}"], [r"\{x \in \mathbb{R} : x \ne 7\}", r"\{x \in \mathbb{Z} \mid x \ne 6\}"]),
    "a choice that is a set": ("C. {x : x > 4}", ["C", r"\{x \mid x > 4\}", "{x : x > 4}"], ["B", r"\{x : x > 5\}", "4"]),
    "decimal comma": ("3.5", ["3,5"], ["3,6", "35"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[str, str], bool | None]:
    """Of all pairs, judged in one call."""
    pairs = [
        (reference, answer) for reference, same, others in KINDS.values() for answer in (reference, *same, *others)
    ]
    completions = [rf"The answer is \boxed{{{answer}}}." for _, answer in pairs]
    return dict(zip(pairs, verify_answers([pair[0] for pair in pairs], completions, timeout=PATIENT), strict=True))


def documented() -> list[tuple[str, str, bool]]:
    """The table of docs/verification.md."""
    page = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    table = page.partition("## What is equal and what is not")[2].partition("\n## ")[0].partition("| Kind |")[2]
    cases = []
    for line in table.partition("\n\n")[0].splitlines()[2:]:
        _, reference, same, others = (re.findall("`([^`]+)`", cell) for cell in line.strip("|").split("|"))
        cases += [(reference[0], answer, True) for answer in same] + [
            (reference[0], answer, False) for answer in others
        ]
    return cases


def test_the_documented_examples():
    references, answers, expected = map(list, zip(*documented(), strict=True))
    assert len(references) > 70
    judged = verify_answers(references, [rf"\boxed{{{answer}}}" for answer in answers], timeout=PATIENT)
    wrong = [case for case, verdict in zip(documented(), judged, strict=True) if verdict is not case[2]]
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_kind(kind, verdicts):
    reference, same, others = KINDS[kind]
    assert [answer for answer in same if not verdicts[reference, answer]] == []
    assert [answer for answer in others if verdicts[reference, answer]] == []


numbers = st.integers(1, 10**6)
grouped = st.sampled_from([r"\,", " ", r"\ ", "~", "_", "'", "{,}", ",", "\u202f", r",\!"])


def spelled(number: int, separator: str) -> str:
    return f"{number:,}".replace(",", separator)


@given(st.integers(1000, 10**12), grouped, st.integers(-3, 3))
def test_groups_of_digits(number, separator, change):
    assert settle(str(number), spelled(number, separator)) is True
    if change:
        assert settle(str(number + change), spelled(number, separator)) is False


MAKERS: list[Callable[[int], str]] = [
    r"{}\text{{ cm}}".format,
    "{} weeks".format,
    r"\${}".format,
    "€{}".format,
    "{}^\\circ".format,
    "x = {}".format,
    r"A_{{\max}} = {}".format,
    r"{},\ k \in \mathbb{{Z}}".format,
    r"\text{{Answer: }} {}".format,
    r"\mathbf{{{}}}".format,
    r"\bigl({}\bigr)".format,
    "{}.".format,
    r"{}.0\%".format,
    r"({})_7".format,
]


@given(numbers.map(lambda n: int(str(n).translate(str.maketrans("789", "123")))), st.sampled_from(MAKERS), numbers)
def test_text_around_a_number_changes_nothing(number, make, other):
    if make.__self__ != r"\bigl({}\bigr)" and (number > 1 or "%" not in make.__self__):
        assert settle(str(number), make(number)) is True
    if number != other and number != Fraction(other, 100):
        assert settle(str(other), make(number)) is not True


@st.composite
def points(draw):
    return draw(st.lists(st.integers(-99, 99), min_size=2, max_size=4))


@given(points(), st.sampled_from([" ", "", r"\,"]), st.permutations(range(4)))
def test_brackets_and_orders(values, blank, order):
    """A point is neither a set nor the same numbers in another order. A set has no order."""
    inside = f",{blank}".join(map(str, values))
    other = [values[place] for place in order if place < len(values)]
    reordered = ", ".join(map(str, other))
    assert settle(f"({inside})", rf"\{{{inside}\}}") is False and settle(rf"\{{{inside}\}}", f"({inside})") is False
    assert settle(f"({inside})", f"({reordered})") is (values == other)
    for half in ("[{})", "({}]"):
        assert settle(half.format(inside), rf"\{{{inside}\}}") is False
    if not re.search(r",\s?\d{3}(?!\d)", f"{inside} {reordered}"):  # 1,234 may be one number
        assert settle(f"({inside})", reordered) is (values == other)
        assert settle(inside, rf"\{{{reordered}\}}") is not False


@given(st.integers(1, 10**6), st.integers(1, 400), st.integers(6, 18), st.integers(-3, 3))
def test_decimals_of_fractions(numerator, denominator, digits, change):
    """A decimal of a fraction without an exact one is its rounding or its truncation. Every other decimal is exact."""
    value, scale = Fraction(numerator, denominator), 10**digits
    last = round(value * scale) + change
    whole, decimals = divmod(last, scale)
    decimal = f"{whole}.{decimals:0{digits}d}"
    verdict = settle(rf"\frac{{{numerator}}}{{{denominator}}}", decimal)
    if Fraction(last, scale) == value:
        assert verdict is True
    elif 10**10 % value.denominator == 0:  # an exact decimal
        assert verdict is False
    elif abs(change) < 1:  # math-verify rounds to 6 decimals
        assert verdict is None or last < 10**6
    elif abs(change) > 1 and last < 10**14:  # more digits than a double has are not trusted
        assert verdict is False
    assert settle(decimal, decimal + "1") is False and settle(decimal, decimal + "0") is True


@given(st.lists(st.sampled_from("bcdghlmost"), min_size=1, max_size=2, unique=True), st.integers(2, 99))
def test_a_letter_is_not_a_unit(letters, number):
    for text in (f"{number}{letters[0]}", f"{number} - {letters[0]}", f"{number} {letters[0]}"):
        assert read(text).unit == "" and settle(str(number), text) is not True
        assert settle(text, text.replace(letters[0], letters[-1])) is (len(letters) == 1)


@given(st.integers(8, 300), st.integers(1, 9))
def test_small_numbers(digits, digit):
    small = f"0.{'0' * digits}{digit}" if digits < 60 else rf"{digit} \times 10^{{-{digits + 1}}}"
    assert settle(small, rf"{digit}\cdot 10^{{-{digits + 1}}}") is True
    assert settle(small, rf"{digit}\cdot 10^{{-{digits + 2}}}") is False
    assert settle(small, "0") is False


units = st.sampled_from(
    [("cm", "centimeters"), ("km", "kilometres"), ("kg", "kilograms"), ("ft^2", "square feet"), ("min", "minutes")]
)


@given(numbers, units, units)
def test_units(number, one, other):
    assert unit_name(one[0]) == unit_name(one[1])
    verdict = settle(rf"{number} \text{{ {one[0]}}}", rf"{number}\ \mathrm{{{other[1]}}}")
    assert verdict is (one == other)


@given(numbers, st.integers(2, 9), st.integers(2, 9))
def test_bases(number, base, other):
    digits = "".join(str(int(digit) % base) for digit in str(number)).lstrip("0") or "1"
    assert settle(f"{digits}_{base}", f"({digits})_{{{base}}}") is True
    assert settle(f"{digits}_{base}", f"{digits}1_{base}") is False
    if other != base:
        assert settle(f"{digits}_{base}", f"{digits}_{other}") is not True


@given(st.permutations("ABCDE"), st.permutations("ABCDE"))
def test_orders(one, other):
    assert settle("".join(one), rf"\text{{{''.join(other)}}}") is (one == other)


@given(
    st.sampled_from("ABCDE"),
    st.sampled_from("ABCDE"),
    st.sampled_from(["{}", "({})", r"\text{{({})}}", "{}. 12", r"\textbf{{({})}}\ 12"]),
)
def test_choices(one, other, form):
    assert settle(one, form.format(other)) is (one == other)


@given(st.text(st.sampled_from(list(r"0123456789.,/\frac{}%e-+$ °overlinetimes^√½₂²_;:=<>()[]|'~&")), max_size=60))
def test_any_text_is_safe(text):
    once = normalize(text)
    assert isinstance(once, str)
    normalize_prose(text)
    compare(text, "1/2")
    compare("x = 5", text)


def test_each_normalization_changes_something():
    """A line that no case needs is dead."""
    texts = [text for reference, same, others in KINDS.values() for text in (reference, *same, *others)]
    assert all(line.comment and line.where in ("answer", "prose", "both") for line in NORMALIZATIONS)
    assert sum(normalize(text) != text for text in texts) > len(texts) / 3


def test_prose():
    assert normalize_prose("It fell by −$40, or 2 2/3 of it.") == r"It fell by -40, or $\frac{8}{3}$ of it."
    assert verify_answers(["-40"], ["The net change is -$40."], timeout=PATIENT) == [True]


def check_certain_verdicts(pairs: list[tuple[str, str]]) -> list[tuple[str, str, bool]]:
    """The pairs that are settled without math-verify and that math-verify judges otherwise after the same normalization."""
    wrong = []
    for reference, answer in pairs:
        verdict, first, second = compare(reference, answer)
        if verdict is None or not first:  # units, bases, choices and dots are apart from the values
            continue
        if _letters(first) and _letters(second):  # words, which math-verify multiplies
            continue
        parsed = [equality.read(text, True) for text in (first, second)]
        if equality.equal(*parsed) != verdict:
            wrong.append((reference, answer, verdict))
    return wrong


# Where a certain verdict differs from math-verify's on purpose; docs/verification.md lists these
KNOWN = re.compile(r"[%:]|\d{4}-\d{2}-\d{2}")  # percent, times, dates


def test_certain_verdicts_are_math_verifys():
    pairs = [(reference, answer) for reference, same, others in KINDS.values() for answer in (*same, *others)]
    wrong = check_certain_verdicts(pairs)
    assert [pair for pair in wrong if not any(map(KNOWN.search, map(normalize, pair[:2])))] == []


values = st.one_of(
    st.integers(-99, 99).map(str),
    st.decimals(-9, 9, places=2).map("{:f}".format),
    st.tuples(st.integers(-20, 20), st.integers(1, 12)).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map("({0[0]}, {0[1]})".format),
    st.tuples(st.integers(-9, 9), st.integers(10, 19)).map("[{0[0]}, {0[1]})".format),
    st.tuples(st.integers(1, 9), st.integers(1, 9)).map(r"{0[0]} \times 10^{0[1]}".format),
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(values, values)
def test_certain_verdicts_are_math_verifys_on_generated_answers(one, other):
    assert check_certain_verdicts([(one, other), (one, one)]) == []


needs_pairs = pytest.mark.skipif(not PAIRS.is_file(), reason=f"the labeled pairs are not at {PAIRS}")


@needs_pairs
def test_certain_verdicts_are_math_verifys_on_labeled_pairs():
    rows = [json.loads(line) for line in PAIRS.open(encoding="utf-8")]
    answers = [(gold_answer(row["gold"]), final_answer(row["completion"])) for row in rows]
    pairs = [
        (reference.text, answer.text)
        for reference, answer in answers
        if reference.is_bare and answer.is_bare and not guard(reference.text) and not guard(answer.text)
    ]
    wrong = check_certain_verdicts(pairs)
    assert [
        pair for pair in wrong if not any(KNOWN.search(text) or "," in text for text in map(normalize, pair[:2]))
    ] == []


@needs_pairs
def test_labeled_pairs():
    path = ROOT / "benchmarks" / "answer_pairs.py"
    spec = importlib.util.spec_from_file_location("answer_pairs", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    pairs = benchmark.read_pairs(PAIRS)
    errors = benchmark.count_errors(pairs, benchmark.judge_ours(pairs))
    accepted = [key for key in errors if key[2] and not key[1]]
    assert accepted == []
    assert sum(count for (_, convention, _), count in errors.items() if not convention) <= 10
    assert "without convention" in benchmark.format_table(pairs, {"verify_answers": errors})
