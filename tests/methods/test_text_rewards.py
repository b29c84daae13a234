# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig, GRPOTrainer
from trl.rewards import get_cosine_scaled_reward

from tests import tiny
from trl_concise.methods.text_rewards import (
    OPEN_RS_COSINE,
    json_similarity,
    srpo_length_reward,
    srpo_reward,
    think_end_reward,
    think_json_reward,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a\n</think>\nb", 1.0),
        ("a</think>\nb", 0.0),
        ("a\n</think> b", 0.0),
        ("a\n</think>\nb\n</think>\nc", 0.0),
        ("", 0.0),
        ([{"role": "assistant", "content": "a\n</think>\nb"}], 1.0),
    ],
)
def test_the_format_of_open_rs(text, value):
    assert think_end_reward([text]) == [value]


@pytest.mark.parametrize(("answer", "tokens", "value"), [(7, 0, 1.0), (7, 100, 0.5), (6, 0, 0.0), (6, 100, -0.5)])
def test_the_cosine_of_open_rs(answer, tokens, value):
    """A long completion earns less, correct or not."""
    reward = get_cosine_scaled_reward(100, **OPEN_RS_COSINE)
    completion = [{"role": "assistant", "content": rf"\boxed{{{answer}}}"}]
    assert reward([completion], solution=["$7$"], completion_ids=[[1] * tokens]) == [pytest.approx(value)]


# ThinkJSON


def with_tags(body: str) -> str:
    return f"<think>It says so.</think>\n<answer>{body}</answer>"


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        (with_tags('{"a": 1, "b": 3}'), 0.25 + 0.5 + 1),  # one of two keys, equal length
        (with_tags('{"b": 2, "a": 1.0}'), 2.0),
        (with_tags('```json\n{"a": 1, "b": 2}\n```'), 2.0),
        (with_tags('{"a": true, "b": 2}'), 0.25 + 0.5 * 13 / 16 + 1),  # true is not 1
        (with_tags('{"a": 1}'), 0.25 + 0.5 * 7 / 13 + 1),
        (with_tags("{}"), 0.5 * 2 / 13 + 1),
        (with_tags("[1, 2]"), 1.0),
        (with_tags("no JSON"), 1.0),
        (with_tags("[" * 100_000), 1.0),
        (with_tags('{"a": ' + "[" * 700 + "]" * 700 + "}"), 1.0),  # too deep to be written again
        (with_tags("9" * 10_000), 1.0),
        ('{"a": 1, "b": 2}', 1.0),  # no format
        ('<think>x</think>{"a": 1, "b": 2}', 1.0),
        ('I say <think>x</think><answer>{"a": 1, "b": 2}</answer>', 1.0),
        ('<think></think><answer>{"a": 1, "b": 2}</answer>', 1.0),  # nothing thought
        ("", 0.0),
        ([], 0.0),
    ],
)
def test_reward_of_think_json(completion, reward):
    assert think_json_reward([completion], solution=['{"a": 1, "b": 2}']) == [pytest.approx(reward)]


def test_a_prompt_that_opens_the_reasoning_and_an_unreadable_solution():
    completion = "x</think><answer>{}</answer>"
    assert think_json_reward([completion], solution=["{}"], prompts=["Q <think>\n"]) == [2.0]
    assert think_json_reward([completion], solution=["{}"], prompts=["Q"]) == [1.0]
    # what the chat template adds to messages is not seen
    messages = [{"role": "user", "content": "Q"}]
    assert think_json_reward([completion], solution=["{}"], prompts=[messages]) == [2.0]
    closed_twice = "x</think><answer>{}</answer></think>"
    assert think_json_reward([closed_twice], solution=["{}"], prompts=[messages]) == [1.0]
    assert think_json_reward([completion] * 3, solution=["{", None, "[1]"]) == [None] * 3
    assert think_json_reward([completion], solution=[{}]) == [1.0]


SIMPLE = st.none() | st.booleans() | st.integers(-99, 99) | st.text('a"é', max_size=3)
VALUES = SIMPLE | st.lists(SIMPLE | st.lists(SIMPLE, max_size=2), max_size=3)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)


@given(OBJECTS, OBJECTS)
def test_similarity_is_1_for_equal_objects_only(given_object, expected):
    similarity = json_similarity(given_object, expected)
    assert 0 <= similarity <= 1
    assert json_similarity(expected, expected) == 1
    if json.dumps(given_object, sort_keys=True) != json.dumps(expected, sort_keys=True):
        assert similarity < 1


# SRPO


def dialogue(first: str, second: str, think: str = "one two") -> str:
    return (
        f"<think>{think}</think><answer>{first}</answer><reflection>check</reflection>"
        f"<think>{think}</think><answer>{second}</answer>"
    )


def without_length(text: str) -> float:
    """Return the reward less that of the length, in characters."""
    (reward,) = srpo_reward([text], solution=["7"])
    first = text.partition("</answer>")[0].replace("<think>", "").replace("</think>", "").replace("<answer>", "")
    return reward - srpo_length_reward(len(text), len(first))


@pytest.mark.parametrize(
    ("first", "second", "accuracy"), [("6", "7", 1.0), ("7", "7", 0.75), ("7", "6", 0.25), ("6", "5", 0.0)]
)
def test_accuracy_before_and_after_the_reflection(first, second, accuracy):
    assert without_length(dialogue(first, second)) == pytest.approx(accuracy + 0.5)
    broken = dialogue(first, second).replace("<reflection>check</reflection>", "")
    assert without_length(broken) == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>x</think><answer>7</answer>", 0.5),
        ("<think>x</think><answer>6</answer>", 0.0),
        (r"<think>x</think>\boxed{7}", 0.0),
        ("", 0.0),
        ([{"role": "assistant", "content": "<answer>7</answer>"}], 0.5),
    ],
)
def test_one_answer_or_none(text, reward):
    assert srpo_reward([text], solution=["7"]) == [reward]


@pytest.mark.parametrize(("length", "reward"), [(600, 0.1), (750, 0.0368), (900, 0.0018), (450, 0.0368), (0, 0.0)])
def test_length_against_the_first_300_tokens(length, reward):
    assert srpo_length_reward(length, 300) == pytest.approx(reward, abs=5e-5)


def test_lengths_in_tokens_and_unreadable_answers(tokenizer):
    text = dialogue("6", "7", think="27+8=35\n" * 40)  # long enough that the tags hardly count
    characters, tokens = (srpo_reward([text], solution=["7"], tokenizer=count)[0] for count in (None, tokenizer))
    assert 1.5 < tokens <= 1.6 and characters == pytest.approx(tokens, abs=0.02)
    assert srpo_reward([text] * 3, solution=["", None, math.nan]) == [None] * 3
    assert srpo_length_reward(10, 0) == 0.0
    assert srpo_reward([text[len("<think>") :]], solution=["7"], prompts=["Q <think>"], tokenizer=tokenizer) == [
        tokens
    ]


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "x", "{}"])).map("".join)
)
def test_any_text_has_a_reward(text):
    (reward,) = think_json_reward([text], solution=["{}"])
    assert 0 <= reward <= 2


def test_with_the_trainer_of_trl(tiny_model, problems, tmp_path):
    dataset = problems.map(lambda row: {"solution": "{}"})
    rewards = [think_end_reward, think_json_reward]
    trainer = GRPOTrainer(tiny_model, rewards, GRPOConfig(**tiny.settings(tmp_path, max_steps=1)), dataset)
    trainer.train()
    assert trainer.state.log_history[0]["rewards/think_json_reward/mean"] == 0.0
