# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.batch.rollouts import Rollouts, prompt_key


@given(st.text())
def test_a_key_is_a_digest_and_digesting_it_again_changes_nothing(prompt):
    key = prompt_key({"prompt": prompt})
    assert len(key) == 32 and int(key, 16) >= 0
    assert prompt_key({"prompt_id": key}) == key


def test_the_key_of_a_row_does_not_depend_on_how_it_is_stored():
    rows = [
        {"prompt": [{"role": "user", "content": "1 + 1?"}], "solution": "2"},
        {"prompt": [{"role": "user", "content": "2 + 2?", "name": "ann"}], "solution": "4"},
    ]
    stored, streamed = Dataset.from_list(rows), Dataset.from_list(rows).to_iterable_dataset()
    assert [prompt_key(r) for r in stored] == [prompt_key(r) for r in streamed] == [prompt_key(r) for r in rows]
    assert prompt_key(rows[0]) == "525569bfccc88af645a9e43f0686d363"  # pinned: saved histories rely on it


def test_a_prompt_id_comes_first():
    assert prompt_key({"prompt_id": 7, "prompt": "a"}) == prompt_key({"prompt_id": "7", "prompt": "b", "image": 1})


@pytest.mark.parametrize("row", [{"question": "?"}, {"prompt": "what?", "images": ["..."]}])
def test_a_row_without_a_key_is_refused(row):
    with pytest.raises(ValueError, match="Add a `prompt_id` column"):
        prompt_key(row)


def test_groups():
    rollouts = Rollouts(tuple("aabb"), torch.ones(4, dtype=torch.long), torch.ones(4), num_generations=2)
    assert rollouts.group_index.tolist() == [0, 0, 1, 1]
    assert not rollouts.truncated.any() and len(rollouts) == 4
    with pytest.raises(ValueError, match="is not a multiple of num_generations = 3"):
        Rollouts(tuple("aabb"), torch.ones(4, dtype=torch.long), torch.ones(4), num_generations=3)
