# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config import config_args

from trl_concise.cli.commands import TRAINING, main
from trl_concise.cli.launch import _with_defaults, examples_folder, set_master_port, split_launcher_flags
from trl_concise.methods.experimental_table import EXPERIMENTAL_METHODS


def test_every_script_is_a_training_command():
    scripts = {path.stem for path in examples_folder().glob("*.py")}
    experimental = {method.page.removeprefix("experimental/") for method in EXPERIMENTAL_METHODS}
    assert scripts - {"multiplication"} - experimental == set(TRAINING)  # a study, and systems that are run as scripts


@pytest.mark.parametrize("name", TRAINING)
def test_help(name, capsys):
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    said = capsys.readouterr().out
    assert "--model_name_or_path" in said and "--config RECIPE" in said and len(said.splitlines()[0]) < 80
    assert "Options of this script and its method: --dry_run, --report_problems, " in " ".join(said.splitlines()[-12:])


def test_help_does_not_wait_for_a_trainer():
    code = """
import sys
from trl_concise.cli.commands import TRAINING, main

for name in TRAINING:
    try:
        main([name, "--help"])
    except SystemExit:
        heavy = {"datasets", "pandas", "trl_concise.trainer"} | {f"trl.trainer.{x}_trainer" for x in ("grpo", "dpo", "sft")}
        assert not heavy & set(sys.modules), (name, heavy & set(sys.modules))
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_launcher_flags_are_separated_from_script_flags():
    argv = ["--num_processes", "2", "--config", "a.yaml", "--gpu_ids=0,1", "--learning_rate=1e-6"]
    assert split_launcher_flags(argv) == (
        ["--num_processes", "2", "--gpu_ids", "0,1"],
        ["--config", "a.yaml", "--learning_rate=1e-6"],
    )


def test_accelerate_config_by_name_or_file(tmp_path):
    (name, path), _ = split_launcher_flags(["--accelerate_config", "zero3"])
    assert name == "--config_file" and path.endswith("zero3.yaml")
    (tmp_path / "mine.yaml").write_text("num_processes: 2\n")
    assert split_launcher_flags([f"--accelerate_config={tmp_path}/mine.yaml"])[0][1] == f"{tmp_path}/mine.yaml"
    with pytest.raises(ValueError, match="takes a file, or one of .*fsdp2.*; got 'zero9'"):
        split_launcher_flags(["--accelerate_config", "zero9"])
    with pytest.raises(ValueError, match="--num_processes needs a value"):
        split_launcher_flags(["--num_processes"])


@pytest.fixture
def accelerate_default(tmp_path, monkeypatch):
    """Path of the user's own configuration of accelerate, which is not there."""
    path = tmp_path / "default_config.yaml"
    monkeypatch.setattr(config_args, "default_config_file", str(path))
    monkeypatch.setattr("accelerate.commands.launch.default_config_file", str(path))
    return path


@pytest.mark.skipif(
    torch.accelerator.device_count() > 1, reason="with several devices accelerate says how to take one"
)
def test_a_failing_script_prints_the_last_line(accelerate_default, capfd):
    assert main(["hapo", "--lerning_rate", "1e-5"]) == 2
    said = capfd.readouterr().err
    assert "The following values were not passed" not in said and "Traceback" not in said
    assert said.endswith("no option --lerning_rate; did you mean --learning_rate?\n")


