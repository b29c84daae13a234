# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the equations, which two third-party implementations share; the authors' code is not public."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig, GRPOTrainer

from tests import tiny, tool_runs
from tests.distributed import tools as distributed
from tests.tool_runs import END, add, answer, call
from trl_concise import (
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    HAPOLengthReward,
    HAPOTrainer,
    StochasticTokens,
    math_accuracy_reward,
)
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.otc import (
    OTCPPOReward,
    OTCReward,
    ToolCallHistory,
    checked_calls,
    count_tool_calls,
    tool_efficiency,
)
from trl_concise.state.history import PromptHistory


def rollouts(calls, correct, keys=None, component="otc", num_generations=1) -> Rollouts:
    return Rollouts(
        tuple(keys or ["a"] * len(calls)),
        torch.ones(len(calls), dtype=torch.long),
        torch.tensor(correct, dtype=torch.float32),
        num_generations,
        measured={component: {"calls": torch.tensor(calls, dtype=torch.float32)}},
    )


# The equations


@pytest.mark.parametrize(
    ("fewest", "expected"),
    [
        (2, [0, 0.866, 1, 0.951, 0.866, 0.782, 0.707]),
        (0, [1, 0.5, 0.309, 0.2225, 0.1736]),
    ],
)
def test_golden_values(fewest, expected):
    found = [tool_efficiency(calls, fewest) for calls in range(len(expected))]
    assert found == pytest.approx(expected, abs=1e-3)


def test_golden_values_by_ratio():
    ratios = {0.5: 0.866, 0.8: 0.985, 1: 1, 1.25: 0.985, 1.5: 0.951, 2: 0.866, 4: 0.588}
    assert [tool_efficiency(int(20 * ratio), 20) for ratio in ratios] == pytest.approx([*ratios.values()], abs=1e-3)


@given(st.integers(0, 1000), st.integers(0, 1000), st.floats(0.01, 100))
def test_the_reward_is_largest_at_the_fewest_calls_and_symmetric(calls, fewest, smoothing):
    reward = tool_efficiency(calls, fewest, smoothing=smoothing)
    assert 0 <= reward <= 1 and (reward == 1 or calls != fewest)
    assert tool_efficiency(fewest, fewest, smoothing=smoothing) == 1
    if fewest and calls:
        assert reward == pytest.approx(tool_efficiency(fewest, calls))  # x and 1 / x
    if calls >= fewest:  # what a correct completion may have
        assert tool_efficiency(calls + 1, fewest, smoothing=smoothing) <= reward
    if fewest and not calls:
        assert reward == 0
    if not fewest and calls:  # a higher constant makes calls cheaper
        assert tool_efficiency(calls, 0, smoothing=2 * smoothing) > reward


# Groups and the history

GROUP = ([1, 2, 3, 0, 5], [1.0, 1.0, 1.0, 0.0, 0.0])


def test_golden_group():
    assert OTCReward().score(rollouts(*GROUP)).tolist() == pytest.approx([1, 0.866, 0.7071, 0, 0], abs=1e-4)
    assert OTCReward(alpha=2.5).score(rollouts(*GROUP)).tolist() == pytest.approx([2.5, 2.165, 1.7678, 0, 0], abs=1e-3)
    ppo = OTCPPOReward(smoothing=2.0).score(rollouts(*GROUP, component="otc_ppo")).tolist()
    assert ppo == pytest.approx([math.cos(math.pi * m / (2 * m + 2)) for m in (1, 2, 3)] + [0, 0])


def test_only_the_best_of_all_time_earns_everything():
    reward = OTCReward()
    reward.observe(rollouts([2, 4], [1, 1]))
    assert reward.score(rollouts([4, 3], [1, 1])).tolist() == pytest.approx([0.866, 0.951], abs=1e-3)
    assert reward.score(rollouts([1, 2], [1, 1])).tolist() == pytest.approx([1, 0.866], abs=1e-3)  # update, then score
    assert reward.score(rollouts([1, 2], [0, 1])).tolist() == [0, 1]  # a wrong completion sets no target
    assert reward.call_history.fewest(["a"]).item() == 2  # scoring records nothing
    reward.observe(rollouts([0, 1], [0, 1]))
    assert reward.call_history.fewest(["a"]).item() == 1
    assert reward.metrics() == {"calls": 0.5, "calls_correct": 1, "productivity": 1, "fewest": 1, "at_fewest": 1}


rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.sampled_from([0.0, 1.0, math.nan])), min_size=1, max_size=8
)


@given(st.lists(rows, min_size=1, max_size=4), st.floats(0.1, 10))
def test_invariants_of_a_run(batches, alpha):
    reward = OTCReward(alpha)
    seen: dict[str, list[int]] = {}
    for batch in batches:
        keys, calls, correct = zip(*batch, strict=True)
        for key, count, verdict in batch:
            seen.setdefault(key, []).extend([count] if verdict == 1 else [])
        given = rollouts(calls, correct, keys)
        scores = reward.score(given).tolist()
        reward.observe(given)
        for key, count, verdict, score in zip(keys, calls, correct, scores, strict=True):
            if math.isnan(verdict):
                assert math.isnan(score)
            elif verdict == 0:
                assert score == 0
            else:
                assert 0 <= score <= alpha * (1 + 1e-6)
                assert score == pytest.approx(alpha) if count == min(seen[key]) else score < alpha
        for key, counts in seen.items():
            fewest = reward.call_history.fewest([key]).item()
            assert fewest == min(counts) if counts else math.isnan(fewest)
    again = OTCReward()
    again.load_state_dict(reward.state_dict())
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in reward.state_dict().items())


def test_minima_of_two_runs_are_merged():
    first, second = ToolCallHistory(), ToolCallHistory()
    first.update(["a", "b"], [3, 2], [1, 1])
    second.update(["a", "c"], [1, 0], [1, 0])
    first.merge(second)
    assert first.fewest(["a", "b", "c"]).nan_to_num(nan=-1).tolist() == [1, 2, -1]
    assert {"fewest", "mean"} < set(first.to_pandas().columns)


def test_a_history_of_lengths_is_refused(tmp_path):
    lengths, calls = PromptHistory(), ToolCallHistory()
    lengths.update(["a"], [300], [1])
    calls.update(["a"], [3], [1])
    with pytest.raises(ValueError, match="A history of tool calls holds the tensors .* Lengths of another method"):
        OTCReward().load_state_dict(lengths.state_dict())
    with pytest.raises(ValueError, match="A prompt history holds the tensors"):
        HAPOLengthReward().load_state_dict(calls.state_dict())
    lengths.save(tmp_path / "lengths.safetensors")
    with pytest.raises(ValueError, match="has another format: expected .*ToolCallHistory"):
        ToolCallHistory.load(tmp_path / "lengths.safetensors")
    calls.save(tmp_path / "calls.safetensors")
    assert ToolCallHistory.load(tmp_path / "calls.safetensors").fewest(["a"]).item() == 3
    with pytest.raises(TypeError, match="A ToolCallHistory cannot be merged with a PromptHistory"):
        calls.merge(lengths)
    with pytest.raises(TypeError, match="A PromptHistory cannot be merged with a ToolCallHistory"):
        lengths.merge(calls)


# Through TRL's tool loop


class Remembers(OTCReward):
    def observe(self, rollouts):
        super().observe(rollouts)
        self.last = rollouts


def fail(reason: str) -> str:
    """
    Fail.

    Args:
        reason: Why.
    """
    raise RuntimeError(reason)


def print_much(count: int) -> str:
    """
    Print more than fits.

    Args:
        count: Characters.
    """
    return "x" * count


UNANSWERED = r"It is \boxed{3}. "  # and then calls a tool
KINDS = {
    "no call": ([answer(3)], 0, 1),
    "one call": ([call() + END, answer(3)], 1, 1),
    "two in one message": ([f"Both.\n{call()}\n{call()}{END}", answer(3)], 2, 1),
    "tools that fail and do not exist": (
        [call("fail", reason="no") + END, call("subtract") + END, call(a=1, c=2) + END, answer(3)],
        3,
        1,
    ),
    "malformed": (['<tool_call>\n{"name": "add", "arguments": {"a": 1\n</tool_call>' + END], 0, 0),
    "truncated in a call": ([call() + END, '<tool_call>\n{"name": "add", "argu'], 1, 0),
    "the output does not fit": ([UNANSWERED + call("print_much", count=600) + END], 1, 0),
    "too many turns": ([call() + END] * 3 + [UNANSWERED + call() + END], 4, 0),
}


