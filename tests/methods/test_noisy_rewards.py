# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the paper, independently of this package."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import LocalRollouts, Rollouts
from trl_concise.methods.noisy_rewards import (
    PHRASES,
    NoisyReward,
    PatternCalibration,
    draw_flip,
    flip_rewards,
    ngram_repetition,
    pattern_score,
    reasoning_pattern_reward,
    thinking_text,
)


# The reasoning-pattern reward


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("Wait, let me check. Therefore x = 2.", {}, 0.075),
        ("First, we need to factor. Firstly, whence it came.", {}, 0.1),  # hence, in whence
        ("First, we need to factor. Firstly, whence it came.", {"whole_words": True}, 0.075),
        ("wait " * 45, {}, 0.0),  # 0.025 - 1/26
        ("Wait. Wait! WAIT", {}, 0.025),
        ("Wait. Wait! WAIT", {"count_repeats": True}, 0.075),
        (" ".join(f"thus {i}" for i in range(90)), {"count_repeats": True}, 1.0),
        ("Wait, let me check. Therefore x = 2.", {"divisor": 20}, 0.15),
        (". ".join(PHRASES), {"divisor": 20}, 1.0),
        ("", {}, 0.0),
    ],
)
def test_golden_pattern_scores(text, settings, expected):
    assert pattern_score(text, **settings) == pytest.approx(expected, abs=1e-9)


def test_there_are_40_phrases_of_which_each_counts_once():
    assert len(set(PHRASES)) == 40
    assert pattern_score(". ".join(PHRASES)) == 1.0
    for phrase in PHRASES:
        contained = sum(other in phrase for other in PHRASES)
        assert pattern_score(f"So {phrase} x.") == pytest.approx(contained / 40)


def test_golden_repetition():
    assert ngram_repetition("a b a b a", n=2) == 0.5
    assert ngram_repetition("wait " * 45) == pytest.approx(1 / 26)
    assert ngram_repetition("a b", n=3) == 0


@given(st.lists(st.sampled_from([*PHRASES, "x", "=", "2"]), max_size=60), st.booleans(), st.booleans())
def test_pattern_scores_are_shares(pieces, count_repeats, whole_words):
    settings = {"count_repeats": count_repeats, "whole_words": whole_words}
    text = " ".join(pieces)
    assert 0 <= pattern_score(text, **settings) <= 1
    assert pattern_score(text) <= sum(phrase in text for phrase in PHRASES) / 40
    assert 0 <= ngram_repetition(text) <= 0.5


def test_the_plain_reward_function_reads_the_whole_completion():
    texts = ["Wait.</think>Thus 2.", "2"]
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    assert reasoning_pattern_reward(completions=texts, prompts=["", ""]) == [0.05, 0.0]
    assert reasoning_pattern_reward(messages) == [0.05, 0.0]
    assert [thinking_text(text) for text in texts] == ["Wait.", "2"]


# Noise


def test_golden_flip():
    rewards = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert flip_rewards(rewards, torch.tensor(True)).tolist() == [0, 1, 0, 0]
    assert flip_rewards(rewards, torch.tensor([True, False, False, True])).tolist() == [0, 0, 1, 0]
    unreadable = torch.tensor([True, False, True, True])
    assert flip_rewards(rewards, torch.tensor(True), unreadable).tolist() == [0, 0, 0, 0]


def rollouts_of(correct: list[float], step: int = 0, answers: list[float] | None = None, **changes) -> Rollouts:
    keys = tuple(f"{i // 4:032x}" for i in range(len(correct)))
    answers = torch.tensor(answers or [1.0] * len(correct))
    lengths = torch.ones(len(correct), dtype=torch.int64)
    measured = {"noisy_reward": {"has_answer": answers}}
    return Rollouts(keys, lengths, torch.tensor(correct), 4, measured=measured, step=step, **changes)


@given(st.lists(st.sampled_from([0.0, 1.0, math.nan]), min_size=8, max_size=8), st.integers(0, 99))
def test_noise_inverts_whole_prompts(correct, step):
    rollouts = rollouts_of(correct, step)
    assert torch.equal(NoisyReward(0.0).score(rollouts).nan_to_num(-1), rollouts.correct.nan_to_num(-1))
    inverted = 1 - rollouts.correct
    assert torch.equal(NoisyReward(1.0).score(rollouts).nan_to_num(-1), inverted.nan_to_num(-1))
    flips = NoisyReward(0.5).flips(rollouts).view(2, 4)
    assert (flips == flips[:, :1]).all()
    assert torch.equal(flips, NoisyReward(0.5).flips(rollouts).view(2, 4))
    evaluated = dataclasses.replace(rollouts, training=False)
    assert torch.equal(NoisyReward(1.0).score(evaluated).nan_to_num(-1), rollouts.correct.nan_to_num(-1))


def test_draws_have_their_probability_and_depend_on_seed_step_and_prompt():
    for probability in (0.1, 0.4, 0.9):
        drawn = sum(draw_flip(probability, 0, i) for i in range(4000))
        assert abs(drawn / 4000 - probability) < 4 * math.sqrt(probability * (1 - probability) / 4000)

    def pattern(**settings):
        component = NoisyReward(0.5, **settings)
        return [component.flips(rollouts_of([1.0] * 8, step)).tolist() for step in range(20)]

    first = pattern()
    assert len({str(flips) for flips in first}) > 2 and pattern(seed=1) != first
    alone = pattern(per="completion")
    assert any(0 < sum(flips[:4]) < 4 for flips in alone) and not any(0 < sum(flips[:4]) < 4 for flips in first)