def test_several_processes_that_fail_leave_no_traceback(tmp_path, monkeypatch, capfd):
    (tmp_path / "hapo.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.setattr("trl_concise.cli.launch.examples_folder", lambda: tmp_path)
    config = tmp_path / "two.yaml"
    config.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 2\n")
    assert main(["hapo", "--accelerate_config", str(config), "--main_process_port", "0"]) == 3
    assert "Traceback" not in capfd.readouterr().err


def test_a_configuration_of_accelerate_is_not_changed(accelerate_default):
    assert "--num_machines" in _with_defaults([])
    assert _with_defaults(["--num_processes", "2"])[:2] == ["--num_processes", "2"]
    assert _with_defaults(["--num_processes", "2"]).count("--num_processes") == 1
    assert _with_defaults(["--config_file", "mine.yaml"]) == ["--config_file", "mine.yaml"]
    accelerate_default.write_text("num_processes: 4\n")
    assert _with_defaults([]) == []


@pytest.mark.parametrize("name", ["cft", "redi", "combined"])
def test_dry_run_and_mistyped_flags_of_every_kind_of_script(name, capsys):
    with pytest.raises(SystemExit) as exit:
        main([name, "--dry_run", "--learning_rate", "3e-5"])
    assert not exit.value.code and yaml.safe_load(capsys.readouterr().out)["learning_rate"] == 3e-5
    with pytest.raises(SystemExit) as exit:
        main([name, "--dry_run", "--lerning_rate", "3e-5"])
    assert exit.value.code == 2
    assert "no option --lerning_rate; did you mean --learning_rate?" in capsys.readouterr().err


def test_dry_run_prints_a_recipe(capsys, tmp_path):
    with pytest.raises(SystemExit) as exit:
        main(["hapo", "--dry_run", "--learning_rate", "3e-5", "--output_dir", str(tmp_path)])
    assert not exit.value.code
    recipe = yaml.safe_load(capsys.readouterr().out)
    assert (
        recipe["learning_rate"] == 3e-5 and recipe["per_device_train_batch_size"] == 64 and recipe["use_cpu"] is True
    )
    assert "dry_run" not in recipe
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit):  # what it prints is a recipe: read back, it says the same
        main(["hapo", "--dry_run", "--config", str(tmp_path / "recipe.yaml")])
    assert yaml.safe_load(capsys.readouterr().out) == recipe


@pytest.mark.parametrize("recipe", ["hapo_1.5b_40gb", "siri_paper", "redi_1.5b"])
def test_a_dry_run_of_a_recipe_needs_no_gpu(recipe, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = examples_folder() / "configs" / f"{recipe}.yaml"
    with pytest.raises(SystemExit) as exit:
        main([recipe.partition("_")[0], "--dry_run", f"--config={path}", "--dataset_name", "owner/problems"])
    assert not exit.value.code
    printed = capsys.readouterr().out
    resolved, given = yaml.safe_load(printed), yaml.safe_load(path.read_text())
    assert resolved["bf16"] is True and not {"use_cpu", "dataloader_pin_memory"} & set(resolved)
    assert resolved["model_name_or_path"] == given["model_name_or_path"] and "Planned memory" in printed


def test_a_dry_run_misses_a_local_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argv in (["hapo", "--dataset_name", "nope.jsonl"], ["cft", "--candidates", "nope.jsonl", "--teacher", "any"]):
        with pytest.raises(SystemExit) as exit:
            main([*argv, "--dry_run"])
        said = capsys.readouterr()
        assert exit.value.code == 2 and "error: No file nope.jsonl (looked in " in said.err
        assert yaml.safe_load(said.out)["learning_rate"]  # and tells the rest


@pytest.mark.parametrize("name", ["cft", "redi"])
def test_a_missing_file_is_reported_in_one_line(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(examples_folder() / f"{name}.py"))["main"](["--dataset_name", "nope.jsonl"])
    assert exit.value.code == 2 and "error: No file nope.jsonl (looked in " in capsys.readouterr().err


def test_a_mistyped_flag_or_key_suggests_the_closest(capsys, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "model_name_or_path: model\nuse_cpu: true\nbf16: false\nlerning_rate: 1.0e-6\n"
    )
    for argv in (["--lenght_reward_weight", "1"], ["--config", str(tmp_path / "recipe.yaml")]):
        with pytest.raises(SystemExit) as exit:
            main(["hapo", "--dry_run", *argv])
        assert exit.value.code == 2
    said = capsys.readouterr().err
    assert "no option --lenght_reward_weight; did you mean --length_reward_weight?" in said
    assert "no option --lerning_rate; did you mean --learning_rate?" in said


def test_init_writes_the_script_and_its_recipes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "hapo", "--output_dir", "mine"]) == 0
    assert {"hapo.py", "hapo_paper.yaml"} <= {path.name for path in Path("mine").iterdir()}
    command = capsys.readouterr().out.rpartition("Run it: trl-concise ")[2].split()
    assert command == ["mine/hapo.py", "--config", "mine/hapo_1.5b_40gb.yaml"]
    for copy in Path("mine").iterdir():
        assert "examples/hapo" not in copy.read_text() and "examples/configs/hapo" not in copy.read_text()
    with pytest.raises(SystemExit):
        main(["init", "hapo", "--output_dir", "mine"])
    assert "hapo.py" in capsys.readouterr().err


