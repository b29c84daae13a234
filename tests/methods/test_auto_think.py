# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the paper's equations and the authors' rules, independently of this package."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from trl.chat_template_utils import deepseek_r1_distill_chat_template

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo, math_accuracy_reward
from trl_concise.batch.rollouts import LocalRollouts, Rollouts
from trl_concise.methods.auto_think import (
    AutoThinkConfig,
    AutoThinkReward,
    AutoThinkTrainer,
    add_ellipsis,
    balance_modes,
    naive_reward,
    shape_lengths,
    stage_budget,
)


FIRST = torch.tensor([1.0, 0, 1, 0, 1]), torch.tensor([True, True, True, True, False])
SECOND = torch.tensor([1.0, 1, 0, 1, 0]), torch.tensor([True, False, False, False, False])
LENGTHS = torch.tensor([4000, 9000, 8000, 3000, 600])


def test_golden_stage_1():
    first, second = (balance_modes(naive_reward(*case), *case) for case in (FIRST, SECOND))
    assert first.tolist() == pytest.approx([0.4, -0.6, 0.4, -0.6, 2])
    assert second.tolist() == pytest.approx([1, 1.4, -1.6, 1.4, -1.6])


def test_golden_stages_2_and_3():
    reward = naive_reward(*FIRST)
    assert reward.tolist() == [1, 0, 1, 0, 2]
    shaped = shape_lengths(reward, LENGTHS, FIRST[0], 5)
    assert shaped.tolist() == pytest.approx([1.0027, 0.0347, 0.95, -0.036, 2.0498], abs=5e-5)


def test_a_wrong_direct_answer_that_repeats_itself():
    correct, thinks = torch.tensor([1.0, 0, 1, 0, math.nan]), torch.tensor([True, True, False, False, False])
    reward = naive_reward(correct, thinks, torch.tensor([True] * 5))
    assert reward[:4].tolist() == [1, 0, 2, -2] and reward[4].isnan()


CASES = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.booleans()), min_size=1, max_size=12)


@given(CASES, st.floats(0.5, 1), st.floats(0, 10))
def test_only_the_more_frequent_mode_is_balanced(cases, target, slope):
    correct, thinks = (torch.tensor(values) for values in zip(*cases, strict=True))
    reward = naive_reward(correct, thinks)
    balanced = balance_modes(reward, correct, thinks, target=target, slope=slope)
    share = thinks.float().mean().item()
    if share <= target:
        assert torch.equal(balanced[thinks], reward[thinks])
    if 1 - share <= target:
        assert torch.equal(balanced[~thinks], reward[~thinks])
    assert (balanced <= reward + 1e-6).all() and (balanced >= reward - 1 - 1e-6).all()


@pytest.mark.parametrize(("thinks", "expected"), [(True, [0, -1]), (False, [1, -2])])
def test_a_batch_of_one_mode(thinks, expected):
    correct = torch.tensor([1.0, 0.0])
    modes = torch.tensor([thinks, thinks])
    assert balance_modes(naive_reward(correct, modes), correct, modes).tolist() == expected


def test_a_share_at_the_target_changes_nothing():
    correct, thinks = torch.tensor([1.0, 0, 1, 0]), torch.tensor([True, True, False, False])
    reward = naive_reward(correct, thinks)
    assert torch.equal(balance_modes(reward, correct, thinks), reward)


GROUP = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.booleans(), st.integers(1, 5000)), min_size=6, max_size=6)


@given(GROUP)
def test_length_within_a_set(group):
    """Shorter correct completions earn more, longer wrong ones do, and the two sets do not affect each other."""
    correct, thinks, lengths = (torch.tensor(values) for values in zip(*group, strict=True))
    reward = naive_reward(correct, thinks)
    shaped = shape_lengths(reward, lengths, correct, 6)
    change = shaped - reward
    for verdict, sign in ((1, -1), (0, 1)):
        among = correct == verdict
        own, changes = lengths[among], change[among]
        if among.sum() < 2 or len(set(own.tolist())) == 1:
            assert changes.abs().max() < 1e-6 if len(changes) else True
            continue
        order = own.argsort()
        assert (sign * changes[order].diff() >= -1e-6).all()
        others = torch.where(among, lengths, lengths * 7 + 3)
        assert shape_lengths(reward, others, correct, 6)[among].tolist() == pytest.approx(shaped[among].tolist())
    flat = shape_lengths(reward, lengths, correct, 6, correct_slope=0, wrong_slope=0)
    assert torch.equal(flat, reward)


