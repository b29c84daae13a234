# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import functools
import itertools
import math
import random

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig, GRPOTrainer

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, DynamicSampling
from trl_concise.data import saturn_dataset
from trl_concise.data.saturn import draw_formula, satisfies
from trl_concise.methods.saturn import SATURNCurriculum, saturn_reward


EXAMPLE = "!B!C!D & A!B!D & AB!D"  # of the authors' prompt, with the answer 1101


def reward(completion, clause=EXAMPLE, k=4, **options):
    (value,) = saturn_reward([completion], clause=[clause], k=[k], **options)
    return value


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        (r"\boxed{1101}", 1.0),
        (r"\boxed{0000}", 1.0),  # another assignment that satisfies it
        (r"\boxed{0101}", 0.0),
        (r"\boxed{0101} no, \boxed{1101}", 1.0),  # the last box
        (r"\boxed{1101} no, \boxed{0101}", 0.0),
        (r"\boxed{ 11 01 }", 1.0),
        (r"\boxed{110}", 0.0),
        (r"\boxed{11010}", 0.0),
        (r"\boxed{A=1}", 0.0),
        (r"\boxed{}", 0.0),
        (r"\boxed{１１０１}", 0.0),  # full-width digits
        ("1101", -1.0),
        ("", -1.0),
        (r"\boxed{1101", -1.0),  # truncated
        (r"<think>\boxed{1101}</think> I do not know", -1.0),
        (r"<think>\boxed{0101}</think>\boxed{1101}", 1.0),
        ([{"role": "assistant", "content": r"\boxed{1101}"}], 1.0),
        ([{"role": "assistant", "content": None}], -1.0),
        ([], -1.0),
    ],
)
def test_reward_of_a_completion(completion, value):
    assert reward(completion) == value


def test_reward_of_a_row_without_a_formula():
    assert reward(r"\boxed{1}", clause="A or B") == -2.0
    assert reward(r"\boxed{1}", clause=None) == -2.0
    assert reward(r"\boxed{1}", clause="A", k=None) == -2.0


def test_short_answers_are_padded_on_request_as_by_the_authors():
    assert reward(r"\boxed{00}") == 0.0 and reward(r"\boxed{00}", pad_short=True) == 1.0
    assert reward(r"\boxed{11011}", pad_short=True) == 1.0
    assert functools.partial(saturn_reward, pad_short=True)([r"\boxed{}"], clause=["!A"], k=[1]) == [1.0]


@given(st.integers(), st.integers(1, 5), st.integers(1, 8))
def test_every_satisfying_assignment_earns_1_and_every_other_one_0(seed, k, length):
    clause, solution = draw_formula((min(k, 2), k, min(length, k)), random.Random(seed))
    for bits in map("".join, itertools.product("01", repeat=k)):
        assert reward(f"so \\boxed{{{bits}}}", clause, k) == float(satisfies(bits, clause))
    assert reward(f"\\boxed{{{solution}}}", clause, k) == 1.0


@given(st.text(max_size=200) | st.text("\\boxed{}01 !&", max_size=60))
def test_any_text_has_a_reward(text):
    assert reward(text) in (1.0, 0.0, -1.0)


def test_a_text_of_megabytes_costs_no_time():
    assert reward("\\boxed{" * 300_000) == -1.0
    assert reward("{" * 1_000_000 + r"\boxed{1101}") == 1.0
    assert reward("\\boxed{" + "1" * 1_000_000 + "}") in (0.0, -1.0)


def test_with_the_trainer_of_trl(tiny_model, tmp_path):
    dataset = saturn_dataset([(2, 3, 2)], 4)
    trainer = GRPOTrainer(tiny_model, saturn_reward, GRPOConfig(**tiny.settings(tmp_path, max_steps=1)), dataset)
    trainer.train()
    assert trainer.state.log_history[0]["rewards/saturn_reward/mean"] == -1.0  # a random model writes no box


# The curriculum

LEVELS = 3


def rows(per_level: int, levels: int = LEVELS, **changes) -> Dataset:
    """Return prompts whose level is in the column `level`, in turn."""
    return Dataset.from_list(
        [{"prompt": f"{i}?", "prompt_id": f"{i}", "level": i % levels, **changes} for i in range(per_level * levels)]
    )


def curriculum(model, folder, selector, correct, *, resume=None, train=None, held_out=None, **changes):
    slots = {name: changes.pop(name) for name in ("group_filter",) if name in changes}
    trainer = ConciseGRPOTrainer(
        model,
        correct,
        ConciseGRPOConfig(**tiny.settings(folder, **changes)),
        train if train is not None else rows(4),
        held_out if held_out is not None else rows(3),
        prompt_selector=selector,
        **slots,
    )
    if resume is not False:
        trainer.train(resume_from_checkpoint=resume)
    return trainer


