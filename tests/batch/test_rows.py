# SPDX-License-Identifier: Apache-2.0
"""Rows that components add to a batch: checks, advantages, padding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.batch.rows import Rows, append_batch


def rows(lengths, group=None, **changes):
    group = group if group is not None else [0] * len(lengths)
    given = {"rewards": torch.zeros(len(lengths))} if "advantages" not in changes else {}
    completions = [[10 + row] * length for row, length in enumerate(lengths)]
    return Rows([[1, 2]] * len(lengths), completions, group, **{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": [2, 0]}, "The completion of row 1 has no tokens. Give at least one"),
        ({"group": [0]}, "one prompt and one group for each of 2 completions, but got 2 prompts and 1 groups"),
        ({"rewards": None}, "either `rewards` or `advantages`"),
        ({"rewards": torch.zeros(2), "advantages": torch.zeros(2)}, "either `rewards` or `advantages`"),
        ({"rewards": torch.zeros(3)}, r"rewards of Rows has the shape \(3,\), but must have \(2,\)"),
        ({"advantages": torch.zeros(2, 3)}, r"has the shape \(2, 3\), but must have \(2,\) or \(2, 4\)"),
        ({"advantages": torch.tensor([0.0, math.inf])}, "must be finite"),
        ({"mask": [[1, 1]]}, "mask of Rows needs one number for each completion token of each of 2 rows"),
        ({"logps": [[0.0], [0.0]]}, "logps of Rows needs one number"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        rows(**{"lengths": [2, 4], **changes})


def test_rewards_are_normalized_per_group_as_trl_does():
    found = rows([1] * 5, group=[7, 3, 7, 3, 7], rewards=torch.tensor([1.0, 4.0, 0.0, 2.0, math.nan]))
    deviations = torch.tensor([0.5, 1.0, -0.5, -1.0, 0.0])
    torch.testing.assert_close(found.with_advantages("none").advantages, deviations)
    spread = torch.tensor([0.5**0.5, 2**0.5, 0.5**0.5, 2**0.5, 1.0]) + 1e-4  # standard deviations of [1, 0] and [4, 2]
    torch.testing.assert_close(found.with_advantages("group").advantages, deviations / spread)
    whole = torch.tensor([1.0, 4.0, 0.0, 2.0]).std() + 1e-4
    torch.testing.assert_close(found.with_advantages("batch").advantages, deviations / whole)
    alone = rows([1], rewards=torch.tensor([5.0]))
    assert alone.with_advantages("group").advantages.tolist() == [0.0]
    given = Rows([[1]], [[2]], [0], advantages=torch.tensor([3]))
    assert given.with_advantages("batch") is given


@given(st.lists(st.integers(1, 4), min_size=0, max_size=4), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_joined_and_padded_rows_keep_what_each_component_gave(first, second):
    one = rows(first, group=[0] * len(first), advantages=torch.ones(len(first)))
    width = max(second)
    per_token = torch.arange(len(second) * width).view(len(second), width).float()
    two = rows(second, group=list(range(len(second))), advantages=per_token, mask=[[0] * length for length in second])
    joined = Rows.joined([one, two])
    count = len(first) + len(second)
    assert len(joined) == count and len(set(joined.group)) == (len(first) > 0) + len(second)
    assert joined.loss_mask == [[1] * length for length in first] + [[0] * length for length in second]
    for row, length in enumerate(first):
        assert joined.advantages[row, :length].tolist() == [1.0] * length
    torch.testing.assert_close(joined.advantages[len(first) :, :width], per_token)
    padded = joined.padded(count + 3, filler=9)
    assert len(padded) == count + 3
    assert padded.loss_mask[count:] == [[0]] * 3 and not padded.advantages[count:].any()
    assert len(set(padded.group)) == len(set(joined.group)) + 3


def test_appending_pads_prompts_on_the_left_and_completions_on_the_right():
    batch = {
        "prompt_ids": torch.tensor([[5, 6, 7]]),
        "prompt_mask": torch.tensor([[1, 1, 1]]),
        "completion_ids": torch.tensor([[8, 8]]),
        "completion_mask": torch.tensor([[1, 1]]),
        "advantages": torch.tensor([0.5]),
        "old_per_token_logps": torch.tensor([[-1.0, -2.0]]),
        "num_items_in_batch": torch.tensor(2),
    }
    added = {
        "prompt_ids": torch.tensor([[4]]),
        "prompt_mask": torch.tensor([[1]]),
        "completion_ids": torch.tensor([[3, 2, 1]]),
        "completion_mask": torch.tensor([[1, 1, 1]]),
        "tool_mask": torch.tensor([[0, 1, 1]]),
        "advantages": torch.tensor([[1.0, 2.0, 3.0]]),
        "old_per_token_logps": torch.tensor([[-3.0, -4.0, -5.0]]),
    }
    append_batch(batch, added, filler=0)
    assert batch["prompt_ids"].tolist() == [[5, 6, 7], [0, 0, 4]]
    assert batch["prompt_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["completion_ids"].tolist() == [[8, 8, 0], [3, 2, 1]]
    assert batch["completion_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["tool_mask"].tolist() == [[1, 1, 0], [0, 1, 1]]
    assert batch["advantages"].tolist() == [[0.5, 0.5, 0.0], [1.0, 2.0, 3.0]]
    assert batch["old_per_token_logps"].tolist() == [[-1.0, -2.0, 0.0], [-3.0, -4.0, -5.0]]
    assert batch["num_items_in_batch"] == 2
    with pytest.raises(ValueError, match="images"):
        append_batch({**batch, "pixel_values": torch.zeros(1)}, added, filler=0)
