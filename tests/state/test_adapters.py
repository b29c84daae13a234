# SPDX-License-Identifier: Apache-2.0
"""Adapters as models: trained further by every kind of command, evaluated, merged."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import AutoPeftModelForCausalLM, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.test_examples import write_traces
from trl_concise import demo
from trl_concise.cli.commands import main
from trl_concise.cli.launch import examples_folder
from trl_concise.evaluation.sampling import find_model
from trl_concise.state.adapters import adapter_config


RATE = 1e-3
QUICK = "--max_steps 1 --save_strategy no --report_to none --use_cpu --bf16 false --gradient_checkpointing false"
GRPO = "--per_device_train_batch_size 8 --num_generations 4 --max_completion_length 16 --report_problems 0"
COMMANDS = {
    "hapo": f"{GRPO} --beta 0.1",  # compares with the adapter as it was
    "sgrpo": f"{GRPO} --beta 0.1",
    "cft": "--per_device_train_batch_size 2 --report_problems 0",
    "redi": "--per_device_train_batch_size 2 --dataset_name traces.jsonl",
}


def train(name: str, options: str, *more: str) -> None:
    """Run a training script in this process, as its command does."""
    argv, sys.argv = sys.argv, [f"{name}.py", *options.split(), *more]
    try:
        runpy.run_path(str(examples_folder() / f"{name}.py"), run_name="__main__")
    finally:
        sys.argv = argv


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """A LoRA adapter of the embedded model, trained for a step, with random weights on top so that it matters."""
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    lora = "--use_peft --lora_r 4 --lora_target_modules q_proj v_proj --save_strategy no"
    train("hapo", f"{GRPO} {lora} --max_steps 1 --output_dir {folder} --learning_rate {RATE}")
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.05)
    card = (folder / "README.md").read_bytes()
    model.save_pretrained(folder)
    (folder / "README.md").write_bytes(card)
    return folder


CHANGES = {  # in adapter_config.json
    "no base": {"base_model_name_or_path": None},
    "another rank": {"r": 8},
    "no such layers": {"target_modules": ["nothing"]},
    "no such kind": {"peft_type": "LORAX"},
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_kind_of_command_trains_an_adapter_further(name, adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if name == "redi":
        write_traces("traces.jsonl")
    train(
        name, f"{QUICK} {COMMANDS[name]} --output_dir out --learning_rate {RATE}", "--model_name_or_path", str(adapter)
    )
    out = Path("out", "redi" if name == "redi" else "")
    before, after = weights(adapter), weights(out)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], value) for key, value in after.items())
    steps = 2 if name == "redi" else 1  # both stages train it
    assert all(torch.allclose(before[key], value, atol=2 * steps * RATE) for key, value in after.items())
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(demo.model_path()) and config["r"] == 4
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "peft" and "| `lora_r` | 4 |" in card.text
    Path("set.jsonl").write_text('{"problem": "What is 2 + 3?", "answer": "5"}\n')
    command = ["eval", str(out), "set.jsonl", "--output_dir", "evaluated", "--max_new_tokens", "8"]
    assert main(command) == 0 and Path("evaluated", "summary.json").is_file()
    if name != "hapo":
        return
    assert (out / "ref").is_dir()  # the adapter as it was: the reference of the KL divergence
    assert torch.equal(weights(out / "ref")[key := next(iter(before))], before[key])


def test_an_adapter_that_is_trained_further_is_resumed(adapter, tmp_path):
    options = (
        f"{QUICK} {GRPO} --output_dir {tmp_path} --save_strategy steps --save_steps 1 --resume_from_checkpoint auto"
    )
    for steps in ("1", "2"):
        train("hapo", options, "--model_name_or_path", str(adapter), "--max_steps", steps)
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["global_step"] == 2


def test_both_stages_of_redi_train_one_adapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_traces("traces.jsonl")
    train(
        "redi",
        f"{QUICK} {COMMANDS['redi']} --use_peft --output_dir out",
        "--model_name_or_path",
        str(demo.model_path()),
    )
    first, second = weights(Path("out/sft")), weights(Path("out/redi"))
    assert first.keys() == second.keys() and any(not torch.equal(first[key], second[key]) for key in first)


def test_an_adapter_and_a_new_adapter(adapter, capsys):
    for argv in ([], ["--dry_run"]):
        with pytest.raises(SystemExit) as exit:
            train("hapo", f"{QUICK} --use_peft --model_name_or_path {adapter}", *argv)
        assert exit.value.code == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert "is an adapter, which is trained further as it is; --use_peft would add another" in line
        assert line.endswith(f"trl-concise merge {adapter} OUTPUT_DIR")


def test_the_plan_of_an_adapter_is_that_of_its_base_with_it(adapter, capsys):
    assert main(["plan", "--method", "hapo", "--model_name_or_path", str(adapter)]) == 0
    of_adapter = capsys.readouterr().out
    lora = "--use_peft --lora_r 4 --lora_target_modules q_proj v_proj".split()
    assert main(["plan", "--method", "hapo", "--model_name_or_path", str(demo.model_path()), *lora]) == 0
    assert capsys.readouterr().out == of_adapter and "adapter" in of_adapter


def test_an_adapter_without_its_base_model(adapter, tmp_path, capsys):
    moved = shutil.copytree(adapter, tmp_path / "moved")
    config = json.loads((moved / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "nobody/nothing"
    (moved / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit) as exit:
        train("hapo", f"{QUICK} {GRPO} --model_name_or_path {moved}")
    said = capsys.readouterr().err
    assert exit.value.code == 2 and "needs its base model 'nobody/nothing': it is not a local folder" in said
    with pytest.raises(SystemExit) as exit:
        main(["merge", str(moved), str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert exit.value.code == 2 and "needs its base model 'nobody/nothing': it is not a local folder" in said


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        ("text", "adapter_config.json is damaged"),
        ("list", "adapter_config.json does not describe an adapter"),
        ("no base", "needs its base model, but does not name it"),
        ("no weights", "has no weights: adapter_model.safetensors is missing"),
        ("half the weights", "or the weights of one of them are damaged: Error while deserializing header"),
        ("another rank", "does not fit its base model"),
        ("no such layers", "does not fit its base model"),
        ("no such kind", "adapter_config.json of {copy} cannot be read by the installed PEFT: KeyError: 'LORAX'"),
        ("prompt tuning", "is a PROMPT_TUNING adapter, which adds tokens instead of weights"),
    ],
)
def test_a_damaged_adapter_is_one_line(damage, names, adapter, tmp_path, capsys):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    path, config = copy / "adapter_config.json", json.loads((copy / "adapter_config.json").read_text())
    if damage in ("text", "list"):
        path.write_text("[1]" if damage == "list" else "{")
    elif damage in CHANGES:
        path.write_text(json.dumps(config | CHANGES[damage]))
    elif damage == "prompt tuning":
        base = config["base_model_name_or_path"]
        tuned = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, base_model_name_or_path=base)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), tuned).save_pretrained(copy)
    else:
        file = copy / "adapter_model.safetensors"
        half = file.read_bytes()[:100]
        file.unlink()
        if damage == "half the weights":
            file.write_bytes(half)
    (tmp_path / "one.jsonl").write_text('{"problem": "What is 2 + 3?", "answer": "5"}\n')
    for command in ("hapo", "merge", "eval"):
        if (command, damage) == ("eval", "prompt tuning"):
            continue  # it can be evaluated
        with pytest.raises(SystemExit) as exit:
            if command == "merge":
                main(["merge", str(copy), str(tmp_path / "out")])
            elif command == "eval":
                main(["eval", str(copy), str(tmp_path / "one.jsonl"), "--output_dir", str(tmp_path / "evaluated")])
            else:
                train("hapo", f"{QUICK} {GRPO} --model_name_or_path {copy} --output_dir {tmp_path / 'trained'}")
        *_, line = capsys.readouterr().err.splitlines()
        assert exit.value.code == 2 and names.format(copy=copy) in line and ": error: " in line


def test_a_prompt_learning_adapter_is_evaluated(tmp_path):
    base = str(demo.model_path())
    tuned = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, base_model_name_or_path=base)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), tuned).save_pretrained(tmp_path / "tuned")
    (tmp_path / "one.jsonl").write_text('{"problem": "What is 2 + 3?", "answer": "5"}\n')
    command = ["eval", str(tmp_path / "tuned"), str(tmp_path / "one.jsonl"), "--max_new_tokens", "8"]
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 0


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(16)[None]).logits


def test_merge(adapter, tmp_path, capsys):
    out = tmp_path / "merged"
    assert main(["merge", str(adapter), str(out)]) == 0
    assert capsys.readouterr().out == f"Wrote the merged model to {out}.\n"
    merged = AutoModelForCausalLM.from_pretrained(out)
    assert not isinstance(merged, PeftModel) and not (out / "adapter_config.json").exists()
    torch.testing.assert_close(logits(merged), logits(AutoPeftModelForCausalLM.from_pretrained(adapter)))
    assert not torch.allclose(logits(merged), logits(AutoModelForCausalLM.from_pretrained(demo.model_path())))
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in (adapter, out)]
    assert tokenizers[0].chat_template == tokenizers[1].chat_template
    # The card is that of the run, as a model of its own.
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "transformers" and card.data.model_name == "merged"
    assert "hapo" in card.data.tags and not {"peft", "lora"} & set(card.data.tags)
    assert 'pipeline("text-generation"' in card.text and "AutoPeftModelForCausalLM" not in card.text
    assert "is merged into the weights" in card.text and "| `lora_r` | 4 |" in card.text
    written = (out / "README.md").read_text()
    assert main(["card", str(out)]) == 0 and (out / "README.md").read_text() == written
    # Evaluated, and trained on like any model.
    capsys.readouterr()
    train("hapo", f"{QUICK} {GRPO} --output_dir {tmp_path / 'next'}", "--model_name_or_path", str(out))
    assert (tmp_path / "next" / "model.safetensors").is_file()


def test_merge_of_an_adapter_of_others(adapter, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, bare / name)
    assert main(["merge", str(bare), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(
        AutoTokenizer.from_pretrained(demo.model_path())
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The adapter `bare`, merged into its base model `model`" in card and str(tmp_path) not in card


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([str(demo.model_path()), "out"], "is not an adapter: no adapter_config.json was found there"),
        (["nowhere", "out"], "nowhere is not an adapter"),
        (["ADAPTER", "full"], "full already exists and is not an empty folder"),
        (["ADAPTER", "full/file"], "full/file already exists and is not an empty folder"),
    ],
)
def test_unmergeable_adapters(argv, message, adapter, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full", "file").touch()
    with pytest.raises(SystemExit) as exit:
        main(["merge", *(str(adapter) if word == "ADAPTER" else word for word in argv)])
    assert exit.value.code == 2 and message in capsys.readouterr().err


def test_a_missing_path_is_reported_as_a_missing_model(tmp_path):
    assert adapter_config(str(tmp_path / "nothing")) is None
    with pytest.raises(FileNotFoundError, match="was not found"):
        find_model(str(tmp_path / "nothing"))
