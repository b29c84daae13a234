# SPDX-License-Identifier: Apache-2.0
"""Perturbations: golden texts, what each may change, and what is skipped."""

from __future__ import annotations

import random

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise.data.perturbations import PERTURBATIONS, _with_options, perturb, perturb_sets
from trl_concise.data.wording import number_in_words
from trl_concise.demo import generate_problems
from trl_concise.verification import verify_answers


CHAIN = "What is 94 - 5 + 6 + 4?"
CHOICE = "Which?\n\nA. 3 apples\nB. 4 pears\nC. five"
CODE = r"Tom has 5 kegs: `x = 5` and \frac{7}{1000}, $y + 1000 = 5$, \(5 + 1000\). What is 5? [asy]size(5); draw(1000);[/asy]"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("identity", CHAIN),
        ("no_spaces", "What is 94-5+6+4?"),
        ("compute", "Compute 94 - 5 + 6 + 4."),
        ("equation", "94 - 5 + 6 + 4 = ?"),
        ("parentheses", "What is (94 - 5 + 6 + 4)?"),
        ("times_sign", CHAIN),
        ("lower_case", "what is 94 - 5 + 6 + 4?"),
        ("trailing_space", CHAIN + " "),
        ("no_punctuation", CHAIN[:-1]),
        ("digits_to_words", "What is ninety-four - five + six + four?"),
        ("irrelevant_sentence", f"It rains today. {CHAIN}"),
        ("irrelevant_number", f"Tom is 9 years old. {CHAIN}"),
        ("rename_persons", CHAIN),
        ("question_first", CHAIN),
        ("thousands_separator", CHAIN),
        ("dollars_to_words", CHAIN),
    ],
)
def test_golden_texts(name, expected):
    assert perturb(name, CHAIN, "99") == (expected, "99", {})


def test_the_times_sign():
    assert perturb("times_sign", "What is (2 + 3) * 4?", "20").text == "What is (2 + 3) × 4?"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("digits_to_words", "On May 5, at 7 p.m. in 2019, 50% paid $4 for 2.5 l and 1,000 or 1/2.", None),
        ("digits_to_words", "He has 12 hens, 2 goats and 1203 ants.", "He has twelve hens, two goats and one thousand two hundred three ants."),
        ("digits_to_words", "Add 3, 4, and 5.", "skipped"),
        ("thousands_separator", "In 1999 he had 1000 hens and 12345.", "In 1999 he had 1,000 hens and 12,345."),
        ("thousands_separator", "He paid $2500 for 1000.5 l.", "He paid $2,500 for 1000.5 l."),
        ("thousands_separator", "Add 1000, 3000 and 4000.", None),
        ("dollars_to_words", "It costs $5, $1,000.50 or $1. A $20 bill, $3 million, $5-$6.", "It costs 5 dollars, 1,000.50 dollars or 1 dollar. A $20 bill, $3 million, $5-$6."),
        ("dollars_to_words", r"A television costs $\$$1500, or \$5, or $\$27.47$.", None),
        ("question_first", "Ann has 3 hens. Bo has 2. How many hens has Bo?", "How many hens has Bo? Ann has 3 hens. Bo has 2."),
        ("question_first", "Ann has 3 hens. How many does she have?", "skipped"),
        ("question_first", "Ann has 3 hens. Why? How many has Ann?", "skipped"),
        ("irrelevant_number", "Ann has 3 hens. How many are there in total?", "skipped"),
        ("irrelevant_sentence", "It rains 3 days. How many?", "The sky is clear. It rains 3 days. How many?"),
        ("lower_case", "Find the area A of x.", "skipped"),
        ("no_spaces", "Ann has 3 hens.", "skipped"),
        ("shuffle_options", CHAIN, "skipped"),
    ],
)  # fmt: skip
def test_rules_of_words(name, text, expected):
    found = perturb(name, text, "7")
    assert (found.text if found is not None else "skipped") == (expected or text)


def test_persons():
    text = "Tom's mother Mary met Tom in Will Street. Tom asked: Is Maryland far?"
    found = perturb("rename_persons", text, "7").text
    names = found.split("'")[0], found.split()[2]
    assert "Tom" not in found and found == text.replace("Tom", names[0]).replace("Mary met", f"{names[1]} met")
    assert perturb("rename_persons", "Tom or Mary?\n\nA. Tom\nB. Mary", "A").text.count("Tom") == 0
    assert perturb("rename_persons", "Is it Tom?", "Tom").text == "Is it Tom?"
    assert perturb("rename_persons", text, "7") == perturb("rename_persons", text, "7")
    assert len({perturb("rename_persons", text, "7", seed).text for seed in range(9)}) > 1


