# SPDX-License-Identifier: Apache-2.0
"""Golden values: of the authors' function, run, and of the paper's equations 5 and 6."""

from __future__ import annotations

import random
import time

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests import slot_rows, tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import LocalRollouts, Rollouts
from trl_concise.methods.campo import RepetitionReward, StagedBudget, trailing_loop


def released_rule(tokens: list[int], earliest: bool = False) -> float:
    """Walk back from the end in blocks of each period; a longer period replaces a shorter one. Quadratic time."""
    size, start = len(tokens), len(tokens)
    for period in range(1, size // 2 + 1):
        right = size - period
        while right - period >= 0 and tokens[right - period : right] == tokens[right : right + period]:
            right -= period
        if right < size - period:
            start = min(start, right) if earliest else right
    return (size - start) / size if size else 0.0


LOOPS = [
    ([1, 2, 3, 4, 5, 6, 7, 8], 0, 0),
    ([1, 2] + [9] * 6, 0.75, 0.75),
    ([1, 2, 3, 4, 7, 8, 7, 8], 0.5, 0.5),
    ([5] * 8, 1, 1),
    ([1, 2, 3, 1, 2, 3, 1, 2], 0.75, 0.75),
    ([5] * 7, 6 / 7, 1),
    ([1, 2, 2, 2, 2, 2], 4 / 6, 5 / 6),
    ([1, 1], 1, 1),
    ([1], 0, 0),
    ([], 0, 0),
    ([7, 8, 7, 8, 1], 0, 0),  # another token ends the loop
    ([7, 8, 7, 8, 8], 0.4, 0.4),  # unless it closes a loop itself
    ([1, 1, 2, 3], 0, 0),  # a repetition that is not at the end
]


@pytest.mark.parametrize(("tokens", "longest_period", "earliest_start"), LOOPS)
def test_golden_loops(tokens, longest_period, earliest_start):
    assert trailing_loop(tokens) == pytest.approx(longest_period)
    assert trailing_loop(tokens, loop="earliest_start") == pytest.approx(earliest_start)
    assert released_rule(tokens) == pytest.approx(longest_period)


# Blocks that repeat, with a change somewhere: random tokens alone hardly ever loop.
looping = st.builds(
    lambda head, block, repeats, tail: head + block * repeats + tail,
    *(st.lists(st.integers(0, 2), max_size=size) for size in (8, 6)),
    st.integers(0, 6),
    st.lists(st.integers(0, 2), max_size=4),
)


@given(st.one_of(looping, st.lists(st.integers(0, 1), max_size=40)))
@example([0, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1])  # a Fibonacci word: many periods
def test_it_is_the_released_rule(tokens):
    assert trailing_loop(tokens) == released_rule(tokens)
    assert trailing_loop(tokens, loop="earliest_start") == released_rule(tokens, earliest=True)
    assert 0 <= trailing_loop(tokens) <= trailing_loop(tokens, loop="earliest_start") <= 1


def fibonacci_word(size: int) -> list[int]:
    one, other = [0], [0, 1]
    while len(other) < size:
        one, other = other, other + one
    return other[:size]


@pytest.mark.parametrize(
    "make",
    [
        lambda size: [5] * size,
        lambda size: [7, *[5] * (size - 1)],
        lambda size: [5] * (size // 2) + [7] + [5] * (size // 2),
        fibonacci_word,
        lambda size: random.Random(0).choices([0, 1], k=size),
        lambda size: random.Random(0).choices(range(1000), k=size // 2) * 2,
    ],
    ids=["one token", "late start", "broken", "Fibonacci", "random", "one long block"],
)
def test_32k_tokens_take_a_fraction_of_a_second(make):
    """It takes less than 10 ms on a quiet core."""
    tokens = make(32_768)
    start = time.process_time()
    trailing_loop(tokens)
    assert time.process_time() - start < 1


# The reward

SEQUENCES = [tokens for tokens, _, _ in LOOPS[:5]]
CORRECT = [1, 0, 1, 0, 0]


def rollouts_of(component: RepetitionReward, truncated) -> Rollouts:
    lengths = torch.tensor([len(tokens) for tokens in SEQUENCES])
    local = LocalRollouts([""] * 5, [""] * 5, SEQUENCES, None, lengths, {}, 5, 0, True)
    measured = {component.name: component.measure(local)}
    correct = torch.tensor(CORRECT, dtype=torch.float32)
    return Rollouts(("a",) * 5, lengths, correct, 5, truncated=torch.tensor(truncated), measured=measured)


@pytest.mark.parametrize(
    ("form", "rewards", "advantages"),
    [
        ("paper", [1, -0.75, 0.5, -1, -0.75], [1.347, -0.617, 0.786, -0.898, -0.617]),
        ("released", [1, -0.1, 0.9, -0.1, -0.1], [1.18, -0.729, 1.007, -0.729, -0.729]),
    ],
)
def test_golden_rewards(form, rewards, advantages):
    component = RepetitionReward(form)
    rollouts = rollouts_of(component, [False, True, True, True, True])
    total = rollouts.correct + component.score(rollouts)
    assert total.tolist() == pytest.approx(rewards)
    normalized = (total - total.mean()) / (total.std() + 1e-6)
    assert normalized.tolist() == pytest.approx(advantages, abs=1e-3)
    component.observe(rollouts)
    assert component.metrics() == {"looped_fraction": pytest.approx(0.8), "share": pytest.approx(0.75)}


def test_released_and_nothing_truncated_is_plain():
    component = RepetitionReward("released")
    assert not component.score(rollouts_of(component, [False] * 5)).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RepetitionReward("code"), r"form must be one of \('paper', 'released'\), got 'code'"),
        (lambda: RepetitionReward(loop="shortest"), "loop must be one of .*, got 'shortest'"),
        (lambda: RepetitionReward(constant=-1), "constant must be at least 0 and finite, got -1"),
        (lambda: trailing_loop([1, 1], loop="all"), "loop must be one of .*, got 'all'"),
        (lambda: StagedBudget([8], [1]), "limits must have one more value than steps"),
        (lambda: StagedBudget([8, 0], [1]), "limits must be at least 1 token and steps at least 1 step"),
        (lambda: StagedBudget([8, 9], [0]), "limits must be at least 1 token and steps at least 1 step"),
    ],
)
def test_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Stages


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 20)), min_size=1, max_size=4), st.integers(1, 50))
def test_stages_follow_each_other(stages, last):
    limits, steps = [limit for limit, _ in stages] + [last], [count for _, count in stages]
    budget = StagedBudget(limits, steps)
    expected = [limit for limit, count in stages for _ in range(count)] + [last] * 3
    assert [budget.max_completion_length(step) for step in range(len(expected))] == expected
    assert budget.longest == max(limits)