def test_a_completion_without_an_answer_keeps_its_reward():
    rollouts = rollouts_of([0.0, 0.0, 1.0, 1.0], answers=[0.0, 1.0, 0.0, 1.0])
    assert NoisyReward(1.0).score(rollouts).tolist() == [0, 1, 0, 0]  # what is correct has an answer
    assert NoisyReward(1.0, needs_answer=False).score(rollouts).tolist() == [1, 1, 0, 0]
    local = LocalRollouts(["?"] * 2, [r"\boxed{2}", "2"], [[1]] * 2, None, torch.ones(2), {}, 4, 0, True)
    assert NoisyReward().measure(local)["has_answer"].tolist() == [1, 0]


def test_training_learns_from_inverted_rewards_and_evaluation_does_not_see_them(tiny_model, problems, tmp_path):
    trainer = ConciseGRPOTrainer(
        tiny_model,
        [tiny.even_reward, NoisyReward(1.0, needs_answer=False)],
        ConciseGRPOConfig(**tiny.settings(tmp_path, reward_weights=[0.0, 1.0], max_steps=1)),
        problems,
        problems.select(range(8)),
    )
    trainer.train()
    (step,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert step["reward"] == pytest.approx(1 - step["rewards/even_reward/mean"])
    assert step["rewards/NoisyReward/mean"] == pytest.approx(step["reward"]) and step["noisy_reward/inverted"] == 1
    evaluated = trainer.evaluate()
    assert evaluated["eval_rewards/NoisyReward/mean"] == pytest.approx(evaluated["eval_rewards/even_reward/mean"])


def test_a_correctness_with_a_weight_of_its_own_is_reported(tiny_model, problems, tmp_path, caplog):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    ConciseGRPOTrainer(tiny_model, [tiny.even_reward, NoisyReward()], args, problems)
    assert "NoisyReward replaces the correctness even_reward, whose own weight is 1" in caplog.text


# Calibration


def calibrated(scores: list[float], patterns: list[float], **settings) -> torch.Tensor:
    scores = torch.tensor(scores)
    count = len(scores)
    rollouts = Rollouts(
        ("p",) * count,
        torch.ones(count, dtype=torch.int64),
        torch.full((count,), math.nan),
        count,
        rewards={"weak": scores},
        measured={"pattern_calibration": {"pattern_score": torch.tensor(patterns)}},
    )
    return scores + PatternCalibration("weak", **settings).score(rollouts)


def test_golden_calibration():
    assert calibrated([0.3, 0.5, math.nan], [0.125] * 3)[:2].tolist() == pytest.approx([0.3125, 0.5])
    assert calibrated([0.3, math.nan], [0.125] * 2)[1].isnan()


@given(st.lists(st.floats(-1, 2, width=32), min_size=1), st.data())
def test_calibration_never_lowers_a_score_and_touches_no_high_one(scores, data):
    patterns = data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(scores), max_size=len(scores)))
    given, result = torch.tensor(scores), calibrated(scores, patterns)
    assert (result >= given).all() and (result - given <= 0.1 + 1e-6).all()
    assert torch.equal(result[given >= 0.5], given[given >= 0.5])


def test_the_calibration_reads_the_thinking_and_adds_to_a_named_reward(tiny_model, problems, tmp_path):
    component = PatternCalibration()
    texts = ["Wait.</think>Thus 2.", "Thus"]
    local = LocalRollouts(["?"] * 2, texts, [[1]] * 2, None, torch.ones(2), {}, 2, 0, True)
    assert component.measure(local)["pattern_score"].tolist() == pytest.approx([0.025, 0.025])
    texts = ["Wait, let me check.</think>2", "Therefore 2.", "Thus 2.", "2"]

    def rollout(prompts, trainer):
        tokenizer = trainer.processing_class
        ids = [tokenizer(texts[i % 4]).input_ids + [tokenizer.eos_token_id] for i in range(len(prompts))]
        return {"prompt_ids": [[5]] * len(ids), "completion_ids": ids, "logprobs": None}

    def weak_reward(completions, **kwargs):
        return [0.4, 0.9, 0.2, None] * (len(completions) // 4)

    def build(*components):
        args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=1, max_completion_length=32))
        return ConciseGRPOTrainer(tiny_model, [weak_reward, *components], args, problems, rollout_func=rollout)

    trainer = build(component)
    trainer.train()
    (step,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert step["rewards/PatternCalibration/mean"] == pytest.approx((0.005 + 0 + 0.0025) / 3)
    assert step["pattern_calibration/calibrated"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"reward function 'strong', but reward_funcs has \['weak_reward'\]"):
        build(PatternCalibration("strong"))
    with pytest.raises(
        ValueError, match=r"one reward function, but reward_funcs has \['weak_reward', 'even_reward'\]"
    ):
        build(PatternCalibration(), tiny.even_reward)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoisyReward(1.5), "probability must be between 0 and 1"),
        (lambda: NoisyReward(math.nan), "probability must be between 0 and 1"),
        (lambda: NoisyReward(per="group"), "per must be one of"),
        (lambda: PatternCalibration("weak", divisor=0), "divisor must be at least 1"),
        (lambda: PatternCalibration("weak", weight=-1), "weight at least 0"),
        (lambda: PatternCalibration("weak", threshold=math.nan), "threshold must be finite"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
