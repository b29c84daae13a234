# SPDX-License-Identifier: Apache-2.0
"""The calculator, the problems and the transcripts of the demo with tools, and the model that learns from them."""

from __future__ import annotations

import random

import pytest
import transformers
from packaging.version import Version
from transformers import AutoTokenizer
from trl.chat_template_utils import is_chat_template_prefix_preserving, parse_response, supports_tool_calling

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo, math_accuracy_reward
from trl_concise.demo.problems import split_of
from trl_concise.demo.tool_report import ToolReport
from trl_concise.demo.tools import (
    _add_tools,
    calculate,
    tokenize_transcript,
    tool_dataset,
    tool_problems,
    write_transcript,
)
from trl_concise.methods.otc import OTCReward, count_tool_calls


needs_templates = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.13"), reason="older transformers has no response_template"
)


@pytest.mark.parametrize(("expression", "result"), [("(27+8)*2", "70"), ("3 - 12", "-9"), ("99*99", "9801")])
def test_the_calculator(expression, result):
    assert calculate(expression) == result


@pytest.mark.parametrize("expression", ["2**9", "1/2", "x", "2+", "", "-(2", "True+1", "9" * 61, "1+1<|im_end|>"])
def test_what_the_calculator_refuses(expression):
    with pytest.raises(ValueError, match="^(not an expression|not allowed|too long)$"):
        calculate(expression)


def test_problems_are_distinct_and_of_their_split():
    rows = tool_dataset(200, split="test")
    assert len(set(rows["prompt_id"])) == 200 and rows["kind"][:4] == ["easy", "hard", "easy", "hard"]
    assert all(split_of(row["prompt"][0]["content"]) == "test" for row in rows)
    assert rows[:100] == tool_dataset(100, split="test")[:]
    assert set(tool_dataset(10, kinds=("hard",))["kind"]) == {"hard"}


def test_transcripts_end_in_the_answer_and_call_with_what_is_known():
    rng, counts = random.Random(0), {"easy": [], "hard": []}
    wrong = 0
    for (kind, problem), _ in zip(tool_problems("test"), range(600), strict=False):
        messages = write_transcript(kind, problem, rng)
        answer = str(problem.results[-1])
        is_right = messages[-1]["content"].endswith(f"\\boxed{{{answer}}}")
        calls = count_tool_calls(messages[1:])
        counts[kind].append(calls)
        assert is_right or (kind == "easy" and not calls)
        wrong += not is_right
        assert not calls or messages[-2] == {"role": "tool", "name": "calculate", "content": answer}
    assert 5 < wrong < 20
    assert {kind: min(own) for kind, own in counts.items()} == {"easy": 0, "hard": 0}
    assert {kind: max(own) for kind, own in counts.items()} == {"easy": 4, "hard": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(demo.tool_model(tmp_path_factory.mktemp("tools") / "model", steps=1))


@needs_templates
def test_trl_reads_the_transcripts_as_they_are_written(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert supports_tool_calling(tokenizer) and is_chat_template_prefix_preserving(tokenizer)
    rng = random.Random(0)
    for (kind, problem), _ in zip(tool_problems("test"), range(40), strict=False):
        messages = write_transcript(kind, problem, rng)
        ids, labels = tokenize_transcript(tokenizer, messages)
        whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert ids == whole[: len(ids)] and ids[-1] == tokenizer.eos_token_id
        turns, prefix = [], []
        for token, label in zip(ids, labels, strict=True):
            assert label in (token, -100)
            if label == -100:
                prefix.append(token)
                continue
            turns.append([*(turns.pop() if turns and turns[-1][-1] != tokenizer.eos_token_id else []), token])
        start = ids[: labels.index(turns[0][0])]
        parsed = [parse_response(tokenizer, turn, prefix=start, tools=[calculate]) for turn in turns]
        assert parsed == [message for message in messages if message["role"] == "assistant"]


@needs_templates
def test_a_trainer_with_the_calculator_takes_a_step_and_reports(model, tmp_path, capsys):
    settings = tiny.settings(
        tmp_path, max_steps=1, max_completion_length=24, reward_weights=[0.0, 1.0], num_generations_eval=1
    )
    trainer = ConciseGRPOTrainer(
        model,
        [math_accuracy_reward, OTCReward()],
        ConciseGRPOConfig(**settings),
        tool_dataset(8),
        tools=[calculate],
    )
    with ToolReport(trainer, 2):
        trainer.train()
    printed = capsys.readouterr().out
    assert "2 problems of each kind" in printed and "hard, after training" in printed
    with pytest.raises(ValueError, match="--control is not available with tools"):
        ToolReport(trainer, control=True)


@needs_templates
def test_steps_are_checked(tmp_path):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        demo.tool_model(tmp_path / "model", steps=0)


def test_old_versions_of_transformers_are_refused():
    with pytest.raises(ImportError, match=r"needs transformers 5\.13 or newer, .* is installed\. Update transformers"):
        _add_tools(object())  # a tokenizer of an old version has no `response_template`
