# SPDX-License-Identifier: Apache-2.0
"""The command, and the recipes: the numbers in its comment, and in the docs, are those that the command prints for it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.test_configs import parse
from trl_concise.cli.commands import TRAINING, main
from trl_concise.memory.report import comment
from trl_concise.memory.shapes import known_config


ROOT = Path(__file__).parents[2]
RECIPES = sorted(ROOT.glob("examples/configs/*40gb*.yaml"))
DOCS = (ROOT / "docs" / "memory.md").read_text()
ARGUMENTS = ["--method", "hapo", "--dtype", "bfloat16", "--use_peft", "--max_completion_length", "1024"]


@pytest.fixture
def model(tmp_path):
    """Return a function that writes the config of a published model to a folder."""

    def write(name: str = "Qwen/Qwen2-1.5B-Instruct") -> str:
        known_config(name).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_states_its_plan(recipe, capsys):
    text = recipe.read_text()
    command = re.search(r"trl-concise (plan --method \w+ --config \S+.*)", text)[1].split()
    assert Path(command[4]).name == recipe.name
    command[4] = str(recipe)
    assert main(command) == 0
    printed = capsys.readouterr().out.rstrip("\n")
    assert comment(printed) in text
    row = next(line for line in DOCS.splitlines() if f"`{recipe.name}`" in line)
    assert f"| {re.search('peak ([0-9.]+) GiB', printed)[1]} |" in row
    assert f"| {re.search(r'completion length ([0-9,]*[0-9])', printed)[1]} |" in row


ALL_RECIPES = [  # of the commands; experimental systems have none
    path
    for path in sorted(ROOT.glob("examples/configs/*.yaml"))
    if any(path.name.startswith(f"{name}_") for name in TRAINING)
]


@pytest.mark.parametrize("recipe", ALL_RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_is_planned_without_a_network(recipe, capsys):
    method = max((name for name in TRAINING if recipe.name.startswith(f"{name}_")), key=len)
    status = main(["plan", "--method", method, "--config", str(recipe)])
    printed = capsys.readouterr().out
    assert re.search(r"^peak [0-9.]+ GiB .*: (fits|does not fit) on a card of 40 GiB$", printed, flags=re.MULTILINE)
    assert status == (0 if ": fits" in printed and "cannot run like this" not in printed else 1)


def test_models_that_the_docs_name_are_planned_without_a_network():
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.py")]
    named = {name for page in pages for name in re.findall(r"\bQwen/Qwen[\w.-]*\w", page.read_text(encoding="utf-8"))}
    assert named and not {name for name in named if known_config(name) is None} - {"Qwen/Qwen3-32B"}  # a teacher


def test_the_written_recipe_is_planned_alike(model, tmp_path, capsys):
    path = str(tmp_path / "new.yaml")
    assert main(["plan", *ARGUMENTS, "--model_name_or_path", model(), "--write-config", path]) == 0
    first = capsys.readouterr().out
    assert f"trl-concise hapo --config {path}" in first
    assert main(["plan", "--method", "hapo", "--config", path]) == 0
    assert capsys.readouterr().out.strip() in first
    values = yaml.safe_load(Path(path).read_text())
    assert values["bf16"] is True and values["lora_dropout"] == 0.0 and values["max_completion_length"] == 1024


@pytest.mark.parametrize("method", ["hapo", "sgrpo", "tspmo", "redi", "cft"])
def test_the_written_recipe_parses_with_its_example(method, model, tmp_path):
    path = tmp_path / f"{method}.yaml"
    arguments = ["--method", method, "--model_name_or_path", model(), "--dtype", "bfloat16", "--use_peft"]
    assert main(["plan", *arguments, "--load_in_4bit", "--write_config", str(path)]) == 0
    parsed = parse(path)
    assert all(parsed[name] == value for name, value in yaml.safe_load(path.read_text()).items())


@pytest.mark.parametrize("method", ["grpo", "dpo", "sft"])
def test_a_recipe_for_trl_parses_with_the_command_of_trl(method, model, tmp_path, capsys):
    path = tmp_path / f"{method}.yaml"
    arguments = ["--method", method, "--model_name_or_path", model(), "--dtype", "bfloat16", "--use_peft"]
    assert main(["plan", *arguments, "--write_config", str(path)]) == 0
    assert capsys.readouterr().out.endswith(f"\ntrl {method} --config {path}\n")
    parser = import_module(f"trl.scripts.{method}").make_parser()
    parsed = parser.parse_args_and_config(["--config", str(path), "--use_cpu"], fail_with_unknown_args=True)
    values = {name: value for part in parsed for name, value in vars(part).items()}
    assert all(values[name] == value for name, value in yaml.safe_load(path.read_text()).items())


def test_a_too_small_share_is_distinguished_from_a_too_small_card(model, capsys):
    arguments = ["plan", *ARGUMENTS, "--model_name_or_path", model(), "--use_vllm", "--card_gib", "40"]
    assert main([*arguments, "--vllm_gpu_memory_utilization", "0.1"]) == 1
    printed = capsys.readouterr().out
    assert "fits on a card of 40 GiB" in printed and "cannot run like this: vLLM's share of 4.0 GiB" in printed
    advice = printed.split("change, in this order:\n")[1].splitlines()
    assert len(advice) == 1 and re.match(r"  vllm_gpu_memory_utilization: 0.12 -> .* GiB, fits", advice[0])


def test_other_values_of_a_planned_recipe_are_kept(model, tmp_path):
    given, path = tmp_path / "given.yaml", tmp_path / "new.yaml"
    given.write_text(
        f"model_name_or_path: {model()}\nlearning_rate: 0.5\nlora_alpha: 7\nuse_peft: true\ndtype: bfloat16\n"
    )
    assert (
        main(["plan", "--method", "hapo", "--config", str(given), "--beta", "0.1", "--write_config", str(path)]) == 0
    )
    values = yaml.safe_load(path.read_text())
    assert (values["learning_rate"], values["lora_alpha"], values["beta"]) == (0.5, 7, 0.1)


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_a_recipe_without_checkpointing_is_planned_without_it(name, model, tmp_path, capsys):
    given, path = tmp_path / "given.yaml", tmp_path / "new.yaml"
    given.write_text(f"model_name_or_path: {model()}\nuse_peft: true\ndtype: bfloat16\n{name}: false\n")
    command = ["plan", "--method", "siri", f"--config={given}", "--max_completion_length", "4096"]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "does not fit" in printed and f"{name}: true" in printed
    assert main([*command, f"--{name}", "true", "--write_config", str(path)]) == 0
    assert yaml.safe_load(path.read_text())[name] is True


def test_runs_that_do_not_fit(model, tmp_path, capsys):
    arguments = ["plan", *ARGUMENTS, "--model_name_or_path", model(), "--card_gib", "4"]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "does not fit on a card of 4 GiB" in printed and "change, in this order:" in printed
    with pytest.raises(SystemExit) as exit:
        main([*arguments, "--write-config", str(tmp_path / "new.yaml")])
    assert exit.value.code == 2 and "is not written" in capsys.readouterr().err
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model_name_or_path is needed"),
        (["--model_name_or_path", "nobody/nothing"], "No config of 'nobody/nothing'"),
        (["--config", "nope.yaml"], "'nope.yaml'"),
    ],
)
def test_bad_input(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["plan", *ARGUMENTS, *arguments])
    assert exit.value.code == 2 and message in capsys.readouterr().err