def test_calls_are_counted_as_trl_parses_them(tiny_model, tmp_path):
    otc = Remembers()
    trainer = tool_runs.train(
        tiny_model,
        tmp_path,
        [math_accuracy_reward, otc],
        script=lambda step, row: [*KINDS.values()][row][0],
        tools=[add, fail, print_much],
        max_steps=1,
        max_tool_calling_iterations=3,
        reward_weights=[0.0, 1.0],
    )
    _, calls, correct = zip(*KINDS.values(), strict=True)
    assert otc.last.measured["otc"]["calls"].tolist() == list(calls)
    assert otc.last.correct.tolist() == list(correct)  # an unanswered call does not count as an answer
    rewards = [cos(calls) if correct else 0 for calls, correct in zip(calls, correct, strict=True)]
    assert otc.last.rewards["Remembers"].tolist() == pytest.approx(rewards)
    logged = trainer.state.log_history[0]
    assert logged["otc/calls"] == sum(calls) / 8 and logged["reward"] == pytest.approx(sum(rewards) / 8)
    assert trainer.components[0].call_history.to_pandas()["fewest"].tolist()[0] == 0


class Environment:
    """An environment whose method is the tool."""

    def reset(self, **kwargs) -> None:
        self.calls = 0

    def add(self, a: int, b: int) -> int:
        """
        Add two numbers.

        Args:
            a: One number.
            b: Another number.
        """
        self.calls += 1
        return a + b


def test_calls_of_an_environment_count(tiny_model, tmp_path):
    otc, made = Remembers(), []

    def judge(completions, environments, **kwargs):
        made.extend(environment.calls for environment in environments)
        return math_accuracy_reward(completions, **kwargs)

    environment = {"environment_factory": Environment}
    tool_runs.train(tiny_model, tmp_path, [judge, otc], tools=[], slots=environment, max_steps=1)
    assert otc.last.measured["otc"]["calls"].tolist() == made and sum(made) == 11
    assert len(otc.call_history) == 2


def cos(calls: int) -> float:
    return math.cos(math.pi * calls / (2 * calls + 1))


def test_without_a_weight_it_trains_with_tools_as_trl_does(tiny_model, tmp_path):
    plain = tool_runs.train(
        tiny_model, tmp_path, [math_accuracy_reward], GRPOTrainer, config_class=GRPOConfig, max_steps=2
    )
    otc = OTCReward()
    own = tool_runs.train(tiny_model, tmp_path, [math_accuracy_reward, otc], reward_weights=[1.0, 0.0], max_steps=2)
    assert tiny.losses(own) == tiny.losses(plain) and any(tiny.losses(own))
    assert all(torch.equal(a, b) for a, b in zip(own.model.parameters(), plain.model.parameters(), strict=True))
    assert len(otc.call_history) == 4


def test_token_credit_resume_and_two_histories_with_tools(tiny_model, tmp_path):
    """HAPO, OTC and S-GRPO in one trainer with tools: the loss has no token of a tool, and a resumed run ends in the same state."""

    def run(folder, **more):
        rewards = [math_accuracy_reward, OTCReward()]
        slots = {"token_credit": StochasticTokens(cutoff=20, max_tokens=40, seed=7)}
        spy = tiny.spy(HAPOTrainer)
        return tool_runs.train(tiny_model, folder, rewards, spy, slots=slots, log_completions=True, **more)

    whole = run(tmp_path / "whole", save_strategy="steps", save_steps=2, max_steps=3)
    inputs = whole.seen[0][0]
    texts = [
        whole.processing_class.decode(ids[mask.bool()])
        for ids, mask in zip(inputs["completion_ids"], inputs["tool_mask"] * inputs["completion_mask"], strict=True)
    ]
    everything = whole.processing_class.decode(inputs["completion_ids"].flatten())
    assert "<|im_start|>tool" in everything
    assert all(texts) and not any("<|im_start|>" in text or "tool\n" in text for text in texts)
    assert whole.state.log_history[0]["tools/call_frequency"] == 1.375
    resumed = run(tmp_path / "resumed", max_steps=3, resume=str(tmp_path / "whole" / "checkpoint-2"))
    for history in ("history", "call_history"):
        ours, theirs = (find(trainer, history).to_pandas() for trainer in (resumed, whole))
        assert ours.equals(theirs) and len(ours) == 6
    assert find(whole, "call_history").to_pandas()["fewest"].max() <= 3 < whole.history.to_pandas()["shortest"].min()
    assert whole.history is find(whole, "history")  # of lengths, although OTC's component is the first
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))


