# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import random
import threading
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise.verification import verify_answers
from trl_concise.verification.judge import default_workers
from trl_concise.verification.verify import verify_and_count


PATIENT = 30.0  # seconds; a busy machine must not turn a right answer into a wrong one


@pytest.mark.parametrize(
    ("gold", "completion", "verdict"),
    [
        ("72", r"<think>Or \boxed{71}?</think>It is \boxed{72}.", True),
        ("72", r"<think>It is \boxed{72}</think>It is \boxed{71}.", False),
        ("1,000", r"\boxed{1000}", True),
        ("42", r"\boxed{42.}", True),
        (r"\frac{1}{2}", "The answer is $0.5$.", True),
        ("x + 1", "1 + x", True),
        ("x^2 - 1", r"\boxed{(x - 1)(x + 1)}", True),
        ("1,2", r"$x = \boxed{2}$ or $x = \boxed{1}$", True),
        (r"\{1, 2\}", r"\boxed{\{2, 1\}}", True),
        ("(1, 2)", r"\boxed{(2, 1)}", False),
        (r"\text{(C)}", r"\boxed{C}", True),
        (r"\text{(C)}", r"\boxed{B}", False),
        ("5", r"\boxed{x = 5}", True),
        ("5", r"\boxed{5 \text{ cm}}", True),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 1 \\ 4/2 \end{pmatrix}}", True),
        ("(-oo, 2)".replace("oo", r"\infty"), r"\boxed{x < 2}", False),
        ("0, 180", r"\boxed{180}", False),
        ("2, 100", r"\boxed{2100}", False),
        ("30, 150", r"\boxed{150, 30}", True),
        (r"30, 150^\circ", r"\boxed{30^\circ, 150^\circ}", True),
        (r"30,150^\circ", r"\boxed{150, 30}", True),
        (r"\frac{\pi}{3}", r"\boxed{\pi/3\,}", True),
        (r"5\sqrt{2}", r"\boxed{\sqrt{50}\ }", True),
        ("5", r"We get $\boxed{3}$, so the answer is $\boxed{5}$.", True),
        ("3, 5", r"Either $x = \boxed{5}$ or $x = \boxed{3}$.", True),
        ("x + 1", "Answer: 1 + x", True),
        ("1", "Answer: x^2 + 1", False),
        ("42", "42 dollars", True),
        ("42", "x is 42.", True),
        ("2", "ab + 2", False),
        ("18", "She sells 9 eggs for 2 dollars each, which makes 18.", True),
        ("18", "She makes 18 a day, or 19 with tips.", False),
        ("New York", r"\boxed{New York}", True),
        ("New York", r"\boxed{Boston}", False),
        ("18", "", False),
        ("18", "<think>Hm.</think>", False),
        ("18", r"\boxed{}", False),
        ("", r"\boxed{18}", None),
        ("  ", "", None),
        ("$$", r"\boxed{18}", None),
        (r"\boxed{}", "18", None),
    ],
)
def test_verdicts(gold, completion, verdict):
    assert verify_answers([gold], [completion], timeout=PATIENT) == [verdict]


def test_a_batch_keeps_its_order():
    golds = [str(i) for i in range(50)]
    completions = [rf"\boxed{{{i} + {i % 2}}}" if i % 3 else rf"\boxed{{{i}}}" for i in range(50)]
    expected = [i % 3 == 0 or i % 2 == 0 for i in range(50)]
    assert verify_answers(golds, completions, timeout=PATIENT) == expected


def test_equal_answers_are_judged_once():
    verdicts, tally = verify_and_count([r"\sin(x) + 1"] * 8, [r"1 + \sin(x)"] * 8, timeout=PATIENT)
    assert verdicts == [True] * 8
    assert (tally.fast, tally.guarded, tally.timeouts) == (0, 0, 0)


def test_plain_numerals_start_no_process(monkeypatch):
    monkeypatch.setattr("trl_concise.verification.verify.JUDGE", None)
    assert verify_answers(["42", "0.5"], [r"\boxed{42}", r"\boxed{\frac{1}{3}}"]) == [True, False]


