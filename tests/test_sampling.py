# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from trl.trainer.utils import RepeatSampler

from trl_concise import PromptSelector
from trl_concise.sampling import EpochRepeatSampler, SelectingSampler


ROWS = [{"prompt": f"{i}?"} for i in range(10)]


def repeat_sampler(shuffle: bool = True) -> RepeatSampler:
    return RepeatSampler(ROWS, mini_repeat_count=2, batch_size=3, repeat_count=2, shuffle=shuffle, seed=5)


def test_every_epoch_is_trls_and_can_be_entered_directly():
    trl, ours = repeat_sampler(), EpochRepeatSampler(repeat_sampler())
    for epoch in range(3):
        expected = list(trl)
        ours.set_epoch(epoch)
        assert list(ours) == expected and len(ours) == len(expected)
        resumed = EpochRepeatSampler(repeat_sampler())
        resumed.set_epoch(epoch)
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


def blocks(sampler) -> list[list[int]]:
    rows = list(sampler)
    assert len(rows) == len(sampler)
    found = [rows[i : i + 12] for i in range(0, len(rows), 12)]  # 3 prompts x 2 generations x 2 repeats
    for block in found:
        assert block[:6] == block[6:] and block[0:6:2] == block[1:6:2]
    return [block[0:6:2] for block in found]


def test_choosing_the_first_rows_is_trls_order():
    trl = repeat_sampler()
    ours = SelectingSampler(repeat_sampler(), Every(1), step=lambda: 0)
    for epoch in range(2):
        ours.set_epoch(epoch)
        assert list(ours) == list(trl)


def test_skipped_rows_are_replaced_by_the_following_ones():
    chosen = blocks(SelectingSampler(repeat_sampler(shuffle=False), Every(2), step=lambda: 0))
    assert chosen == [[0, 2, 4], [5, 7, 9], [0, 2, 4]]  # the order begins again: the epoch keeps its length


def test_the_step_of_the_choice_is_passed():
    selector, steps = Every(1), iter([3, 4, 5])
    list(SelectingSampler(repeat_sampler(), selector, step=lambda: next(steps)))
    assert selector.steps == [3, 4, 5]


@pytest.mark.parametrize("n", [0, 100])
def test_a_choice_that_is_not_one_is_refused(n):
    selector = Every(n)
    selector.choose = lambda candidates, count, step: [n] * count
    with pytest.raises(ValueError, match="expected 3 distinct positions among 10 candidates"):
        list(SelectingSampler(repeat_sampler(), selector, step=lambda: 0))
