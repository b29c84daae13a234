# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil

import pytest

from trl_concise.evaluation.identity import BLOCK, BLOCKS, fingerprint, name_of


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "run" / "checkpoint-5"
    folder.mkdir(parents=True)
    with open(folder / "model.safetensors", "wb") as file:
        file.truncate(3 * BLOCKS * BLOCK)
    return folder


def test_name(folder, monkeypatch):
    assert name_of(str(folder)) == "run/checkpoint-5"
    assert name_of(str(folder.parent)) == "run"
    assert name_of("org/model") == "org/model"
    monkeypatch.chdir(folder)
    assert name_of(".") == "run/checkpoint-5"


def test_a_copy_has_the_same_fingerprint_and_other_weights_do_not(folder, tmp_path):
    first = fingerprint(str(folder))
    assert first == fingerprint(str(shutil.copytree(folder, tmp_path / "copy")))
    (folder / "training_args.bin").write_bytes(b"of another run")
    assert first == fingerprint(str(folder))
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(3 * 40 * BLOCK)
        file.write(b"trained")
    assert first != fingerprint(str(folder))


def test_a_folder_without_weights_has_no_fingerprint(tmp_path):
    assert fingerprint("org/model") is None and fingerprint(str(tmp_path)) is None