def test_stages_and_the_penalty_in_training(tiny_model, tmp_path):
    """A completion that fills its limit with one token is truncated, and loops; three quarters of the third one do."""

    def loops(prompts, trainer):
        limit = trainer.max_completion_length
        ids = [[10, 11, 12, 2], [10] * limit, [9, 10, 10, 10], [10, 11, 2]] * (len(prompts) // 4)
        return {"prompt_ids": [[5, 6, 7]] * len(prompts), "completion_ids": ids, "logprobs": None}

    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=3, max_completion_length=8))
    trainer = ConciseGRPOTrainer(
        tiny_model,
        [slot_rows.correct_if_even, RepetitionReward()],
        args,
        slot_rows.problems(),
        budget_schedule=StagedBudget([4, 6], [2]),
        rollout_func=loops,
    )
    trainer.train()
    logged = slot_rows.logged(trainer)
    assert [entry["staged_budget/budget"] for entry in logged] == [4, 4, 6]
    assert [entry["staged_budget/stage"] for entry in logged] == [0, 0, 1]
    assert [entry["completions/max_length"] for entry in logged] == [4, 4, 6]
    assert [entry["rewards/RepetitionReward/mean"] for entry in logged] == [-0.4375] * 3
    assert [entry["repetition/share"] for entry in logged] == [0.875] * 3
    # Equations 5 and 6: correctness [0, 0, 0, 1] less the shares, then less the mean, divided by the standard deviation.
    assert list(trainer._logs["rewards"]["RepetitionReward"]) == [0, -1, -0.75, 0] * 2
    totals = [0, -1, -0.75, 1]
    advantages = [(total + 0.1875) / (0.898494 + 1e-4) for total in totals]
    assert list(trainer._logs["advantages"]) == pytest.approx(advantages * 2, abs=1e-5)