def test_guards_stop_and_count():
    completions = [r"\boxed{5^{5^{5^{5^5}}}}", r"\boxed{" + "(" * 30 + "7" + ")" * 30 + "}", r"\boxed{7}"]
    verdicts, tally = verify_and_count(["7"] * 3, completions)
    assert verdicts == [False, False, True]
    assert (tally.completions, tally.fast, tally.guarded, tally.timeouts) == (3, 3, 2, 0)


def test_a_guarded_reference_answer_is_unreadable_unless_repeated():
    gold = "5^{5^{5^{5^5}}}"
    assert verify_answers([gold] * 2, [r"\boxed{7}", rf"\boxed{{{gold}}}"]) == [None, True]


@pytest.mark.parametrize("other", [None, 7, 0.5, {"answer": "7"}, ["7"], b"7", float("nan")])
def test_a_non_string_gets_no_verdict_or_a_wrong_one_and_one_warning(other, caplog):
    assert verify_answers([other, "7", "8", other], ["7", "7", other, other]) == [None, True, False, None]
    assert len([record for record in caplog.records if type(other).__name__ in record.message]) == 1


def test_verdicts_are_remembered(monkeypatch):
    pair = [r"\sin(m) + n + 1"], [r"\boxed{n + 1 + \sin(m)}"]
    assert verify_answers(*pair, timeout=PATIENT) == [True]
    monkeypatch.setattr("trl_concise.verification.verify.JUDGE", None)
    verdicts, tally = verify_and_count(*pair, timeout=PATIENT)
    assert (verdicts, tally.fast, tally.timeouts) == ([True], 0, 0)


def test_an_unreadable_reference_answer_is_named_once(caplog):
    reference = "4^{4^{4^{4^4}}}"
    for answer in ("6", "7"):
        verdicts, tally = verify_and_count([reference] * 3, ["5", answer, "9 - 1"], timeout=1.0, guards=False)
        assert (verdicts, tally.timeouts) == ([None] * 3, 3)
    assert len([record for record in caplog.records if reference in record.message]) == 1


def test_timeouts_are_counted():
    completions = [r"\boxed{5^{5^{5^{5^5}}}}", r"\boxed{5^{5^{5^{5^5}}}}", r"\boxed{8 - 1}"]
    verdicts, tally = verify_and_count(["7"] * 3, completions, timeout=2.0, guards=False)
    assert verdicts[:2] == [False, False]
    assert tally.timeouts >= 2


def hostile_batch(kinds: list[str]) -> tuple[list[str], list[str], list[bool]]:
    """256 completions, 8 of which no verifier will ever finish, spread among them."""
    golds, completions, verdicts = [], [], []
    for i in range(256):
        hostile = i % 32 == 5
        right = i % 3 != 0
        golds.append(str(i))
        if hostile:
            completions.append(rf"\boxed{{{kinds[i // 32 % len(kinds)]} + {i}}}")
        else:
            completions.append(rf"The answer is \boxed{{{i if right else i + 1}{' + 0' if i % 16 == 0 else ''}}}.")
        verdicts.append(right and not hostile)
    return golds, completions, verdicts


TOWERS = ["5^{5^{5^{5^5}}}"]
UNGUARDED = [
    r"\binom{10^{9}}{5 \cdot 10^{8}}",
    "(1000000000!)!",
    r"\sum_{k=1}^{10^{12}} \frac{1}{k^2 + 1}",
    "9^{9^{9}}",
    "(a+b+c+d+e+f+g+h)^{80} - (a+b+c+d+e+f+g+2h)^{80}",
    "(" * 19 + "x" + ")" * 19,
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "guards"),
    [(TOWERS, True), (TOWERS, False), (UNGUARDED, True)],
    ids=["guarded", "guards off", "nothing guards"],
)
def test_eight_hostile_answers_cost_a_batch_no_more_than_their_deadlines(kinds, guards):
    verify_answers(["7"], ["3 + 4"], timeout=PATIENT)  # the processes stand
    golds, completions, expected = hostile_batch(kinds)
    timeout = 5.0
    verdicts, tally = verify_and_count(golds, completions, timeout=timeout, guards=guards)
    assert verdicts == expected
    assert tally.seconds <= (math.ceil(8 / default_workers()) + 1) * timeout
    assert tally.guarded == (8 if kinds is TOWERS and guards else 0)


