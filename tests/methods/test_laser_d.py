# SPDX-License-Identifier: Apache-2.0
"""Golden values: computed from the authors' formulas (hkust-nlp/Laser, length_penalty.py, compute_unique_tokens.py)."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import LASERDConfig, LASERDReward, LASERDTrainer
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.laser import laser_reward
from trl_concise.methods.laser_d import adaptive_target, covered_shares, is_repetitive, levels_of


GRID = list(range(4096, 16385, 1024))
MONITOR = {
    "high": [1500, 2500, 5000, 7000, 9000],
    "medium": [3000, 4500, 6000, 9000],
    "low": [8000, 12000, 15000, 16384],
}
LENGTHS = torch.tensor([3000, 4000, 4097, 9000, 16000])
CORRECT = torch.tensor([1.0, 1, 1, 0, 0])


def paper_reward(**settings) -> LASERDReward:
    """The paper's settings, with the monitor's golden figures."""
    reward = LASERDReward(shortest_target=4096, longest_target=16384, interval=1024, **settings)
    reward.coverage = {
        level: covered_shares(torch.tensor(lengths), reward.lengths) for level, lengths in MONITOR.items()
    }
    return reward


# Targets


@pytest.mark.parametrize(
    ("level", "at", "share", "target"),
    [("high", 4096, 0.4, 4096), ("medium", 4096, 0.25, 5120), ("low", 15360, 0.75, 16384)],
)
def test_golden_targets(level, at, share, target):
    shares = covered_shares(torch.tensor(MONITOR[level]), GRID)
    assert shares[at] == share
    assert adaptive_target(shares, 16384, level) == target
    assert paper_reward().targets(16384)[level] == target


@pytest.mark.parametrize(
    ("level", "rounding", "needed"),
    [
        ("high", "floor", 1 / 5),
        ("medium", "floor", 1 / 2),
        ("low", "floor", 1.0),
        ("high", "ceil", 1 / 6),
        ("medium", "ceil", 1 / 3),
        ("low", "ceil", 1.0),
    ],
)
def test_share_that_a_target_must_cover(level, rounding, needed):
    assert adaptive_target({1: needed - 1e-6, 2: needed, 3: 1.0}, 9, level, rounding=rounding) == 2


@given(st.lists(st.integers(1, 20000), min_size=1, max_size=30), st.integers(1, 20000), st.integers(1, 32))
def test_targets_are_on_the_grid_or_the_longest_and_rise_with_difficulty(lengths, longest, generations):
    shares = covered_shares(torch.tensor(lengths), GRID)
    targets = [adaptive_target(shares, longest, level, generations=generations) for level in ("high", "medium", "low")]
    assert targets == sorted(targets)
    assert all(target == longest or (target in GRID and target < longest) for target in targets)


@pytest.mark.parametrize(
    ("shortest", "grid"),
    [
        (4096, [4096, 5120, 6144]),
        (1024, [1024, 2048, 3072, 4096, 5120, 6144]),
        (500, [500, 1024, 2048, 3072, 4096, 5120, 6144]),
    ],
)
def test_lengths_that_are_tried(shortest, grid):
    assert LASERDReward(shortest_target=shortest, longest_target=6144, interval=1024).lengths == grid


@pytest.mark.parametrize(
    ("correct", "level"),
    [
        ([1, 1, 0], 0),
        ([1, 0, 0], 1),
        ([0, 0, 0], 2),
        ([1] * 5 + [0] * 3, 1),
        ([1] * 6 + [0] * 2, 0),
        ([1, math.nan], 1),
    ],
)
def test_levels(correct, level):
    assert levels_of(torch.tensor([correct], dtype=torch.float32)).item() == level


def test_coverage_counts_correct_and_wrong_alike_and_is_0_for_an_empty_level():
    reward = LASERDReward(shortest_target=10, longest_target=30, interval=10)
    lengths = torch.tensor([[5, 15], [25, 25]])
    reward.learn_coverage(lengths, torch.tensor([[1.0, 1], [0, 0]]))
    nothing = {10: 0, 20: 0, 30: 0}
    assert reward.coverage == {"high": {10: 0.5, 20: 1, 30: 1}, "medium": nothing, "low": {10: 0, 20: 0, 30: 1}}
    reward.learn_coverage(lengths, torch.tensor([[1.0, 1], [1, 1]]))
    assert reward.coverage == {"high": {10: 0.25, 20: 0.5, 30: 1}, "medium": nothing, "low": nothing}
    assert reward.monitor_tokens == 140


# Repetition


@pytest.mark.parametrize("length", [12, 60, 150, 400])
@given(loop=st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_a_loop_is_repetitive_in_every_form(length, loop):
    ids = (loop * length)[:length]
    assert is_repetitive(ids) and is_repetitive(np.array(ids)) and is_repetitive(torch.tensor(ids))


@given(st.permutations(range(300)), st.integers(0, 300))
def test_tokens_that_occur_once_are_not_repetition(ids, length):
    assert not is_repetitive(ids[:length])


@pytest.mark.parametrize("length", range(9))
def test_a_completion_of_at_most_eight_tokens_is_never_repetitive(length):
    assert not is_repetitive([1, 2, 1, 2, 1, 2, 1, 2][:length]) and not is_repetitive([7] * length)
    assert is_repetitive([1, 2] * 4 + [1])


def test_a_loop_at_the_end_of_a_long_text_is_found():
    assert is_repetitive([*range(400), *[900, 901, 902, 903, 904] * 4])
    assert not is_repetitive(
        [*range(400), *[900, 901, 902, 903] * 2][:-1]
    )  # no 4-gram comes three times, no 8-gram twice


# The part


def golden(reward, repetitive=False) -> list[float]:
    """Total reward, with the authors' base scores, of the golden group; the last completion has no boxed answer."""
    explores = torch.tensor([1.0, 1, 1, 0 if repetitive else 1, 0])
    measured = {"laser_d": {"explores": explores}} if reward.explore else {"laser_d": {}}
    # One more group, all wrong, must change nothing, nor must the longest completion of 16,384 in it.
    rollouts = Rollouts(
        ("a",) * 5 + ("b",) * 5,
        torch.cat([LENGTHS, torch.full((5,), 16384)]),
        torch.cat([CORRECT, torch.zeros(5)]),
        5,
        measured={name: {key: torch.cat([v, torch.zeros(5)]) for key, v in m.items()} for name, m in measured.items()},
    )
    return (torch.tensor([1.0, 1, 1, -0.5, -1]) + reward.score(rollouts)[:5]).tolist()


