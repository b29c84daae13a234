# SPDX-License-Identifier: Apache-2.0
"""
Our verdicts against math-verify's own, asked in the main thread of this process.

Every disagreement is listed here with its reason. Each is a notation that math-verify does not read and whose meaning is
certain.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import parse, verify

from trl_concise.verification import verify_answers
from trl_concise.verification.numerals import numeral


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PATIENT = 30  # seconds; a busy machine must not turn a right answer into a wrong one

MARKED = re.compile(r"\\boxed|\$[^$]+\$|\\\(|\\\[")
DRESSES = ("{}", "Answer: {}", "**{}**", "**Answer:** {}", "So {}.", "#### {}", "</think>\n\nAnswer: {}.")


def math_verify_verdict(gold: str, completion: str) -> bool | None:
    """math-verify asked in its best form: the gold in a box, and a completion that marks nothing both searched and taken whole."""
    parsed_gold = parse(rf"\boxed{{{gold}}}", parsing_timeout=PATIENT)
    if not parsed_gold:
        return None
    texts = [completion] if MARKED.search(completion) else [completion, rf"\boxed{{{completion}}}"]
    answers = [parse(text, parsing_timeout=PATIENT) for text in texts]
    return any(verify(parsed_gold, answer, timeout_seconds=PATIENT) for answer in answers)


DISAGREEMENTS = [
    ("42", r"\boxed{42.}", True, "a full stop ends the sentence, not the number"),
    (r"3\sqrt{13}", r"\boxed{3\sqrt{13}.}", True, "a full stop ends the sentence, not the formula"),
    ("5", r"\boxed{5,}", True, "a comma at the end separates nothing"),
    ("x + 1", r"\boxed{1 + x\,.}", True, "the same"),
    ("30, 150", r"\boxed{30,150}", True, "the same characters, but for a blank behind the comma"),
    ("60, 120", r"\boxed{120°, 60°}", True, "the degree sign is the same sign as ^\\circ, which math-verify reads"),
    ("x + 1", "Answer: 1 + x", True, "a label is no part of the answer"),
    ("x + 1", "**1 + x**", True, "nor is Markdown's emphasis"),
    (
        "4.5e33",
        r"\boxed{4.5 \times 10^{33}}",
        True,
        "e is the exponent of ten; math-verify multiplies by Euler's number",
    ),
    ("1000", r"\boxed{1e3}", True, "the same"),
    (r"\frac{1}{3}", r"\boxed{0.\overline{3}}", True, "0.333... is a third exactly; math-verify cannot read the bar"),
    (r"0.1\overline{6}", r"\boxed{\frac{1}{6}}", True, "the same"),
    (r"\frac{5}{2}", r"\boxed{2 1/2}", True, "a whole number before a fraction is a mixed number, as with \\frac"),
    ("1000", r"\boxed{1\,000}", True, "a thin space groups digits; math-verify multiplies 1 by 0"),
    ("336", r"\boxed{336°}", True, "the degree sign is the same sign as ^\\circ"),
    ("58,500", r"\boxed{58,500^\circ}", True, "a unit is ignored; math-verify ignores it after ungrouped digits only"),
    ("2,048", r"\boxed{x = 2,048}", True, "the comma groups digits here as it does in 2,048, which math-verify reads"),
    ("3", "\\boxed{\uff13}", True, "a full-width three is a three"),
    ("-12", r"\boxed{-12\%}", True, "the unit of the question, as in 12%, which math-verify reads"),
    ("12.5", r"\boxed{12.5\%}", True, "the same"),
    ("2 - c", r"\boxed{2 - m}", False, "a letter is a variable; math-verify takes c and m for units"),
    ("n = 4m", r"\boxed{4}", False, "the same"),
    ("5", r"\boxed{\$5 \text{ million}}", False, "math-verify takes the word for a unit"),
    (r"5 \text{ kg}", r"\boxed{5 \text{ g}}", False, "another unit"),
    ("101_2", r"\boxed{101_3}", False, "another base"),
    ("0.0000001", r"\boxed{0.0000002}", False, "math-verify rounds to six decimals"),
    (r"\frac{1}{2^{99}}", r"\boxed{\frac{1}{2^{98}}}", False, "numbers are compared relatively"),
    ("silent", r"\boxed{listen}", False, "a word is not a product of its letters"),
    (r"\frac{q}{R}", r"\boxed{\frac{q}{r}}", False, "two letters; math-verify lowers their case"),
    ("3:30", r"\boxed{1:10}", False, "times, not ratios"),
]


@pytest.mark.parametrize(("gold", "completion", "ours", "reason"), DISAGREEMENTS)
def test_disagreement(gold, completion, ours, reason):
    assert verify_answers([gold], [completion], timeout=PATIENT) == [ours]
    assert math_verify_verdict(gold, completion) == (not ours), "math-verify has learnt it: drop this entry"


GOLDS = [
    *("7", "-12", "2,048", "0.25", r"\frac{7}{12}", r"2\frac{3}{4}", r"35\%", r"60^\circ", r"\$14.50", "x = 9", "3x^2 - x + 4"),
    *(r"4\sqrt{5}", "5 - 2i", r"\frac{\pi}{4}", "3, 8, 11", "(2, -5)", r"[0, 6)", r"(0,1) \cup (2,3)", r"2 \pm \sqrt{7}"),
    *(r"\text{(D)}", "north", "y = 3x - 1", r"\begin{pmatrix} 2 \\ 0 \end{pmatrix}", "1101_2"),
]  # fmt: skip


# One number, as reference answers write it. It has no unit and no sign of a currency, which a respelling could contradict.
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,(?:\\!)?\s?\d{3})+|\d+)(?P<decimals>\.\d+)?")


def respelled(gold: str) -> Iterator[str]:
    """Completions that state the reference answer, written in another way."""
    yield gold
    yield f"${gold}$"
    yield rf"\boxed{{{gold}}}"
    yield rf"Adding up, the answer is $\boxed{{{gold}}}$, as was to be shown."
    yield rf"The final answer is ${gold}$."
    compact = re.sub(r"\\frac| ", lambda match: match[0].strip().replace("frac", "dfrac"), gold)
    yield rf"\boxed{{{compact}}}"
    yield rf"\boxed{{{gold.replace('+', ' + ').replace('-', ' - ')}}}"
    number = NUMBER.fullmatch(gold)
    if number is not None:  # a unit that the reference answer lacks is that of the question
        yield from (
            rf"\boxed{{{gold}\text{{ m}}}}",
            rf"\boxed{{x = {gold}}}",
            rf"\boxed{{\${gold}}}",
            rf"\boxed{{{gold}^\circ}}",
        )
        if not number["decimals"]:
            yield rf"\boxed{{{gold}.0}}"


def perturbed(gold: str) -> Iterator[str]:
    """
    Completions that state something else than the reference answer.

    The sign and the first number are changed. A percent sign is not added: after a number without a unit it may be the unit of the
    question, and `PERCENT` has the rule.
    """
    if not re.fullmatch(r"[-+\s]*0|.*\\pm.*|\\text.*", gold):  # the opposite of 0 or of two signs is the same
        yield rf"\boxed{{-{gold}}}"
    number = re.search(r"(?<!\.)\b\d+", gold)  # not the zeros that end a decimal
    if number:
        others = {int(number.group()) + 1, int(number.group()) * 10} - {int(number.group())}
        yield from (rf"\boxed{{{gold[: number.start()]}{other}{gold[number.end() :]}}}" for other in sorted(others))
    if NUMBER.fullmatch(gold) or re.fullmatch(r"\d+\^\\circ", gold):
        yield from (rf"\boxed{{\${gold}^\circ}}", rf"\boxed{{\${gold}\text{{ cents}}}}")  # two units
        yield rf"\boxed{{\${gold}\%}}"


# Reference answer, answer, verdict: a percent sign that only one of the two has
PERCENT = [
    ("42", r"42\%", True),  # the unit of the question: "What percentage ...?"
    ("-12", r"-12\%", True),
    ("62.5", r"62.50\%", True),
    ("2,048", r"2,048\%", True),
    (r"33\frac{1}{3}", r"33\frac13\%", True),
    ("42", r"0.42\%", False),
    ("42", r"4200\%", True),  # the same number
    ("0.5", r"50\%", True),
    ("0.5", r"0.5\%", False),  # a share; its percentage is another number
    ("1", r"100\%", True),
    ("1", r"1\%", False),
    ("0.05", "The answer is 0.05%.", False),
    ("1", r"The answer is $1\%$.", False),
    (r"\frac{14}{3}", r"\frac{14}{3}\%", False),  # a ratio: percentages are written as decimals or mixed numbers
    (r"\frac{3}{2}", r"150\%", True),
    (r"\frac{3}{2}", r"1.5\%", False),
    ("x = 5", r"x = 5\%", False),  # the value of a variable
    ("x = 5", r"5\%", False),
    ("x = 0.05", r"x = 5\%", True),
    (r"50\%", "50", True),  # the reference answer says that the unit is percent
    (r"50\%", "0.5", True),
    (r"\frac{200}{3}\%", r"\frac{200}{3}", True),
    (r"0.5\%", "0.5", False),
    (r"90^\circ", r"90\%", False),
    (r"\$36", r"\$36\%", False),
]


def test_percent_signs():
    golds, answers, expected = map(list, zip(*PERCENT, strict=True))
    completions = [answer if " is " in answer else rf"\boxed{{{answer}}}" for answer in answers]
    assert verify_answers(golds, completions, timeout=PATIENT) == expected


def compare(golds: list[str], completions: list[str]) -> list[tuple[str, str, bool | None]]:
    ours = verify_answers(golds, completions, timeout=PATIENT)
    theirs = [math_verify_verdict(gold, completion) for gold, completion in zip(golds, completions, strict=True)]
    return [
        (gold, completion, verdict)
        for gold, completion, verdict, other in zip(golds, completions, ours, theirs, strict=True)
        if verdict != other
    ]


def check_verdicts(golds: list[str]) -> list[tuple[str, str, bool]]:
    """The respelled answers that are refused and the perturbed ones that are accepted, with the expected verdicts."""
    cases = [(gold, completion, True) for gold in golds for completion in respelled(gold)]
    cases += [(gold, completion, False) for gold in golds for completion in perturbed(gold)]
    references, completions, expected = map(list, zip(*cases, strict=True))
    verdicts = verify_answers(references, completions, timeout=PATIENT)
    return [case for case, verdict in zip(cases, verdicts, strict=True) if verdict is not case[2]]


def test_usual_answers():
    assert check_verdicts(GOLDS) == []
    assert compare(GOLDS[:-1], [rf"\boxed{{{other}}}" for other in GOLDS[1:]]) == []


@pytest.mark.parametrize("dress", DRESSES)
def test_decorated_answers(dress):
    """What stands around an answer changes nothing."""
    cases = [(gold, answer) for gold, other in zip(GOLDS, GOLDS[1:], strict=False) for answer in (gold, other)]
    ours = verify_answers([gold for gold, _ in cases], [dress.format(answer) for _, answer in cases], timeout=PATIENT)
    theirs = [math_verify_verdict(gold, rf"\boxed{{{answer}}}") for gold, answer in cases]
    assert ours == theirs


numbers = st.integers(-(10**7), 10**7)
numerals = st.one_of(
    numbers.map(str),
    numbers.map("{:,}".format),
    st.decimals(-1000, 1000, places=3).map("{:f}".format),
    st.tuples(numbers, st.integers(1, 500)).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
    st.tuples(numbers, st.integers(1, 500)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.integers(0, 500).map(r"{}\%".format),
    st.integers(0, 360).map(r"{}^\circ".format),
)
small = st.integers(-3, 3).flatmap(
    lambda n: st.sampled_from([f"{n}", f"{n}.0", f"{2 * n}/2", rf"\frac{{{n}}}{{1}}", f"{100 * n}\\%"])
)


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.tuples(numerals, numerals), st.tuples(small, small)))
def test_numerals(pair):
    gold, answer = pair
    if all(any(sign in text for text in pair) for sign in ("%", "circ")):
        assert verify_answers([gold], [rf"\boxed{{{answer}}}"], timeout=PATIENT) == [
            False
        ]  # math-verify drops the degrees
        return
    if ("%" in gold) != ("%" in answer) and "circ" not in gold + answer:  # as PERCENT says
        reference, other = numeral(gold), numeral(answer)
        percent, plain = (reference, other) if reference.is_percent else (other, reference)
        is_unit = percent.value == plain.value and abs(plain.value) > 1 and not ("frac" in gold or "/" in gold)
        expected = percent.value == 100 * plain.value or is_unit
        assert verify_answers([gold], [rf"\boxed{{{answer}}}"], timeout=PATIENT) == [expected]
        return
    assert compare([gold], [rf"\boxed{{{answer}}}"]) == []


@settings(deadline=None, max_examples=150)
@given(
    numbers,
    numbers,
    st.sampled_from([*DRESSES, "{} dollars", "x = {} dollars", "${} dollars", "x is {}."]),
)
def test_decorated_numbers(number, other, dress):
    assert compare([str(number)] * 2, [dress.format(number), dress.format(f"{other:,}")]) == []


sets = st.lists(st.integers(-999, 999), min_size=1, max_size=3)


@settings(deadline=None, max_examples=150)
@given(sets, sets, st.sampled_from([r"\boxed{{{}}}", r"$x = \boxed{{{}}}$, so $y = \boxed{{{}}}$"]))
def test_lists_of_numbers(values, others, completion):
    gold, answer = (", ".join(map(str, members)) for members in (values, others))
    assert compare([gold] * 2, [completion.format(text, text) for text in (answer, gold)]) == []


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (SHARED / name).open(encoding="utf-8")]


needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the benchmark files are not at {SHARED}")


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("math500.jsonl", 500),
        ("aime24.jsonl", 30),
        ("aime25.jsonl", 30),
        ("amc23.jsonl", 40),
        ("svamp_test.jsonl", 100),
        ("gsm8k_test.jsonl", 200),
    ],
)
def test_perturbed_reference_answers_of_real_sets(name, count):
    rng = random.Random(0)
    golds = [row["answer"] for row in rows(name)][:count]
    assert check_verdicts(golds) == []
    assert compare(golds, [rf"\boxed{{{rng.choice(golds)}}}" for _ in golds]) == []  # another reference answer


@needs_data
@pytest.mark.slow
def test_real_predictions():
    """Prose without a box: math-verify searches it, and so do we, by asking it. The file's own labels are a third judge."""
    cases = [
        (row["answer"], completion["solution"], completion["is_correct"])
        for row in rows("gsm8k_model_solutions.jsonl")
        for completion in row["completions"]
    ]
    golds, completions, labels = map(list, zip(*cases, strict=True))
    ours = verify_answers(golds, completions, timeout=PATIENT)
    assert ours == [verify(parse(rf"\boxed{{{g}}}"), parse(c)) for g, c in zip(golds, completions, strict=True)]
    assert ours == labels
    boxed = [re.sub(r"A: (.*)$", r"A: \\boxed{\1}", completion.rstrip()) for completion in completions]
    assert verify_answers(golds, boxed, timeout=PATIENT) == labels
