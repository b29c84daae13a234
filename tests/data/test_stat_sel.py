# SPDX-License-Identifier: Apache-2.0
"""STAT-Sel: training questions for the skills that a student is missing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise.data.selection import select_for_skills
from trl_concise.data.selection.stat_sel import choose_pairs


SKILLS = st.lists(st.sampled_from("abcd"), max_size=3)
TRAINING = st.lists(SKILLS, min_size=1, max_size=20)
PROFILE = st.lists(st.tuples(SKILLS, st.floats(0, 1)), min_size=1, max_size=8)


def questions(count):
    return [f"Question {i}?" for i in range(count)]


def profile_of(missing, scores=None):
    rows = [{"question": f"Hard {i}?", "missing_skills": skills} for i, skills in enumerate(missing)]
    return [row | ({"score": scores[i]} if scores is not None else {}) for i, row in enumerate(rows)]


def test_questions_are_drawn_for_each_missing_skill_of_each_response():
    skills = [["a"], ["a", "b"], ["b"], ["c"], ["a"]]
    found = select_for_skills(questions(5), skills, profile_of([["a"], ["a", "b"]]), questions_per_skill=2)
    assert found.demand == {"a": 2, "b": 1} and found.drawn == {"a": 4, "b": 2}
    assert found.questions == {"a": 3, "b": 2} and 3 not in found.kept
    assert {place for place in found.kept if "b" in skills[place]} == {1, 2}  # both, for the one response


def test_only_the_responses_with_the_lowest_scores_count():
    skills = [["a"], ["b"], ["c"]]
    profile = profile_of([["a"], ["b"], ["c"]], [0.9, 0.1, 0.5])
    assert select_for_skills(questions(3), skills, profile, hard_questions=1).kept == [1]
    found = select_for_skills(questions(3), skills, profile, hard_questions=2)
    assert found.kept == [1, 2] and found.difficult == [1, 2]


@settings(max_examples=50, deadline=None)
@given(TRAINING, PROFILE, st.integers(1, 3), st.randoms())
def test_selection_is_a_subset_that_depends_on_the_rows_only(skills, rows, per_skill, rng):
    missing, scores = map(list, zip(*rows, strict=True))
    profile, texts = profile_of(missing, scores), questions(len(skills))
    wanted = {skill for row in profile for skill in row["missing_skills"]}
    possible = {place for place, needed in enumerate(skills) if wanted & set(needed)}
    if not possible:
        with pytest.raises(ValueError, match="No training question needs a missing skill"):
            select_for_skills(texts, skills, profile, questions_per_skill=per_skill)
        return
    found = select_for_skills(texts, skills, profile, questions_per_skill=per_skill)
    assert found.kept == sorted(set(found.kept)) and set(found.kept) <= possible
    assert found == select_for_skills(texts, skills, profile, questions_per_skill=per_skill)
    for skill, demand in found.demand.items():
        assert found.drawn[skill] == demand * min(per_skill, found.questions[skill])
    order = rng.sample(range(len(texts)), len(texts))
    shuffled = select_for_skills(
        [texts[i] for i in order],
        [skills[i] for i in order],
        rng.sample(profile, len(profile)),
        questions_per_skill=per_skill,
    )
    assert found.kept == sorted(order[place] for place in shuffled.kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hard_questions": 0}, "must be at least 1, got 0 and 5"),
        ({"questions_per_skill": 0}, "must be at least 1, got 500 and 0"),
        ({"profile": profile_of([["z"]])}, "Missing: z; skills of the training set: a. Use the same names"),
        ({"profile": []}, "Missing: none"),
        ({"profile": profile_of([["a"], ["a"]], [0.1, math.nan])}, "Row 2 of the profile has the score nan"),
        ({"profile": profile_of([["a"], ["a"]], [None, 0.5])}, "Row 1 of the profile has the score None"),
        ({"skills": []}, "1 questions and 0 lists of skills"),
    ],
)
def test_bad_input_is_an_error(options, message):
    given = {"questions": ["?"], "skills": [["a"]], "profile": profile_of([["a"]]), **options}
    with pytest.raises(ValueError, match=message):
        select_for_skills(**given)


def test_pairs_are_a_random_subset():
    keys = [f"q{i}" for i in range(10)]
    pairs = choose_pairs([3] * 10, keys, pairs=12, seed=1)
    assert len(pairs) == 12 == len(set(pairs)) and pairs == sorted(pairs)
    assert pairs == choose_pairs([3] * 10, keys, pairs=12, seed=1) != choose_pairs([3] * 10, keys, pairs=12, seed=2)
    assert set(pairs) < set(choose_pairs([3] * 10, keys, pairs=13, seed=1))
    assert len(choose_pairs([3, 0, 1], keys[:3])) == 4 == len(choose_pairs([3, 0, 1], keys[:3], pairs=None))
    with pytest.raises(ValueError, match="pairs must be at least 1"):
        choose_pairs([1], ["q"], pairs=0)