@pytest.mark.parametrize(
    ("explore", "repetitive", "expected", "advantages"),
    [
        (False, False, [1.5, 1.5, 1.5, -0.5, -1], [0.723, 0.723, 0.723, -0.884, -1.285]),
        (True, False, [1.5, 1.5, 1.5, 0.0, -1], [0.695, 0.695, 0.695, -0.608, -1.477]),
        (True, True, [1.5, 1.5, 1.5, -0.5, -1], [0.723, 0.723, 0.723, -0.884, -1.285]),
    ],
)
def test_golden_rewards(explore, repetitive, expected, advantages):
    rewards = golden(paper_reward(explore=explore), repetitive)
    assert rewards == expected  # 3 of 5 correct: medium, 5,120 tokens
    values = torch.tensor(rewards)
    assert ((values - values.mean()) / (values.std() + 1e-6)).tolist() == pytest.approx(advantages, abs=1e-3)


def test_equal_targets_make_it_laser():
    reward = LASERDReward(shortest_target=4096, longest_target=4096, interval=1)
    reward.coverage = dict.fromkeys(("high", "medium", "low"), {4096: 1.0})
    rollouts = Rollouts(("a",) * 5, LENGTHS, CORRECT, 5)
    assert torch.equal(reward.score(rollouts) + CORRECT, laser_reward(LENGTHS, CORRECT, 4096))


def test_until_the_monitor_has_run_the_shortest_target_holds():
    reward = LASERDReward(shortest_target=10, longest_target=30, interval=10)
    assert reward.targets(1000) == {"high": 10, "medium": 10, "low": 10}


def test_unknown_correctness_abstains_and_truncated_completions_do_not_explore():
    reward = LASERDReward(shortest_target=10, longest_target=30, interval=10, explore=True)
    rollouts = Rollouts(
        ("a",) * 4,
        torch.tensor([20, 20, 20, 5]),
        torch.tensor([math.nan, 0, 0, 0]),
        4,
        truncated=torch.tensor([False, True, False, False]),
        measured={"laser_d": {"explores": torch.ones(4)}},
    )
    assert reward.score(rollouts).nan_to_num(-9).tolist() == [-9, 0, 0.5, 0]


