# SPDX-License-Identifier: Apache-2.0
"""
STAT-Sel: select training questions for the skills that a student is missing (https://huggingface.co/papers/2510.10023).

The steps and their numbers are those of the authors' README (princeton-pli/STAT @ 08e67c8); their code is not public.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .texts import digest


HARD_QUESTIONS, QUESTIONS_PER_SKILL, ANSWERS, PAIRS = 500, 5, 3, 9_500  # the authors'


@dataclass
class SkillSelection:
    """
    Questions selected for missing skills.

    Attributes:
        kept (`list[int]`): Places of the questions in the training set, in its order.
        demand (`dict[str, int]`): Skill -> in how many of the difficult responses it is missing.
        drawn (`dict[str, int]`): Skill -> how many questions were drawn for it, the same question at each draw counted.
        questions (`dict[str, int]`): Skill -> how many questions of the training set need it.
        kept_for (`dict[str, int]`): Skill -> how many different questions were drawn for it.
        difficult (`list[int]`): Places of the difficult responses in the profile.
    """

    kept: list[int]
    demand: dict[str, int] = field(default_factory=dict)
    drawn: dict[str, int] = field(default_factory=dict)
    questions: dict[str, int] = field(default_factory=dict)
    kept_for: dict[str, int] = field(default_factory=dict)
    difficult: list[int] = field(default_factory=list)


def select_for_skills(
    questions: Sequence[str],
    skills: Sequence[Sequence[str]],
    profile: Sequence[Mapping[str, Any]],
    *,
    hard_questions: int = HARD_QUESTIONS,
    questions_per_skill: int = QUESTIONS_PER_SKILL,
    seed: int = 0,
) -> SkillSelection:
    """
    Draw training questions for each skill that is missing in a response to a difficult question.

    The result depends on questions and profile, not on their order.

    Args:
        questions (`Sequence[str]`): The training questions.
        skills (`Sequence[Sequence[str]]`): Skills that each of them needs.
        profile (`Sequence[Mapping[str, Any]]`): The student's responses on a validation set: its `question`, the `missing_skills`
            (a list), and optionally a `score`, for example of a process reward model, which is low for a bad response.
        hard_questions (`int`, *optional*, defaults to `500`): At most this many responses, those with the lowest scores. Without
            scores, all of them.
        questions_per_skill (`int`, *optional*, defaults to `5`): Training questions drawn for each missing skill of each response.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.

    Returns:
        `SkillSelection`: The questions; one that was drawn several times is kept once.

    Raises:
        `ValueError`: If an argument is out of range, a score is not finite or missing in some rows only, or no missing skill
            is one of a training question.

    Examples:
        >>> training = ["1+1", "2*3", "4*5"]
        >>> skills = [["addition"], ["multiplication"], ["multiplication"]]
        >>> profile = [{"question": "6*7", "missing_skills": ["multiplication"]}]
        >>> select_for_skills(training, skills, profile).kept
        [1, 2]
    """
    if hard_questions < 1 or questions_per_skill < 1:
        raise ValueError(
            f"hard_questions and questions_per_skill must be at least 1, got {hard_questions} and {questions_per_skill}."
        )
    if len(questions) != len(skills):
        raise ValueError(f"There are {len(questions)} questions and {len(skills)} lists of skills. Give one of each.")
    places: dict[str, list[int]] = {}
    order = sorted(range(len(questions)), key=lambda place: digest(questions[place]))  # depends on the questions only
    for place in order:
        for skill in dict.fromkeys(skills[place]):
            places.setdefault(skill, []).append(place)
    difficult = _difficult(profile, hard_questions)
    result = SkillSelection([], difficult=difficult)
    kept: dict[str, set[int]] = {}
    for number in difficult:
        row = profile[number]
        for skill in dict.fromkeys(row["missing_skills"]):
            there = places.get(skill, [])
            result.demand[skill] = result.demand.get(skill, 0) + 1
            rng = random.Random(digest(str(seed), row["question"], skill))
            chosen = rng.sample(there, min(questions_per_skill, len(there)))
            result.drawn[skill] = result.drawn.get(skill, 0) + len(chosen)
            kept.setdefault(skill, set()).update(chosen)
    result.demand = dict(sorted(result.demand.items(), key=lambda item: (-item[1], item[0])))
    result.questions = {skill: len(places.get(skill, [])) for skill in result.demand}
    result.kept_for = {skill: len(kept[skill]) for skill in result.demand}
    result.kept = sorted(set().union(*kept.values()))
    if not result.kept:
        missing = ", ".join(list(result.demand)[:5]) or "none"
        known = ", ".join(sorted(places)[:5]) or "none"
        raise ValueError(
            f"No training question needs a missing skill. Missing: {missing}; skills of the training set: {known}. Use the same "
            "names in both."
        )
    return result


def _difficult(profile: Sequence[Mapping[str, Any]], hard_questions: int) -> list[int]:
    """Places of the responses with the lowest scores."""
    scores = [row.get("score") for row in profile]
    if set(scores) <= {None}:
        return list(range(len(profile)))
    for number, score in enumerate(scores, 1):
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise ValueError(
                f"Row {number} of the profile has the score {score!r}. Give every row a finite number, or none of them."
            )
    keys = [(float(score), digest(row["question"])) for score, row in zip(scores, profile, strict=True)]  # type: ignore[arg-type]
    return sorted(sorted(range(len(profile)), key=keys.__getitem__)[:hard_questions])


def choose_pairs(
    answers: Sequence[int], keys: Sequence[str], *, pairs: int | None = PAIRS, seed: int = 0
) -> list[tuple[int, int]]:
    """
    Choose a random subset of question-answer pairs.

    Args:
        answers (`Sequence[int]`): Number of answers of each question.
        keys (`Sequence[str]`): Text of each question.
        pairs (`int`, *optional*, defaults to `9500`): Pairs to keep at most; `None`: all.
        seed (`int`, *optional*, defaults to `0`): Seed of the subset.

    Returns:
        `list[tuple[int, int]]`: Places of the question and of its answer, in order.

    Raises:
        `ValueError`: If `pairs` is below 1.
    """
    if pairs is not None and pairs < 1:
        raise ValueError(f"pairs must be at least 1, got {pairs}.")
    every = [(place, answer) for place, count in enumerate(answers) for answer in range(count)]
    return sorted(sorted(every, key=lambda pair: digest(str(seed), keys[pair[0]], str(pair[1])))[:pairs])