def test_numbers_in_words():
    found = [number_in_words(number) for number in (0, 13, 20, 94, 100, 999_999)]
    assert found[:5] == ["zero", "thirteen", "twenty", "ninety-four", "one hundred"]
    assert found[5] == "nine hundred ninety-nine thousand nine hundred ninety-nine"


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_latex_and_code_are_kept(name):
    found = perturb(name, CODE, "5")
    for piece in ("`x = 5`", r"\frac{7}{1000}", "$y + 1000 = 5$", r"\(5 + 1000\)", "size(5); draw(1000)"):
        assert found is None or piece in found.text


def test_options():
    third = _with_options(lambda options, right, rng: ([2, 0, 1], [options[place] for place in (2, 0, 1)]))
    found = third("?\n\nA. 3\nB. 4\nC. 5", "B", random.Random(0))
    assert found == ("?\n\nA. 5\nB. 3\nC. 4", "C", {"A": "C", "B": "A", "C": "B"})  # golden: the order (C, A, B)
    assert perturb("number_labels", CHOICE, "B") == (
        "Which?\n\n1. 3 apples\n2. 4 pears\n3. five",
        "2",
        {"1": "A", "2": "B", "3": "C"},
    )
    assert perturb("number_labels", "?\n\nA. 3\nB. 4", "B") is None
    for text in ("all of the above", "Both A and B", "none of these"):
        assert perturb("shuffle_options", f"?\n\nA. x\nB. {text}", "A") is None
    two = perturb("two_options", "?\n\nA. 1/2\nB. 0.5\nC. 3", "A")
    assert two == ("?\n\nA. 1/2\nB. 3", "A", {"A": "A", "B": "C"})  # 0.5 is right, too
    assert perturb("two_options", "?\n\nA. 1/2\nB. 0.5", "A") is None
    longer = {
        name: perturb(f"longer_{name}", CHOICE, "B").text.count("as described above")
        for name in ("right", "wrong", "all")
    }
    assert longer == {"right": 1, "wrong": 2, "all": 3}  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(PERTURBATIONS)), st.integers(0, 99), st.sampled_from("ABC"))
def test_reference_answers(name, seed, letter):
    for text, gold in ((generate_problems(1, seed)[0]["problem"], "42"), (CHOICE, letter)):
        found = perturb(name, text, gold, seed)
        if found is None:
            continue
        if PERTURBATIONS[name].kind != "mapped":
            assert (found.gold, found.answers) == (gold, {})
            continue
        options = dict(line.split(". ") for line in text.split("\n\n")[1].split("\n"))
        new = dict(line.split(". ") for line in found.text.split("\n\n")[1].split("\n"))
        assert new[found.gold] == options[gold] and found.answers.get(found.gold, found.gold) == gold
        assert [options[found.answers.get(label, label)] for label in new] == list(new.values())
        verdicts = verify_answers([found.gold] * len(new), [rf"\boxed{{{label}}}" for label in new])
        assert [label for label, verdict in zip(new, verdicts, strict=True) if verdict] == [found.gold]


def test_sets():
    dataset = Dataset.from_list(
        [{"prompt": "What is 2 + 3?", "solution": "5"}, {"prompt": "What is 2 * 3?", "solution": "6"}]
    )
    found = perturb_sets({"s": dataset}, ["times_sign", "no_spaces"])
    assert list(found) == ["s, times_sign", "s, no_spaces"]
    variant = found["s, times_sign"]
    assert variant.unchanged == [True, False] and variant.skipped == 0 and variant.parents == [0, 1]
    limited = perturb_sets({"s": dataset}, ["times_sign"], limit=1)["s, times_sign"]
    assert list(limited.problems) == list(variant.problems.select([0]))
    with pytest.raises(ValueError, match="Unknown perturbation 'no_space'. Did you mean 'no_spaces'"):
        perturb_sets({"s": dataset}, ["no_space"])
    with pytest.raises(ValueError, match="named twice"):
        perturb_sets({"s": dataset}, ["compute", "compute"])
    with pytest.raises(ValueError, match="suits no problem of 's': it shuffles the options. Leave it out"):
        perturb_sets({"s": dataset}, ["shuffle_options"])


def test_messages():
    message = [{"role": "system", "content": "What is 1?"}, {"role": "user", "content": CHAIN}]
    dataset = Dataset.from_list([{"prompt": message, "solution": "99"}])
    (row,) = perturb_sets({"s": dataset}, ["compute"])["s, compute"].problems
    assert row["prompt"] == [message[0], {"role": "user", "content": "Compute 94 - 5 + 6 + 4."}]
    assert (row["perturbation"], row["parent"], row["gold_map"]) == ("compute", 0, "{}")
