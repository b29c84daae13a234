# SPDX-License-Identifier: Apache-2.0
"""Every drop-in trainer trains as the committed runs say. `python -m tests.tools.trajectories --update` rewrites them."""

from __future__ import annotations

import json

import pytest

import trl_concise
from tests.tools import trajectories


def test_every_drop_in_trainer_has_a_run():
    names = {name for name in trl_concise.__all__ if name.endswith("Trainer")} - {"ConciseGRPOTrainer"}
    assert names <= set(trajectories.trainers())
    assert {path.stem for path in trajectories.FOLDER.iterdir()} == set(trajectories.trainers())


@pytest.mark.parametrize("name", trajectories.trainers())
def test_a_short_run_is_the_committed_one(name, tiny_model, tmp_path):
    expected = json.loads(trajectories.path_of(name).read_text(encoding="utf-8"))
    assert len(expected["loss"]) == trajectories.STEPS and any(expected["grad_norm"])
    found = trajectories.run(name, tiny_model, tmp_path)
    assert not list(trajectories.differences(found, expected)), (
        "if the change is intended: python -m tests.tools.trajectories --update"
    )


def test_a_changed_figure_is_named():
    one = {"loss": [0.1, None, 0.3], "reward": [1.0, 1.0, 1.0]}
    assert not list(trajectories.differences(one, {"loss": [0.10001, None, 0.3], "reward": [1.0, 1.0, 1.0]}))
    assert list(trajectories.differences(one, {"loss": [0.1, 0.2, 0.4]})) == [
        "figures: ['reward'] are in one of the runs only",
        "loss at step 2: None, committed: 0.2",
    ]
