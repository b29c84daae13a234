# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the paper's schedules (section 4.3)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import SIRIConfig, SIRISchedule, SIRITrainer, TruncationPenalty, math_accuracy_reward
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.siri import siri_budget, truncation_penalty


SHAPES = ["cosine", "stair", "stair-cosine"]
PAPER = {"longest": 16384, "shortest": 8192}

limits = st.tuples(st.integers(1, 10**5), st.integers(1, 10**5)).map(sorted)


# The equation


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 16384),
        (80, 15184.309),
        (160, 12288),
        (240, 9391.691),
        (320, 8192),
        (480, 12288),
        (640, 16384),
        (960, 8192),
    ],
)
def test_cosine(step, expected):
    assert siri_budget(step, cycle=640, **PAPER) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        *[(step, 16384) for step in (0, 30, 60, 420, 480)],
        (90, 15184.309),
        (120, 12288),
        (150, 9391.691),
        *[(step, 8192) for step in (180, 240, 300)],
        (330, 9391.691),
        (360, 12288),
    ],
)
def test_stair_cosine(step, expected):
    assert siri_budget(step, cycle=480, shape="stair-cosine", **PAPER) == pytest.approx(expected, abs=1e-3)


def test_stair_switches_after_half_a_cycle():
    values = [siri_budget(step, cycle=6, shape="stair", **PAPER) for step in range(7)]
    assert values == [8192, 8192, 8192, 16384, 16384, 16384, 8192]  # compression first


@pytest.mark.parametrize("shape", SHAPES)
@given(limits=limits, cycle=st.integers(1, 2000), step=st.integers(0, 10**5))
def test_within_the_limits_and_periodic(limits, cycle, step, shape):
    schedule = SIRISchedule(longest=limits[1], shortest=limits[0], cycle=cycle, shape=shape)
    limit = schedule.max_completion_length(step)
    assert schedule.shortest <= limit <= schedule.longest
    assert limit == schedule.max_completion_length(step + cycle)
    assert schedule.max_completion_length(0) == (schedule.shortest if shape == "stair" else schedule.longest)


@given(limits=limits, half=st.integers(1, 1000), shape=st.sampled_from(["cosine", "stair-cosine"]))
def test_the_trough_is_at_half_a_cycle(limits, half, shape):
    assert siri_budget(half, longest=limits[1], shortest=limits[0], cycle=2 * half, shape=shape) == limits[0]


def test_stair_cosine_is_continuous():
    values = [siri_budget(step, cycle=10**4, shape="stair-cosine", **PAPER) for step in range(10**4)]
    largest_step = max(abs(after - before) for before, after in zip(values, values[1:], strict=False))
    assert largest_step < 2 * 4096 * 2 * torch.pi / 10**4  # the steepest slope of a cosine of double frequency


def test_a_limit_is_rounded_down():
    schedule = SIRISchedule(cycle=640, **PAPER)
    assert [schedule.max_completion_length(step) for step in (0, 80, 160, 240, 480)] == [
        16384,
        15184,
        12288,
        9391,
        12288,
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"shape": "square"}, r"shape must be one of"),
        ({"shortest": 9, "longest": 8}, r"1 <= shortest <= longest must hold, got shortest=9 and longest=8"),
        ({"shortest": 0}, "1 <= shortest"),
        ({"cycle": 0}, "cycle must be at least 1"),
    ],
)
def test_settings_are_checked_at_construction(setting, message):
    with pytest.raises(ValueError, match=message):
        SIRISchedule(**{"longest": 8, "shortest": 4, **setting})


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="shape must be one of"):
        siri_budget(0, longest=2, shortest=1, cycle=1, shape="square")


# The trainer


def siri(model, dataset, output_dir, reward=tiny.even_reward, trainer_kwargs=None, **changes) -> SIRITrainer:
    args = SIRIConfig(**tiny.settings(output_dir, budget_cycle=4, **changes))
    return SIRITrainer(model, reward, args, dataset, **(trainer_kwargs or {}))


def test_defaults_are_the_papers(tiny_model, problems, tmp_path):
    args = SIRIConfig(**tiny.settings(tmp_path, max_completion_length=16384))
    schedule = SIRITrainer(tiny_model, tiny.even_reward, args, problems).budget_schedule
    assert (schedule.longest, schedule.shortest, schedule.cycle, schedule.shape) == (16384, 8192, 640, "cosine")


def test_completions_follow_the_limit_and_evaluation_does_not(tiny_model, problems, tmp_path):
    trainer = siri(
        tiny_model,
        problems,
        tmp_path,
        trainer_kwargs={"eval_dataset": problems.select(range(2))},
        max_steps=5,
        eval_strategy="steps",
        eval_steps=3,
        generation_kwargs={"min_new_tokens": 8},
    )
    trainer.train()
    train = [log for log in trainer.state.log_history if "siri/budget" in log]
    assert [log["siri/budget"] for log in train] == [8, 6, 4, 6, 8]
    assert [log["completions/max_length"] for log in train] == [8, 6, 4, 6, 8]
    assert [log["siri/truncated_fraction"] for log in train] == [1] * 5
    evaluation = next(log for log in trainer.state.log_history if "eval_completions/max_length" in log)
    assert evaluation["eval_completions/max_length"] == 8  # after the step with a limit of 4


