# SPDX-License-Identifier: Apache-2.0
"""Generated critiques say what is true of generated solutions."""

from __future__ import annotations

import pytest

from trl_concise import demo, verify_answers
from trl_concise.demo.critiques import write_critique
from trl_concise.demo.problems import Problem, split_of
from trl_concise.methods.cft import critique_verdict


def test_critiques_are_true():
    rows = demo.generate_critiques(200, seed=0, problems=20)
    answers = [row["answer"] for row in rows]
    assert verify_answers(answers, [row["solution"] for row in rows]) == [row["correct"] for row in rows]
    assert [critique_verdict(row["critique"]) for row in rows] == [row["correct"] for row in rows]
    assert all(verify_answers(answers, [row["critique"] for row in rows]))
    assert 60 < sum(row["correct"] for row in rows) < 140
    assert len({row["question"] for row in rows}) == 20 and {split_of(row["question"]) for row in rows} == {"train"}


def test_one_problem_by_default_and_the_same_again():
    rows = demo.generate_critiques(32, seed=3)
    assert len({row["question"] for row in rows}) == 1
    assert rows == demo.generate_critiques(32, seed=3) != demo.generate_critiques(32, seed=4)


def test_a_critique_names_the_first_slip():
    problem = Problem(42, (("*", 2), ("*", 2), ("+", 4)))
    assert write_critique(problem, [84, 158, 162]) == (
        "42*2=84\n84*2=168\nThat differs: 168, not 158.\n168+4=172\n</think>\n\\boxed{172}\nConclusion: wrong [END]"
    )
    assert write_critique(problem, [84, 168, 172]).endswith(
        "168+4=172\nThat agrees.\n</think>\n\\boxed{172}\nConclusion: right [END]"
    )


def test_too_many_problems():
    with pytest.raises(ValueError, match="4 candidates cannot be spread over 5 problems"):
        demo.generate_critiques(4, seed=0, problems=5)
