# SPDX-License-Identifier: Apache-2.0
"""Self-verification: rewards, verdicts, the buffer, and the rows that it adds to a batch."""

from __future__ import annotations

import json
import math
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig

from tests import slot_rows, tiny
from tests.distributed import self_verify as scripted
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.methods.self_verify import SelfVerification, Solution, SolutionBuffer, binary_reward, dynamic_reward
from trl_concise.verification.verdicts import (
    CUE,
    INSTRUCTION,
    read_verdict,
    solution_after_reasoning,
    verification_prompt,
)


# Rewards


@pytest.mark.parametrize(
    ("counts", "of_correct", "of_incorrect"),
    [
        ((6, 2), 0.666667, 2.0),
        ((4, 4), 1.0, 1.0),
        ((1, 7), 4.0, 0.571429),
        ((8, 0), 0.5, None),
        ((0, 8), None, 0.5),
    ],
)
def test_golden_values_of_the_dynamic_reward(counts, of_correct, of_incorrect):
    for correct, expected in ((True, of_correct), (False, of_incorrect)):
        if expected is not None:
            assert dynamic_reward(correct, correct, *counts) == pytest.approx(expected, abs=1e-6)
            assert dynamic_reward(not correct, correct, *counts) == dynamic_reward(None, correct, *counts) == 0.0


@given(st.integers(0, 40), st.integers(0, 40))
def test_right_verdicts_about_a_mixed_group_earn_1_on_average(num_correct, num_incorrect):
    solutions = [True] * num_correct + [False] * num_incorrect
    if not solutions:
        return
    mean = fmean(dynamic_reward(correct, correct, num_correct, num_incorrect) for correct in solutions)
    assert mean == pytest.approx(1.0 if num_correct and num_incorrect else 0.5)


def test_the_binary_reward_is_whether_the_verdict_is_right():
    verdicts = [(True, True), (False, False), (True, False), (False, True), (None, True), (None, False)]
    assert [binary_reward(*pair) for pair in verdicts] == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


# Prompts and verdicts


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (f"So it is wrong. {CUE} No", False),
        (f"{CUE} Yes.", True),
        (f"{CUE}Yes", True),
        (f"{CUE}\n**Yes**", True),
        (f'"{CUE} No"', False),
        (f"{CUE} Yes\nWait. {CUE} No", False),  # the last one counts
        (f"{CUE} Yes\n{CUE} X", None),  # not an earlier one
        (f"{CUE} Yes/No", None),
        (f"{CUE} Nothing", None),
        (f"{CUE} I think Yes", None),
        (f"{CUE}", None),
        ("Yes", None),
        ("", None),
        (f"<think>{CUE} Yes</think> {CUE} No", False),
        (f"<think>{CUE} Yes</think> I am not sure.", None),  # in the reasoning only
        (f"<think>{CUE} Yes", None),
    ],
)
def test_verdicts(text, verdict):
    assert read_verdict(text) is verdict
    assert read_verdict(text, truncated=True) is None


def test_a_verdict_inside_reasoning_that_the_prompt_has_opened_does_not_count():
    assert read_verdict(f"{CUE} Yes", reasoning_opened=True) is None
    assert read_verdict(f"It is.</think>{CUE} Yes", reasoning_opened=True) is True


def test_prompts_have_the_problem_the_solution_and_the_instruction():
    problem = [{"role": "system", "content": "Think."}, {"role": "user", "content": "6 * 7?"}]
    asked = verification_prompt(problem, "42")
    assert asked[:2] == problem and [message["role"] for message in asked[2:]] == ["assistant", "user"]
    assert [message["content"] for message in asked[2:]] == ["42", INSTRUCTION]
    begun = [*problem, {"role": "assistant", "content": "The answer is "}]
    assert verification_prompt(begun, "42")[2:] == [{"role": "assistant", "content": "The answer is 42"}, asked[3]]
    opened = [*problem, {"role": "assistant", "content": "<think>\n"}]
    assert verification_prompt(opened, "42") == asked and len(opened) == 3
    assert verification_prompt("6 * 7?\n", "42") == f"6 * 7?\n42\n\n{INSTRUCTION}\n\n"
    assert verification_prompt("6 * 7?\n<think>\n", "42") == f"6 * 7?\n42\n\n{INSTRUCTION}\n\n"


def test_reasoning_is_not_part_of_a_solution():
    assert solution_after_reasoning("<think>a</think>b<think>c</think> \\boxed{4} ") == "\\boxed{4}"
    assert solution_after_reasoning("a</think>b", reasoning_opened=True) == "b"
    assert solution_after_reasoning("<think>a</think>  ") is None
    assert solution_after_reasoning("b<think>a") is None


# The buffer


