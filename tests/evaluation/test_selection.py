# SPDX-License-Identifier: Apache-2.0
"""Best-of-n and majority vote, on completions written by hand."""

from __future__ import annotations

import pytest
from datasets import Dataset

from trl_concise import math_accuracy_reward
from trl_concise.evaluation import Completion, best_of_n
from trl_concise.evaluation.selection import choose_best, choose_majority, find_votes


PROMPT = [{"role": "user", "content": "Half of one?"}]
PROBLEMS = {"set": Dataset.from_list([{"prompt": PROMPT, "solution": "1/2"}, {"prompt": PROMPT, "solution": "3"}])}
ANSWERS = [["0.5", "2", "\\frac{1}{2}", "2", "2", "7"], ["1", "1", "3", None, "3", "1"]]
CORRECT = [[True, False, True, False, False, False], [False, False, True, False, True, False]]


def items(problem: int) -> list[Completion]:
    return [
        Completion(
            "set",
            problem,
            k,
            PROBLEMS["set"]["solution"][problem],
            f"So \\boxed{{{answer}}}" if answer else "So",
            [1] * (k + 1),
            truncated=answer is None,
            correct=correct,
        )
        for k, (answer, correct) in enumerate(zip(ANSWERS[problem], CORRECT[problem], strict=True))
    ]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "completions.jsonl").write_text("".join(item.line() for p in (1, 0) for item in items(p)))
    return tmp_path


def by_answer(prompts, completions, solution):
    """A score that knows the answers, and takes the truncated completion for the best one."""
    assert all(prompt == PROMPT for prompt in prompts)
    assert sorted(solution) == ["1/2"] * 6 + ["3"] * 6
    texts = [completion[-1]["content"] for completion in completions]
    return [9.0 if text == "So" else float(any(part in text for part in ("0.5", "frac", "{3}"))) for text in texts]


def test_equal_answers_are_one_vote():
    assert find_votes(items(0)) == [0, 1, 0, 1, 1, 2]
    assert find_votes(items(1)) == [0, 0, 1, None, 1, 0]


def test_choices():
    assert choose_majority([0, 1, 0, 1, 1, 2]) == 1 and choose_majority([3, 1, 1, 3]) == 0
    assert choose_majority([None, None]) is None
    assert choose_best(items(1), [0.0, 1.0, 1.0, 9.0, None, float("nan")]) == 1  # the first of the best, not truncated
    assert choose_best(items(1)[3:4], [1.0]) is None


def test_best_of_n_next_to_majority_vote(folder):
    records = {record["n"]: record for record in best_of_n(folder, PROBLEMS, by_answer, (1, 3, 6))}
    one, three, six = records.values()
    assert one["best_accuracy"] == one["majority_accuracy"] == one["any_accuracy"] == pytest.approx(4 / 12)
    assert one["groups"] == 6 and one["tokens_mean"] == 3.5 and one["difference_interval"] == [0.0, 0.0]
    # Groups: 0.5 2 1/2 | 2 2 7 | 1 1 3 | - 3 1; the vote takes 0.5, 2, 1 and 3.
    assert three["best_accuracy"] == three["any_accuracy"] == 0.75 and three["majority_accuracy"] == 0.5
    assert three["tokens_mean"] == pytest.approx((6 + 15) / 2)
    assert six["best_accuracy"] == 1.0 and six["majority_accuracy"] == 0.0 and six["tokens_mean"] == 21
    assert six["problems"] == 2 and six["dataset"] == "set" and six["difference_interval"] == [1.0, 1.0]


def test_a_constant_score_takes_the_first(folder):
    (record,) = best_of_n(folder, PROBLEMS, lambda prompts, completions, **kwargs: [0.0] * len(prompts), [6])
    assert record["best_accuracy"] == 0.5 and record["any_accuracy"] == 1.0


def test_a_reward_function_reads_the_columns_of_the_set(folder):
    (record,) = best_of_n(folder, PROBLEMS, math_accuracy_reward, [6])
    assert record["best_accuracy"] == 1.0


def test_evaluations_that_do_not_fit(folder, tmp_path):
    for sizes in ((), (0,), (7,)):
        with pytest.raises(ValueError, match="sizes must be between 1 and 6, the completions per problem of 'set'"):
            best_of_n(folder, PROBLEMS, by_answer, sizes)
    with pytest.raises(ValueError, match="has no completions of 'other'"):
        best_of_n(folder, {"other": PROBLEMS["set"]}, by_answer)
    with pytest.raises(FileNotFoundError, match="Give the output folder of `trl-concise eval`"):
        best_of_n(tmp_path / "none", PROBLEMS, by_answer)
