# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.verification.guards import guard


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("5^{5^{5^{5^5}}}", "tower"),
        ("5^5^5^5", "tower"),
        ("5**5**5**5", "tower"),
        ("5^(5^(5^5))", "tower"),
        ("5^55^55^55", "tower"),
        (r"9^{9^{\left(9^9\right)}}", "tower"),
        ("10^{1000000000}", "power"),
        ("10^{-1000000000}", "power"),
        ("(" * 21 + "x" + ")" * 21, "nesting"),
        (r"\sqrt{" * 21 + "x" + "}" * 21, "nesting"),
        ("1" * 1001, "length"),
    ],
)
def test_stopped(answer, reason):
    assert guard(answer) == reason


@pytest.mark.parametrize(
    "answer",
    [
        "2^{2^{10}}",
        "10^{100000}",
        "((5^5)^5)^5",  # one exponent after the other, not on top of it
        "x^2 + y^2 + z^2 + w^2",
        "x^2y^2z^2w^2",
        "a_{1}^{2}b^{3}c^{4}d^{5}",
        r"e^{-\frac{x^2}{2}}",
        r"\left[ \frac{\pi^2}{8}, \frac{5 \pi^2}{4} \right]",
        "((((((((((x))))))))))",
        r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}",
        ")))(",
        "",
    ],
)
def test_passed(answer):
    assert guard(answer) is None


@given(st.text(max_size=300))
def test_any_text_is_safe(text):
    guard(text)
