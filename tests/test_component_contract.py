# SPDX-License-Identifier: Apache-2.0
"""
What every component promises, by one battery: settings that are published and rebuild it, a state that survives a restart and
unknown rewards, the same run on two processes, and neutral settings that train exactly as TRL does. The rows are in
`tests/component_rows.py`.
"""

from __future__ import annotations

import copy
import inspect
import json
import math
from importlib import import_module

import pytest
import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tests import component_rows, slot_rows, tiny
from tests.component_rows import LIMIT, ROWS, Careless
from tests.distributed import components
from trl_concise import GroupReward, PromptSelector
from trl_concise.components import Component
from trl_concise.hub.facts import as_text
from trl_concise.methods.table import METHODS


def test_every_component_has_a_row():
    modules = {method: import_module(f"trl_concise.{method.package}.{method.module}") for method in METHODS}
    listed = [getattr(modules[method], name) for method in METHODS for name in method.components]
    components = [one for one in listed if inspect.isclass(one) and issubclass(one, (Component, GroupReward))]
    assert {one.__name__ for one in components} == set(ROWS) - {"Careless"}, "add a row to tests/component_rows.py"


@pytest.mark.parametrize("row", ROWS)
def test_rows_change_every_setting(row):
    parameters = inspect.signature(ROWS[row].component).parameters
    given = ROWS[row].arguments
    assert given.keys() == parameters.keys()
    assert all(given[name] != parameter.default for name, parameter in parameters.items())


@pytest.mark.parametrize("row", ROWS)
def test_settings_are_published_and_the_rest_of_a_run_follows_from_its_checkpoint(row, tiny_model, tmp_path):
    whole = component_rows.build(tiny_model, tmp_path, row, save_strategy="steps", save_steps=2)
    whole.train()
    component = find(whole, row)
    given = ROWS[row].arguments
    assert component.config() == given
    assert type(component)(**component.config()).config() == given
    (facts,) = json.loads((tmp_path / "run.json").read_text())["methods"]
    assert facts["name"] == row and facts.get("settings", {}) == as_text(given)

    expected = slot_rows.logged(whole)
    assert len(expected) == 4 and any(entry["grad_norm"] for entry in expected[2:])
    resumed = component_rows.build(tiny_model, tmp_path / "resumed", row)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert slot_rows.logged(resumed) == expected
    assert as_numbers(find(resumed, row).state_dict()) == as_numbers(component.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))


def find(trainer, row: str):
    (component,) = trainer.components
    assert type(component) is ROWS[row].component
    return component


def as_numbers(state):
    """Return a state with lists in place of tensors, in which NaN equals NaN."""
    return json.loads(json.dumps(state, default=lambda tensor: tensor.tolist()).replace("NaN", '"NaN"'))


class Remember(TrainerCallback):
    def __init__(self, component):
        self.component = component

    def on_step_end(self, args, state, control, **kwargs):
        self.state = copy.deepcopy(self.component.state_dict())


def sometimes_unknown(completion_ids, trainer_state, **kwargs):
    """Return unknown rewards for half of the first batch and all of the second, and an infinite one in the fourth."""
    rewards = component_rows.correct_if_even(completion_ids)
    if trainer_state.global_step == 0:
        return [[reward, None, reward, math.nan][i % 4] for i, reward in enumerate(rewards)]
    if trainer_state.global_step == 1:
        return [[None, math.nan][i % 2] for i in range(len(rewards))]
    if trainer_state.global_step == 3:
        return [*rewards[:-1], math.inf]
    return rewards


@pytest.mark.parametrize("row", ROWS)
def test_unknown_and_infinite_rewards_leave_the_state_intact(row, tiny_model, tmp_path):
    trainer = component_rows.build(tiny_model, tmp_path, row, correct=sometimes_unknown)
    component = find(trainer, row)
    before = not_finite(component.state_dict())
    remember = Remember(component)
    trainer.add_callback(remember)
    with pytest.raises(ValueError, match=r"\['sometimes_unknown'\] returned an infinite reward"):
        trainer.train()
    logged = slot_rows.logged(trainer)
    assert len(logged) == 3 and all(math.isfinite(entry[key]) for entry in logged for key in ("loss", "grad_norm"))
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert not_finite(component.state_dict()) <= before
    if not isinstance(component, PromptSelector):  # it had already chosen the prompts of the batch that failed
        assert as_numbers(component.state_dict()) == as_numbers(remember.state)


