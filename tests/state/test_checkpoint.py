# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from trl_concise import Component, ConciseGRPOConfig, ConciseGRPOTrainer, GroupReward
from trl_concise.components.slots import check_names
from trl_concise.state.checkpoint import check_states, load_components, save_components, write_atomically


class Keeper(Component):
    def __init__(self, name="keeper", **state):
        self.name = name
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_numbers_are_readable_and_tensors_are_in_safetensors_files(tmp_path):
    save_components([Keeper(cursor=3, seen=["a"], table=torch.arange(3))], tmp_path)
    state = json.loads((tmp_path / "concise_state" / "state.json").read_text())
    assert state["format"] == 1
    assert state["components"]["keeper"]["values"] == {"cursor": 3, "seen": ["a"]}
    assert sorted(p.name for p in (tmp_path / "concise_state").iterdir()) == ["keeper.safetensors", "state.json"]
    again = Keeper()
    assert load_components([again, Keeper("new")], tmp_path) == ["new"]
    assert again.state.pop("table").tolist() == [0, 1, 2] and again.state == {"cursor": 3, "seen": ["a"]}


def test_numbers_of_numpy_survive(tmp_path):
    state = {"mean": np.float32(0.5), "count": np.int64(3), "done": np.bool_(True), "list": [np.float64(math.inf)]}
    check_states([Keeper(**state)])
    save_components([Keeper(**state)], tmp_path)
    again = Keeper()
    load_components([again], tmp_path)
    assert again.state == state and type(again.state["count"]) is int


def test_values_that_json_lacks_are_restored(tmp_path):
    state = {
        "numbers": [math.inf, -math.inf, 1.5, 0, True, None],
        "nested": {"a": [{"best": math.inf}]},
        "by_length": {8: 0.5, 16: math.inf},
        "mixed": {(1, 2): "pair", None: 1, "x": {}},
        "reserved": {"__float__": "nan", "__items__": [1]},
        "empty": {},
    }
    save_components([Keeper(**state, unknown=math.nan)], tmp_path)
    text = (tmp_path / "concise_state" / "state.json").read_text()
    json.loads(text, parse_constant=pytest.fail)  # any reader of JSON can read it
    again = Keeper()
    load_components([again], tmp_path)
    assert math.isnan(again.state.pop("unknown")) and again.state == state


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Path("x"), r"`keeper`: state_dict\(\)\['value'\] is a PosixPath\. .* Convert this value"),
        ({"a": [1, {2}]}, r"`keeper`: state_dict\(\)\['value'\]\['a'\]\[1\] is a set\."),
        ({"a": torch.zeros(1)}, r"\['value'\]\['a'\] is a Tensor\. .* tensors at the top level"),
        ({frozenset(): 1}, r"the key frozenset\(\) of `keeper`: state_dict\(\)\['value'\] is a frozenset\."),
    ],
)
def test_a_state_that_cannot_be_saved_is_named(value, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        check_states([Keeper(value=value)])
    with pytest.raises(ValueError, match=message):
        save_components([Keeper(value=value)], tmp_path)


class Best(GroupReward):
    """A component of a user's own: it takes a function, and its state has infinities and integer keys."""

    name = "best-1"

    def __init__(self, judge):
        self.judge = judge
        self.shortest, self.loss = {0: math.inf}, math.nan

    def score(self, rollouts):
        return torch.zeros(len(rollouts.lengths))

    def observe(self, rollouts):
        self.shortest[rollouts.step] = float(rollouts.lengths.min())

    def state_dict(self):
        return {"shortest": self.shortest, "loss": self.loss}

    def load_state_dict(self, state):
        self.shortest, self.loss = state["shortest"], state["loss"]


def test_a_run_with_an_unusual_component_is_saved_and_resumed(tiny_model, problems, tmp_path):
    def train(steps, resume=None):
        args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=steps, save_strategy="steps", save_steps=1))
        part = Best(judge=tiny.even_reward)
        part.shortest[-1] = -math.inf
        trainer = ConciseGRPOTrainer(tiny_model, [tiny.even_reward, part], args, problems)
        trainer.train(resume_from_checkpoint=resume)
        return part

    first = train(1)
    again = train(2, resume=str(tmp_path / "checkpoint-1"))
    assert first.shortest.keys() == {0, -1} and again.shortest.keys() == {0, -1, 1}
    assert first.shortest.items() <= again.shortest.items() and math.isnan(again.loss)
    facts = json.loads((tmp_path / "run.json").read_text())
    assert [method["name"] for method in facts["methods"]] == ["Best"] and "settings" not in facts["methods"][0]


class Named(Component):
    def __init__(self, name):
        self.name = name


class Nameless(Component):
    pass


@pytest.mark.parametrize("name", ["my/part", "..", "a b", "a.b", "", "-a", "a" * 65, "é", "a\n", "con:", None, 3])
def test_names_that_cannot_be_saved_are_refused(name):
    with pytest.raises(ValueError, match=r"The name of Named is .* 1 to 64 ASCII letters, digits, `_` and `-`"):
        check_names([Named("fine"), Named(name)])


def test_names_are_given_free_and_distinct():
    check_names([Named("a"), Named("my-part_2"), Named("2b"), Named("a" * 64), Keeper()])
    with pytest.raises(ValueError, match="The name of Nameless is None"):
        check_names([Nameless()])
    for name in ("prompt_order", "Prompt_Order"):
        with pytest.raises(ValueError, match="under which checkpoints store the order of prompts. Set another `name`"):
            check_names([Named(name)])
    with pytest.raises(ValueError, match="Keeper and Named have the same name, 'KEEPER'"):
        check_names([Keeper(), Named("KEEPER")])  # one file, where the file system ignores case


def test_a_folder_without_state_is_not_an_error(tmp_path):
    assert load_components([Keeper()], tmp_path) is None


def test_state_of_missing_components_is_refused(tmp_path):
    save_components([Keeper("greso", p=0.5)], tmp_path)
    with pytest.raises(ValueError, match=r"holds the state of \['greso'\], but this run has only \['hapo'\]"):
        load_components([Keeper("hapo")], tmp_path)


def break_json(folder):
    (folder / "state.json").write_text('{"format": 1, "compo')


def break_tensors(folder):
    path = folder / "keeper.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def break_off(folder):
    (folder / "state.json").unlink()


def change_format(folder):
    (folder / "state.json").write_text('{"format": 9, "components": {}}')


def lose_tensors(folder):
    (folder / "keeper.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (break_json, ValueError, r"state\.json is damaged: expected JSON"),
        (break_tensors, ValueError, r"keeper\.safetensors is damaged: its SHA-256"),
        (break_off, ValueError, r"is incomplete: state\.json is missing"),
        (change_format, ValueError, r"has format 9; this version .* reads format 1"),
        (lose_tensors, FileNotFoundError, r"keeper\.safetensors"),
    ],
)
def test_damage_is_recognized_and_named(damage, error, message, tmp_path):
    save_components([Keeper(table=torch.arange(3))], tmp_path)
    damage(tmp_path / "concise_state")
    with pytest.raises(error, match=message):
        load_components([Keeper()], tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")
    assert path.read_bytes() == b"old"
