# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import AccuracyBand, ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import Rollouts, prompt_key


def key(name: str) -> str:
    return prompt_key({"prompt_id": name})


def candidates(names: str) -> list[dict]:
    return [{"prompt_key": key(name)} for name in names]


def band(accuracies: dict[str, list[float]], **settings) -> AccuracyBand:
    """A selector without exploration, that has seen each prompt at these accuracies (multiples of 1/4)."""
    selector = AccuracyBand(**{"exploration": 0.0, **settings})
    for name, visits in accuracies.items():
        for step, accuracy in enumerate(visits):
            selector.accuracies.update([key(name)] * 4, [float(i < 4 * accuracy) for i in range(4)], step)
    return selector


def test_prompts_in_the_band_come_first_then_the_nearest():
    selector = band({"a": [1], "b": [0.5], "c": [0], "d": [0.25], "e": [0.9]}, high=0.75, low=0.25)
    assert selector.choose(candidates("abcdenf"), 3, 0) == [1, 3, 5]  # n was never seen
    assert selector.choose(candidates("abcde"), 3, 0) == [0, 1, 3]  # a and c are as far, a comes first
    assert selector.choose(candidates("ac"), 2, 0) == [0, 1]


def test_the_latest_visits_count():
    assert band({"a": [0, 0.5, 1]}, visits=1).distance(key("a")) == pytest.approx(0.2)
    assert band({"a": [0, 0.5, 1]}, visits=2).distance(key("a")) == 0
    assert band({"a": [0, 0.5, 0.5]}).distance(key("a")) == 0


def test_the_full_band_has_the_order_of_trl():
    selector = AccuracyBand(0, 1)
    selector.accuracies.update([key("a")], [1], 0)
    assert selector.choose(candidates("abcd"), 3, 0) == [0, 1, 2]


def test_prompts_outside_the_band_are_occasionally_retried():
    selector = band({"a": [1]}, exploration=0.25)
    tried = sum(selector.choose(candidates("ab"), 1, 0) == [0] for _ in range(2000))
    assert tried / 2000 == pytest.approx(0.25, abs=0.04)


@given(
    accuracies=st.dictionaries(st.sampled_from("abcdefgh"), st.lists(st.sampled_from([0, 0.25, 1]), min_size=1)),
    count=st.integers(1, 8),
)
def test_every_batch_is_full_and_the_state_resumes_exactly(accuracies, count):
    first = band(accuracies, exploration=0.3)
    first.choose(candidates("abcdefgh"), count, 0)
    second = AccuracyBand(exploration=0.3)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        chosen = first.choose(candidates("abcdefgh"), count, 0)
        assert chosen == second.choose(candidates("abcdefgh"), count, 0)
        assert len(set(chosen)) == count


def test_metrics():
    selector = band({"a": [1]})
    selector.choose(candidates("abc"), 2, 0)
    correct = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1, math.nan, math.nan, math.nan, math.nan])
    keys = tuple(key(name) for name in "bcd" for _ in range(4))
    selector.observe(Rollouts(keys, torch.ones(12, dtype=torch.int64), correct, 4, step=5))
    assert selector.metrics() == pytest.approx({"skipped_fraction": 1 / 3, "in_band_fraction": 0.5})
    assert selector.accuracies["b"] == [0.75] and key("d") not in selector.accuracies


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low": 0.9, "high": 0.1}, r"got \[0.9, 0.1\]"),
        ({"visits": 0}, "visits must be at least 1"),
        ({"exploration": 2}, "exploration must lie in"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        AccuracyBand(**settings)


def some_rows_right(completions, row, **kwargs):
    return [float(number < 6 or (number < 12 and i % 2)) for i, number in enumerate(row)]


def train(model, problems, output_dir, resume=None):
    args = ConciseGRPOConfig(**tiny.settings(output_dir, max_steps=20, save_strategy="steps", save_steps=5))
    trainer = ConciseGRPOTrainer(model, some_rows_right, args, problems, prompt_selector=AccuracyBand())
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_training_stays_in_the_band_and_resumes_there(tiny_model, problems, tmp_path):
    whole = train(tiny_model, problems, tmp_path / "whole")
    assert whole.state.global_step == 20
    logged = [entry["curriculum/in_band_fraction"] for entry in whole.state.log_history[:-1]]
    assert len(logged) == 20 and sum(logged[8:]) / 12 > sum(logged[:8]) / 8
    resumed = train(tiny_model, problems, tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoint-10"))
    assert dict(resumed.prompt_selector.accuracies) == dict(whole.prompt_selector.accuracies)
    assert resumed.prompt_selector.accuracies.steps == whole.prompt_selector.accuracies.steps
