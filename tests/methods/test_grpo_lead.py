# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the formulas of the authors' code (aeroplanepaper/GRPO-LEAD @ 9344bef)."""

from __future__ import annotations

import math

import pytest
import torch

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, DifficultyWeighting, GRPOLEADReward
from trl_concise.batch.rollouts import LocalRollouts, Rollouts
from trl_concise.methods.grpo_lead import difficulty_weight, grpo_lead_reward, has_adjacent_repetition


LENGTHS = torch.tensor([[800, 1500, 2600, 500, 4000]])
CORRECT = torch.tensor([[1.0, 1, 1, 0, 0]])


def test_golden_values():
    rewards = grpo_lead_reward(LENGTHS, CORRECT)[0].tolist()
    assert rewards == pytest.approx([1.0470, 1.0074, 0.9481, -1, -1], abs=1e-4)


def test_golden_weights():
    weights = difficulty_weight(torch.tensor([0, 0.25, 0.5, 0.75, 1])).tolist()
    assert weights == pytest.approx([1.4994, 1.4926, 1.4166, 0.95, 0.4834], abs=1e-4)


@pytest.mark.parametrize("correct", [[1.0, 0], [1.0, 1.0], [0.0, 0], [math.nan, 1]])
def test_equal_correct_lengths_have_no_length_term(correct):
    rewards = grpo_lead_reward(torch.tensor([[7, 7]]), torch.tensor([correct]))[0].tolist()
    expected = [right if math.isnan(right) else 1.0 if right else -1.0 for right in correct]
    assert rewards == pytest.approx(expected, nan_ok=True)


def test_with_the_correctness_it_is_the_papers_reward_and_groups_do_not_mix():
    correct = torch.cat([CORRECT[0], torch.zeros(5)])
    rollouts = Rollouts(("a",) * 5 + ("b",) * 5, LENGTHS[0].repeat(2), correct, 5)
    total = correct + GRPOLEADReward().score(rollouts)
    assert total.tolist() == pytest.approx([1.0470, 1.0074, 0.9481, -1, -1] + [-1] * 5, abs=1e-4)


def test_successes_weigh_by_difficulty_and_failures_by_ease():
    correct = torch.tensor([1.0, 0, 0, 0, math.nan, math.nan, math.nan, math.nan])
    rollouts = Rollouts(tuple("aaaabbbb"), torch.ones(8, dtype=torch.long), correct, 4, local=slice(0, 8))
    advantages = torch.tensor([3.0, -1, -1, -1, 1, -1, 0, 0])
    weighted = DifficultyWeighting().compute(rollouts, advantages)
    assert weighted[:4].tolist() == pytest.approx([3 * 1.4926, *[-0.95] * 3], abs=1e-3)  # w(0.25), w(0.75)
    assert weighted[4:].tolist() == [1, -1, 0, 0]  # nobody knows how hard it is


def test_both_components_train(tiny_model, problems, tmp_path):
    trainer = ConciseGRPOTrainer(
        tiny_model,
        [tiny.even_reward, GRPOLEADReward()],
        ConciseGRPOConfig(**tiny.settings(tmp_path)),
        problems,
        advantage=DifficultyWeighting(),
    )
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.model.parameters(), strict=True))


def test_groups_of_short_completions_have_no_length_term():
    # The three shortest, correct or wrong, are 500, 800 and 1,500: 933.3 tokens on average.
    for min_length, first in [(933, 1.0470), (934, 1.0)]:
        rewards = grpo_lead_reward(LENGTHS, CORRECT, min_length=min_length)[0].tolist()
        assert rewards[0] == pytest.approx(first, abs=1e-4) and rewards[3:] == [-1, -1]


def test_the_reward_of_the_authors_code():
    texts = [
        r"<think>x</think>\boxed{1}",  # correct
        r"<think>x</think>\boxed{2}",  # wrong
        r"<think>it is \boxed{1}",  # correct, but the thinking never ends
        "<think>x</think>1",  # not boxed
        "<think>" + " wait" * 10,
        "</think>" + "1" * 120,
    ]
    released = GRPOLEADReward(min_length=4000, unanswered_reward=0.0, repetition_reward=-2.0)
    correct, lengths = torch.tensor([1.0, 0, 1, 1, 0, math.nan]), torch.full((6,), 5000)
    local = LocalRollouts(["p"] * 6, texts, [[1]] * 6, None, lengths, {}, 6, 0, True)
    rollouts = Rollouts(("p",) * 6, lengths, correct, 6, measured={"grpo_lead": released.measure(local)})
    total = (correct + released.score(rollouts)).tolist()
    assert total == pytest.approx([1, -1, 0, 0, -2, math.nan], nan_ok=True)
    assert released.measure(local)["unanswered"][-1] == -2  # a word of 120 characters


def test_repetition_is_adjacent():
    assert has_adjacent_repetition("so we add one " * 10) and not has_adjacent_repetition("so we add one " * 9)
    assert not has_adjacent_repetition(" ".join(f"wait {i}" for i in range(100)))
    assert not has_adjacent_repetition("")


def test_unsolved_groups_can_be_left_out():
    correct = torch.tensor([0.0, 0, 0, 0, 1, 0, 0, 0])
    rollouts = Rollouts(tuple("aaaabbbb"), torch.ones(8, dtype=torch.long), correct, 4, local=slice(0, 8))
    weighted = DifficultyWeighting(skip_unsolved=True).compute(rollouts, torch.tensor([1.0, -1] * 4))
    assert weighted[:4].tolist() == [0] * 4 and (weighted[4:] != 0).all()


def test_a_repetition_without_an_answer_is_set_with_it():
    with pytest.raises(ValueError, match="unanswered_reward is None. Set unanswered_reward"):
        GRPOLEADReward(repetition_reward=-2.0)


def test_a_reward_for_length_is_refused():
    with pytest.raises(ValueError, match="alpha must be at least 0, got -1"):
        GRPOLEADReward(alpha=-1)
