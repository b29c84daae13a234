# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from datasets import Dataset, IterableDataset
from trl.trainer.utils import RepeatSampler, repeat_iterable_dataset

from tests.state.test_sampling import Every
from trl_concise.state.prompt_queue import PromptQueue, StreamQueue
from trl_concise.state.sampling import EpochRepeatSampler


ROWS = [{"prompt": f"{i}?"} for i in range(10)]


def queue_of(selector=None, *, rows=ROWS, shuffle: bool = True, count: int = 3) -> PromptQueue:
    trl = RepeatSampler(rows, mini_repeat_count=1, batch_size=count, shuffle=shuffle, seed=5)
    return PromptQueue(EpochRepeatSampler(trl, lambda: 0), selector)


def stream_of(count: int = 10, shuffle: bool = True) -> IterableDataset:
    stream = Dataset.from_list([{"prompt": f"{i}?"} for i in range(count)]).to_iterable_dataset()
    return stream.shuffle(seed=5, buffer_size=4) if shuffle else stream


def numbers(rows) -> list[int]:
    return [int(row["prompt"][:-1]) for row in rows]


def test_batches_alone_are_trls_epochs():
    trl = RepeatSampler(ROWS, mini_repeat_count=1, batch_size=3, shuffle=True, seed=5)
    queue = queue_of()
    for _ in range(3):
        assert [row for _ in range(3) for row in numbers(queue.take(3, is_batch=True))] == list(trl)


def test_batches_of_a_stream_are_trls_epochs():
    queue, trl = StreamQueue(stream_of()), repeat_iterable_dataset(stream_of(), 1, batch_size=3)
    for epoch in range(3):
        trl.set_epoch(epoch)
        assert [row for _ in range(3) for row in numbers(queue.take(3, is_batch=True))] == numbers(trl)


@pytest.mark.parametrize("make", [lambda: queue_of(shuffle=False), lambda: StreamQueue(stream_of(shuffle=False))])
def test_the_next_batch_continues_after_the_replacements_also_where_a_pass_ends(make):
    queue = make()
    taken = [numbers(queue.take(*one)) for one in [(3,), (2,), (3,), (4,)]]
    assert taken == [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9, 0, 1]]
    assert numbers(queue.take(3, is_batch=True)) == [2, 3, 4]


@pytest.mark.parametrize("make", [lambda: queue_of(shuffle=False), lambda: StreamQueue(stream_of(shuffle=False))])
def test_a_batch_does_not_straddle_passes(make):
    queue = make()
    queue.take(8)
    assert numbers(queue.take(3, is_batch=True)) == [0, 1, 2]


@pytest.mark.parametrize("make", [queue_of, lambda: queue_of(Every(2)), lambda: StreamQueue(stream_of())])
def test_a_resumed_queue_returns_what_the_uninterrupted_one_returns(make):
    whole, states, taken = make(), [], []
    for count in (3, 1, 3, 2, 3, 3, 3, 1, 3):
        states.append(whole.state_dict())
        taken.append(numbers(whole.take(count, is_batch=count == 3)))
    for start, state in enumerate(states):
        queue = make()
        queue.load_state_dict(state)
        assert [numbers(queue.take(len(rows), is_batch=len(rows) == 3)) for rows in taken[start:]] == taken[start:]


def test_rows_taken_together_are_distinct():
    queue = queue_of()
    queue.take(7)
    for _ in range(20):
        rows = numbers(queue.take(9))
        assert len(set(rows)) == 9


def test_a_selector_chooses_replacements_too():
    selector = Every(2)
    queue = queue_of(selector, shuffle=False)
    assert numbers(queue.take(3, is_batch=True)) == [0, 2, 4]
    assert numbers(queue.take(1)) == [5]
    assert numbers(queue.take(3, is_batch=True)) == [6, 8, 0]  # no row is skipped where the pass ends
    assert len(selector.steps) == 3


def test_a_wrong_choice_is_refused():
    class Twice(Every):
        def choose(self, candidates, count, step):
            return [0] * count

    with pytest.raises(ValueError, match=r"Twice\.choose returned \[0, 0\]; expected 2 distinct positions among"):
        queue_of(Twice(1)).take(2)


def test_another_dataset_begins_its_pass_again(caplog):
    queue, other = queue_of(), queue_of(rows=ROWS[:4])
    queue.take(10)
    queue.take(5)
    other.load_state_dict(queue.state_dict())
    assert "from a dataset of 10 rows, this one has 4: the pass over the dataset begins again" in caplog.text
    assert other.position == 4


@pytest.mark.parametrize(("rows", "count"), [(0, 1), (2, 3)])
def test_a_stream_that_is_too_short(rows, count):
    with pytest.raises(ValueError, match=rf"has {rows} rows, but {count} prompts are rolled out at a time"):
        stream = IterableDataset.from_generator(lambda: iter(ROWS[:rows]))
        StreamQueue(stream).take(count, is_batch=True)
