# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise.verification import equality
from trl_concise.verification.arithmetic import compare_formulas, evaluate


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("x+1", "1+x", True),
        ("11z^7(11z^7+5)", "11z^{7}(5+11z^{7})", True),
        (r"\frac{8}{5}h", r"\frac{8h}{5}", True),
        (r"x_{1}+x_2", "x_2+x_1", True),
        ("-(a-b)", "b-a", True),
        (r"2\cdot 8/(2+6)", "2", True),
        ("x^{-2}", r"\frac{1}{x^2}", True),
        ("x+1", "y+1", False),
        ("x^2", "x^3", False),
        (r"2\sqrt{3}", "2", False),
        (r"\frac{1+\sqrt{5}}{2}", "2", False),
        (r"4\pi(2-\sqrt{3})", r"4\pi(2+\sqrt{3})", False),
        ("0.333x", r"\frac{x}{3}", False),
        (r"\sqrt{12}", r"2\sqrt{3}", None),
        ("0.3333333x", r"\frac{x}{3}", None),
        ("x", "2x-x", None),  # math-verify compares names
        ("1/2x", "x/2", None),  # two readings
        ("2 3", "6", None),
        (r"2\frac{1}{2}x", "x", None),
        ("x^12", "x^{12}", None),
        ("e^2", "2", None),
        ("i+1", "2", None),
        (r"\sin(x)", "x", None),
        ("x!", "x", None),
        (r"\frac{1}{0}", "1", None),
        ("2^{2^{100}}", "1", None),
        ("((((10)^{64})^{64})^{64})^{64}", "1", None),  # 16 million digits
        ("(" * 110, "1", None),
        ("x" * 500, "1", None),
    ],
)
def test_formulas(one, other, verdict):
    assert compare_formulas(one, other) is verdict
    assert compare_formulas(other, one) is verdict


atoms = st.sampled_from(["x", "y", "n", "2", "3", "7", r"\pi ", r"\sqrt{2}", r"\sqrt{x}"])
formulas = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("{0[0]}+{0[1]}".format),
        st.tuples(inner, inner).map("({0[0]})-({0[1]})".format),
        st.tuples(inner, inner).map("({0[0]})({0[1]})".format),
        st.tuples(inner, inner).map(r"\frac{{{0[0]}}}{{{0[1]}}}".format),
        st.tuples(inner, st.integers(2, 3)).map("({0[0]})^{0[1]}".format),
    ),
    max_leaves=5,
)


# math-verify 0.9 reads a product such as (3)(4) as the mixed number 3 + 4.
unmixed = formulas.filter(lambda text: not re.search(r"\d\)\(\d", text))


@settings(deadline=None, max_examples=80)
@given(unmixed, unmixed)
def test_verdicts_are_math_verifys(one, other):
    for first, second in ((one, other), (one, f"{one}+0"), (one, rf"1\cdot({one})")):
        verdict = compare_formulas(first, second)
        if verdict is not None:
            assert equality.equal(equality.read(first, True), equality.read(second, True)) is verdict


pieces = st.sampled_from([*"0123456789.xyab_^{}()[]+-/", " ", r"\frac", r"\sqrt", r"\cdot ", r"\pi "])


@given(st.lists(pieces, max_size=40).map("".join))
def test_any_text_is_safe(text):
    evaluate(text, 0)
