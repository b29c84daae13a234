# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass

import pytest

from trl_concise.cli.recipe import RecipeParser
from trl_concise.errors import report_input_errors


@dataclass
class Options:
    steps: int = 1
    name: str = "none"


@pytest.mark.parametrize("joined", [False, True])
def test_a_recipe_gives_the_defaults(joined, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps: 3\nname: recipe\n")
    parser = RecipeParser([Options])
    words = [f"--config={recipe}"] if joined else ["--config", str(recipe)]
    assert parser.parse_args_and_config([*words, "--name", "flag"]) == (Options(3, "flag"),)
    assert parser.recipe == str(recipe)


def test_without_a_recipe(capsys):
    parser = RecipeParser([Options])
    assert parser.parse_args_and_config(["--steps", "2"]) == (Options(2),) and parser.recipe is None
    with pytest.raises(SystemExit):
        parser.parse_args_and_config(["--config"])
    assert "--config: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize("second", [["--config", "b.yaml"], ["--config=b.yaml"]])
def test_there_is_one_recipe(second, capsys):
    with pytest.raises(SystemExit) as exit:
        RecipeParser([Options]).parse_args_and_config(["--config", "a.yaml", *second])
    assert exit.value.code == 2 and "--config: given more than once" in capsys.readouterr().err


def test_only_input_errors_end_the_program(capsys):
    with pytest.raises(SystemExit) as exit, report_input_errors():
        open("nowhere.yaml")
    assert exit.value.code == 2 and capsys.readouterr().err.endswith("No such file or directory: 'nowhere.yaml'\n")
    with pytest.raises(ZeroDivisionError), report_input_errors():
        raise ZeroDivisionError