def test_groups_are_shaped_apart_and_unknown_ones_stay_unknown():
    reward, (correct, _) = naive_reward(*FIRST), FIRST
    both = shape_lengths(reward.repeat(2), torch.cat([LENGTHS, LENGTHS * 3]), correct.repeat(2), 5)
    torch.testing.assert_close(both[:5], both[5:])
    unknown = torch.cat([torch.tensor([math.nan]), correct[1:]])
    shaped = shape_lengths(torch.where(unknown.isnan(), unknown, reward), LENGTHS, unknown, 5)
    assert shaped[0].isnan() and shaped[1:].isfinite().all()


# The component


def rollouts(correct, thinks, lengths, step=0, formed=None, repeats=None):
    ones = torch.ones_like(correct)
    measured = {
        "thinks": thinks.float(),
        "formed": ones if formed is None else formed,
        "repeats": 0 * ones if repeats is None else repeats,
    }
    keys = ("a",) * len(correct)
    return Rollouts(keys, lengths, correct, len(correct), measured={"auto_think": measured}, step=step)


def test_stages_switch_by_steps_and_by_the_stage_of_a_run():
    correct, thinks = FIRST
    expected = {
        1: balance_modes(naive_reward(*FIRST), *FIRST),
        2: naive_reward(*FIRST),
        3: shape_lengths(naive_reward(*FIRST), LENGTHS, correct, 5),
    }
    scheduled = AutoThinkReward(stage_steps=[10, 15])
    for step, stage in ((0, 1), (9, 1), (10, 2), (14, 2), (15, 3), (99, 3)):
        for reward in (scheduled, AutoThinkReward(stage=stage)):
            total = correct + reward.score(rollouts(correct, thinks, LENGTHS, step))
            torch.testing.assert_close(total, expected[stage])
    from_the_second = AutoThinkReward(stage=2, stage_steps=[5])
    assert [from_the_second.stage_at(step) for step in (4, 5)] == [2, 3]


def test_a_malformed_completion_counts_as_wrong():
    correct, thinks = torch.tensor([1.0, 1, 1, 0]), torch.tensor([True, False, False, False])
    given = rollouts(correct, thinks, torch.tensor([5, 6, 7, 8]), formed=torch.tensor([0.0, 0, 1, 1]))
    assert (correct + AutoThinkReward(stage=2).score(given)).tolist() == [0, 0, 2, -1]


TEXTS = [
    r"3*4</think>\boxed{12}|",
    r"3*4</think>\boxed{7}|",
    r"</think>\boxed{12}|",
    r"</think>\boxed{7}|",
    r"</think>12|",  # without a box
    r"\boxed{12}|",  # the thinking has no end
    "</think> " + "no " * 10 + r"\boxed{7}|",
    r"</think>\boxed{12}",  # ended by a stop string, within the limit
]


def with_lengths(naive: list[float]) -> list[float]:
    """Return the rewards of stage 3 from those of stage 2, for `TEXTS`: by the paper's formula, completion by completion."""
    lengths = [len(text.rstrip("|")) for text in TEXTS]  # the tokenizer has one token per byte
    correct = [True, False, True, False, False, False, False, True]  # malformed ones count as wrong
    rewards = []
    for own, length, verdict in zip(naive, lengths, correct, strict=True):
        among = [other for other, same in zip(lengths, correct, strict=True) if same is verdict]
        place = (length - statistics.mean(among)) / statistics.stdev(among)
        rewards.append(own + math.exp(-0.05 * place) - 1 if verdict else own + 1 - math.exp(-0.05 * place))
    return rewards