def solution(step: int, text: str = "42", correct: bool = True) -> Solution:
    return Solution([{"role": "user", "content": "6 * 7?"}], text, correct, 3, 1, step)


def test_old_solutions_are_never_drawn():
    buffer = SolutionBuffer(size=100, max_age=2)
    rng = np.random.default_rng(0)
    for step in range(8):
        drawn = buffer.draw(100, step, rng)
        assert sorted(item.step for item in drawn) == [old for old in (step - 2, step - 1) if old >= 0 for _ in "abc"]
        buffer.add(solution(step) for _ in range(3))
    assert buffer.draw(5, 99, rng) == [] and buffer.solutions == []


def test_a_full_buffer_drops_the_oldest():
    buffer = SolutionBuffer(size=4, max_age=60)
    buffer.add(solution(0, str(i)) for i in range(3))
    buffer.add(solution(1, str(i)) for i in range(3, 6))
    assert [item.text for item in buffer.solutions] == ["2", "3", "4", "5"]
    drawn = buffer.draw(3, 1, np.random.default_rng(0))
    assert len({item.text for item in drawn}) == 3


def test_the_state_of_the_buffer_restores_it():
    buffer = SolutionBuffer(size=9, max_age=60)
    assert restored(buffer).solutions == []
    texts = ["é\U0001f600", "\ud800", 'a "b"\n', ""]
    buffer.add(solution(i, text, correct=i % 2 == 0) for i, text in enumerate(texts))
    buffer.add([Solution("text", "1", True, 8, 0, 5)])
    assert restored(buffer).solutions == buffer.solutions
    assert [item.step for item in restored(buffer, size=2).solutions] == [3, 5]


