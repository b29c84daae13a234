# SPDX-License-Identifier: Apache-2.0
"""Which groups replace which, and the rows of several rounds joined into one batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.batch.refill import Completion, Draw, Places, RefilledBatch, draw_batch, join_rows, whole_shares
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.dynamic_sampling import differing_groups


G = 4
STREAM = {
    "A": [1, 0, 0, 0],
    "B": [0, 0, 0, 0],
    "C": [1, 1, 1, 1],
    "D": [1, 1, 0, 0],
    "E": [0, 0, 0, 0],
    "F": [1, 1, 1, 0],
    "G": [0, 1, 0, 0],
    "H": [1, 0, 1, 0],
}


def draw_of(stream: dict[str, list[int]], local: slice = slice(None)):
    """A `draw` that takes the next groups of a stream. Row i of prompt A is number i of the letter's place times ten."""
    prompts = iter(stream.items())

    def draw(count: int, is_batch: bool) -> Draw:
        taken = [next(prompts) for _ in range(count)]
        scores = torch.tensor([score for _, group in taken for score in group], dtype=torch.float32)
        keys = tuple(name for name, _ in taken for _ in range(G))
        numbers = torch.tensor([10 * "ABCDEFGH".find(name) + i for name, _ in taken for i in range(G)])
        return Draw(
            rollouts=Rollouts(
                prompt_keys=keys,
                lengths=numbers,
                correct=scores,
                num_generations=G,
                rewards={"accuracy": scores},
                measured={"length": {"double": 2 * numbers}},
                kept=differing_groups(scores, G),
            ),
            rewards=scores[:, None],
            completions={
                row: Completion({"prompt": key}, [1], [int(number)], None, None)
                for row, (key, number) in enumerate(zip(keys, numbers, strict=True))
            },
        )

    return draw


def refill(stream: dict[str, list[int]], max_refills: int, local: slice = slice(None)) -> RefilledBatch:
    return RefilledBatch.of(*draw_batch(draw_of(stream), 4, max_refills), local)


def observed(batch: RefilledBatch) -> Rollouts:
    return batch.observed(batch.rollouts)


def trained(batch: RefilledBatch) -> str:
    """The batch's groups, with * where nothing is kept."""
    kept = batch.rollouts.by_group(batch.rollouts.kept).any(dim=1).tolist()
    return " ".join(key + "*" * (not one) for key, one in zip(batch.rollouts.prompt_keys[::G], kept, strict=True))


@pytest.mark.parametrize(
    ("max_refills", "groups", "rounds", "replaced", "drawn"),
    [
        (0, "A B* C* D", 0, 0.0, 4),
        (1, "A E* F D", 1, 0.5, 6),
        (2, "A G F D", 2, 0.5, 7),
        (3, "A G F D", 2, 0.5, 7),
    ],
)
def test_golden_stream(max_refills, groups, rounds, replaced, drawn):
    batch = refill(STREAM, max_refills)
    assert trained(batch) == groups
    assert (batch.metrics["refill/rounds"], batch.metrics["refill/replaced_fraction"]) == (rounds, replaced)
    assert batch.metrics["refill/missing_fraction"] == groups.count("*") / 4
    assert len(observed(batch)) == drawn * G


@pytest.mark.parametrize("score", [0, 1])
def test_golden_nothing_differs(score):
    batch = refill({f"p{i}": [score] * G for i in range(20)}, 3)
    assert not batch.rollouts.kept.any()
    assert (batch.metrics["refill/rounds"], batch.metrics["refill/replaced_fraction"]) == (3, 1.0)
    assert (batch.metrics["refill/missing_fraction"], len(observed(batch)) // G) == (1.0, 16)


def test_the_rows_of_the_batch_belong_together():
    batch = refill(STREAM, 2, local=slice(6, 10))
    assert batch.rollouts.lengths.tolist() == [10 * group + i for group in (0, 6, 5, 3) for i in range(G)]
    assert torch.equal(batch.rollouts.measured["length"]["double"], 2 * batch.rollouts.lengths)
    assert torch.equal(batch.rewards[:, 0], batch.rollouts.correct)
    assert torch.equal(batch.rollouts.rewards["accuracy"], batch.rollouts.correct)
    assert [one.completion_ids for one in batch.completions] == [[62], [63], [50], [51]]  # the second G, the first F
    assert (batch.rollouts.local, observed(batch).local) == (slice(6, 10), slice(6, 10))


def test_every_row_is_observed_once_and_the_batch_comes_first():
    batch = refill(STREAM, 2)
    assert observed(batch).prompt_keys[:16] == batch.rollouts.prompt_keys
    assert observed(batch).prompt_keys[16::G] == ("B", "C", "E")
    assert sorted(observed(batch).lengths.tolist()) == sorted(set(observed(batch).lengths.tolist()))


def test_the_cost_is_the_tokens_that_are_not_trained_on():
    batch = refill(STREAM, 2)
    assert batch.metrics["refill/tokens"] == sum(10 * group + i for group in (1, 2, 4) for i in range(G))
    draws, places = draw_batch(draw_of(STREAM), 4, 0)
    draws[0].__dict__["surplus_tokens"] = 5
    assert RefilledBatch.of(draws, places, slice(None)).metrics["refill/tokens"] == 5


def test_a_batch_that_keeps_everything_is_the_draw():
    stream = {name: STREAM["A"] for name in "ABCD"}
    batch = refill(stream, 3)
    assert batch.dropped is None and batch.observed(batch.rollouts) is batch.rollouts
    assert set(batch.metrics.values()) == {0.0}


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6))
def test_a_place_is_refilled_until_its_group_is_kept(rounds):
    places = Places(rounds[0])
    for kept in rounds[1:]:
        places.replace(kept[: len(places.missing)])
    assert len(set(places.groups)) == 4  # no group twice
    assert sorted(places.groups + places.dropped) == list(range(len(places.is_kept)))
    assert not any(places.is_kept[group] for group in places.dropped)  # nothing good is dropped
    for place, group in enumerate(places.groups):
        assert group == place or not rounds[0][place]


def test_a_round_fills_every_missing_place():
    with pytest.raises(ValueError):
        Places([True, False, False]).replace([True])


@pytest.mark.parametrize(
    ("groups", "generations", "processes", "drawn"),
    [(3, 4, 1, 3), (3, 4, 2, 3), (3, 4, 8, 4), (1, 3, 2, 2), (2, 3, 2, 2), (1, 4, 6, 3), (5, 7, 7, 5)],
)
def test_every_process_gets_the_same_number_of_rows(groups, generations, processes, drawn):
    assert whole_shares(groups, generations, processes) == drawn
    assert drawn * generations % processes == 0


def test_joining_rows_of_one_batch_keeps_its_settings():
    one = Rollouts(("a", "a", "b", "b"), torch.arange(4), torch.zeros(4), 2, step=7, local=slice(2, 4))
    joined = join_rows([one], [2, 3])
    assert (joined.prompt_keys, joined.lengths.tolist(), joined.step, joined.local) == (
        ("b", "b"),
        [2, 3],
        7,
        slice(None),
    )
