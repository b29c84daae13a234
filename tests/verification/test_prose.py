# SPDX-License-Identifier: Apache-2.0
"""Answers that a sentence states: formulas, points, times, quantities and letters, and numbers that it rules out."""

from __future__ import annotations

import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_concise import verify_answers
from trl_concise.verification.certain import settle
from trl_concise.verification.extraction import Answer, final_answer
from trl_concise.verification.prose import (
    has_no_answer,
    picks_choice,
    stated_answer,
    stated_choice,
    without_contrast,
)


PATIENT = 30.0  # seconds

STATED = [
    ("The answer is 6+9i.", "6+9i"),
    ("So the result is -3 - 2i", "-3 - 2i"),
    ("We expand.\nThe value equals x^2 + 3x.", "x^2 + 3x"),
    ("Hence, it is 2sqrt(3).", "2sqrt(3)"),
    ("The point is (2, 5).", "(2, 5)"),
    ("The interval is [1, 4).", "[1, 4)"),
    ("The roots are 3 and 5.", "3 and 5"),
    ("The ratio is 2:15.", "2:15"),
    ("The function is f(x) = x + 4.", "f(x) = x + 4"),
    ("The answer is **7**.", "7"),
    ("The answer is $12.5\\%$.", "12.5\\%"),
    ("The total is $18.50.", "$18.50"),
    ("The answer is \\(\\frac{1}{2}\\).", "\\frac{1}{2}"),
    ("The answer isn't 5. It is 6.", "6"),
    ("The answer is \\text{even}.", "\\text{even}"),
    # Other languages
    ("Die Antwort ist 6+9i.", "6+9i"),
    ("Le résultat est (2, 5).", "(2, 5)"),
    ("El resultado es 3 - 2i", "3 - 2i"),
    ("La risposta è -7.", "-7"),
    ("A resposta é 42.", "42"),
    ("Итак, ответ равен 6+9i.", "6+9i"),
    ("答案是6+9i。", "6+9i"),
    ("答えは(2, 5)です。", "(2, 5)"),
    ("답은 6+9i입니다.", "6+9i"),
    ("الجواب هو 6+9i.", "6+9i"),
    ("उत्तर 6+9i है।", "6+9i"),
    ("คำตอบคือ 6+9i", "6+9i"),
    ("答えはBです。", "B"),
    # Quantities and times
    ("She walks 12 km.", r"12\text{ km}"),
    ("The area is 9 m^2.", r"9\text{ m^2}"),
    ("They need 3 hours.", r"3\text{ hours}"),
    ("The train leaves at 10:30.", "10:30"),
    ("They meet at 7:05 p.m.", r"7:05\text{ p.m.}"),
    ("It departs at 3:30 in the afternoon.", "3:30"),
    # Choices
    ("I choose option B.", "B"),
    ("I would go with (C).", "C"),
    ("Option B is correct.", "B"),
    ("Therefore, D is the right answer.", "D"),
    ("The answer is B because it is larger.", "B"),
    ("I choose B, because A is wrong.", "B"),
    # Remarks after the answer, words, magnitudes, and one value in two forms
    ("The answer is (2, 5). This can be checked by substitution.", "(2, 5)"),
    ("The answer is yes.", "yes"),
    ("The answer is New York.", "New York"),
    ("The answer is 12 million.", "12 million"),
    ("The answer is 12 dozen.", "12 dozen"),
    ("The probability is 1/2 or 0.5.", "1/2"),
    # What the end rules out
    ("The answer is 5 (not 6).", "5"),
    ("It should be 5 as opposed to 6.", "5"),
    ("Answer: 5, not 6.", "5"),
    ("The total is 5, not 6 or more.", "5"),
    ("The result is 5 rather than 6.", "5"),
    ("I doubt that it is 5.", ""),
    ("5 is wrong.", ""),
    ("It is between 3 and 7.", ""),
    ("The answer is 42 or maybe 43.", ""),
    ("The answer is less than 12.", ""),
    ("The answer is at least 12.", ""),
    ("The answer is 10 to 12.", ""),
    ("The answer is 3, or equivalently 4.", ""),
    ("The answer is 3; 4.", ""),
    ("The answer is 3 ≈ 4.", ""),
    ("Either 1 or 2 works.", ""),
    ("The chance is 1 in 2.", ""),
    ("Is it 6?", ""),
    ("答えは42ではありません。", ""),
    ("Jibu si 42.", ""),
    ("La risposta non è 42.", ""),
    ("उत्तर 42 नहीं है।", ""),
]


@pytest.mark.parametrize(("completion", "answer"), STATED)
def test_stated_answers(completion, answer):
    assert final_answer(completion) == Answer(answer, is_bare=True)


