# SPDX-License-Identifier: Apache-2.0
"""The table of final forms, by example."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise import math_accuracy_reward, verify_answers
from trl_concise.verification.final_form import is_number, leaves_arithmetic, result_of, stated_work


FINAL = {
    "numerals": ["812", "-5", "+5", "0", "1,000", "10 000", r"1\,000", "0.5", ".5", "(42)"],
    "fractions": [r"\frac{3}{7}", "3/7", "6/4", r"-\frac{3}{7}", r"\frac{-3}{7}", r"\frac37", r"\frac{1}{2^{99}}"],
    "mixed numbers": [r"2\frac{1}{3}", r"2\frac13", "2 1/3"],
    "sums with one rational number": [
        r"1 + \sqrt{2}",
        r"3 - \pi",
        "3 - 4i",
        r"\sqrt{2} + \sqrt{7}",
        r"1 - \frac{1}{e}",
    ],
    "products with one rational number": [
        r"2\sqrt{3}",
        r"4\pi",
        r"4 \cdot \pi",
        r"4\pi(2 - \sqrt{3})",
        r"\frac{2 + \sqrt{3}}{4}",
    ],
    "scientific notation": [r"3 \times 10^8", r"3.2 \times 10^{-4}", r"1 \cdot 10^{5}", "4.5e33", "2E-7"],
    "powers": ["2^{11}", "10^6", "7^2", "2^{-1}", "2^{1/3}", "e^2", r"(\frac{5}{12})^{\frac{1}{3}}"],
    "roots": [
        r"\sqrt{12}",
        r"\sqrt 2",
        r"\sqrt[3]{2}",
        r"\frac{1}{\sqrt{2}}",
        r"\sqrt{3}/2",
        r"\sqrt[3]{\frac{5}{12}}",
    ],
    "functions": [r"\ln 2", r"\log_2 3", r"\sin 40^\circ", r"\arctan 2"],
    "percent, units, currencies": [r"35\%", r"60^\circ", "$5", "5 dollars", r"5 \text{ m}", "10 cm^2", "42 km/h"],
    "letters": ["x", "i", "n^2 + 1"],
}
NOT_FINAL = {
    "sums": ["70 + 8 + 12", "213 - 16", "9 + 0", r"2^{10} - 1", r"\sqrt{2} + 3\sqrt{2}", r"\frac{1}{2} + \frac{1}{3}", "(9 + 1)"],
    "products": [r"403 \times 233", "6*7", r"5 \times 3 \times 0.25", "2(3)", "(2)(3)", r"\sqrt{2}\sqrt{3}", r"3 \cdot 2^{10}", "12·3"],
    "quotients": [r"\frac{12}{4}", "12/4", "18 ÷ 3", r"\frac{1.5}{2}", r"\frac{60 + 3}{2}", r"\frac{\frac12}{3}"],
    "powers": ["42^1", "4^{1/2}", "2^{3 + 4}", "1^5"],
    "roots": [r"\sqrt{1764}", r"\sqrt[3]{8}", r"\sqrt{36 + 64}"],
    "functions": [r"\log_2 8", r"\ln e^2", r"\sin 30^\circ", r"\cos\frac{\pi}{3}", r"\arctan 1"],
    "worked out": ["5!", r"\binom{9}{2}", r"\min(42, 100)", r"\gcd(12, 18)", r"|-3|", r"\lfloor 3.7 \rfloor", r"\sum_{k=1}^{3} k"],
    "with units": ["60 apples + 20 oranges", r"60\text{ apples} + 20", "$5 + $6"],
    "letters that cancel": ["x - x + 5", "5 + 0x"],
}  # fmt: skip


@pytest.mark.parametrize("rule", FINAL)
def test_final_forms(rule):
    assert [text for text in FINAL[rule] if leaves_arithmetic(text)] == []


@pytest.mark.parametrize("rule", NOT_FINAL)
def test_forms_that_leave_arithmetic(rule):
    assert [text for text in NOT_FINAL[rule] if not leaves_arithmetic(text)] == []


def test_references_to_which_the_rule_applies():
    numbers = [
        "366",
        r"\frac{3}{4}",
        "1,000",
        "-5",
        r"336^\circ",
        r"10 \text{ cm}",
        r"\$18",
        r"50\%",
        r"2\sqrt{3}",
        r"\pi",
    ]
    assert [text for text in numbers if not is_number(text)] == []
    others = [
        "x + 1",
        "2^6 3^5 5^4",
        "(1, 2)",
        "B",
        r"\{1, 2\}",
        "1, 2",
        "5!",
        r"\binom{9}{2}",
        "60 + 180",
        "[0, 6)",
        "y = 2x",
        "",
    ]
    assert [text for text in others if is_number(text)] == []


@pytest.mark.parametrize(
    ("gold", "answer", "reward"),
    [
        ("288", r"\boxed{50 + 220 + 18}", 0.0),
        ("94301", r"\boxed{403 \times 234} = 100021", 0.0),
        ("94302", r"\boxed{403 \times 234}", 0.0),
        ("9", r"\boxed{18 - 9 = 9}", 1.0),
        ("9", r"\boxed{9 = 18 - 9}", 0.0),
        ("10", r"\boxed{18 - 9 = 9}", 0.0),
        ("9", r"\boxed{x = 18 - 9 = 9}", 1.0),
        ("9", r"\boxed{x = 4 \text{ or } x = 9}", 0.0),
        ("9", "x = 4 or x = 9", 0.0),
        ("2 - 3i", r"\boxed{z = 2 - 3i}", 1.0),
        (r"3 - 2\sqrt{5}", r"\boxed{x_1 = 3 - 2\sqrt{5}}", 1.0),
        ("9", r"\boxed{x = 4 + 5}", 0.0),
        (r"\sqrt{12}", r"\boxed{√12}", 1.0),
        (r"4.5 \times 10^{33}", r"\boxed{4.5e33}", 1.0),
        ("9", "The answer is 4 + 5.", 0.0),
        ("9", "The answer is $4 + 5$.", 0.0),
        ("9", "So she has 4 + 5 = 9 apples.", 1.0),
        ("9", "4 + 5", 0.0),
        ("12", r"\boxed{\sqrt{144}}", 0.0),
        ("12", r"\boxed{12\text{ km}}", 1.0),
        (r"\frac{3}{4}", r"\boxed{\frac{6}{8}}", 1.0),
        (r"\frac{5}{6}", r"\boxed{\frac{1}{2} + \frac{1}{3}}", 0.0),
        ("1000000", r"\boxed{10^6}", 1.0),
        (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", 1.0),
        ("50 + 220", r"\boxed{220 + 50}", 1.0),  # the reference leaves arithmetic as well
        (r"2^3 \cdot 3", r"\boxed{3 \times 8}", 1.0),
        ("x^2 - 1", r"\boxed{(x - 1)(x + 1)}", 1.0),
        ("(3, 4)", r"\boxed{(1 + 2, 4)}", 1.0),  # not a number
        ("[0, 6)", r"\boxed{[0, 6)}", 1.0),
    ],
)
def test_rewards(gold, answer, reward):
    logged: dict[str, float] = {}
    assert math_accuracy_reward([answer], solution=[gold], log_metric=logged.__setitem__) == [reward]
    if reward:
        assert logged["verification/unfinished_form"] == 0


def test_math_verifys_view():
    answers = [r"\boxed{6 \times 7}", r"\boxed{\sqrt{1764}}", r"\boxed{\min(42, 100)}", r"\boxed{42 = 42}"]
    assert math_accuracy_reward(answers, solution=["42"] * 4, final_form=False) == [1.0] * 4
    assert verify_answers(["42"] * 4, answers) == [True] * 4  # equality only
    assert verify_answers(["42"] * 4, answers, final_form=True) == [False, False, False, True]


def test_results_of_equations():
    assert [result_of(text) for text in ("18 - 9 = 9", "x = 9", "9", "f(2) = 9", "1 = 2 = 3")] == [
        "9",
        "x = 9",
        "9",
        "9",
        "3",
    ]
    several = ["x = 3 or x = 5", r"x = 3 \text{ or } x = 5", "x = 3, x = 5", "x_1 = 3; x_2 = 5"]
    assert [result_of(text) for text in several] == several  # the last of them is not the result
    grouped = ["1,003 - 998 = 5", "1{,}003 - 998 = 5", r"1,\!003 - 998 = 5", r"3 \, + 2 = 5"]
    assert [result_of(text) for text in grouped] == ["5"] * 4


def test_work_that_prose_states():
    cases = {
        "It is $4 + 5$.": "4 + 5",
        "The answer is 4 + 5 apples.": "4 + 5",
        "$4 + 5$ gives 9": None,
        "Nothing.": None,
    }
    assert {text: stated_work(text) for text in cases} == cases


numbers = st.integers(2, 999)


@settings(max_examples=100, deadline=None)
@given(
    numbers,
    numbers,
    st.sampled_from(["{} + {}", "{}-{}", r"{} \times {}", r"{}\cdot{}", "{}*{}", "({})({})", "{} × {}"]),
)
def test_two_numbers_and_an_operator(a, b, form):
    assert leaves_arithmetic(form.format(a, b))
    assert not leaves_arithmetic(str(a)) and not leaves_arithmetic(rf"\frac{{{a}}}{{{a + b}}}")
    assert leaves_arithmetic(rf"\frac{{{a * b}}}{{{b}}}") and leaves_arithmetic(rf"\sqrt{{{a * a}}}")
    assert not leaves_arithmetic(rf"\sqrt{{{a * a + 1}}}") and not leaves_arithmetic(rf"{a}\sqrt{{{b * b + 1}}}")


symbols = [*r"0123456789+-*/^!(){}[]|\ .,=%", r"\frac", r"\sqrt", r"\pi", "x", "e"]


@given(st.lists(st.sampled_from(symbols), max_size=40).map("".join))
def test_any_text_is_decided(text):
    leaves_arithmetic(text), is_number(text), result_of(text), stated_work(text)
