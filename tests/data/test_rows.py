# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from trl_concise.data.rows import add_prompt_suffix, read_column, read_generations


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        ({"a": 1}, "a", 1),
        ({"a": 1}, "b", None),
        ({"a": {"b": {"c": 1}}}, "a.b.c", 1),
        ({"a": [{"b": 1}, {"b": None}, None]}, "a.b", [1, None, None]),
        ({"a": None}, "a.b", None),
        ({"a": float("nan")}, "a", None),
        ({"a": float("nan")}, "a.b", None),
    ],
)
def test_read_column(row, column, value):
    assert read_column(row, column) == value


@pytest.mark.parametrize(("value", "there"), [({"c": 1, "d": 2}, "c, d"), ([{"c": 1}], "c"), ("text", "a str")])
def test_a_column_without_subcolumns_is_named(value, there):
    with pytest.raises(ValueError, match=f"No column 'a.b': 'b' was looked for, but there is {there}"):
        read_column({"a": value}, "a.b")


def test_read_generations():
    assert read_generations({"g": ("a", None)}, "g") == ["a", None]
    assert read_generations({"g": None}, "g") == read_generations({}, "g") == []
    with pytest.raises(
        ValueError, match="'g' must hold a list of texts, got a str: Two. Put a single text into a list"
    ):
        read_generations({"g": "Two"}, "g")
    with pytest.raises(ValueError, match="'g' must hold a list of texts, got a int in it: 3"):
        read_generations({"g": ["a", 3]}, "g")


def test_a_suffix_goes_after_the_last_message_of_the_user():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "<think>"},
    ]
    extended = add_prompt_suffix({"prompt": messages}, r"Use \boxed{}.")["prompt"]
    assert [message["content"] for message in extended] == ["Be brief.", r"1 + 1? Use \boxed{}.", "<think>"]
    assert messages[1]["content"] == "1 + 1?"
    assert add_prompt_suffix({"prompt": "1 + 1?"}, "Think.") == {"prompt": "1 + 1? Think."}
    with pytest.raises(ValueError, match="is appended to the last user message"):
        add_prompt_suffix({"prompt": messages[:1]}, "Think.")