def test_init_prints_a_command_for_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "hapo", "--output_dir", "my runs/it's"]) == 0
    command = shlex.split(capsys.readouterr().out.rpartition("Run it: ")[2])
    assert command == ["trl-concise", "my runs/it's/hapo.py", "--config", "my runs/it's/hapo_1.5b_40gb.yaml"]
    in_header = (tmp_path / command[1]).read_text().partition("accelerate launch ")[2]
    assert shlex.split(in_header.splitlines()[0]) == ["my runs/it's/hapo.py"]


def test_a_script_of_the_user_is_launched_as_a_method_is(tmp_path, monkeypatch, capfd):
    """With the command that `init` prints, from a folder with a space; the script is edited."""
    monkeypatch.chdir(tmp_path)
    assert main(["init", "hapo", "--output_dir", "my run"]) == 0
    script = Path("my run", "hapo.py")
    before, line, after = script.read_text().partition("    script.train(trainer")
    rest, end, after = after.partition("\n")
    script.write_text(before + line + rest + end + "    print('edited')\n" + after)
    quick = "--max_steps 1 --per_device_train_batch_size 8 --num_generations 4 --max_completion_length 16 --report_problems 0"
    capfd.readouterr()
    assert main([str(script), *quick.split(), "--output_dir", "out"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == "edited" and err == "" and Path("out", "model.safetensors").is_file()
    with pytest.raises(SystemExit) as exit:
        main([str(script), "--lerning_rate", "1", "--help"])
    assert exit.value.code == 0 and "--length_reward_weight" in capfd.readouterr().out


@pytest.mark.parametrize("method", TRAINING)
def test_init_copies_the_methods_script_and_recipes(method, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", method]) == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert f"{method}.py" in written
    assert ("laser_d_paper.yaml" in written) == (method == "laser_d")
    command = capsys.readouterr().out.rpartition("Run it: trl-concise ")[2].split()
    assert set(command) - {"--config"} <= written


def test_init_of_an_unknown_method(capsys):
    for typed, hint in [
        ("hpao", "did you mean 'hapo'?"),
        ("nosuch", "there are: adapt_think, "),
        ("multiplication", "no method"),
    ]:
        with pytest.raises(SystemExit):
            main(["init", typed])
        assert hint in capsys.readouterr().err


def test_env(capsys):
    assert main(["env"]) == 0
    said = capsys.readouterr().out
    assert "- trl: 1." in said and "- device: " in said


def test_runs_that_start_together_choose_other_ports():
    """accelerate and TRL try 29500 first. Four processes at a time choose at random among ports that are free."""
    command = [sys.executable, "-c", PORT]
    environment = {name: value for name, value in os.environ.items() if name != "MASTER_PORT"}
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    ports = {run.communicate(timeout=60)[0].strip() for run in runs}
    assert len(ports) == 4 and "29500" not in ports and all(port.isdecimal() for port in ports)


PORT = """
import os, random
random.seed(0)
from trl_concise.cli.launch import set_master_port
from trl_concise.methods.experimental_table import EXPERIMENTAL_METHODS
set_master_port()
print(os.environ["MASTER_PORT"])
"""


def test_a_port_that_is_given_is_kept(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29777")
    set_master_port()
    assert os.environ["MASTER_PORT"] == "29777"