def test_a_resumed_run_continues_at_the_same_phase(tiny_model, problems, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = siri(tiny_model, problems, tmp_path / "whole", **changes)
    whole.train()
    resumed = siri(tiny_model, problems, tmp_path / "resumed", **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert tiny.losses(resumed) == tiny.losses(whole)
    assert resumed.state.log_history[3]["siri/budget"] == whole.state.log_history[3]["siri/budget"] == 6


def text_reward(completions, solution, **kwargs):
    """A correctness function that does not know what was truncated."""
    return math_accuracy_reward(completions, solution=solution)


@pytest.mark.parametrize(
    ("correctness", "reward", "verdicts", "penalties"),
    [
        (text_reward, 0.5, [1, 1, 1, 1, 1, 1, 0, 0], [0, 0, -1, -1, 0, 0, 0, 0]),
        (math_accuracy_reward, 0.25, [0, 0, 0, 0, 1, 1, 0, 0], [0] * 8),
    ],
)
def test_a_truncated_completion_earns_nothing(
    tiny_model, problems, tmp_path, correctness, reward, verdicts, penalties
):
    """
    With a correctness function that reads the text only, the penalty takes the reward from a truncated sum that happens to be right,
    but not from a closed box. `math_accuracy_reward` gives neither of them a reward.
    """
    answers = [r"\boxed{0}", r"0+0=0    \boxed0", "0+0=0", r"xx\boxed{0}"]  # bytes, one token each; a limit of 9

    def written_under_the_limit(prompts, trainer):
        tokenizer, limit = trainer.processing_class, trainer.max_completion_length
        ids = [tokenizer(text).input_ids + [tokenizer.eos_token_id] for text in answers for _ in range(2)]
        assert len(ids[0]) == 10
        return {"prompt_ids": [[5]] * len(prompts), "completion_ids": [row[:limit] for row in ids], "logprobs": None}

    gold = problems.map(lambda row: {"solution": "0"})
    changes = {"max_completion_length": 18, "min_completion_length": 9, "budget_cycle": 2, "log_completions": True}
    args = SIRIConfig(**tiny.settings(tmp_path, **changes))
    trainer = SIRITrainer(tiny_model, correctness, args, gold, rollout_func=written_under_the_limit)
    trainer.train()
    wide, narrow = trainer.state.log_history[:2]
    assert (wide["siri/budget"], wide["reward"]) == (18, 1)
    assert (narrow["siri/budget"], narrow["reward"]) == (9, reward)
    columns = [list(trainer._logs["rewards"][name]) for name in (correctness.__name__, "TruncationPenalty")]
    assert columns == [verdicts, penalties]  # of the narrow step


def test_unknown_correctness_stays_unknown_after_truncation():
    measured = {"truncation": {"answered": torch.tensor([0.0, 0, 1, 0])}}
    rollouts = Rollouts(
        ("a",) * 4,
        torch.ones(4, dtype=torch.long),
        torch.tensor([1, math.nan, 1, 1]),
        4,
        truncated=torch.tensor([True, True, True, False]),
        measured=measured,
    )
    assert TruncationPenalty().score(rollouts).nan_to_num(-9).tolist() == [-1, -9, 0, 0]


@pytest.mark.parametrize(("coefficient", "expected"), [(0, [1, 0, 0, -1]), (0.1, [1, 0.1, 0, -1]), (1, [1, 1, 0, -1])])
def test_golden_rewards_of_the_stop_properly_coefficient(coefficient, expected):
    """From NeMo-RL, except that a truncated completion with a negative reward keeps it: theirs has -1 times the coefficient."""
    rewards, truncated = torch.tensor([1.0, 1, 0, -1]), torch.tensor([False, True, True, True])
    added = truncation_penalty(rewards, truncated, coefficient=coefficient)
    assert (rewards + added).tolist() == pytest.approx(expected) and (added <= 0).all()


def test_a_share_of_the_reward_is_kept_with_or_without_a_boxed_answer():
    rollouts = Rollouts(
        ("a",) * 3,
        torch.ones(3, dtype=torch.long),
        torch.ones(3),
        3,
        truncated=torch.tensor([True, True, False]),
        measured={"truncation": {"answered": torch.tensor([0.0, 1, 0])}},
    )
    assert TruncationPenalty(0.25).score(rollouts).tolist() == [-0.75, 0, 0]
    assert TruncationPenalty(0.25, spare_boxed=False).score(rollouts).tolist() == [-0.75, -0.75, 0]
    with pytest.raises(ValueError, match=r"coefficient must lie in \[0, 1\], got 1.5"):
        TruncationPenalty(1.5)


def test_settings_that_defeat_the_schedule_are_refused(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match="mask_truncated_completions=True removes truncated completions"):
        siri(tiny_model, problems, tmp_path, mask_truncated_completions=True)
    with pytest.raises(ValueError, match="fills budget_schedule= with a SIRISchedule of its own"):
        siri(tiny_model, problems, tmp_path, trainer_kwargs={"budget_schedule": SIRISchedule(longest=8, shortest=4)})
    with pytest.raises(ValueError, match="1 <= shortest <= longest must hold, got shortest=9 and longest=8"):
        siri(tiny_model, problems, tmp_path, min_completion_length=9)