class Seen:
    """A reward function that keeps the levels that it was asked about, and whose completions are correct up to a level."""

    def __init__(self, solved: int):
        self.solved = solved
        self.levels: list[set[int]] = []

    def reward(self, completion_ids, level, **kwargs):
        self.levels.append(set(level))
        return [float(number <= self.solved) for number in level]


def test_the_level_rises_where_validation_passes_and_only_there(tiny_model, tmp_path):
    seen, selector = Seen(solved=1), SATURNCurriculum(every=4)
    trainer = curriculum(tiny_model, tmp_path, selector, seen.reward, max_steps=12)
    assert all(len(levels) == 1 for levels in seen.levels)  # batches and validations have one level each
    logged = [entry["saturn/level"] for entry in trainer.state.log_history if "saturn/level" in entry]
    # Validated after each second step: levels 0 and 1 are solved, level 2 is not. One batch is read ahead.
    assert logged == [0, 0, 1, 1, *[2] * 8]
    passed = [entry["saturn/pass_at_1"] for entry in trainer.state.log_history if "saturn/pass_at_1" in entry]
    assert passed == [1.0] * 10 and selector.level == 2  # nothing is validated at the last level
    assert trainer.state.log_history[-2]["saturn/validation_tokens"] == selector.validation_tokens > 0
    # Two batches, a validation, the batch that was read ahead, one of the next level, and so on
    assert [levels.pop() for levels in seen.levels] == [0, 0, 0, 0, 1, 1, 1, *[2] * 7]


@pytest.mark.parametrize(("threshold", "level"), [(0.5, 0), (0.49, 1), (1.0, 0), (0.0, 1)])
def test_pass_at_1_must_be_above_the_threshold(threshold, level, tiny_model, tmp_path):
    def half(completion_ids, **kwargs):
        return [float(i % 2) for i in range(len(completion_ids))]

    selector = SATURNCurriculum(threshold, every=1, generations=2)
    trainer = curriculum(tiny_model, tmp_path, selector, half, resume=False)
    selector.prompts = 1
    selector.validate()
    assert (selector.pass_at_1, selector.level, selector.prompts) == (0.5, level, 0)
    selector.validate()  # not due
    assert selector.level == level and trainer.components == [selector]


def test_unknown_correctness_never_raises_the_level(tiny_model, tmp_path):
    selector = SATURNCurriculum(0.0, every=1)
    curriculum(
        tiny_model, tmp_path, selector, lambda completion_ids, **kwargs: [None] * len(completion_ids), resume=False
    )
    selector.prompts = 1
    selector.validate()
    assert math.isnan(selector.pass_at_1) and selector.level == 0


@pytest.mark.parametrize("refills", [False, True])
def test_a_run_resumes_in_the_middle_of_a_level(refills, tiny_model, tmp_path):
    def train(folder, resume=None):
        slots = {"group_filter": DynamicSampling(max_refills=1)} if refills else {}
        selector = SATURNCurriculum(0.3, every=6)
        settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, **slots}
        return curriculum(tiny_model, folder, selector, tiny.even_reward, resume=resume, train=rows(8), **settings)

    whole = train(tmp_path / "whole")
    assert whole.prompt_selector.level > 0
    resumed = train(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.prompt_selector.state_dict() == whole.prompt_selector.state_dict()
    names = ("saturn/level", "reward", "loss")
    assert [[entry.get(name) for name in names] for entry in resumed.state.log_history] == [
        [entry.get(name) for name in names] for entry in whole.state.log_history
    ]
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": rows(2, levels=1)}, r"no rows of the levels \[1\]"),
        ({"train": rows(1)}, "1 rows of the level 0, but a batch takes 2 prompts"),
        ({"train": rows(4).remove_columns("level")}, "train dataset has None in the column 'level'"),
        ({"held_out": rows(2, level="easy")}, "eval dataset has 'easy' in the column 'level'"),
    ],
)
def test_datasets_that_do_not_fit(changes, message, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=message):
        curriculum(tiny_model, tmp_path, SATURNCurriculum(), tiny.even_reward, resume=False, **changes)


def test_no_dataset_to_validate_on(tiny_model, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    with pytest.raises(ValueError, match="Pass eval_dataset="):
        ConciseGRPOTrainer(tiny_model, tiny.even_reward, args, rows(4), prompt_selector=SATURNCurriculum())


def test_a_checkpoint_of_more_levels_is_refused():
    selector = SATURNCurriculum()
    selector.levels = [0.0]
    with pytest.raises(ValueError, match="level number 2"):
        selector.load_state_dict({"level": 2, "pass_at_1": 0.5, "prompts": 0, "validation_tokens": 0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, "threshold must lie in"),
        ({"threshold": math.nan}, "threshold must lie in"),
        ({"every": 0}, "every must be at least 1"),
        ({"generations": 0}, "generations must be at least 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SATURNCurriculum(**settings)