def find(trainer, name: str):
    (found,) = [getattr(component, name) for component in trainer.components if hasattr(component, name)]
    return found


def test_two_processes_with_tools_train_as_one(tiny_model, tmp_path, two_processes):
    ranks = [json.loads((two_processes / "tools" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    one = distributed.report(distributed.train(tiny_model, tmp_path, rows_per_process=12))
    assert [rank.pop("world_size") for rank in ranks] == [2, 2] and one.pop("world_size") == 1
    assert ranks[0]["histories"] == ranks[1]["histories"] == one["histories"]
    assert len({entry["fewest"] for entry in one["histories"][0].values()}) > 1
    for two, single in zip(ranks[0]["logged"], one["logged"], strict=True):
        assert two == pytest.approx(single, abs=1e-5, rel=1e-3)


def test_evaluation_scores_with_the_history_and_records_nothing(tiny_model, tmp_path):
    otc = Remembers()
    trainer = tool_runs.train(tiny_model, tmp_path, [math_accuracy_reward, otc], max_steps=1)
    before = otc.call_history.to_pandas()
    metrics = trainer.evaluate(tool_runs.problems(2))
    assert otc.call_history.to_pandas().equals(before)
    assert metrics["eval_tools/call_frequency"] > 0 and 0 < metrics["eval_rewards/Remembers/mean"] <= 1


# Input


@pytest.mark.parametrize("component", [OTCReward, OTCPPOReward])
@pytest.mark.parametrize("setting", ["alpha", "smoothing"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_coefficients_are_checked(component, setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be above 0 and finite, got {value}"):
        component(**{setting: value})


def build(tiny_model, tmp_path, dataset, **more):
    settings = {"max_steps": 1, **more.pop("settings", {})}
    return ConciseGRPOTrainer(
        tiny_model,
        [tiny.even_reward, OTCReward()],
        ConciseGRPOConfig(**tiny.settings(tmp_path, **settings)),
        dataset,
        **more,
    )


def test_a_trainer_without_tools_is_refused(tiny_model, problems, tmp_path):
    with pytest.raises(
        ValueError, match=r"OTCReward rewards few tool calls, but the trainer has no tools\. Pass tools="
    ):
        build(tiny_model, tmp_path, problems)


def test_tools_need_messages(tiny_model, tmp_path):
    prompts = Dataset.from_list([{"prompt": "1 + 1?"}] * 4)
    more = {"tools": [add], "processing_class": tool_runs.tool_tokenizer(tiny_model)}
    with pytest.raises(
        ValueError, match="Tools are called in messages, but the first prompt of the train dataset is a string"
    ):
        build(tiny_model, tmp_path, prompts, **more)
    with pytest.raises(ValueError, match="first prompt of the eval dataset is a string"):
        build(tiny_model, tmp_path, tool_runs.problems(), eval_dataset=prompts, **more)


def test_a_weight_of_the_correctness_is_reported(tiny_model, tmp_path, caplog):
    more = {"tools": [add], "processing_class": tool_runs.tool_tokenizer(tiny_model)}
    with caplog.at_level(logging.WARNING):
        build(tiny_model, tmp_path, tool_runs.problems(), **more)
    assert "'even_reward' adds 1 to it" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        build(tiny_model, tmp_path, tool_runs.problems(), settings={"reward_weights": [0.0, 1.0]}, **more)
    assert "adds" not in caplog.text


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        (None, r"OTCReward needs the number of tool calls .* Return a list of integers as `tool_calls` too\."),
        ([-1] * 8, "The rollout_func returned -1 among `tool_calls`. Return integers of at least 0."),
    ],
)
def test_a_rollout_function_has_to_count(calls, message, tiny_model, problems, tmp_path):
    rollout = tiny.rollouts_of([[3] * 8])
    more = {} if calls is None else {"tool_calls": calls}
    trainer = build(
        tiny_model, tmp_path, problems, rollout_func=lambda prompts, own: {**rollout(prompts, own), **more}
    )
    with pytest.raises(ValueError, match=message):
        trainer.train()


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_counts_are_integers(value):
    assert checked_calls(np.int64(2)) == 2
    with pytest.raises(ValueError, match="Return integers of at least 0"):
        checked_calls(value)


def test_texts_and_messages_without_calls_count_as_none():
    assert count_tool_calls("add(1, 2)") == count_tool_calls([]) == 0
    assert count_tool_calls([{"role": "assistant", "content": "3", "tool_calls": None}]) == 0
