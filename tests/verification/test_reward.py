# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from trl import GRPOConfig, GRPOTrainer

from trl_concise import math_accuracy_reward
from trl_concise.verification.reward import has_boxed_answer


def test_plain_completions():
    assert math_accuracy_reward([r"\boxed{1}", r"\boxed{2}"], solution=["1", "1"]) == [1.0, 0.0]


def test_conversational_completions():
    completions = [[{"role": "assistant", "content": rf"\boxed{{{i}}}"}] for i in (1, 2)]
    assert math_accuracy_reward(completions, solution=["1", "1"]) == [1.0, 0.0]


def test_the_last_message_is_read():
    completion = [
        {"role": "assistant", "content": r"\boxed{1}", "tool_calls": []},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": [{"type": "text", "text": r"\boxed{2}"}]},
    ]
    assert math_accuracy_reward([completion], solution=["2"]) == [1.0]


@pytest.mark.parametrize("completion", [[], [{"role": "assistant", "content": None}], [{"role": "assistant"}], ""])
def test_no_text_is_no_answer(completion):
    assert math_accuracy_reward([completion], solution=["2"]) == [0.0]


def test_answer_column():
    assert math_accuracy_reward([r"\boxed{2}"], answer=[2]) == [1.0]
    assert math_accuracy_reward([r"\boxed{2}"], solution=["One and one is two."], answer=["2"]) == [1.0]


@pytest.mark.parametrize("gold", [None, "", " ", float("nan"), np.float32("nan")])
def test_an_unreadable_gold_gives_no_reward(gold):
    assert math_accuracy_reward([r"\boxed{2}", r"\boxed{2}"], solution=[gold, "2"]) == [None, 1.0]


def test_a_dataset_without_golds_is_an_error():
    with pytest.raises(ValueError, match="'solution' or 'answer'"):
        math_accuracy_reward([r"\boxed{2}"], problem=["1 + 1"])


def test_metrics():
    logged: dict[str, float] = {}
    completions = [r"\boxed{2}", r"\boxed{3}", r"\boxed{5^{5^{5^{5^5}}}}", r"\boxed{4 - 2}"]
    math_accuracy_reward(completions, solution=["2"] * 4, log_metric=logged.__setitem__)
    assert logged.pop("verification/seconds") > 0
    assert logged == {"verification/timeouts": 0, "verification/guarded": 1, "verification/fast_fraction": 0.75}


def test_in_training(tiny_model, problems, tmp_path):
    args = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        num_generations=4,
        per_device_train_batch_size=4,
        max_completion_length=8,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
    )
    trainer = GRPOTrainer(model=tiny_model, reward_funcs=math_accuracy_reward, args=args, train_dataset=problems)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["verification/timeouts"] == 0
    assert 0 <= log["verification/fast_fraction"] <= 1
    assert not math.isnan(log["rewards/math_accuracy_reward/mean"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{1}", True),
        (r"think</think>\boxed{1}", True),
        (r"\boxed{1}</think>1", False),
        (r"think</think>\boxed{1", False),
        (r"<think>a</think>Hm.<think>\boxed{1}</think>It is one.", False),
        (r"<think>a</think>Hm.<think>b</think>\boxed{1}", True),
        ("1", False),
    ],
)
def test_a_boxed_answer_is_closed_and_behind_the_thinking(text, expected):
    assert has_boxed_answer(text) is expected
    assert has_boxed_answer([{"role": "assistant", "content": text}]) is expected
