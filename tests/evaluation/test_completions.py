# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from trl_concise import math_accuracy_reward
from trl_concise.demo import model_path
from trl_concise.evaluation import Completion, has_no_answer, read_completions, summarize
from trl_concise.evaluation.completions import count_complete, judge, truncate_at, unreadable_reference_answers
from trl_concise.verification.finished import is_finished


@pytest.mark.parametrize(
    ("text", "empty"),
    [("", True), (" \n", True), ("42", False), ("<think>42</think>", True), ("<think>6 * 7", False)],
)
def test_has_no_answer(text, empty):
    assert has_no_answer(text) is empty


def completion(problem, k, correct, tokens, *, truncated=False, text="1") -> Completion:
    return Completion("set", problem, k, "1", text, list(range(tokens)), truncated, correct)


def test_summary_by_hand():
    record = summarize(
        [
            completion(0, 0, True, 10),
            completion(0, 1, True, 20),
            completion(1, 0, True, 30),
            completion(1, 1, False, 60, truncated=True, text=""),
            completion(2, 0, None, 1000),
            completion(2, 1, None, 1000),
        ]
    )
    assert record["problems"] == 2  # the third has no readable answer
    assert record["completions_per_problem"] == 2
    assert record["accuracy"] == 0.75
    assert record["accuracy_interval"] == [0.5, 1.0]
    assert record["pass_at_k"] == {"1": 0.75, "2": 1.0}
    assert record["tokens_mean"] == 30
    assert record["tokens_interval"] == [15, 45]
    assert record["tokens_correct_mean"] == 20
    assert record["tokens_wrong_mean"] == 60
    assert record["truncated_fraction"] == record["empty_fraction"] == 0.25


def test_a_problem_is_summarized_only_if_all_its_completions_are_judged():
    readable = [completion(0, k, True, 5) for k in range(4)]
    record = summarize(
        [*readable, completion(1, 0, False, 5, text=""), *(completion(1, k, None, 5) for k in (1, 2, 3))]
    )
    assert record == summarize(readable)
    assert list(record["pass_at_k"]) == ["1", "2", "4"]


def test_unreadable_reference_answers():
    assert unreadable_reference_answers(["1", "$", "", "[" * 21 + "1" + "]" * 21, r"\frac{1}{2}", "0"]) == {1, 2, 3}
    items = [Completion("set", 0, k, "$", text, [1, 2], False) for k, text in enumerate(["", "7", r"\boxed{$}"])]
    assert [item.correct for item in judge(items)] == [False, None, True]  # which is why they are told apart first
    assert [item.correct for item in judge(items, unreadable={0})] == [None] * 3
    cut = truncate_at(judge(items, unreadable={0}), 1, AutoTokenizer.from_pretrained(model_path()))
    assert [item.correct for item in cut] == [None] * 3


def test_an_incomplete_batch():
    old = [completion(0, 0, True, 5)] * 3  # of an earlier version
    batches = [replace(old[0], batch_size=size) for size in (2, 2, 4, 4, 4, 4)]
    assert [count_complete(old + batches[:n]) for n in range(7)] == [3, 3, 5, 5, 5, 5, 9]
    assert count_complete([]) == 0


def test_summary_where_all_are_right():
    record = summarize([completion(0, k, True, 5) for k in range(3)])
    assert record["tokens_wrong_mean"] is None
    assert list(record["pass_at_k"]) == ["1", "2", "3"]
    with pytest.raises(ValueError, match="No completion has a readable reference answer"):
        summarize([completion(0, 0, None, 5)])


def test_lines_are_read_back(tmp_path):
    items = [completion(0, 0, True, 3, text="α\u2028\n"), completion(0, 1, None, 2)]
    path = tmp_path / "completions.jsonl"
    path.write_text("".join(item.line() for item in items) + items[0].line()[:20], encoding="utf-8")
    assert read_completions(path) == items


def test_truncated_reasoning_is_not_an_answer():
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    for text in ["6*7=42\n</think>\n\\boxed{42}", "6*7=42"]:
        ids = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
        (cut,) = truncate_at(judge([Completion("set", 0, 0, "42", text, ids, False)]), 3, tokenizer)
        assert (cut.text, cut.correct) == ("6*7", False)  # math-verify computes


@pytest.mark.parametrize(
    ("text", "truncated", "reasoning_opened", "correct"),
    [
        (r"\boxed{5}", False, False, True),
        (r"\boxed{5}", True, False, False),  # it reached the limit
        (r"\boxed{5", False, False, False),
        ("<think>2 + 3 = 5. But wait, 2 + 3", False, False, False),
        ("2 + 3 = 5</think> It is 5.", False, True, True),
        ("2 + 3 = 5", False, True, False),  # the prompt opened the reasoning
        ("2 + 3 = 5", False, False, True),
        (r"\boxed{2 + 3}", False, False, False),  # not in final form
    ],
)
def test_evaluation_and_training_judge_alike(text, truncated, reasoning_opened, correct):
    item = Completion("set", 3, 0, "5", text, [1, 2], truncated)
    (judged,) = judge([item], reasoning_opened={3} if reasoning_opened else ())
    assert judged.correct is correct
    finished = [is_finished(text, truncated=truncated, reasoning_opened=reasoning_opened)]
    assert math_accuracy_reward([text], solution=["5"], completion_finished=finished) == [float(correct)]


def test_a_budget_control_counts_what_is_finished_within_it():
    """Each prefix of a completion is wrong, the ones that hold the closed box included."""
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    ids = [*tokenizer("6*7=42\n</think>\n\\boxed{42}").input_ids, tokenizer.eos_token_id]
    (item,) = judge([Completion("set", 0, 0, "42", tokenizer.decode(ids[:-1]), ids, False)])
    assert item.correct
    assert not any(truncate_at([item], budget, tokenizer)[0].correct for budget in range(1, len(ids)))


def test_truncated_completions_are_judged_again():
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    texts = ["9-5=4\n</think>\n\\boxed{42}", "42"]
    items = judge(
        [
            Completion("set", row, 0, "42", text, [*tokenizer(text).input_ids, tokenizer.eos_token_id], False)
            for row, text in enumerate(texts)
        ]
    )
    assert [item.correct for item in items] == [True, True]
    budget = items[1].tokens
    cut = truncate_at(items, budget, tokenizer)
    assert cut[1] == items[1]
    assert (cut[0].tokens, cut[0].truncated, cut[0].correct) == (budget, True, False)
    assert items[0].completion_ids[:budget] == cut[0].completion_ids
    assert truncate_at(items, 10_000, tokenizer) == items