def restored(buffer: SolutionBuffer, size: int = 9) -> SolutionBuffer:
    other = SolutionBuffer(size, max_age=60)
    other.load_state_dict(buffer.state_dict())
    return other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": -1.0}, "ratio must be a finite number of at least 0, got -1.0"),
        ({"ratio": math.nan}, "ratio must be a finite number"),
        ({"verdict_reward": "eq5"}, r"verdict_reward must be one of \('dynamic', 'binary'\), got 'eq5'"),
        ({"buffer_size": 0}, "buffer_size must be at least 1, got 0. To add no verification prompts, set ratio=0"),
        ({"max_age": -1}, "max_age must be at least 0, got -1"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        SelfVerification(**changes)


# Training


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    """A run with scripted verdicts and checkpoints."""
    folder = tmp_path_factory.mktemp("self_verify")
    trainer = scripted.build(tiny_model, folder, save_strategy="steps", save_steps=4)
    trainer.train()
    return trainer


def test_verification_prompts_have_groups_and_rewards_of_their_own(run):
    (component,) = run.components
    tokenizer = run.processing_class
    verdict = {"Yes": True, "No": False, "I cannot say": None}
    assert [step for step, _, _ in component.returned] == [2, 4]  # there is nothing to verify in the first batch
    for step, drawn, rows in component.returned:
        assert len(drawn) == 3 and len(rows) == 12
        for place, item in enumerate(drawn):
            members = [row for row, group in enumerate(rows.group) if group == place]
            prompts = {tokenizer.decode(rows.prompt_ids[row]) for row in members}
            assert len(members) == 4 and len(prompts) == 1
            (prompt,) = prompts
            assert INSTRUCTION in prompt and item.prompt[0]["content"] in prompt and scripted.REFERENCE not in prompt
            assert f"assistant\n{item.text}<" in prompt and item.text != "23"  # whose correctness is unknown
            assert item.correct == (int(item.text) % 2 == 0) and 0 <= step - item.step <= 4
            own = item.num_correct if item.correct else item.num_incorrect
            for row in members:
                text = tokenizer.decode(rows.completion_ids[row], skip_special_tokens=True)
                truncated = sum(rows.prompt_ids[row]) % 5 == 0
                is_right = not truncated and verdict[text.removeprefix(f"{CUE} ")] is item.correct
                expected = (item.num_correct + item.num_incorrect) / (2 * own) if is_right else 0.0
                assert rows.rewards[row].item() == pytest.approx(expected)
                assert set(rows.mask[row]) == {int(not truncated)}


def test_what_is_logged(run):
    logged = slot_rows.logged(run)
    generated = logged[::2]  # each generation batch is trained on twice
    assert [entry["self_verify/prompts"] for entry in generated] == [0, 3, 3]
    assert [entry["self_verify/share"] for entry in generated] == [0, 0.5, 0.5]
    assert "self_verify/accuracy" not in generated[0] and generated[0]["self_verify/buffer"] <= 12
    (component,) = run.components
    for entry, (step, drawn, rows) in zip(generated[1:], component.returned, strict=True):
        assert entry["self_verify/reward"] == pytest.approx(rows.rewards.mean().item(), abs=1e-6)
        assert entry["self_verify/accuracy"] == pytest.approx((rows.rewards > 0).float().mean().item(), abs=1e-6)
        assert entry["self_verify/age"] == fmean(step - item.step for item in drawn)
        lengths = [len(ids) - 1 for ids in rows.completion_ids]
        assert entry["self_verify/tokens"] == pytest.approx(fmean(lengths))
    assert any(entry["self_verify/accuracy"] for entry in generated[1:]) and all(
        entry["grad_norm"] for entry in logged
    )


def test_a_resumed_run_continues_with_the_buffer(run, tiny_model, tmp_path):
    resumed = scripted.build(tiny_model, tmp_path)
    resumed.train(resume_from_checkpoint=f"{run.args.output_dir}/checkpoint-4")
    (before,), (after,) = run.components, resumed.components
    assert after.buffer.solutions == before.buffer.solutions
    assert after.returned[-1][1] == before.returned[-1][1]
    assert slot_rows.logged(resumed) == slot_rows.logged(run)


def test_two_processes_draw_the_same_and_train_as_one(run, two_processes):
    ranks = [json.loads((two_processes / "self_verify" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    one = scripted.report(run)
    assert [rank["world_size"] for rank in ranks] == [2, 2] and one["world_size"] == 1
    assert ranks[0]["state"] == ranks[1]["state"] == one["state"]
    assert ranks[0]["asked"] == ranks[1]["asked"] == one["asked"]
    assert [[*rows] for rows in zip(ranks[0]["rows"], ranks[1]["rows"], strict=True)] == [[8, 4], [8, 4]]
    # Processes that share a vLLM engine divide what it returns equally, so each asks about as many solutions.
    assert ranks[0]["generated"] == ranks[1]["generated"] == [2, 2] and one["generated"] == [3, 3]
    keys = ["loss", "grad_norm", "reward", "kl", *(key for key in one["logged"][2] if key.startswith("self_verify/"))]
    for rank in ranks:
        for two, single in zip(rank["logged"], one["logged"], strict=True):
            for key in keys:
                if key in single:
                    assert two[key] == pytest.approx(single[key], abs=1e-5, rel=1e-3), key


@pytest.mark.parametrize("kind", ["text", "messages"])
def test_a_real_model_verifies_its_own_solutions(kind, tiny_model, tmp_path):
    """An adapter with a KL term, two micro-batches a step, completions that are truncated; prompts of text and messages."""
    texts = [f"{i} + {i}?" for i in range(8)]
    prompts = texts if kind == "text" else [[{"role": "user", "content": text}] for text in texts]
    trainer = ConciseGRPOTrainer(
        tiny_model,
        tiny.even_reward,
        ConciseGRPOConfig(**tiny.settings(tmp_path, beta=0.1, max_steps=3, gradient_accumulation_steps=2)),
        Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        advantage=SelfVerification(ratio=0.5, max_age=1, verdict_reward="binary"),
        peft_config=LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    (component,) = trainer.components
    logged = slot_rows.logged(trainer)
    assert [entry["self_verify/prompts"] for entry in logged] == [0, 2, 2]
    assert logged[-1]["self_verify/no_verdict"] == 1 and logged[-1]["self_verify/tokens"] > 0
    assert {item.step for item in component.buffer.solutions} <= {1, 2}
    assert all(math.isfinite(entry["loss"]) for entry in logged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tools": [len]}, "has tools or environments. Remove them, or remove SelfVerification"),
        ({"environment_factories": {}}, "has tools or environments"),
        ({"max_completion_length": None}, "but max_completion_length is None. Set it"),
        (
            {"num_generations": 8},
            "no verification prompt for the 1 problems of a generation batch. Set ratio to at least 0.5",
        ),
    ],
)
def test_settings_of_the_trainer_that_are_refused(changes, message):
    view = {"tools": None, "environment_factories": None, "max_completion_length": 8, "num_generations": 4}
    view["model"] = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace()))
    args = SimpleNamespace(generation_batch_size=8, use_vllm=False)
    SelfVerification(0.25).attach(SimpleNamespace(**view, args=args))
    with pytest.raises(ValueError, match=message):
        SelfVerification(0.25).attach(SimpleNamespace(**{**view, **changes}, args=args))


def test_it_warns_of_a_context_that_a_verification_may_exceed(tiny_model, tmp_path, caplog):
    def warnings(limit):
        caplog.clear()
        args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_completion_length=limit))
        ConciseGRPOTrainer(tiny_model, tiny.even_reward, args, scripted.PROBLEMS, advantage=SelfVerification())
        return [record.message for record in caplog.records if "A verification and the solution" in record.message]

    assert not warnings(2048)
    (message,) = warnings(2049)
    assert "2049 tokens each, more than the context of 4096 tokens holds. Lower max_completion_length" in message
