# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from trl import ModelConfig

from tests.test_examples import write_traces
from trl_concise import CFTConfig, HAPOConfig, HAPOTrainer, PromptHistory, TrainingScript, demo, math_accuracy_reward
from trl_concise.cli.arguments import RunArguments, parse_arguments, resolved_settings
from trl_concise.cli.launch import examples_folder
from trl_concise.evaluation.report import main as report_main


def test_without_arguments_the_embedded_model_is_trained_on_its_problems():
    script = TrainingScript(HAPOConfig, [], output_dir="outputs/mine")
    assert script.model_args.model_name_or_path == demo.SETTINGS["model_name_or_path"]
    assert script.training_args.output_dir == "outputs/mine"
    assert script.training_args.learning_rate == demo.SETTINGS["learning_rate"]
    train_dataset, eval_dataset = script.load_datasets()
    assert train_dataset.to_list() == demo.train_dataset(seed=script.training_args.seed).to_list()
    assert eval_dataset is None


def test_the_command_line_comes_before_the_settings_of_the_demo():
    script = TrainingScript(HAPOConfig, ["--max_steps", "3", "--length_reward_weight=0.5"], max_steps=7)
    assert (script.training_args.max_steps, script.training_args.length_reward_weight) == (3, 0.5)


def test_a_users_model_is_trained_with_the_methods_defaults():
    script = TrainingScript(HAPOConfig, ["--model_name_or_path", "mine", "--use_cpu", "--bf16", "false"], max_steps=7)
    assert script.model_args.model_name_or_path == "mine"
    assert script.training_args.max_steps == HAPOConfig(use_cpu=True, bf16=False).max_steps


@pytest.mark.parametrize("flag", ["--model-name-or-path", "--model-name-or-path=mine"])
def test_another_spelling_of_the_model_is_not_a_run_of_the_demo(flag):
    arguments = [flag] if "=" in flag else [flag, "mine"]
    script = TrainingScript(HAPOConfig, [*arguments, "--use_cpu", "--bf16", "false"], max_steps=7)
    assert script.model_args.model_name_or_path == "mine" and script.training_args.max_steps == -1


def test_an_option_is_written_in_full(capsys):
    with pytest.raises(SystemExit):
        TrainingScript(HAPOConfig, ["--model_name", "mine"])
    assert "no option --model_name; did you mean --model_name_or_path?" in capsys.readouterr().err


def test_a_setting_of_none_is_kept(tmp_path):
    (tmp_path / "recipe.yaml").write_text("max_length: null\nuse_cpu: true\nbf16: false\nmodel_name_or_path: mine\n")
    parsed = parse_arguments((RunArguments, CFTConfig, ModelConfig), ["--config", str(tmp_path / "recipe.yaml")], {})
    settings = resolved_settings(*parsed)
    assert settings["max_length"] is None
    assert {name for name, value in settings.items() if value is None} == {"max_length"}


def test_one_file_is_not_both_trained_on_and_evaluated_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "problems.jsonl").write_text('{"problem": "1 + 1?", "answer": "2"}\n' * 10)
    flags = ["--dataset_name", "problems.jsonl", "--dataset_test_split"]
    with pytest.raises(SystemExit):
        TrainingScript(HAPOConfig, [*flags, "test"]).load_datasets()
    assert "problems.jsonl is one file, so 'train' and 'test' share rows" in capsys.readouterr().err
    slices = [*flags, "train[80%:]", "--dataset_train_split", "train[:80%]"]
    assert [len(part) for part in TrainingScript(HAPOConfig, slices).load_datasets()] == [8, 2]


def test_a_suffix_is_added_to_the_problems_of_both_splits(tmp_path, capsys):
    rows = [json.dumps({"problem": f"{n} + {n}?", "answer": str(2 * n)}) for n in range(4)]
    (tmp_path / "problems.jsonl").write_text("\n".join(rows))
    flags = ["--dataset_name", str(tmp_path / "problems.jsonl"), "--prompt_suffix", r"Use \boxed{}."]
    slices = ["--dataset_train_split", "train[:3]", "--dataset_test_split", "train[3:]"]
    train, test = TrainingScript(HAPOConfig, [*flags, *slices]).load_datasets()
    assert train["prompt"][0] == [{"role": "user", "content": r"0 + 0? Use \boxed{}."}]
    assert test["prompt"][0] == [{"role": "user", "content": r"3 + 3? Use \boxed{}."}]
    with pytest.raises(SystemExit):
        TrainingScript(HAPOConfig, flags[2:]).load_datasets()
    assert "Add --dataset_name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "meant"),
    [("True", True), ("true", True), ("false", None), ("Auto", "auto"), ("out/checkpoint-3", "out/checkpoint-3")],
)
def test_resuming_from_the_latest_checkpoint_or_from_a_named_one(given, meant):
    script = TrainingScript(HAPOConfig, ["--resume_from_checkpoint", given])
    assert script.training_args.resume_from_checkpoint == meant


