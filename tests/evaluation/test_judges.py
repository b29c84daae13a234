# SPDX-License-Identifier: Apache-2.0
"""The judge is part of the result: golden values of its fingerprint and of the comparison of two judges."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.evaluation.agreement import against_labels, agreement, corrected_accuracy, mcnemar
from trl_concise.evaluation.judges import describe_judge, find_judge, fingerprint_of, hard_inputs, judge_name
from trl_concise.verification import verify_answers


HARMLESS = ("empty", "symbol", "opener", "injection", "claim", "slot", "question back", "gibberish")


@pytest.fixture(scope="module")
def judged():
    inputs = hard_inputs()
    verdicts = find_judge("trl-concise")([row[1] for row in inputs], [row[2] for row in inputs])
    return list(zip(inputs, verdicts, strict=True))


def test_the_judge_is_right_on_every_hard_input(judged):
    assert [row for row, verdict in judged if bool(verdict) != row[3]] == []
    assert (len(judged), sum(row[3] for row, _ in judged)) == (77, 23)


def test_the_fingerprint_is_that_of_the_right_verdicts():
    assert describe_judge()["fingerprint"] == "8a85c60d7e5032a3"  # the golden value if every verdict is as expected
    expected = {completion + "\0" + gold: right for _, gold, completion, right in hard_inputs()}
    assert (
        fingerprint_of(lambda golds, texts: [expected[f"{t}\0{g}"] for g, t in zip(golds, texts, strict=True)])
        == "8a85c60d7e5032a3"
    )
    # what math-verify accepts without the package's own rules is not the same
    assert len({describe_judge(name)["fingerprint"] for name in ("trl-concise", "math-verify", "exact")}) == 3


@pytest.mark.parametrize("name", ["trl-concise", "math-verify", "exact"])
def test_no_judge_accepts_a_text_without_an_answer(name):
    inputs = [row for row in hard_inputs() if row[0] in HARMLESS]
    assert len(inputs) > 10
    assert not any(find_judge(name)([row[1] for row in inputs], [row[2] for row in inputs]))


def test_verdicts_do_not_depend_on_the_order(judged):
    shuffled = random.Random(0).sample(judged, len(judged))
    verdicts = verify_answers([row[1] for row, _ in shuffled], [row[2] for row, _ in shuffled], final_form=True)
    assert verdicts == [verdict for _, verdict in shuffled]


def test_a_judge_says_what_it_is():
    judge = describe_judge(answer_format="boxed", final_form=False)
    assert judge["options"] == {"answer_format": "boxed", "final_form": False, "timeout": 5.0, "guards": True}
    assert set(judge["packages"]) == {"math-verify", "latex2sympy2_extended", "sympy"}
    assert all(judge["packages"].values())
    assert json.loads(json.dumps(judge)) == judge
    assert judge["fingerprint"] in judge_name(judge)
    own = describe_judge("mine", judge=lambda golds, texts: [False] * len(golds))
    assert own["options"] == {} and own["fingerprint"] != judge["fingerprint"]
    with pytest.raises(ValueError, match="judge 'strict' does not exist. Choose one of 'trl-concise', 'math-verify'"):
        find_judge("strict")


def test_golden_values_of_the_agreement():
    first = agreement(60, 20, 5, 15)
    assert (first["points"], first["agreement"]) == (15.0, 0.75)
    assert first["kappa"] == pytest.approx(0.390244, abs=5e-7) and first["mcnemar_p"] == pytest.approx(
        0.004077, abs=5e-7
    )
    assert agreement(45, 5, 5, 45)["kappa"] == pytest.approx(0.8)
    nearly = agreement(90, 8, 1, 1)
    assert (nearly["points"], nearly["agreement"]) == (7.0, 0.91)
    assert nearly["kappa"] == pytest.approx(0.154135, abs=5e-7) and nearly["ac1"] == pytest.approx(0.899559, abs=5e-7)
    assert agreement(100, 0, 0, 0)["kappa"] is None
    labels = against_labels(78, 1, 22, 99)
    assert labels["precision"] == pytest.approx(0.987342, abs=5e-7)
    assert (labels["recall"], labels["false_positive_rate"]) == (0.78, 0.01)
    assert corrected_accuracy(0.62, 0.78, 0.99) == pytest.approx(0.792208, abs=5e-7)
    assert against_labels(0, 0, 0, 1)["precision"] is None
    assert [round(mcnemar(*counts), 6) for counts in ((10, 2), (5, 5), (3, 0), (0, 0))] == [0.038574, 1, 0.25, 1]
    with pytest.raises(ValueError, match="without a completion that both of them judged"):
        agreement(0, 0, 0, 0)
    with pytest.raises(ValueError, match="must be above 1"):
        corrected_accuracy(0.5, 0.5, 0.5)


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(sum))
def test_swapping_the_judges_negates_the_points_only(counts):
    both, first, second, neither = counts
    one, other = agreement(both, first, second, neither), agreement(both, second, first, neither)
    assert one["points"] == -other["points"] and one["mcnemar_p"] == other["mcnemar_p"]
    for key in ("agreement", "kappa", "ac1"):
        assert one[key] == pytest.approx(other[key])
    same = agreement(both + first, 0, 0, second + neither)
    assert (same["points"], same["agreement"]) == (0, 1)