def test_training_rewards_the_modes(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
    rewards = []

    def rollout(prompts, trainer):
        start = tokenizer.apply_chat_template(prompts[0], add_generation_prompt=True, tokenize=False)
        assert start.endswith("<think>\n...\n")
        ids = [[*tokenizer(text.rstrip("|")).input_ids, *[2] * text.endswith("|")] for text in TEXTS]
        return {"prompt_ids": [tokenizer(start).input_ids] * 8, "completion_ids": ids, "logprobs": None}

    class Noted(AutoThinkTrainer):
        def _calculate_rewards(self, *args):
            rewards.append(super()._calculate_rewards(*args))
            return rewards[-1]

    settings = tiny.settings(
        tmp_path,
        num_generations=8,
        max_completion_length=60,
        max_steps=3,
        stage_steps=[1, 2],
        stage_limits=[50, 60, 70],
        save_strategy="steps",
        save_steps=1,
    )
    trainer = Noted(
        tiny_model,
        math_accuracy_reward,
        AutoThinkConfig(**settings),
        Dataset.from_list([{"prompt": [{"role": "user", "content": "3 * 4?"}], "solution": "12"}] * 8),
        processing_class=tokenizer,
        rollout_func=rollout,
    )
    trainer.train()
    first, second, third = (batch.sum(dim=1) for batch in rewards)
    naive = [1, 0, 2, -1, 0, 0, -2, 2]
    assert second.tolist() == pytest.approx(naive)
    # Five of eight answer directly: e = (5/8 - 1/2) * 2 = 1/4 of the way to 1 (correct) and -2 (wrong).
    assert first.tolist() == pytest.approx([1, 0, 1.75, -1.25, -0.5, 0, -2, 1.75])
    assert third.tolist() == pytest.approx(with_lengths(naive), abs=1e-5)
    logged = [entry for entry in trainer.state.log_history if "auto_think/stage" in entry]
    assert [entry["auto_think/stage"] for entry in logged] == [1, 2, 3]
    assert [entry["staged_budget/budget"] for entry in logged] == [50, 60, 70]
    assert logged[0]["auto_think/thinking_fraction"] == pytest.approx(3 / 8)
    assert logged[0]["auto_think/malformed_fraction"] == pytest.approx(2 / 8)
    saved = AutoTokenizer.from_pretrained(tmp_path / "checkpoint-3")
    before = saved.chat_template
    add_ellipsis(saved)  # the next stage starts from the checkpoint
    assert saved.chat_template == before and before.count("...") == 1


# The prompt


def test_the_ellipsis_in_the_templates_of_real_models():
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    for template in (
        tokenizer.chat_template,
        deepseek_r1_distill_chat_template,
        "{{ 'a<think>' if add_generation_prompt }}",
    ):
        tokenizer.chat_template = template
        messages = [{"role": "user", "content": "3 * 4?"}]
        before = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        add_ellipsis(tokenizer)
        after = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert after == before.rstrip("\n") + "\n...\n"
        full = [*messages, {"role": "assistant", "content": "12"}]
        assert "..." not in tokenizer.apply_chat_template(full, tokenize=False)


def test_a_template_that_does_not_open_the_thinking_is_refused(tiny_model, problems, tmp_path):
    args = AutoThinkConfig(**tiny.settings(tmp_path))
    with pytest.raises(ValueError, match=r"ends a prompt with '.*assistant\\n', so no prompt ends with '<think>'"):
        AutoThinkTrainer(tiny_model, math_accuracy_reward, args, problems)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="The tokenizer has no chat template, so no prompt ends with '<think>'"):
        add_ellipsis(tokenizer)
    reward = AutoThinkReward(adds_ellipsis=False)
    ConciseGRPOTrainer(
        tiny_model, [math_accuracy_reward, reward], ConciseGRPOConfig(**tiny.settings(tmp_path)), problems
    )