def test_a_recipe_without_a_model_needs_one(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("use_cpu: true\nbf16: false\n")
    with pytest.raises(SystemExit):
        TrainingScript(HAPOConfig, ["--config", str(tmp_path / "recipe.yaml")])
    assert "--model_name_or_path is needed with --config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dataset_name", "nope.jsonl"], "No file nope.jsonl (looked in "),
        (["--dataset_name", "unmarked.jsonl"], "No column of unmarked.jsonl is known to hold the problem"),
        (["--dataset_name", "nobody/nothing"], "'nobody/nothing'"),
        (["--config", "nope.yaml"], "No such file or directory: 'nope.yaml'"),
        (["--config", "list.yaml"], "list.yaml must contain a YAML mapping"),
        (["--config", "broken.yaml"], 'in "broken.yaml", line 1'),
        (["--num_generations", "5"], "must be divisible by num_generations (5)"),
    ],
)
def test_invalid_input_is_reported_in_one_line(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unmarked.jsonl").write_text('{"text": "What is 1 + 2?"}\n')
    (tmp_path / "list.yaml").write_text("- learning_rate\n")
    (tmp_path / "broken.yaml").write_text("learning_rate: [1\n")
    monkeypatch.setattr(sys, "argv", ["examples/hapo.py"])
    with pytest.raises(SystemExit) as exit:
        TrainingScript(HAPOConfig, argv).trainer_arguments()
    said = capsys.readouterr().err
    assert exit.value.code == 2 and "hapo.py: error: " in said and message in said


def test_a_run_on_user_problems_saves_model_and_history(tmp_path):
    problems = tmp_path / "problems.jsonl"
    rows = [{"problem": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(4)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output_dir = tmp_path / "out"
    command = f"--dataset_name {problems} --output_dir {output_dir} --max_steps 1 --per_device_train_batch_size 8"
    script = TrainingScript(HAPOConfig, [*command.split(), "--num_generations", "4", "--max_completion_length", "64"])
    trainer = HAPOTrainer(reward_funcs=math_accuracy_reward, **script.trainer_arguments())
    script.train(trainer)
    assert trainer.state.global_step == 1
    assert len(PromptHistory.load(output_dir / "history.safetensors")) == 2
    assert (output_dir / "model.safetensors").is_file() and "HAPO" in (output_dir / "README.md").read_text()


def test_the_demo_without_matplotlib(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    command = "--max_steps 1 --per_device_train_batch_size 8 --num_generations 4 --max_completion_length 64"
    script = TrainingScript(HAPOConfig, [*command.split(), "--report_problems", "4", "--output_dir", str(tmp_path)])
    script.train(HAPOTrainer(reward_funcs=math_accuracy_reward, **script.trainer_arguments()))
    assert "The plot of the run is left out because matplotlib is missing" in caplog.text
    assert not list(tmp_path.rglob("*.png"))
    for name in ("model.safetensors", "history.safetensors", "evaluation-after/summary.json", "README.md"):
        assert (tmp_path / name).is_file()
    capsys.readouterr()
    assert report_main([str(tmp_path)]) == 0  # `trl-concise report`
    assert "| tokens |" in capsys.readouterr().out.lower()


SCRIPTS = {
    "hapo": "--per_device_train_batch_size 8 --num_generations 4 --max_completion_length 16",
    "cft": "--per_device_train_batch_size 2",
    "redi": "--per_device_train_batch_size 2 --stage both --dataset_name traces.jsonl",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_restarted_job_resumes_and_then_reports_that_it_is_finished(name, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    if name == "redi":
        write_traces("traces.jsonl")
    command = f"{SCRIPTS[name]} --output_dir out --save_strategy steps --save_steps 1 --save_total_limit 9 --report_problems 2"
    command = f"{command} --resume_from_checkpoint auto --max_steps".split()

    def run(max_steps: int) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *command, str(max_steps)])
        capsys.readouterr()
        caplog.clear()
        runpy.run_path(str(examples_folder() / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    def checkpoints() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in Path("out").rglob("checkpoint-*/**/*")}

    run(1)
    first = checkpoints()
    run(2)
    second = checkpoints()
    assert first.items() < second.items()  # the second run made one more, of each stage
    printed = run(2)
    assert "accuracy" not in printed and "step 2" not in printed  # no report, no progress
    said = [record.getMessage() for record in caplog.records if record.name.startswith("trl_concise")]
    assert len(said) == (2 if name == "redi" else 1), said  # stages
    assert all(line.startswith("The run is finished: its checkpoint is of step 2 of 2, so no step") for line in said)
    assert checkpoints() == second


def test_problems_are_shown_before_a_run(tmp_path, capsys):
    rows = [{"body": "Ann has 9 pens.", "question": f"{i} more?", "answer": f"{9 + i} (pens)"} for i in range(3)]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = TrainingScript(HAPOConfig, ["--dataset_name", str(path), "--context_column", "none", "--show", "1"])
    with pytest.raises(SystemExit) as stop:
        script.trainer_arguments()
    assert not stop.value.code
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["--- problem 1 of 3", "[user] 0 more?", "[reference answer] 9"]
    assert "3 problems, prompt from question, reference answer from answer (unit removed)" in printed.err


def test_the_command_line_sets_the_options_of_the_reward(tmp_path):
    def rewards(*options):
        script = TrainingScript(HAPOConfig, ["--output_dir", str(tmp_path), "--use_cpu", *options])
        return script.accuracy_reward()(["It is 4.", r"\boxed{4}", r"\boxed{2 + 2}"], solution=["4"] * 3)

    assert rewards() == [1.0, 1.0, 0.0]
    assert rewards("--answer_format", "boxed") == [0.0, 1.0, 0.0]
    assert rewards("--final_form", "false") == [1.0, 1.0, 1.0]
    with pytest.raises(SystemExit):
        rewards("--answer_format", "box")