def test_from_a_thread():
    results: list = []
    thread = threading.Thread(target=lambda: results.extend(verify_answers(["7"], ["3 + 4"], timeout=PATIENT)))
    thread.start()
    thread.join()
    assert results == [True]


def test_lists_must_match():
    with pytest.raises(ValueError, match="got 2 reference answers, 1 completions"):
        verify_answers(["1", "2"], ["1"])


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan, math.inf, 1e7, 86_401])
def test_timeout_is_positive_and_at_most_a_day(timeout):
    with pytest.raises(ValueError, match=r"positive, at most 86,400 \(a day\)"):
        verify_answers(["1"], ["1"], timeout=timeout)


@pytest.mark.parametrize("timeout", [20, np.float32(20), Fraction(39, 2), 86_400])
def test_timeout_is_any_number(timeout):
    assert verify_answers(["x + 1"], ["1 + x"], timeout=timeout) == [True]


def test_an_empty_batch():
    verdicts, tally = verify_and_count([], [])
    assert verdicts == []
    assert tally.metrics()["verification/fast_fraction"] == 1.0


FRAGMENTS = [
    *(r"\boxed{ } { \frac{1}{2} \frac \sqrt[3] \sqrt{ \left( \right] \begin{pmatrix} \end \text{ \\ & $ $$ \( \) \[ \] _ ^ ^{").split(),
    *"0 1 7 42 -3 3.14 1,000 .5 50% 1e9 x y pi \\pi i \\infty \\pm \\cup \\in \\le = < > + - * / ! | ( ) [ ] , ; : . # ####".split(),
    *("</think>", "<think>", "The answer is", "Answer:", " ", "\n", "\t", "\0", "\ud800", "\udfff", "\u202e", "\u0301", "🙂", "٣", "½", "√"),
]  # fmt: skip


def fuzzed(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    completions = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.6:
            body = "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(0, 25)))
        elif kind < 0.8:
            body = rng.randbytes(rng.randint(0, 60)).decode("latin-1")
        else:
            body = "".join(
                chr(rng.randrange(0x110000)) for _ in range(rng.randint(0, 20))
            )  # lone surrogates among them
        completions.append(rf"\boxed{{{body}}}" if rng.random() < 0.5 else body)
    return completions


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fuzzed_completions(count):
    completions = fuzzed(seed=count, count=count)
    golds = [["42", r"\frac{1}{2}", "x + 1", "(1, 2)"][i % 4] for i in range(count)]
    verdicts = verify_answers(golds, completions, timeout=2.0)
    assert len(verdicts) == count
    assert set(verdicts) <= {True, False}


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(st.characters(codec=None), max_size=40), max_size=5))
def test_any_completions(completions):
    verdicts = verify_answers(["x + 1"] * len(completions), completions, timeout=2.0)
    assert all(verdict in (True, False) for verdict in verdicts)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(st.characters(codec=None), max_size=40), max_size=5))
def test_any_golds(golds):
    verdicts = verify_answers(golds, [r"\boxed{x + 1}"] * len(golds), timeout=2.0)
    assert all(verdict in (True, False, None) for verdict in verdicts)


def test_megabytes():
    completions = [
        "7" * 1_000_000,
        r"\boxed{" * 150_000,
        r"\boxed{" + "1+" * 500_000 + "1}",
        "\0" * 1_000_000,
        "word " * 200_000,
    ]
    assert verify_answers(["42"] * 5, completions) == [False] * 5


@given(st.integers(-20, 20), st.integers(2, 20))
@settings(max_examples=20, deadline=None)
def test_complex_numbers_are_read_alike_in_boxes_and_in_prose(real, imaginary):
    number = f"{real}+{imaginary}i"
    right = [rf"\boxed{{{number}}}", f"The final answer is ${number}$.", f"${number}$", rf"So ${imaginary}i + {real}$"]
    wrong = [f"The final answer is ${real}+{imaginary + 1}i$.", f"The answer is ${real}-{imaginary}i$."]
    assert verify_answers([number] * 6, right + wrong) == [True] * 4 + [False] * 2
