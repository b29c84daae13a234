# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.verification.extraction import PROSE_TAIL, Answer, after_hashes, final_answer, gold_answer, last_boxed


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"So it is \boxed{5}.", "5"),
        (r"First \boxed{3} it seemed. But a longer look at the whole problem, done twice, gives \boxed{5}.", "5"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"It is \boxed{5} or, cut off, \boxed{6", "5"),
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"<think>a</think>\boxed{1}<think>b</think>\boxed{2}", "2"),
        (r"\boxed{}", ""),
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 1,024\n\n", "1,024"),
        ("x^2 + 1", "x^2 + 1"),
        ("$x^2 + 1$", "x^2 + 1"),
        (r"\(x^2 + 1\)", "x^2 + 1"),
        (r"\[ x^2 + 1 \]", "x^2 + 1"),
        ("$$x$$", "x"),
        (r"\text{five apples}", r"\text{five apples}"),
        ("Answer: 42", "42"),
        ("**Answer:** $42$", "42"),
        ("**Answer**: x^2 + 1", "x^2 + 1"),
        ("**Answer: B**", "B"),
        ("A: 42", "42"),
        ("*42*", "42"),
        ("`x^2 + 1`", "x^2 + 1"),
        ("So x = 42.", "x = 42."),
        ("x is 42.", "42"),
        ("2^10 equals 1,024", "1,024"),
        ("Answer: 42 dollars", r"42\text{ dollars}"),
        ("The answer is $7$.", "7"),
        ("#### So the answer is 7", "7"),
        ("Answer: " + "7" * 300, "7" * 300),
        ("Therefore, **42**.", "42"),
        (r"</think>\n\n#### **42**".replace(r"\n", "\n"), "42"),
        ("3 + 4 = 7\n#### **7**", "7"),
        ("3 + 4 = 7\n#### $7$", "7"),
        ("3:4", "3:4"),
        ("2 xy", "2 xy"),
        ("AB = 12", "AB = 12"),
        ("sin 30", "sin 30"),
        ("5 choose 2", "5 choose 2"),
        ("2**10", "2**10"),
        (r"\frac 59", r"\frac 59"),
        (r"3 \times 5", r"3 \times 5"),
        ("sin x and cos x", "sin x and cos x"),
        ("5 or 6", "5 or 6"),
        ("Saturday", "Saturday"),
        ("", ""),
        ("Because. </think>", ""),
    ],
)
def test_bare_answers(completion, answer):
    assert final_answer(completion) == Answer(answer, is_bare=True)


@pytest.mark.parametrize(
    "completion",
    [
        "She has seven apples.",
        "42 dollars",
        "$42 dollars.",
        "42 (dollars)",
        "x = 42 dollars",
        r"Exactly \frac{1}{2}",
        "#### 42 dollars",
        "3 + 4 = 7\n#### 7 dollars",
        "$42$ dollars",
        r"Thus \(x = 7\) and \(y = 8\)",
        "7\n8",
    ],
)
def test_prose_is_left_to_math_verify(completion):
    assert final_answer(completion) == Answer(completion, is_bare=False)


def test_only_the_end_of_long_prose_is_searched():
    assert final_answer("word " * 10_000 + "with 7 more") == Answer(
        ("word " * 10_000 + "with 7 more")[-PROSE_TAIL:], is_bare=False
    )


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1}, \boxed{2}", "1,2"),  # close together
        (r"either \boxed{1}, which is odd, or else \boxed{2}", "1,2"),  # a comma or an "or" between them
        (r"either $x = \boxed{1}$, which is odd, or else $x = \boxed{2}$", "1,2"),  # two answers, not one
        (r"We get $\boxed{3}$. So $\boxed{5}$", "5"),
        (r"We get \[\boxed{3}\] so the answer, finally, is $$\boxed{5}$$", "5"),
        (r"$x_1 = \boxed{3}$; $x_2 = \boxed{5}$", "3,5"),
        ("\\[\\boxed{3}\\]\nor\n\\[\\boxed{5}\\]", "3,5"),
        (r"$\boxed{1}$, $\boxed{3}$, and $\boxed{5}$", "1,3,5"),
        (r"$\boxed{1}$ $\boxed{2}$", "1,2"),
        (r"\boxed{1}\boxed{2}", "1,2"),
        (r"\boxed{1}. Wait, that is wrong. \boxed{2}", "2"),  # a later answer
        (r"\boxed{1}, so the answer is \boxed{2}", "2"),
        (r"$\boxed{1}$ ... $\boxed{2}$", "2"),
        (r"\boxed{1} and then at last \boxed{2}", "2"),
        (r"\boxed{7} oops \boxed{}", "7"),
        (r"\boxed{\$1} or \boxed{\$2}", r"\$1,\$2"),
        (r"\boxed{1} \boxed{1}", "1"),
        (r"I first thought that it was \boxed{1} but it has to be \boxed{2}", "2"),
        (r"\boxed{1}, " + "and so on " * 9 + r"\boxed{2}", "2"),  # too far apart
        ("no box", None),
        (r"\boxed 5", "5"),
        (r"so \boxed12.", "12"),
        (r"\framebox{5}", "5"),
        (r"\boxed{5", None),
    ],
)
def test_boxes_that_belong_together(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize("between", [", ", " and ", " or "])
@pytest.mark.parametrize("opening, closing", [("", ""), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")])
def test_boxes_are_joined_as_math_verify_joins_them(opening, closing, between):
    from math_verify import parse, verify

    text = between.join(rf"{opening}\boxed{{{content}}}{closing}" for content in "35")
    assert verify(parse(rf"\boxed{{{last_boxed(text)}}}"), parse(text))


def test_hashes_must_end_the_text():
    assert after_hashes("#### 7") == "7"
    assert after_hashes("#### 7\nThat was it.") is None
    assert after_hashes("no mark") is None


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2}", Answer(r"\frac{1}{2}", True)),
        ("$\\frac{1}{2}$", Answer(r"\frac{1}{2}", True)),
        ("New York City", Answer("New York City", True)),
        (r"\$32,\!348", Answer(r"\$32,\!348", True)),
        ("$5", Answer("$5", True)),
        ("6 * 7 = 42\n#### 42", Answer("42", True)),
        (r"Multiply: \boxed{42}.", Answer("42", True)),
        ("Either $1$ or $2$.", Answer("Either $1$ or $2$.", False)),
        ("  ", Answer("", True)),
    ],
)
def test_reference_answers(gold, answer):
    assert gold_answer(gold) == answer


@given(st.text(st.sampled_from(list("\\boxed{}$#\n 1a,</think>")), max_size=200))
def test_any_text_gives_an_answer(text):
    assert len(final_answer(text).text) <= len(text)
    assert len(gold_answer(text).text) <= len(text)


@pytest.mark.parametrize(
    "fragment", [r"\boxed{", "####", "$", "{", "}", "\\", "(", " ", "\n", r"\text{", r"\(", "a b "]
)
def test_a_megabyte_of_one_character_is_fast(fragment):
    text = fragment * (1_000_000 // len(fragment))
    for padded in (text, "1" + text + "1", text + r"\boxed{7}"):
        assert final_answer(padded).text is not None