def test_state_survives_a_round_trip():
    reward = LASERDReward(shortest_target=10, longest_target=30, interval=10)
    reward.learn_coverage(torch.tensor([[5, 15]]), torch.tensor([[1.0, 1]]))
    again = LASERDReward(shortest_target=10, longest_target=30, interval=10)
    again.load_state_dict(json.loads(json.dumps(reward.state_dict())))
    assert again.targets(100) == reward.targets(100) and again.monitor_tokens == 20


@pytest.mark.parametrize(
    "setting",
    [
        {"shortest_target": 0},
        {"longest_target": 3},
        {"interval": 0},
        {"alpha": -1},
        {"monitor_prompts": 0},
        {"monitor_generations": 0},
        {"monitor_every": 0},
        {"rounding": "up"},
    ],
)
def test_settings_are_checked_at_construction(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        LASERDReward(**{"shortest_target": 4, "longest_target": 8, "interval": 2, **setting})


# The trainer


def laser_d(model, dataset, output_dir, reward=tiny.even_reward, trainer_kwargs=None, **changes) -> LASERDTrainer:
    monitor = {"monitor_prompts": 6, "monitor_generations": 2, "monitor_every": 2}
    args = LASERDConfig(**tiny.settings(output_dir, **{**monitor, **changes}))
    return LASERDTrainer(model, reward, args, dataset, **(trainer_kwargs or {}))


def test_defaults_are_the_papers_at_its_completion_length(tiny_model, problems, tmp_path):
    args = LASERDConfig(**tiny.settings(tmp_path, max_completion_length=16384))
    reward = LASERDTrainer(tiny_model, tiny.even_reward, args, problems).components[0]
    assert reward.lengths == GRID
    assert (reward.alpha, reward.explore, reward.rounding) == (0.5, False, "floor")
    assert (reward.monitor_prompts, reward.monitor_generations, reward.monitor_every) == (500, 8, 20)


def test_the_monitor_looks_before_the_first_step_and_every_second_one(tiny_model, problems, tmp_path):
    looks = []

    class Watching(LASERDTrainer):
        def generate_rollouts(self, rows, n, **kwargs):
            looks.append((self.state.global_step, len(rows), n))
            return super().generate_rollouts(rows, n, **kwargs)

    args = LASERDConfig(
        **tiny.settings(tmp_path, max_steps=3, monitor_prompts=6, monitor_generations=2, monitor_every=2)
    )
    trainer = Watching(tiny_model, tiny.even_reward, args, problems)
    trainer.train()
    assert looks == [(0, 4, 2), (0, 2, 2), (2, 4, 2), (2, 2, 2)]  # in batches of the size of training's
    logged = [log for log in trainer.state.log_history if "laser_d/target_high" in log]
    assert len(logged) == 3 and logged[0]["laser_d/monitor_tokens"] < logged[2]["laser_d/monitor_tokens"]
    assert logged[0]["laser_d/target_high"] <= logged[0]["laser_d/target_low"] <= 8


def test_the_monitor_does_not_change_the_run(tiny_model, problems, tmp_path):
    """Without a bonus a run is plain GRPO, however often the monitor looks: same draws, metrics and losses."""
    often = laser_d(tiny_model, problems, tmp_path, length_bonus=0.0, monitor_every=1, max_steps=3)
    often.train()
    never = laser_d(tiny_model, problems, tmp_path, length_bonus=0.0, monitor_every=1000, max_steps=3)
    never.train()
    assert tiny.losses(often) == tiny.losses(never)
    for one, other in zip(often.state.log_history, never.state.log_history, strict=True):
        assert one.get("num_tokens") == other.get("num_tokens")


def test_a_resumed_run_has_the_targets_of_the_uninterrupted_one(tiny_model, problems, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3, "monitor_every": 2, "explore": True}
    whole = laser_d(tiny_model, problems, tmp_path / "whole", **changes)
    whole.train()
    resumed = laser_d(tiny_model, problems, tmp_path / "resumed", **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.components[0].state_dict() == whole.components[0].state_dict()
    assert tiny.losses(resumed) == tiny.losses(whole)


def test_a_stream_has_no_monitor_set(tiny_model, problems, tmp_path):
    with pytest.raises(ValueError, match=r"Load it as a Dataset \(streaming=False\)"):
        laser_d(tiny_model, problems.to_iterable_dataset(), tmp_path)
