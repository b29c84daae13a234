# SPDX-License-Identifier: Apache-2.0
"""Golden values: printed by the authors' functions (NVIDIA-NeMo/RL @ 7ea279a, NVIDIA-NeMo/Gym @ 07d6b0d)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import LocalRollouts, Rollouts
from trl_concise.data import with_effort
from trl_concise.methods.effort import (
    EffortReward,
    ReasoningAnswerReward,
    earns_shortest_bonus,
    effort_term,
    relative_shortness,
    split_at_reasoning,
)


# Effort

LENGTHS = [0, 3000, 15000, 30000, 200000]


def shaped(rewards, lengths, limit: float = 15000, **settings) -> list[float]:
    rewards = torch.tensor(rewards, dtype=torch.float32).expand(len(lengths))
    limits = torch.full((len(lengths),), limit)
    return (rewards + effort_term(torch.tensor(lengths), rewards, limits, **settings)).tolist()


@pytest.mark.parametrize(
    ("rewards", "lengths", "settings", "expected"),
    [
        ([1], LENGTHS, {}, [1.1, 1.08, 1, 0.9, -0.233333]),
        ([0], LENGTHS, {}, [0, 0, 0, -0.1, -1.233333]),
        ([-1], LENGTHS[:4], {}, [-1, -1, -1, -1.1]),  # theirs: -1.1, -1.08, -1, -1.1
        ([1], LENGTHS, {"limit": math.nan}, [1, 1, 1, 1, 1]),
        ([1], [0, 7500], {"bonus": 2.0}, [2, 2]),
    ],
)
def test_golden_effort_rewards(rewards, lengths, settings, expected):
    assert shaped(rewards, lengths, **settings) == pytest.approx(expected, abs=1e-6)


def test_only_prompts_with_a_limit_change_and_they_change_bit_for_bit_alone():
    rewards, lengths = torch.tensor([1.0, 1, 0, 0]), torch.tensor([3000, 3000, 30000, 30000])
    limits = torch.tensor([15000, math.nan, 15000, math.nan])
    total = rewards + effort_term(lengths, rewards, limits)
    assert total.tolist() == pytest.approx([1.08, 1, -0.1, 0], abs=1e-6)
    assert total[1::2].tolist() == [1, 0]


@given(
    st.floats(-1, 1),
    st.integers(1, 10**5),
    st.integers(0, 10**5),
    st.integers(0, 10**5),
    st.floats(0.01, 5),
    st.floats(0, 3),
)
def test_effort_is_continuous_and_never_rewards_length(reward, limit, first, second, bonus, penalty):
    settings = {"bonus": bonus, "penalty": penalty}
    short, long = (shaped([reward], [length], float(limit), **settings)[0] for length in sorted((first, second)))
    assert long <= short + 1e-5 * max(1, abs(long))
    assert shaped([reward], [limit], float(limit), **settings)[0] == pytest.approx(reward, abs=1e-6)
    assert short <= reward + max(reward, 0) + 1e-6


def effort_batch(limits, **fields) -> Rollouts:
    measured = {"effort": {"limit": torch.tensor(limits, dtype=torch.float32)}}
    correct = torch.tensor([1.0, 0, 1, math.nan])
    return Rollouts(("a", "a", "b", "b"), torch.tensor([10, 40, 10, 30]), correct, 2, measured=measured, **fields)


def test_the_component_scores_the_level_of_each_group_and_logs_tokens_with_and_without_a_limit():
    reward = EffortReward(bonus=0.5, penalty=2.0)
    rollouts = effort_batch([20, 20, math.nan, math.nan])
    assert reward.score(rollouts).nan_to_num(-9).tolist() == [0.25, -1, 0, -9]
    reward.observe(rollouts)
    assert reward.metrics() == {"limited_tokens_mean": 25, "unlimited_tokens_mean": 20, "within_limit_fraction": 0.5}


@pytest.mark.parametrize("limits", [[20, 30, 5, 5], [20, math.nan, 5, 5]])
def test_a_group_with_two_levels_is_refused(limits):
    with pytest.raises(ValueError, match="must have the same `effort_tokens`"):
        EffortReward().score(effort_batch(limits))


def correct_in_part(completion_ids, **kwargs) -> list[float]:
    return [[1.0, 0.0, 1.0, 1.0][row % 4] for row in range(len(completion_ids))]


def effort_trainer(model, folder, dataset, eval_dataset=None, rollout_func=None, **changes) -> ConciseGRPOTrainer:
    args = ConciseGRPOConfig(**tiny.settings(folder, max_steps=1, **changes))
    rewards = [correct_in_part, EffortReward()]
    return ConciseGRPOTrainer(model, rewards, args, dataset, eval_dataset=eval_dataset, rollout_func=rollout_func)


def test_levels_of_the_dataset_reach_the_reward(tiny_model, problems, tmp_path):
    """Four tokens are asked for at the level `low`: 2, 3, 6 and 20 tokens save 50 %, 25 %, -50 % and -400 % of them."""
    trainer = effort_trainer(
        tiny_model,
        tmp_path,
        with_effort(problems, {"low": 4, "high": None}),
        rollout_func=tiny.rollouts_of([[2, 3, 6, 20] * 16]),
        per_device_train_batch_size=64,
        max_completion_length=24,
    )
    trainer.train()
    advantages = torch.tensor(list(trainer._logs["advantages"])).view(16, 4)
    rewards = torch.tensor(list(trainer._logs["rewards"]["EffortReward"])).view(16, 4)
    is_low = ["Reasoning effort: low." in str(prompt) for prompt in trainer._logs["prompt"]][::4]
    assert 0 < sum(is_low) < 16
    for group, low in enumerate(is_low):
        added = [0.05, 0, -0.05, -0.4] if low else [0, 0, 0, 0]
        # mean 0.65 and standard deviation 0.474342; mean 0.75 and standard deviation 0.5
        normalized = [0.843096, -1.370031, 0.632322, -0.105387] if low else [0.4999, -1.4997, 0.4999, 0.4999]
        assert rewards[group].tolist() == pytest.approx(added, abs=1e-6)
        assert advantages[group].tolist() == pytest.approx(normalized, abs=1e-4)
    logged = trainer.state.log_history[0]
    assert logged["effort/limited_tokens_mean"] == logged["effort/unlimited_tokens_mean"] == 7.75
    assert logged["effort/within_limit_fraction"] == 0.5


def test_training_without_the_column_is_refused_and_an_evaluation_has_no_such_reward(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match=r"Make it with with_effort\(dataset, levels\)"):
        effort_trainer(tiny_model, tmp_path, problems).train()
    trainer = effort_trainer(
        tiny_model, tmp_path, with_effort(problems, {"low": 4}), eval_dataset=problems.select([0])
    )
    assert trainer.evaluate()["eval_rewards/EffortReward/mean"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bonus": 0}, "bonus must be above 0 and finite, got 0. Leave the component out"),
        ({"bonus": math.nan}, "bonus must be above 0 and finite, got nan"),
        ({"bonus": math.inf}, "bonus must be above 0 and finite, got inf"),
        ({"penalty": math.inf}, "penalty must be at least 0 and finite, got inf"),
        ({"penalty": -1}, "penalty must be at least 0 and finite, got -1"),
    ],
)
def test_effort_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EffortReward(**settings)


# Reasoning and answer


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([100, 200, 400], [0.444444, 0.111111, -0.555556]),
        ([7, 7, 7], [0, 0, 0]),
        ([100, 1000], [0.5, -0.5]),
        ([1, 1, 1, 1000], [0.25, 0.25, 0.25, -0.75]),
    ],
)
def test_golden_places(lengths, expected):
    lengths = torch.tensor([lengths])
    assert relative_shortness(lengths, torch.ones_like(lengths) > 0)[0].tolist() == pytest.approx(expected, abs=1e-6)


def lengths_batch(scores, reasoning, answer) -> Rollouts:
    measured = {"reasoning": torch.tensor(reasoning).float(), "answer": torch.tensor(answer).float()}
    scores = torch.tensor(scores, dtype=torch.float32)
    keys = ("a",) * len(scores)
    lengths = torch.tensor(reasoning) + torch.tensor(answer)
    return Rollouts(
        keys, lengths, scores, len(scores), rewards={"judge": scores}, measured={"reasoning_answer": measured}
    )


def component(*weights, only_correct: bool = False) -> ReasoningAnswerReward:
    names = ("reasoning_weight", "answer_weight", "reasoning_bonus", "answer_bonus")
    return ReasoningAnswerReward(**dict(zip(names, weights, strict=True)), only_correct=only_correct)


REASONING, ANSWER = [100, 200, 400], [10, 30, 20]


@pytest.mark.parametrize(
    ("scores", "reasoning", "answer", "weights", "expected"),
    [
        ([4, 3, 5], REASONING, ANSWER, (0.5, 0.5, 0, 0), [4.472222, 2.805556, 4.722222]),
        ([4, 3, 5], REASONING, ANSWER, (0.5, 0, 0, 0), [4.222222, 3.055556, 4.722222]),
        ([5, 3, 4], REASONING, ANSWER, (0.1, 0.25, 0.5, 0.5), [6.169444, 2.886111, 3.944444]),
        ([4, 3, 5], REASONING, ANSWER, (0.1, 0.25, 0.5, 0.5), [4.169444, 2.886111, 4.944444]),
        ([1, 1, 0, 0], [100, 400, 200, 300], [0] * 4, (0.5, 0, 0, 0), [1.25, 0.75, 0.083333, -0.083333]),
    ],
)
def test_golden_totals_of_all_completions(scores, reasoning, answer, weights, expected):
    rollouts = lengths_batch(scores, reasoning, answer)
    total = rollouts.correct + component(*weights).score(rollouts)
    assert total.tolist() == pytest.approx(expected, abs=1e-6)


def test_by_default_correct_completions_are_compared_with_each_other():
    rollouts = lengths_batch([1, 0, 1, math.nan], [100, 1, 400, 1], [9, 1, 5, 1])
    score = component(0.5, 0.25, 0.5, 0.25, only_correct=True).score(rollouts)
    assert score[:3].tolist() == pytest.approx([0.25 - 0.125 + 0.5, 0, -0.25 + 0.125 + 0.25]) and score[3].isnan()


@pytest.mark.parametrize(("size", "rank"), [(16, 2), (15, 2), (14, 1), (8, 0), (2, 0)])
def test_the_top_is_a_fifth_of_the_group(size, rank):
    scores = torch.arange(size, 0, -1.0)[None]  # the first is best
    included = torch.ones(1, size, dtype=torch.bool)
    for position in range(size):
        lengths = torch.full((1, size), 9)
        lengths[0, position] = 3
        assert earns_shortest_bonus(lengths, scores, included)[0, position].item() == (position <= rank)


GROUPS = st.lists(
    st.tuples(st.integers(0, 10**4), st.integers(0, 10**4), st.sampled_from([0.0, 1.0, math.nan])),
    min_size=1,
    max_size=10,
)


@given(GROUPS, st.floats(0, 1), st.floats(0, 1))
def test_terms_sum_to_zero_and_no_correct_completion_falls_below_a_wrong_one(group, share, bonus):
    reasoning, answer, correct = map(list, zip(*group, strict=True))
    rollouts = lengths_batch(correct, reasoning, answer)
    terms = component(share, 1 - share, 0, 0, only_correct=True).score(rollouts)
    assert terms.nansum().item() == pytest.approx(0, abs=1e-5) and (terms[rollouts.correct == 0] == 0).all()
    total = rollouts.correct + component(share, 1 - share, bonus, bonus, only_correct=True).score(rollouts)
    assert (total[rollouts.correct == 1] > 0).all() and (total[rollouts.correct == 0] == 0).all()
    everyone = component(share, 1 - share, 0, 0).score(rollouts)
    assert everyone.nansum().item() == pytest.approx(0, abs=1e-5)


# Where reasoning ends


def byte_tokens(text: str) -> list[int]:
    return list(text.encode())


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["a", "b"], (2, 2)),
        (["a", "</think>", "b", "c"], (1, 2)),
        (["</think>"], (0, 1)),
        (["a", "<", "/th", "ink", ">\n", "b"], (1, 5)),
        (["a", "</think>", "b</", "think>", "c"], (2, 4)),
        (["a", "</think>", "</think"], (1, 2)),
        ([], (0, 0)),
    ],
)
def test_the_last_end_of_the_reasoning_is_found_in_any_tokenizer(pieces, expected):
    assert split_at_reasoning(list(range(len(pieces))), lambda ids: "".join(pieces[i] for i in ids)) == expected


def measured_lengths(tokenizer, texts, tool_mask=None) -> dict[str, list]:
    ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    mask = tool_mask and [row(len(own)) for row, own in zip(tool_mask, ids, strict=True)]
    lengths = [len(own) - 1 if mask is None else sum(mask[i][: len(own) - 1]) for i, own in enumerate(ids)]
    reward = ReasoningAnswerReward()
    reward._tokenizer = tokenizer
    local = LocalRollouts([""] * len(ids), texts, ids, mask, torch.tensor(lengths), {}, len(ids), 0, True)
    return {name: values.tolist() for name, values in reward.measure(local).items()} | {"all": lengths}


def test_reasoning_answer_and_marker_add_up_to_the_completion(tokenizer):
    texts = ["6 * 7 = 42</think>\n\\boxed{42}", "6 * 7", "</think>42", "42</think>"]
    measured = measured_lengths(tokenizer, texts)
    marker = len(tokenizer("</think>")["input_ids"])
    for row in (0, 2, 3):
        assert measured["reasoning"][row] + measured["answer"][row] + marker == measured["all"][row]
    assert measured["reasoning"][0] > 0 and measured["answer"][0] > measured["answer"][2] > 0
    assert (measured["reasoning"][1], measured["answer"][1]) == (measured["all"][1], 0)
    assert measured["reasoning"][2] == 0 and measured["answer"][3] == 0


def test_tokens_of_tools_do_not_count(tokenizer):
    text = "6 * 7</think>42"
    plain = measured_lengths(tokenizer, [text])
    with_tool = measured_lengths(tokenizer, [text], [lambda n: [0, 0] + [1] * (n - 2)])
    assert with_tool["reasoning"][0] == plain["reasoning"][0] - 2 and with_tool["answer"] == plain["answer"]


def test_training_compares_reasoning_and_answers(tiny_model, problems, tmp_path):
    """Of a tokenizer with one token per byte. The last completion is wrong, and is compared with none."""
    texts = ["r" * reasoning + "</think>" + "a" * answer for reasoning, answer in ((10, 4), (20, 2), (40, 3), (5, 1))]

    def rollout(prompts, trainer):
        ids = [
            [*trainer.processing_class(text)["input_ids"], trainer.processing_class.eos_token_id] for text in texts
        ] * 2
        return {"prompt_ids": [[5, 6, 7]] * 8, "completion_ids": ids, "logprobs": None}

    def first_three_are_correct(completion_ids, **kwargs):
        return [1.0, 1.0, 1.0, 0.0] * 2

    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_completion_length=64, max_steps=1))
    rewards = [first_three_are_correct, ReasoningAnswerReward()]
    trainer = ConciseGRPOTrainer(tiny_model, rewards, args, problems, rollout_func=rollout)
    trainer.train()
    # Reasoning: 0.5 * [4 / 9, 1 / 9, -5 / 9], and 0.5 for the first. Answer: 0.5 * [-0.5, 0.5, 0], and 0.5 for the second.
    added = [17 / 36, 29 / 36, -10 / 36, 0]
    assert list(trainer._logs["rewards"]["ReasoningAnswerReward"]) == pytest.approx(added * 2, abs=1e-6)
    # mean 1 and standard deviation 0.806034
    normalized = [0.585786, 0.999282, -0.34458, -1.240488]
    assert list(trainer._logs["advantages"]) == pytest.approx(normalized * 2, abs=1e-4)
    logged = trainer.state.log_history[0]
    assert logged["reasoning_answer/reasoning_tokens_mean"] == 18.75
    assert logged["reasoning_answer/answer_tokens_mean"] == 2.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answer_bonus": -0.1}, "answer_bonus must be at least 0 and finite, got -0.1"),
        ({"reasoning_weight": math.nan}, "reasoning_weight must be at least 0 and finite, got nan"),
        ({"reasoning_bonus": math.inf}, "reasoning_bonus must be at least 0 and finite, got inf"),
        ({"reasoning_weight": 0.75}, "must add up to at most 1, .* got 0.75 and 0.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ReasoningAnswerReward(**settings)
    if settings == {"reasoning_weight": 0.75}:
        ReasoningAnswerReward(**settings, only_correct=False)
