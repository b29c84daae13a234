# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import RepeatSampler

from trl_concise import PromptSelector
from trl_concise.state.sampling import EpochRepeatSampler, SelectingSampler


ROWS = [{"prompt": f"{i}?"} for i in range(10)]


def repeat_sampler(shuffle: bool = True, rows=ROWS, count: int = 3) -> RepeatSampler:
    return RepeatSampler(rows, mini_repeat_count=2, batch_size=count, repeat_count=2, shuffle=shuffle, seed=5)


def test_every_epoch_has_the_order_of_trl_and_can_be_resumed_directly():
    step = 0
    trl, ours = repeat_sampler(), EpochRepeatSampler(repeat_sampler(), lambda: step, gradient_accumulation_steps=2)
    assert ours.steps_per_epoch == 3  # three batches, each read twice, two reads a step
    for epoch in range(3):
        expected = list(trl)
        step = 3 * epoch
        assert list(ours) == expected and len(ours) == len(expected)
        step += 2  # resumed within the epoch
        resumed = EpochRepeatSampler(repeat_sampler(), lambda step=step: step, 2)
        assert list(resumed) == expected


class Every(PromptSelector):
    """Takes every n-th candidate."""

    name = "every"

    def __init__(self, n):
        self.n = n
        self.steps = []

    def choose(self, candidates, count, step):
        self.steps.append(step)
        assert all(set(candidate) == {"prompt", "prompt_key"} for candidate in candidates)
        return [(self.n * i) % len(candidates) for i in range(count)]


def selecting_sampler(selector, step=lambda: 0, **changes) -> SelectingSampler:
    return SelectingSampler(repeat_sampler(**changes), selector, step)


def blocks(sampler) -> list[list[int]]:
    rows = list(sampler)
    assert len(rows) == len(sampler)
    found = [rows[i : i + 12] for i in range(0, len(rows), 12)]  # 3 prompts x 2 generations x 2 repeats
    for block in found:
        assert block[:6] == block[6:] and block[0:6:2] == block[1:6:2]
    return [block[0:6:2] for block in found]


def test_choosing_the_first_rows_gives_the_order_of_trl():
    trl, step = repeat_sampler(), 0
    ours = selecting_sampler(Every(1), lambda: step)
    for _ in range(2):
        assert list(ours) == list(trl)
        step += ours.steps_per_epoch


def test_skipped_rows_are_replaced_by_the_following_ones():
    chosen = blocks(selecting_sampler(Every(2), shuffle=False))
    assert chosen == [[0, 2, 4], [5, 7, 9], [0, 2, 4]]  # the order begins again: the epoch keeps its length


def test_the_step_of_the_choice_is_passed():
    selector, steps = Every(1), iter([0, 3, 4, 5])  # the first one tells the epoch
    list(selecting_sampler(selector, lambda: next(steps)))
    assert selector.steps == [3, 4, 5]


@pytest.mark.parametrize("n", [0, 100])
def test_an_invalid_choice_is_refused(n):
    selector = Every(n)
    selector.choose = lambda candidates, count, step: [n] * count
    with pytest.raises(ValueError, match="expected 3 distinct positions among 10 candidates"):
        list(selecting_sampler(selector))


def test_a_selector_looks_eight_batches_ahead():
    seen = []

    class Counting(Every):
        def choose(self, candidates, count, step):
            seen.append(len(candidates))
            return super().choose(candidates, count, step)

    rows = [{"prompt": str(i)} for i in range(30)]
    list(selecting_sampler(Counting(1), rows=rows))
    assert seen == [24] * 10


class Forgetful(PromptSelector):
    """Chooses otherwise at each call, so that a choice made twice shows."""

    name = "forgetful"

    def __init__(self):
        self.calls = 0

    def choose(self, candidates, count, step):
        self.calls += 1
        return sorted((self.calls * 7 + 3 * i) % len(candidates) for i in range(count))


@given(read=st.integers(0, 35), epoch=st.integers(0, 2))
def test_a_resumed_epoch_replays_what_was_read_ahead(read, epoch):
    """However far the loader had read when the state was saved, the resumed epoch is the uninterrupted one."""
    selector = Forgetful()
    sampler = selecting_sampler(selector, lambda: epoch * 6)
    rows = iter(sampler)
    before = list(itertools.islice(rows, read))
    state, calls = sampler.state_dict(), selector.calls
    whole = before + list(rows)

    selector = Forgetful()
    selector.calls = calls
    resumed = selecting_sampler(selector, lambda: epoch * 6 + 1)
    resumed.load_state_dict(state)
    assert list(resumed) == whole


def test_a_finished_epoch_is_not_replayed_in_the_next():
    step, selector = 0, Forgetful()
    sampler = selecting_sampler(selector, lambda: step)
    first = list(sampler)
    state, step = sampler.state_dict(), sampler.steps_per_epoch
    second = list(sampler)

    selector = Forgetful()
    selector.calls = 3
    resumed = selecting_sampler(selector, lambda: step)
    resumed.load_state_dict(state)
    assert list(resumed) == second != first


def test_other_batches_take_the_chosen_rows_in_their_order():
    """As after a change of the number of processes."""
    sampler = selecting_sampler(Every(2), shuffle=False)
    list(itertools.islice(sampler, 13))  # two batches of three
    resumed = selecting_sampler(Every(1), shuffle=False, count=4)
    resumed.load_state_dict(sampler.state_dict())
    assert list(resumed)[:16:2] == [0, 2, 4, 5] * 2 and resumed.chosen[:4] == [0, 2, 4, 5]


def test_another_dataset_is_chosen_from_anew(caplog):
    sampler = selecting_sampler(Every(2))
    list(sampler)
    other = selecting_sampler(Every(1), rows=ROWS[:6])
    other.load_state_dict(sampler.state_dict())
    assert "chosen from 10 rows, this dataset has 6" in caplog.text
    assert list(other) == list(repeat_sampler(rows=ROWS[:6]))
