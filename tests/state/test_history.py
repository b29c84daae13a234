# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import random
from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from trl_concise import PromptHistory
from trl_concise.batch.rollouts import prompt_key


completions = st.lists(
    st.tuples(st.sampled_from("abcde"), st.integers(0, 10**6), st.sampled_from([1.0, 0.0, math.nan])), max_size=40
)


def filled(rows) -> PromptHistory:
    history = PromptHistory()
    history.update([key for key, _, _ in rows], [length for _, length, _ in rows], [c for _, _, c in rows])
    return history


def records(history: PromptHistory) -> dict:
    return history.to_pandas().sort_index().fillna(-1).to_dict("index")


def test_one_update_is_one_visit_of_each_prompt():
    history = filled([("a", 500, 1), ("a", 1600, 1), ("a", 500, 0), ("b", 7, 0)])
    assert history.shortest(["a", "b", "new"]).tolist()[0] == 500
    assert history.shortest(["b", "new"]).isnan().all()
    assert history.mean(["a"]).item() == 1050
    assert history.mean(["b", "new"]).isnan().all()
    assert history.visits(["a", "b", "new"]).tolist() == [1, 1, 0]
    assert history.solved(["a", "b", "new"]).tolist() == [1, 0, 0]
    history.update(["a"], [300], [1])
    assert history.mean(["a"]).item() == 800 and history.to_pandas().loc[:, "correct"].tolist() == [3, 0]
    assert (len(history), "a" in history, "new" in history) == (2, True, False)


def test_unknown_verdicts_are_recorded_nowhere():
    history = filled([("a", 5, math.nan), ("b", 9, 1), ("b", 2, math.nan)])
    assert "a" not in history
    assert history.shortest(["b"]).item() == 9


def test_a_prompt_id_and_its_key_name_the_same_prompt():
    history = filled([("gsm8k/12", 40, 1)])
    assert history.shortest([prompt_key({"prompt_id": "gsm8k/12"})]).item() == 40
    assert history.to_pandas().index.tolist() == [prompt_key({"prompt_id": "gsm8k/12"})]


@given(completions, st.randoms(use_true_random=False))
def test_records_are_those_of_a_plain_loop_in_any_order(rows, order: random.Random):
    expected = defaultdict(list)
    for key, length, correct in rows:
        if not math.isnan(correct):
            expected[key] += [length] if correct else []
    order.shuffle(rows)
    history = filled(rows)
    assert len(history) == len(expected)
    for key, lengths in expected.items():
        assert history.visits([key]).item() == 1
        assert history.solved([key]).item() == bool(lengths)
        if lengths:
            assert history.shortest([key]).item() == min(lengths)
            assert history.mean([key]).item() == pytest.approx(sum(lengths) / len(lengths))


@given(completions, completions)
def test_merging_equals_the_record_of_a_single_run(first, second):
    together = filled(first)
    together.update([k for k, _, _ in second], [n for _, n, _ in second], [c for _, _, c in second])
    merged, other = filled(first), filled(second)
    before = records(other)
    merged.merge(other)
    assert records(merged) == records(together)
    assert records(other) == before


def test_merging_with_itself_doubles_the_counts():
    history = filled([("a", 5, 1)])
    history.merge(history)
    assert history.visits(["a"]).item() == 2 and history.mean(["a"]).item() == 5


@given(completions)
def test_state_round_trip(rows):
    history, again = filled(rows), PromptHistory()
    again.load_state_dict(history.state_dict())
    assert records(again) == records(history)
    again.update(["fresh"], [1], [1])
    assert again.shortest(["fresh"]).item() == 1 and "fresh" not in history


def test_file_round_trip(tmp_path):
    history = filled([("a", 500, 1), ("b", 7, 0)])
    history.save(tmp_path / "history.safetensors")
    assert records(PromptHistory.load(tmp_path / "history.safetensors")) == records(history)
    assert [path.name for path in tmp_path.iterdir()] == ["history.safetensors"]


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "history.safetensors"
    filled([("a", 500, 1)]).save(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"history\.safetensors is damaged: expected a safetensors file"):
        PromptHistory.load(path)


def test_a_foreign_file_is_named(tmp_path):
    path = tmp_path / "adapter.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"adapter\.safetensors has another format: expected .*PromptHistory"):
        PromptHistory.load(path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        PromptHistory.load(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("visits"), "holds the tensors"),
        (lambda s: s.update(visits=torch.zeros(1, dtype=torch.int64)), "shapes"),
        (lambda s: s.update(keys=torch.zeros(2, 16, dtype=torch.uint8)), "repeated"),
    ],
)
def test_a_state_that_is_not_a_history_is_refused(change, message):
    state = filled([("a", 1, 1), ("b", 1, 1)]).state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        PromptHistory().load_state_dict(state)


@pytest.mark.parametrize(
    ("lengths", "correct", "message"),
    [([1], [1, 1], "one length and one verdict"), ([1, -1], [1, 1], "at least 0"), ([1, 1], [1, 0.5], "1, 0 or NaN")],
)
def test_update_refuses_invalid_values(lengths, correct, message):
    with pytest.raises(ValueError, match=message):
        PromptHistory().update(["a", "b"], lengths, correct)
