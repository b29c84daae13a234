# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
import torch

from trl_concise import Component
from trl_concise.checkpoint import load_components, save_components, write_atomically


class Keeper(Component):
    def __init__(self, name="keeper", **state):
        self.name = name
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_numbers_are_readable_and_tensors_beside_them(tmp_path):
    save_components([Keeper(cursor=3, seen=["a"], table=torch.arange(3))], tmp_path)
    state = json.loads((tmp_path / "concise_state" / "state.json").read_text())
    assert state["format"] == 1
    assert state["components"]["keeper"]["values"] == {"cursor": 3, "seen": ["a"]}
    assert sorted(p.name for p in (tmp_path / "concise_state").iterdir()) == ["keeper.safetensors", "state.json"]
    again = Keeper()
    assert load_components([again, Keeper("new")], tmp_path) == ["new"]
    assert again.state.pop("table").tolist() == [0, 1, 2] and again.state == {"cursor": 3, "seen": ["a"]}


def test_a_folder_without_state_is_not_an_error(tmp_path):
    assert load_components([Keeper()], tmp_path) is None


def test_state_of_parts_that_are_gone_is_refused(tmp_path):
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
def test_damage_is_recognised_and_named(damage, error, message, tmp_path):
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