@pytest.mark.parametrize(
    "text",
    [
        "She has 3 + 4 = 7 apples.",
        "42 dollars",
        "The answer is 15. I checked 8 cases.",  # an earlier sentence has the answer
        "The answer is 15, and the remainder is 2.",
        "The answer is 5!",  # a factorial, or an exclamation
        "They leave at 10:30 and arrive at 11:45.",
        "The square ABC is large.",
        "It is good.",
        "",
        "is " + "1" * 500,
    ],
)
def test_other_prose_is_left_to_math_verify(text):
    assert stated_answer(text) is None


FRAMES = [
    "The answer is {}.",
    "So the final result is {}",
    "Hence, it equals {}.",
    "La respuesta es {}.",
    "答案是{}。",
    "Ответ равен {}.",
]
frames = st.sampled_from(FRAMES)
numbers = st.integers(2, 400)


@given(
    numbers,
    numbers,
    frames,
    st.sampled_from(["{0}+{1}i", "({0}, {1})", "[{0}, {1})", "{0}x+{1}", "{0}sqrt({1})", "x < {1}"]),
)
def test_no_component_of_a_stated_answer_is_the_answer(one, other, frame, form):
    stated = form.format(one, other)
    answer = final_answer(frame.format(stated))
    assert answer == Answer(stated, is_bare=True)
    assert settle(stated, answer.text) is True
    for wrong in (form.format(one + 1, other + 1), f"{one}", f"{other}"):
        assert settle(wrong, answer.text) is not True


@given(
    st.integers(0, 23),
    st.integers(0, 59),
    st.sampled_from(["The train leaves at {}.", "They meet at {}", "It is {} now."]),
)
def test_times(hour, minute, frame):
    time = f"{hour}:{minute:02d}"
    answer = final_answer(frame.format(time)).text
    assert answer == time
    assert settle(time, answer) is True and settle(f"{hour}:{(minute + 1) % 60:02d}", answer) is False
    assert settle(f"{hour}", answer) is not True and settle(f"{minute}", answer) is not True


@given(
    numbers,
    numbers,
    st.sampled_from(
        ["Answer: {}, not {}.", "It is {}, and not {}.", "The result is {} instead of {}.", "We get ${}$, not ${}$."]
    ),
)
def test_the_number_that_the_end_rules_out(number, other, frame):
    answer = final_answer(frame.format(number, other)).text
    assert answer == str(number)


@given(
    numbers,
    st.sampled_from(["cm", "km", "hours", "days", "kg", "square feet"]),
    st.sampled_from(["cm", "minutes", "pounds", "square feet"]),
)
def test_units_of_a_sentence(number, unit, other):
    answer = final_answer(f"That makes {number} {unit}.").text
    assert settle(str(number), answer) is True
    assert settle(rf"{number}\text{{ {other}}}", answer) is (unit == other)


def test_no_number_of_prose_is_taken_out_of_its_formula():
    cases = [
        ("5", "The point is (2, 5).", False),
        ("10", "The train leaves at 10:30.", False),
        ("3", "The answers are 3 and 5.", False),
        ("2", "The answer is log 2.", False),
        ("6", "The inequality is x > 6.", False),
        ("6", "The answer is 6+9i.", False),
        ("0.05", "The answer is 0.05%.", False),
        (r"12\text{ cm}", "She walks 12 km.", False),
        ("6", "Answer: 5, not 6.", False),
        ("B", "It is not option B.", False),
        ("B", "I would not choose B.", False),
        ("B", "I choose A or B.", False),
        ("5", "The answer isn't 5; it is 6.", False),
        ("5", "The answer is (2, 5). This can be checked by substitution.", False),
        ("12", "The answer is 12 million.", False),
        ("12", "The answer is 12 dozen.", False),
        ("3", "The answer is $x$ where x = 3 or 4.", False),
        ("12000000", "The answer is 12 million.", True),
        ("2 + 3i", r"The complex number is $z = 2 + 3i$.", True),
        ("15", "The answer is 15. I checked 8 cases.", True),
        ("6 + 9i", "The answer is 6+9i.", True),
        (r"\{3, 5\}", "The roots are 5 and 3.", True),
        ("50", "The answer is 50.0%.", True),
        ("7", "The answer is 7, because 3 + 4 is 7.", True),
    ]
    golds, texts, expected = map(list, zip(*cases, strict=True))
    assert verify_answers(golds, texts, final_form=True, timeout=PATIENT) == expected


@given(st.text(st.sampled_from(list("The answer is not 5,6:0 $()+x.\n or B答案是不")), max_size=120))
def test_any_text_is_safe(text):
    stated_answer(text)
    assert without_contrast(text) == text or len(without_contrast(text)) < len(text)


PIECES = ["1", " ", "*", "(", "is", "is: ", "A ", "or ", "3 or 4 ", "cm ", "\\", "\\text{ cm} ", "\\frac{1}{2}", "$", "\\(", "答案", "maybe ", "&", "~", "|", "x y "]  # fmt: skip


