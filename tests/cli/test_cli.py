# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import trl_concise
from trl_concise.cli.commands import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_has_help(name, capsys):
    module, function = COMMANDS[name][0].split(":")
    assert callable(getattr(import_module(module), function))
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    assert f"trl-concise {name}" in capsys.readouterr().out


def test_help_lists_the_commands(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == listed
    for name, (_, text) in COMMANDS.items():
        assert name in listed and text in listed


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"trl-concise {trl_concise.__version__}"


@pytest.mark.parametrize(("typed", "hint"), [("evla", "Did you mean 'eval'?"), ("zzz", "eval, report.")])
def test_a_mistyped_command(typed, hint, capsys, monkeypatch):
    monkeypatch.setattr("trl_concise.cli.commands.COMMANDS", {"eval": ("", "measure"), "report": ("", "plot")})
    with pytest.raises(SystemExit) as exit:
        main([typed, "--help"])
    assert exit.value.code == 2
    assert hint in capsys.readouterr().err


def test_help_imports_no_training_library():
    code = (
        "import sys\nfrom trl_concise.cli.commands import main\nmain([])\n"
        "print(sorted({'trl', 'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "trl_concise"], capture_output=True, text=True, check=True)
    assert "trl-concise COMMAND" in done.stdout
