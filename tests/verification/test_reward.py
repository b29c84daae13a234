# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from trl import GRPOConfig, GRPOTrainer

from trl_concise import math_accuracy_reward
from trl_concise.verification.reward import completion_text, has_boxed_answer


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


def test_a_completion_that_still_calls_a_tool_has_no_answer():
    call = {"type": "function", "function": {"name": "add", "arguments": {}}}
    calling = {"role": "assistant", "content": r"\boxed{3}", "tool_calls": [call]}
    output = {"role": "tool", "name": "add", "content": "3"}
    answer = {"role": "assistant", "content": r"\boxed{3}", "tool_calls": None}
    completions = [[calling], [calling, output], [calling, output, answer]]
    assert math_accuracy_reward(completions, solution=["3"] * 3) == [0, 0, 1]


@pytest.mark.parametrize("name", ["reasoning_content", "thinking"])
def test_reasoning_that_was_parsed_out_of_a_message_counts_as_reasoning(name):
    """TRL parses completions with tools."""
    message = {"role": "assistant", name: "1 + 2", "content": r"\boxed{3}"}
    assert completion_text([message]) == r"<think>1 + 2</think>\boxed{3}"
    assert has_boxed_answer([message])
    rewards = math_accuracy_reward([[message], [{**message, "content": ""}]], solution=["3"] * 2)
    assert rewards == [1, 0]
    assert completion_text([{**message, name: None}]) == r"\boxed{3}"


@pytest.mark.parametrize("completion", [[], [{"role": "assistant", "content": None}], [{"role": "assistant"}], ""])
def test_missing_text_is_not_an_answer(completion):
    assert math_accuracy_reward([completion], solution=["2"]) == [0.0]


def test_answer_column():
    assert math_accuracy_reward([r"\boxed{2}"], answer=[2]) == [1.0]
    assert math_accuracy_reward([r"\boxed{2}"], solution=["One and one is two."], answer=["2"]) == [1.0]


@pytest.mark.parametrize("gold", [None, "", " ", float("nan"), np.float32("nan")])
def test_an_unreadable_reference_answer_gives_no_reward(gold):
    assert math_accuracy_reward([r"\boxed{2}", r"\boxed{2}"], solution=[gold, "2"]) == [None, 1.0]


def test_a_dataset_without_reference_answers_is_an_error():
    with pytest.raises(ValueError, match="'solution' or 'answer'"):
        math_accuracy_reward([r"\boxed{2}"], problem=["1 + 1"])


def test_metrics():
    logged: dict[str, float] = {}
    completions = [
        *(
            r"\boxed{2}",
            r"\boxed{3}",
            r"\boxed{5^{5^{5^{5^5}}}}",
            r"\boxed{2 + x - x}",
            r"\boxed{4 - 2}",
            r"\boxed{2",
            "Done.",
        ),
        "It may be about two or so.",
    ]
    math_accuracy_reward(completions, solution=["2"] * 8, log_metric=logged.__setitem__)
    assert logged.pop("verification/seconds") > 0
    assert 0 < logged.pop("verification/fast_fraction") < 1
    assert logged == {
        "verification/timeouts": 0,
        "verification/guarded": 1,
        "verification/unfinished": 1,
        "verification/unfinished_form": 2,
        "verification/no_answer": 2,
    }


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
def test_a_boxed_answer_is_closed_and_follows_the_reasoning(text, expected):
    assert has_boxed_answer(text) is expected
    assert has_boxed_answer([{"role": "assistant", "content": text}]) is expected


def test_a_function_with_other_options():
    boxed = math_accuracy_reward(format="boxed")
    assert boxed.__name__ == "math_accuracy_reward"  # the column's name in TRL's logs
    assert boxed.needs_one_of == ("solution", "answer")
    completions = ["It is 4.", r"It is \boxed{4}.", r"\boxed{2 + 2}"]
    assert boxed(completions, solution=["4"] * 3) == [0.0, 1.0, 0.0]
    assert math_accuracy_reward(completions, solution=["4"] * 3, format="boxed") == [0.0, 1.0, 0.0]
    assert math_accuracy_reward(final_form=False)(completions, solution=["4"] * 3) == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="format='box' is not an answer format. Choose one of 'auto', 'boxed'"):
        math_accuracy_reward(format="box")


def test_columns_named_like_options_are_columns():
    columns = {"format": ["prose", "prose"], "final_form": ["yes", "no"]}
    completions = ["The answer is 4.", r"\boxed{4}"]
    assert math_accuracy_reward(completions, solution=["4", "4"], **columns) == [1.0, 1.0]
    assert math_accuracy_reward(format="boxed")(completions, solution=["4", "4"], **columns) == [0.0, 1.0]


def test_a_format_that_no_completion_has_is_a_warning(tiny_model, problems, tmp_path, caplog):
    """A random model writes no boxes: TRL's own trainer, 200 completions, one step."""
    args = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        num_generations=50,
        per_device_train_batch_size=200,
        max_completion_length=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    for reward in (math_accuracy_reward(format="boxed"), math_accuracy_reward(format="answer_tag")):
        caplog.clear()
        GRPOTrainer(model=tiny_model, reward_funcs=reward, args=args, train_dataset=problems).train()
        (message,) = [r.getMessage() for r in caplog.records if "have no final answer" in r.getMessage()]
        assert message.startswith(
            "200 of the first 200 completions have no final answer (0 are unfinished), for example '"
        )
    assert "format='answer_tag'" in message
    assert len(message) < 900


def test_a_format_that_most_completions_have_is_no_warning(caplog):
    class State:
        pass

    def observe(completions):
        state = State()
        for _ in range(10):
            math_accuracy_reward(completions, solution=["1"] * len(completions), trainer_state=state)
        return "no final answer" in caplog.text

    assert not observe([r"\boxed{2}"] * 2 + ["Hm."] * 18)  # 90 %
    assert observe([r"\boxed{2}"] + ["Hm. " * 500] * 19)
    assert "19 of" not in caplog.text and "190 of the first 200" in caplog.text
    assert len(caplog.text) < 1_000  # examples are shortened
