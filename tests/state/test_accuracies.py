# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_concise import PromptHistory
from trl_concise.batch.rollouts import prompt_key
from trl_concise.state.accuracies import AccuracyHistory
from trl_concise.state.checkpoint import write_tensors


batches = st.lists(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0.0, 1.0, math.nan])), min_size=1), max_size=6
)


def recorded(batches) -> AccuracyHistory:
    history = AccuracyHistory()
    for step, batch in enumerate(batches):
        keys, correct = zip(*batch, strict=True)
        history.update(keys, correct, step)
    return history


def test_a_batch_is_one_visit_of_each_prompt():
    history = recorded([[("a", 1), ("a", 0), ("b", math.nan), ("a", 1), ("a", math.nan)], [("b", 0)], [("a", 0)]])
    assert history["a"] == [2 / 3, 0] and history["b"] == [0] and "c" not in history
    assert [history.steps[key] for key in history] == [[0, 2], [1]]


def test_a_prompt_is_found_by_its_id_and_by_its_key():
    history = recorded([[("p1", 1)]])
    assert history["p1"] == history[prompt_key({"prompt_id": "p1"})] == [1]


@given(batches)
def test_the_state_survives_the_disk(tmp_path_factory, batches):
    history = recorded(batches)
    path = tmp_path_factory.mktemp("history") / "accuracies.safetensors"
    history.save(path)
    loaded = AccuracyHistory.load(path)
    assert dict(loaded) == dict(history) and loaded.steps == history.steps


def test_another_history_is_not_read(tmp_path):
    other = PromptHistory()
    other.update(["a"], [3], [1])
    other.save(tmp_path / "history.safetensors")
    with pytest.raises(ValueError, match="has another format"):
        AccuracyHistory.load(tmp_path / "history.safetensors")


def test_lengths_must_agree():
    with pytest.raises(ValueError):
        AccuracyHistory().update(["a"], torch.ones(2), 0)


def test_a_file_whose_tensors_do_not_fit_together_is_refused(tmp_path):
    history = AccuracyHistory()
    history.update(["a", "a", "b"], correct=[1, 0, 1], step=0)
    state = history.state_dict()
    for damaged, message in [
        ({name: state[name] for name in ("keys", "visits")}, "holds the tensors"),
        ({**state, "steps": state["steps"][:1]}, "cannot have tensors of the shapes"),
    ]:
        write_tensors(tmp_path / "a.safetensors", damaged, {"format": "trl_concise.AccuracyHistory", "version": "1"})
        with pytest.raises(ValueError, match=rf"a\.safetensors is not an accuracy history\. .*{message}"):
            AccuracyHistory.load(tmp_path / "a.safetensors")
