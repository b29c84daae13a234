# SPDX-License-Identifier: Apache-2.0
"""Golden values: from the paper's equation with the authors' floor, and from their batch and adjustment rules."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import (
    GRESO,
    AccuracyBand,
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    GRESOConfig,
    GRESOTrainer,
    HAPOLengthReward,
)
from trl_concise.batch.rollouts import Rollouts, prompt_key
from trl_concise.methods.greso import greso_exploration, greso_filter_probability, greso_rollout_batch_size


EASY, HARD, MIXED, UNKNOWN = [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1], [math.nan] * 4
groups = st.sampled_from([EASY, HARD, MIXED, UNKNOWN, [1, 1, math.nan, 1], [1, 0, math.nan, 1]])


def rollouts(*rows: tuple[str, list[float]], step: int = 0) -> Rollouts:
    """Rows of (prompt, correctness of its group)."""
    keys = tuple(prompt_key({"prompt_id": key}) for key, group in rows for _ in group)
    correct = torch.tensor([verdict for _, group in rows for verdict in group], dtype=torch.float32)
    return Rollouts(keys, torch.ones(len(keys), dtype=torch.int64), correct, 4, step=step)


def candidates(*names: str) -> list[dict]:
    return [{"prompt_key": prompt_key({"prompt_id": name})} for name in names]


def key(name: str) -> str:
    return prompt_key({"prompt_id": name})


# The equations


def test_filter_probability():
    expected = [1, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.01]
    assert [1 - greso_filter_probability(streak, 0.5) for streak in range(8)] == pytest.approx(expected)
    assert greso_filter_probability(3, 0.5) == 0.875


@given(st.integers(0, 1000), st.floats(0, 1))
def test_no_prompt_is_given_up_and_none_without_a_streak_is_skipped(streak, exploration):
    assert 0 <= greso_filter_probability(streak, exploration) <= 0.99
    assert greso_filter_probability(0, exploration) == 0


@pytest.mark.parametrize(("streak", "exploration"), [(-1, 0.5), (1, 1.5), (1, -0.1)])
def test_a_filter_probability_of_invalid_values_is_refused(streak, exploration):
    with pytest.raises(ValueError, match="streak must be at least 0"):
        greso_filter_probability(streak, exploration)


def test_exploration():
    assert greso_exploration(0.50, 0.12, 0.0833) == pytest.approx(0.49)
    assert greso_exploration(0.50, 0.10, 0.1667) == pytest.approx(0.51)
    assert greso_exploration(0.05, 1, 0.1) == 0.05 and greso_exploration(0.95, 0, 0.1) == 0.95


def test_rollout_batch_size():
    assert greso_rollout_batch_size(256 - 140, 0.45, default=384) == 263
    assert greso_rollout_batch_size(256, 1.0, default=384) == 384  # the authors' code divides by zero here
    assert greso_rollout_batch_size(256, 0.9, default=384) == 384
    assert greso_rollout_batch_size(10, 0.1, default=384) == 64


# The part


def test_streaks():
    greso = GRESO()
    greso.observe(rollouts(("a", EASY), ("b", HARD), ("c", MIXED), ("d", UNKNOWN)))
    greso.observe(rollouts(("a", EASY), ("b", EASY), ("c", HARD), ("d", HARD)))
    assert greso.streaks == {key("a"): 2, key("b"): 1, key("c"): -1, key("d"): -1}
    greso.observe(rollouts(("a", MIXED), ("b", HARD), ("c", HARD), ("d", UNKNOWN)))
    assert greso.streaks == {key("a"): 0, key("b"): -1, key("c"): -2, key("d"): -1}


def test_a_group_of_partly_unknown_correctness_counts_only_if_it_is_mixed():
    greso = GRESO()
    greso.observe(rollouts(("a", EASY), ("b", EASY)))
    greso.observe(rollouts(("a", [1, math.nan, 1, 1]), ("b", [1, math.nan, 0, 1])))
    assert greso.streaks == {key("a"): 1, key("b"): 0}


def test_exploration_is_adjusted_once_prompts_repeat():
    greso = GRESO()
    greso.observe(rollouts(("a", EASY), ("b", EASY), ("c", MIXED), ("d", HARD)))
    assert (greso.p_easy, greso.p_hard) == (0.5, 0.5)
    greso.observe(rollouts(("a", EASY), ("e", MIXED), ("f", MIXED), ("g", MIXED)))  # 1/4 easy, none hard
    assert (greso.p_easy, greso.p_hard) == pytest.approx((0.49, 0.51))
    greso.observe(rollouts(("h", UNKNOWN)))
    assert (greso.p_easy, greso.p_hard) == pytest.approx((0.49, 0.51))
    greso.observe(rollouts(("h", MIXED)))  # from then on with every batch
    assert (greso.p_easy, greso.p_hard) == pytest.approx((0.50, 0.52))


def test_shaped_rewards_do_not_matter():
    """All-wrong groups whose length rewards differ look informative, and are not."""
    greso, batch = GRESO(), rollouts(("a", HARD))
    batch.rewards.update(HAPOLengthReward=torch.tensor([-0.1, -0.5, 0, -1]))
    greso.observe(batch)
    assert greso.streaks == {key("a"): -1} and greso.metrics()["zero_variance_fraction"] == 1


def test_metrics():
    greso = GRESO()
    greso.choose(candidates("a", "b", "c"), 2, step=0)
    greso.observe(rollouts(("a", EASY), ("b", HARD), ("c", MIXED), ("d", UNKNOWN)))
    assert greso.metrics() == pytest.approx(
        {"skipped_fraction": 0, "zero_variance_fraction": 2 / 3, "p_easy": 0.5, "p_hard": 0.5}
    )
    greso.streaks = {key("a"): 500, key("b"): -500}
    chosen = greso.choose(candidates("a", "b", "c", "d"), 2, step=0)
    greso.observe(rollouts(("d", UNKNOWN)))
    assert chosen == [2, 3] and greso.metrics()["skipped_fraction"] == 0.5
    assert math.isnan(greso.metrics()["zero_variance_fraction"])


def test_skipping_has_the_equations_frequency():
    greso = GRESO()
    greso.streaks = {key("a"): 2, key("b"): -1}
    greso.p_easy, greso.p_hard = 0.5, 0.6
    rolled_out = {"a": 0, "b": 0}
    for _ in range(2000):
        (chosen,) = greso.choose(candidates("a", "new"), 1, step=0)
        rolled_out["a"] += chosen == 0
        (chosen,) = greso.choose(candidates("b", "new"), 1, step=0)
        rolled_out["b"] += chosen == 0
    assert rolled_out["a"] / 2000 == pytest.approx(0.25, abs=0.04)
    assert rolled_out["b"] / 2000 == pytest.approx(0.6, abs=0.04)


@given(
    streaks=st.lists(st.integers(-2000, 2000), min_size=1, max_size=30),
    data=st.data(),
    seed=st.integers(0, 10),
)
def test_every_batch_is_full_and_all_processes_decide_alike(streaks, data, seed):
    names = [str(i) for i in range(len(streaks))]
    count = data.draw(st.integers(1, len(streaks)))
    choices = []
    for _ in range(2):  # two processes
        greso = GRESO(seed=seed)
        greso.streaks = {key(name): streak for name, streak in zip(names, streaks, strict=True)}
        choices.append([greso.choose(candidates(*names), count, step=0) for _ in range(2)])
    assert choices[0] == choices[1]
    assert all(len(set(chosen)) == count and chosen == sorted(chosen) for chosen in choices[0])


def test_prompts_without_a_streak_are_taken_in_order():
    greso = GRESO()
    greso.streaks = {key("b"): 0}
    assert greso.choose(candidates("a", "b", "c", "d"), 3, step=0) == [0, 1, 2]


@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdefgh"), groups), min_size=1, max_size=4), max_size=8))
def test_state_resumes_exactly(batches):
    """A part that takes over the state decides and measures as the first one does."""
    first = GRESO(seed=3)
    names = "abcdefgh"
    for batch in batches:
        first.choose(candidates(*names), 2, step=0)
        first.observe(rollouts(*batch))
    second = GRESO(seed=3)
    second.load_state_dict(first.state_dict())
    for batch in batches:
        assert first.choose(candidates(*names), 2, step=0) == second.choose(candidates(*names), 2, step=0)
        first.observe(rollouts(*batch))
        second.observe(rollouts(*batch))
        assert first.metrics() == pytest.approx(second.metrics(), nan_ok=True, abs=0)
    assert first.streaks == second.streaks
    assert 0.05 <= first.p_easy <= 0.95 and 0.05 <= first.p_hard <= 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"exploration": 0}, r"exploration must lie in \[0.05, 0.95\]"), ({"zero_variance_target": 2}, "in .0, 1.")],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        GRESO(**arguments)


# In training


def first_rows_right(completions, row, **kwargs):
    """Rows below 6 are always solved, those from 12 on never, those between half of the time."""
    return [float(number < 6 or (number < 12 and i % 2)) for i, number in enumerate(row)]


def train(model, problems, output_dir, trainer_class=GRESOTrainer, resume=None, **changes):
    settings = {"max_steps": 24, "save_strategy": "steps", "save_steps": 1, **changes}
    args = trainer_class.config_class(**tiny.settings(output_dir, **settings))
    trainer = trainer_class(model, first_rows_right, args, problems)
    visited = []
    choose = trainer.prompt_selector.choose

    def recording(rows, count, step):
        chosen = choose(rows, count, step)
        visited.append([rows[position]["row"] for position in chosen])
        return chosen

    trainer.prompt_selector.choose = recording
    trainer.train(resume_from_checkpoint=resume)
    return trainer, visited


def test_prompts_without_variance_are_skipped(tiny_model, problems, tmp_path):
    trainer, visited = train(tiny_model, problems, tmp_path, save_strategy="no")
    assert trainer.state.global_step == 24 and len(visited) == 24  # never shorter: 3 epochs of 8 steps
    assert sorted(sum(visited[:8], [])) == list(range(16))  # nothing is skipped before it was seen
    later = sum(visited[8:], [])
    assert sum(6 <= row < 12 for row in later) / len(later) > 0.5  # 6 of the 16 prompts
    logged = [entry for entry in trainer.state.log_history if "greso/p_easy" in entry]
    assert [entry["greso/p_easy"] for entry in logged[:8]] == [0.5] * 8
    steps = {
        round(abs(b["greso/p_easy"] - a["greso/p_easy"]), 6) for a, b in zip(logged[8:], logged[9:], strict=False)
    }
    assert steps == {0.01}
    assert max(entry["greso/skipped_fraction"] for entry in logged[8:]) > 0
    assert {entry["greso/zero_variance_fraction"] for entry in logged} <= {0, 0.5, 1}


def test_a_run_that_skips_every_prompt_is_complete(tiny_model, problems, tmp_path):
    def right(completions, **kwargs):
        return [1.0] * len(completions)

    args = GRESOConfig(**tiny.settings(tmp_path, max_steps=-1, num_train_epochs=6, exploration=0.05))
    trainer = GRESOTrainer(tiny_model, right, args, problems.select(range(5)))
    trainer.train()
    assert trainer.state.global_step == 12 and min(trainer.prompt_selector.streaks.values()) > 1


@pytest.mark.parametrize(
    ("changes", "steps"),
    [({}, (3, 18)), pytest.param({"num_iterations": 2}, (3, 18), marks=pytest.mark.slow)],
)
def test_a_resumed_run_decides_as_the_uninterrupted_one(changes, steps, tiny_model, problems, tmp_path):
    whole, visited = train(tiny_model, problems, tmp_path / "run", **changes)
    for step in steps:
        checkpoint = str(tmp_path / "run" / f"checkpoint-{step}")
        resumed, visited_after = train(tiny_model, problems, tmp_path / f"{step}", resume=checkpoint, **changes)
        assert visited_after == visited[len(visited) - len(visited_after) :]
        assert resumed.prompt_selector.streaks == whole.prompt_selector.streaks
        decided = [
            (part.p_easy, part.p_hard, part.choices) for part in (resumed.prompt_selector, whole.prompt_selector)
        ]
        assert decided[0] == decided[1]
        assert tiny.losses(resumed) == tiny.losses(whole)


def test_the_drop_in_takes_a_plain_config_and_leaves_the_other_slots_open(tiny_model, problems, tmp_path):
    args = GRESOConfig(**tiny.settings(tmp_path, exploration=0.3, zero_variance_target=0.5, seed=7))
    trainer = GRESOTrainer(tiny_model, [tiny.even_reward, HAPOLengthReward()], args, problems)
    assert trainer.prompt_selector.config() == {"exploration": 0.3, "zero_variance_target": 0.5, "seed": 7}
    trainer.train()
    assert trainer.prompt_selector.streaks.keys() == set(trainer.history.to_pandas().index)
    with pytest.raises(ValueError, match="fills prompt_selector= with a GRESO of its own"):
        GRESOTrainer(tiny_model, tiny.even_reward, args, problems, prompt_selector=GRESO())


@pytest.mark.parametrize(("settings", "used"), [({}, 7), ({"seed": 3}, 3)])
@pytest.mark.parametrize("selector", [GRESO, AccuracyBand])
def test_choices_follow_the_seed_of_the_run(selector, settings, used, tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, seed=7))
    part = selector(**settings)
    ConciseGRPOTrainer(tiny_model, tiny.even_reward, args, problems, prompt_selector=part)
    assert part.seed == used and part.config()["seed"] == used


def test_greso_combines_with_other_components(tiny_model, problems, tmp_path):
    args = ConciseGRPOTrainer.config_class(**tiny.settings(tmp_path))
    trainer = ConciseGRPOTrainer(tiny_model, tiny.even_reward, args, problems, prompt_selector=GRESO())
    trainer.train()
    assert len(trainer.prompt_selector.streaks) == 4


def test_the_card_cites_greso(tiny_model, problems, tmp_path):
    trainer = GRESOTrainer(tiny_model, tiny.even_reward, GRESOConfig(**tiny.settings(tmp_path)), problems)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "Act Only When It Pays" in card and "GRESO" in card