@pytest.mark.parametrize("start", ["", "The answer is ", "A. "])
def test_repeated_text_is_read_quickly(start):
    """The deadline of the judge does not cover this module, so no text may take its patterns long."""
    for one, other in product(PIECES, PIECES[:8]):
        for length, functions in (
            (380, (stated_answer, has_no_answer)),
            (20_000, (stated_choice, without_contrast, picks_choice)),
        ):
            text = start + (one + other) * (length // len(one + other)) + " A1z"
            began = time.perf_counter()
            for function in functions:
                function(text)
            assert time.perf_counter() - began < 1, text[:60]


DENIED = [  # the sentence denies, doubts, bounds or withdraws what it names
    ("6+9i", "The answer is not $6+9i$."),
    ("6+9i", "The answer is unlikely to be 6+9i."),
    ("x+1", "Nobody says it is x+1."),
    ("C", "The answer cannot be (C)."),
    ("C", "It is false that C is correct."),
    ("B", "You cannot pick B."),
    ("10:30", "It does not leave at 10:30."),
    ("10:30", "It leaves before 10:30."),
    ("10:30", "It leaves after 10:30."),
    ("(2,5)", "Neither is (2,5)."),
    ("yes", "People wrongly claim the answer is yes."),
    ("C", "The wrong answer is C."),
    ("C", "Incorrect option: C"),
    ("C", "I doubt that the answer is C."),
    ("C", "The answer is (C). Wait, that's wrong. It's B."),
    ("C", "The answer is C! Just kidding, D."),
    ("C", "The answer is (C) or maybe (D)."),
    ("A", "The answer: A; D."),
    ("D", "The answer is C. A tempting answer is D."),
    ("B", "B. is wrong"),
    ("5", "The answer is 5. Wait, no."),
    ("5", "The answer is 5. That is wrong."),
    ("5", "It doesn't equal 5."),
    ("5", "The answer is below 5."),
    ("5", "Answer: at most 5"),
    ("5", "The result is 5 or more."),
    ("5", "The answer is half of 5."),
    ("5", "x = 5 is extraneous."),
    ("12\\text{ cm}", "They do not walk 12 cm."),
    ("12\\text{ cm}", "They walk less than 12 cm."),
    ("12\\text{ cm}", "They walk twice 12 cm."),
    ("\\sqrt{2}", "The answer is less than $\\sqrt{2}$."),
    ("7", "It would be a mistake to say 7."),
    ("x^2", "Hardly anyone gets $x^2$."),
    ("(3, 4)", "The point is never (3, 4)."),
    ("E", "Never choose E."),
    ("2+3i", "I refuse to believe that z is 2+3i."),
    ("9:15", "The train will not arrive until 9:15."),
    ("3 and 5", "The roots aren't 3 and 5."),
    ("no", "Few would say the answer is no."),
    ("8", "The total exceeds 8."),
    ("8", "The total is under 8."),
    ("B", "Option B is incorrect."),
    ("B", "Answer B is wrong."),
    ("D", "Eliminate D."),
    ("D", "We can rule out option D."),
    ("6", "The answer is greater than 6."),
    ("6", "The answer might be 6 or 7."),
    ("[1, 2)", "The interval cannot be [1, 2)."),
]
NOT_DENIED = [  # the denial concerns another value
    ("1000.99", "The number is not 10, it is 1,000.99."),
    ("12.5", "The price is not 10 which is 12.5€"),
    ("5", "The answer is 5, not 6."),
    ("5", "x cannot be negative, so x = 5."),
    ("C", "The answer is (C)."),
    ("C", "The answer is C because A is wrong."),
    ("C", "C. It cannot be A"),
    ("B", "I choose option B."),
    ("10:30", "The train leaves at 10:30."),
    ("6+9i", "The answer is 6+9i."),
    ("12\\text{ cm}", "They walk 12 cm."),
    ("5", "The smallest integer greater than 4 is 5."),
    ("5", "Since 6 is wrong, the answer is 5."),
    ("7", "There are not 6 but 7."),
    ("B", "The correct answer is B, not C."),
    ("B", "Options A and C are incorrect, so the answer is B."),
    ("42", "Don't forget the carry: the answer is 42."),
    ("yes", "The answer is yes."),
    ("no", "The answer is no."),
    ("8", "I was wrong before; the answer is 8."),
    ("8", "Wait, I made a mistake. The answer is 8."),
    ("3", "The error is not 2; it is 3."),
    ("15", "The answer is 15. I checked 8 cases."),
    ("12", "She does not eat 3 of 15, so 12 are left."),
    ("9", "She has no more than that: 9."),
]


def test_an_answer_that_is_denied_or_withdrawn_is_wrong():
    golds, texts = zip(*DENIED, strict=True)
    verdicts = verify_answers(list(golds), list(texts), final_form=True, timeout=PATIENT)
    assert not [text for text, verdict in zip(texts, verdicts, strict=True) if verdict]


def test_a_denial_of_another_value_does_not_hide_the_answer():
    golds, texts = zip(*NOT_DENIED, strict=True)
    verdicts = verify_answers(list(golds), list(texts), final_form=True, timeout=PATIENT)
    assert not [text for text, verdict in zip(texts, verdicts, strict=True) if not verdict]
