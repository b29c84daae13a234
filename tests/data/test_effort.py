# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from trl_concise.data import with_effort


LEVELS = {"low": 32, "medium": 64, "high": None}


def rows(count: int) -> Dataset:
    return Dataset.from_list(
        [{"prompt": [{"role": "user", "content": f"{i}?"}], "solution": "1"} for i in range(count)]
    )


def test_levels_are_in_the_prompt_and_in_the_columns():
    dataset = with_effort(rows(60), LEVELS)
    assert set(dataset["effort"]) == set(LEVELS)
    for row in dataset:
        assert row["prompt"][-1]["content"].endswith(f"? Reasoning effort: {row['effort']}.")
        assert row["effort_tokens"] == LEVELS[row["effort"]]


def test_a_level_depends_on_the_prompt_and_the_seed_only():
    one = with_effort(rows(60), LEVELS)
    backwards = with_effort(rows(60).select(range(59, -1, -1)), dict(reversed(LEVELS.items())))
    assert one["effort"][:] == backwards["effort"][::-1]
    assert with_effort(rows(60), LEVELS, seed=1)["effort"][:] != one["effort"][:]


def test_a_streamed_dataset_and_one_of_several_splits_have_the_same_levels():
    expected = with_effort(rows(20), LEVELS)["effort"][:]
    assert [row["effort"] for row in with_effort(rows(20).to_iterable_dataset(), LEVELS)] == expected
    assert with_effort(DatasetDict(test=rows(20)), LEVELS)["test"]["effort"][:] == expected


def test_text_prompts_ids_and_other_instructions():
    dataset = Dataset.from_list([{"prompt": "1 + 1?", "prompt_id": "p1"}])
    (row,) = with_effort(dataset, ["low"], instruction="[{level}]")
    assert row == {"prompt": "1 + 1? [low]", "prompt_id": "p1 low", "effort": "low", "effort_tokens": None}


def test_a_prompt_with_an_image_gets_one_more_text():
    content = [{"type": "image", "text": None}, {"type": "text", "text": "1 + 1?"}]
    dataset = Dataset.from_list([{"prompt": [{"role": "user", "content": content}], "prompt_id": "p"}])
    (row,) = with_effort(dataset, ["low"])
    assert [part["text"] for part in row["prompt"][0]["content"]] == [None, "1 + 1?", " Reasoning effort: low."]


@pytest.mark.parametrize(
    ("levels", "settings", "message"),
    [
        ({}, {}, "levels must name at least one level, .* got {}"),
        ("low", {}, "levels must name at least one level, .* got 'low'"),
        ({" ": 3}, {}, "A level must have a name, got ' '"),
        ({"low": 0}, {}, "The level 'low' must have at least 1 token, as a whole number, or None for no limit; got 0"),
        ({"low": float("nan")}, {}, "The level 'low' must have at least 1 token"),
        ({"low": float("inf")}, {}, "The level 'low' must have at least 1 token"),
        ({"low": "64"}, {}, "as a whole number, or None for no limit; got '64'"),
        ({"low": 3}, {"instruction": ""}, r"instruction must contain \{level\}"),
    ],
)
def test_levels_that_say_nothing_are_refused(levels, settings, message):
    with pytest.raises(ValueError, match=message):
        with_effort(rows(1), levels, **settings)
