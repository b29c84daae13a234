# SPDX-License-Identifier: Apache-2.0
"""Step-labeled data from the completions of an evaluation."""

from __future__ import annotations

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.data import build_steps, split_steps
from trl_concise.data.steps import cosine_step_reward
from trl_concise.evaluation import Completion


PROBLEMS = {"set": Dataset.from_list([{"prompt": f"{i}?", "solution": str(i)} for i in range(3)])}
TEXTS = {  # by problem and completion: text and verdict
    (1, 0): ("a\n\nb\n\n\\boxed{2}", False),
    (0, 1): ("a\n\n\\boxed{0}", True),
    (0, 0): ("a\n\nb\n\nc\n\n\n\n\\boxed{0}", True),
    (2, 0): ("c", None),
}


def write(folder, texts=TEXTS, name="set") -> None:
    items = [
        Completion(name, problem, k, str(problem), text, [1, 2], truncated=False, correct=verdict)
        for (problem, k), (text, verdict) in texts.items()
    ]
    (folder / "completions.jsonl").write_text("".join(item.line() for item in items))


@given(st.text(alphabet="ab \n", max_size=20), st.sampled_from(["\n", "\n\n", " "]))
def test_the_steps_together_are_the_text(text, separator):
    steps = split_steps(text, separator)
    assert "".join(steps) == text and len(steps) >= 1
    assert all(step.strip() for step in steps) or not text.strip()
    assert all(separator not in step.strip() for step in steps if separator.strip() or separator == "\n\n")


def test_an_empty_separator_is_refused():
    with pytest.raises(ValueError, match="separator of steps is an empty text"):
        split_steps("a", "")


@pytest.mark.parametrize(("ends", "expected"), [((1, 0.5), [1, 0.75, 0.5]), ((-1, -0.5), [-1, -0.75, -0.5])])
def test_golden_shaping(ends, expected):
    """The paper names a cosine; its formula is reconstructed."""
    rewards = [cosine_step_reward(t, 8, start=ends[0], end=ends[1]) for t in (0, 4, 8)]
    assert rewards == pytest.approx(expected)
    assert cosine_step_reward(0, 0, start=0.7, end=0.1) == 0.7


def test_rows_are_in_order_and_have_a_reward_per_step(tmp_path):
    write(tmp_path)
    rows = build_steps(tmp_path, PROBLEMS)
    assert rows["prompt"][:] == ["0?", "0?", "1?"] and rows["label"][:] == [True, True, False]
    assert rows["completions"][0] == ["a\n\n", "b\n\n", "c\n\n\n\n", "\\boxed{0}"]
    assert rows["rewards"][0] == pytest.approx([1.0, 0.875, 0.625, 0.5])
    assert rows["rewards"][2] == [0.0, 0.0, 0.0]
    shaped = build_steps(tmp_path, PROBLEMS, wrong_rewards=(-1.0, -0.5))
    assert shaped["rewards"][2] == pytest.approx([-1.0, -0.75, -0.5])
    write(tmp_path, dict(reversed(TEXTS.items())))  # the file may be in any order
    assert build_steps(tmp_path, PROBLEMS).to_list() == rows.to_list()


def test_completions_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="Give the output folder of `trl-concise eval`"):
        build_steps(tmp_path, PROBLEMS)
    write(tmp_path, name="other")
    with pytest.raises(ValueError, match="has no completions of 'set'"):
        build_steps(tmp_path, PROBLEMS)
    write(tmp_path)
    with pytest.raises(ValueError, match=r"completions of other problems under the name 'set' \(first: row 0\)"):
        build_steps(tmp_path, {"set": Dataset.from_list([{"prompt": "7?", "solution": "7"}] * 3)})
    with pytest.raises(ValueError, match="Rewards must be finite"):
        build_steps(tmp_path, PROBLEMS, correct_rewards=(float("nan"), 1.0))
    write(tmp_path, {(0, 0): ("0", True), (1, 0): ("1", True)})
    with pytest.raises(
        ValueError, match="Of 2 completions in .*, 2 are correct, but correct and wrong ones are needed"
    ):
        build_steps(tmp_path, PROBLEMS)