def not_finite(state) -> set[str]:
    """Return the keys of a state under which there is NaN or infinity."""
    words = ("NaN", "Infinity")
    return {key for key, value in state.items() if any(word in json.dumps(as_numbers(value)) for word in words)}


@pytest.mark.parametrize("row", ROWS)
def test_two_processes_train_as_one(row, tiny_model, tmp_path, two_processes):
    ranks = [json.loads((two_processes / "components" / f"{row}{rank}.json").read_text()) for rank in (0, 1)]
    one = components.report(components.train(tiny_model, tmp_path, row, rows_per_process=12))
    assert [rank.pop("world_size") for rank in ranks] == [2, 2] and one.pop("world_size") == 1
    assert ranks[0]["state"] == ranks[1]["state"]
    # LASER-D's monitor and SATURN's validation draw other completions on each process; RLPR's base scores may differ in their last digits, by the rows that
    # are scored together.
    if row not in ("LASERDReward", "RLPRReward", "SATURNCurriculum"):
        assert ranks[0]["state"] == as_numbers(one["state"])
    for two, single in zip(ranks[0]["logged"], one["logged"], strict=True):
        assert two.keys() == single.keys()
        for key in components.COMPARED:
            assert two[key] == pytest.approx(single[key], abs=1e-5, rel=1e-3), key


# Neutral settings


@pytest.fixture(scope="module")
def plain(tiny_model, tmp_path_factory):
    """Return what TRL's trainer logs and trains to, by the settings that a component needs."""
    done = {}

    def run(args: dict):
        key = json.dumps(args)
        if key not in done:
            settings = tiny.settings(
                tmp_path_factory.mktemp("plain"), max_completion_length=LIMIT, learning_rate=1e-2, **args
            )
            dataset = component_rows.problems(4)
            trainer = GRPOTrainer(tiny_model, [component_rows.correct_if_even], GRPOConfig(**settings), dataset)
            trainer.train()
            done[key] = trainer
        return done[key]

    return run


NEUTRAL = [row for row in ROWS if ROWS[row].neutral is not None]


@pytest.mark.parametrize("row", NEUTRAL)
def test_neutral_settings_train_as_trl_does(row, tiny_model, tmp_path, plain):
    """A group reward with the weight 0, or settings without effect: a selector that chooses in order, every token, one budget."""
    given = ROWS[row]
    weights = {"reward_weights": [1.0, 0.0]} if given.slot == "reward_funcs" and not given.neutral else {}
    changes = {"max_steps": 2, "samples": True, "arguments": given.neutral, **weights}
    trainer = component_rows.build(tiny_model, tmp_path, row, **changes)
    trainer.train()
    expected = plain(given.args)
    assert tiny.losses(trainer) == tiny.losses(expected) and any(tiny.losses(expected))
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), expected.model.parameters(), strict=True))


# Faults of a careless component


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("matrix", r"Careless\.score returned .*\(8, 1\).* for 8 completions"),
        ("short", r"Careless\.score returned .*\(7,\).* for 8 completions"),
        ("list", r"Careless\.score returned .*list.* for 8 completions"),
        ("none", r"Careless\.score returned .*None.* for 8 completions"),
        ("infinite", r"\['Careless'\] returned an infinite reward"),
        ("measure", r"Careless\.measure returned .*\(8, 1\).* as 'ones' for 8 completions"),
    ],
)
def test_a_fault_of_a_component_is_named_and_nothing_is_learned(fault, message, tiny_model, tmp_path):
    trainer = component_rows.build(tiny_model, tmp_path, "Careless", arguments={"fault": fault})
    weights = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.components[0].seen == 0
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), weights, strict=True))


def test_a_name_that_cannot_be_saved_is_refused_when_the_trainer_is_built(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(Careless, "name", "my reward/1")
    with pytest.raises(ValueError, match="The name of Careless is 'my reward/1'"):
        component_rows.build(tiny_model, tmp_path, "Careless")