def test_prompts_that_are_texts_bring_the_ellipsis(tiny_model, tmp_path):
    """No template is applied to them, so that an ellipsis in the template would have no effect."""
    args = AutoThinkConfig(**tiny.settings(tmp_path))
    for end, is_refused in (("", True), ("<think>\n", True), ("...", True), ("<think>\n...\n", False)):
        rows = Dataset.from_list([{"prompt": f"3 * 4?{end}", "solution": "12"}] * 4)
        if is_refused:
            with pytest.raises(ValueError, match="The prompts are texts, to which no chat template is applied"):
                AutoThinkTrainer(tiny_model, math_accuracy_reward, args, rows)
        else:
            AutoThinkTrainer(tiny_model, math_accuracy_reward, args, rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_weights": [2.0]}, "'math_accuracy_reward' has the weight 2 and the column 1"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "normalizes each before the sum"),
    ],
)
def test_a_sum_other_than_the_papers_is_a_warning(changes, message, tmp_path, caplog):
    args = AutoThinkConfig(**tiny.settings(tmp_path, **changes))
    AutoThinkTrainer(str(demo.model_path()), math_accuracy_reward, args, demo.train_dataset(4))
    assert message in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": 4}, "stage must be 1, 2 or 3, got 4"),
        ({"stage_steps": [10, 5]}, r"at most 2 rising steps, at least 1.*got \[10, 5\]"),
        ({"stage": 3, "stage_steps": [5]}, r"at most 0 rising steps.*starts in stage 3; got \[5\]"),
        ({"stage_steps": [0]}, r"got \[0\]"),
        ({"balance_target": 0.4}, r"balance_target must lie in \[0\.5, 1\], got 0\.4"),
        ({"balance_slope": -1.0}, "balance_slope must be at least 0 and finite, got -1.0"),
        ({"wrong_slope": math.inf}, "wrong_slope must be at least 0 and finite, got inf"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        AutoThinkReward(**changes)


def test_limits_of_the_stages():
    budget = stage_budget([8192, 16384, 24576], [300, 700])
    assert budget.config() == {"limits": [8192, 16384, 24576], "steps": [300, 400]} and budget.longest == 24576
    reward = AutoThinkReward(stage_steps=[300, 700])
    for step in (0, 299, 300, 699, 700, 10**6):
        assert budget.stage(step) + 1 == reward.stage_at(step)
    assert stage_budget([8192], []).max_completion_length(10**6) == 8192


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage_limits": [8, 16]}, r"for each of the 1 stages that stage_steps = \[\] makes; got \[8, 16\]"),
        ({"stage_limits": [8, 16], "stage_steps": [1, 2]}, r"each of the 3 stages .* got \[8, 16\]"),
        ({"stage_limits": [8, 0], "stage_steps": [1]}, r"at least 1, for each .* got \[8, 0\]"),
        ({"stage_limits": [8, 16, 32], "stage_steps": [2, 1]}, r"at most 2 rising steps.*got \[2, 1\]"),
        ({"stage": 3, "stage_limits": [8, 16], "stage_steps": [1]}, "at most 0 rising steps"),
    ],
)
def test_limits_of_the_stages_are_checked(changes, message, tmp_path):
    args = AutoThinkConfig(**tiny.settings(tmp_path, **changes))
    with pytest.raises(ValueError, match=message):
        AutoThinkTrainer(str(demo.model_path()), math_accuracy_reward, args, demo.train_dataset(8))


@pytest.mark.parametrize(("start", "end"), [("<think>", "</think>"), ("[THINK]", "[/THINK]")])
def test_markers_that_are_special_tokens_are_seen(start, end):
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    tokenizer.add_special_tokens({"additional_special_tokens": [end]})
    component = AutoThinkReward(start_marker=start, end_marker=end)
    component._tokenizer = tokenizer
    texts = [f"{end}\\boxed{{5}}", f"2 + 3 = \\boxed{{5}}{end}5", "2 + 3 = 5"]
    ids = [tokenizer(text).input_ids for text in texts]
    prompts = [tokenizer(f"2 + 3?{start}").input_ids] * 3
    local = LocalRollouts([""] * 3, texts, ids, None, torch.ones(3), {}, 3, 0, True, prompts)
    measured = component.measure(local)
    assert measured["thinks"].tolist() == [False, True, True]
    assert measured["formed"].tolist() == [True, False, False]  # the box is before the end of the thinking
    tokenizer.chat_template = f"{{{{ 'a{start}' if add_generation_prompt }}}}"
    add_ellipsis(tokenizer, component._markers)
    messages = [{"role": "user", "content": "2 + 3?"}]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == f"a{start}\n...\n"
