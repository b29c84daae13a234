# SPDX-License-Identifier: Apache-2.0
"""The watch set: what it measures, what it does when accuracy falls, and that training does not notice it."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from tests import tiny
from tests.distributed import watch
from trl_concise import (
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    ConciseProgressCallback,
    HAPOConfig,
    LASERDConfig,
    LASERDTrainer,
    TrainingScript,
)
from trl_concise.evaluation.report import report, training_curves
from trl_concise.evaluation.watch import BEST_FOLDER, measure_change
from trl_concise.hub.outbox import PRIVATE_FILES


WATCHED = Dataset.from_list([{"prompt": f"Add {i} to {i}.", "solution": str(2 * i)} for i in range(11)])


class Correct:
    """Judges training completions by their tokens, and those of the watch set as its steps say."""

    __name__ = "correct"

    def __init__(self, by_step=None):
        self.by_step = by_step or {}
        self.seen = {}  # step -> completions of the watch set, as token ids

    def __call__(self, prompts, completion_ids, trainer_state, **kwargs):
        if not prompts[0].startswith("Add"):
            return tiny.even_reward(completion_ids)
        random.random(), np.random.rand(), torch.rand(1)  # as a judge may do
        step = trainer_state.global_step
        self.seen.setdefault(step, []).extend(zip(prompts, completion_ids, strict=True))
        return [self.by_step.get(step, 1.0)] * len(prompts)


def build(model, folder, correct, watched=WATCHED, trainer=ConciseGRPOTrainer, peft_config=None, **changes):
    config = {ConciseGRPOTrainer: ConciseGRPOConfig, LASERDTrainer: LASERDConfig}[trainer]
    args = config(**tiny.settings(folder, **{"watch_every": 2, "max_steps": 4, **changes}))
    problems = Dataset.from_list([{"prompt": f"{i}?", "solution": str(i)} for i in range(12)])
    torch.manual_seed(0)  # of a new adapter
    return trainer(model, correct, args, problems, peft_config=peft_config, watch_dataset=watched)


def watched(trainer) -> list[dict]:
    return [log for log in trainer.state.log_history if "watch/accuracy" in log]


def trained(trainer) -> list[dict]:
    """What was logged of the training, without times."""
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return [{key: value for key, value in log.items() if "time" not in key and "seconds" not in key} for log in logs]


def test_greedy_completions_of_all_problems_at_the_start_every_few_steps_and_at_the_end(tiny_model, tmp_path):
    correct = Correct()
    trainer = build(tiny_model, tmp_path, correct, max_steps=3, top_k=3, repetition_penalty=1.3)
    trainer.train()
    assert list(correct.seen) == [0, 2, 3]
    assert [log["step"] for log in watched(trainer)] == [0, 2, 3]
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), tiny.load(tiny_model)
    for prompt, ids in correct.seen[0]:
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        expected = model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs["input_ids"].size(1) :]
        assert ids == expected.tolist()
    assert [prompt for prompt, _ in correct.seen[0]] == list(WATCHED["prompt"])
    first = watched(trainer)[0]
    assert first["watch/accuracy"] == first["watch/accuracy_high"] == 1 and 0.6 < first["watch/accuracy_low"] < 1
    lengths = [len(ids) for _, ids in correct.seen[0]]
    assert first["watch/tokens"] == pytest.approx(np.mean(lengths)) and first["watch/passed"] == 1
    assert first["watch/tokens_low"] <= first["watch/tokens"] <= first["watch/tokens_high"]


@pytest.mark.parametrize("trainer", [ConciseGRPOTrainer, LASERDTrainer])
def test_training_is_bit_identical_with_and_without(trainer, tiny_model, tmp_path):
    # Dropout draws from the random state in training; LASER-D's monitor generates completions of its own.
    lora = LoraConfig(r=2, lora_dropout=0.3, target_modules=["q_proj"], task_type="CAUSAL_LM")
    changes = {"trainer": trainer, "peft_config": lora, "logging_steps": 2, "watch_every": 1}
    if trainer is LASERDTrainer:
        changes |= {"monitor_prompts": 3, "monitor_generations": 2, "monitor_every": 1}
    runs = []
    for name, dataset in {"without": None, "with": WATCHED}.items():
        runs.append(build(tiny_model, tmp_path / name, Correct(), watched=dataset, on_loss="best", **changes))
        runs[-1].train()
    without, with_watch = runs
    assert len(watched(with_watch)) == 5 and not watched(without)
    assert (tmp_path / "with" / BEST_FOLDER / "adapter_model.safetensors").is_file()
    assert trained(with_watch) == trained(without) and len(trained(without)) == 2
    assert all(log["grad_norm"] for log in trained(without))
    for (name, a), (_, b) in zip(with_watch.model.named_parameters(), without.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_only_a_certain_loss_counts():
    start = np.array([1.0] * 60 + [0.0] * 40)
    tokens = np.full(100, 5.0)
    worse, much_worse, unknown = start.copy(), start.copy(), np.full(100, np.nan)
    worse[:3], much_worse[:20] = 0, 0
    assert measure_change(start, tokens, start, 0.0)["watch/passed"] == 1
    figures = measure_change(worse, tokens, start, 0.02)
    assert figures["watch/passed"] == 1 and figures["watch/accuracy_change"] == pytest.approx(-0.03)
    figures = measure_change(much_worse, tokens, start, 0.02)
    assert figures["watch/passed"] == 0 and figures["watch/accuracy_change_high"] < -0.02
    # Paired: problems that swap sides widen the interval of the change.
    swapped = start.copy()
    swapped[:36], swapped[60:84] = 0, 1
    figures = measure_change(swapped, tokens, start, 0.02)
    assert figures["watch/accuracy_change"] == pytest.approx(-0.12) and figures["watch/passed"] == 1
    assert measure_change(worse, tokens, unknown, 0.0)["watch/passed"] == 1


def test_warn(tiny_model, tmp_path, caplog):
    trainer = build(tiny_model, tmp_path, Correct({2: 0.0}))
    trainer.train()
    (record,) = [record for record in caplog.records if "Accuracy on the watch set" in record.message]
    assert record.levelno == logging.WARNING
    assert "is 0.0% at step 2, 100.0 points below that of step 0" in record.message
    assert [log["watch/passed"] for log in watched(trainer)] == [1, 0, 1]
    assert trainer.state.global_step == 4 and not list(tmp_path.glob("checkpoint*"))


def test_stop_saves_and_is_not_trained_further(tiny_model, tmp_path, caplog):
    changes = {"on_loss": "stop", "save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    trainer = build(tiny_model, tmp_path, Correct({2: 0.0}), **changes)
    trainer.train()
    assert trainer.state.global_step == 2 and "Training stops." in caplog.text
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-2"]
    again = build(tiny_model, tmp_path, Correct({2: 0.0}), **changes)
    again.train(resume_from_checkpoint="auto")
    assert again.state.global_step == 2 and "The run was stopped at step 2" in caplog.text
    further = build(tiny_model, tmp_path, Correct(), **changes | {"on_loss": "warn", "max_steps": 3})
    further.train(resume_from_checkpoint="auto")
    assert further.state.global_step == 3


class MakeOld(TrainerCallback):
    """Dates the best model back: transformers deletes old checkpoints by the time of their last change."""

    def on_save(self, args, state, control, **kwargs):
        for folder in Path(args.output_dir).glob(f"*{BEST_FOLDER}*"):
            os.utime(folder, (1e9, 1e9))


class Limit(TrainerCallback):
    """Sets the generation limit at chosen steps, and by it the length of the random model's completions."""

    def __init__(self, by_step):
        self.by_step = by_step

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        limit = self.by_step.get(state.global_step + 1)
        if limit is not None:
            self.trainer.max_completion_length = limit


def test_best_keeps_the_shortest_that_passed(tiny_model, tmp_path, caplog):
    """Every greedy completion of the random model is truncated, so its length is the limit of its step."""
    correct = Correct({3: 0.0})
    trainer = build(tiny_model, tmp_path, correct, watch_every=1, max_steps=4, on_loss="best")
    saved = {}

    class Note(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            saved[state.global_step] = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    limit = Limit({1: 6, 2: 5, 3: 2, 4: 7})
    limit.trainer = trainer
    trainer.add_callback(limit)
    trainer.add_callback(Note())
    trainer.train()
    assert [log["watch/tokens"] for log in watched(trainer)] == [8, 6, 5, 2, 7]
    assert trainer.watch_set.best == {"step": 2, "accuracy": 1.0, "tokens": 5.0}
    assert f"{BEST_FOLDER} contains step 2" in caplog.text
    kept = load_file(tmp_path / BEST_FOLDER / "model.safetensors")
    assert all(torch.equal(kept[name], saved[2][name]) for name in kept)
    assert any(not torch.equal(kept[name], saved[3][name]) for name in kept)
    AutoModelForCausalLM.from_pretrained(tmp_path / BEST_FOLDER)  # whole
    assert json.loads((tmp_path / BEST_FOLDER / "watch.json").read_text())["watch/tokens"] == 5
    assert not list(tmp_path.glob(f"{BEST_FOLDER}.*"))


def test_a_resumed_run_equals_the_uninterrupted_run(tiny_model, tmp_path):
    changes = {"on_loss": "best", "save_strategy": "steps", "save_steps": 2, "max_steps": 5, "watch_every": 3}
    whole = build(tiny_model, tmp_path / "whole", Correct({5: 0.0}), **changes)
    whole.train()
    correct = Correct({5: 0.0})
    resumed = build(tiny_model, tmp_path / "resumed", correct, **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert list(correct.seen) == [3, 5]  # the start is that of the first run
    assert watched(resumed) == watched(whole) and [log["watch/passed"] for log in watched(whole)] == [1, 1, 0]
    assert trained(resumed) == trained(whole)
    assert resumed.watch_set.best == whole.watch_set.best and whole.watch_set.best["step"] == 3
    others = WATCHED.select(range(5))
    with pytest.raises(ValueError, match="another watch_dataset of 11 problems"):
        build(tiny_model, tmp_path, Correct(), others).train(
            resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4")
        )


def test_a_run_resumed_without_a_measurement_compares_with_the_resumed_step(tiny_model, tmp_path, caplog):
    changes = {"save_strategy": "steps", "save_steps": 1}
    build(tiny_model, tmp_path, Correct(), watched=None, max_steps=1, **changes).train()
    trainer = build(tiny_model, tmp_path, Correct({1: 0.0}), max_steps=2, **changes)
    trainer.train(resume_from_checkpoint=True)
    assert "compared with that of step 1" in caplog.text
    assert [(log["step"], log["watch/passed"]) for log in watched(trainer)] == [(1, 1), (2, 1)]


@pytest.mark.parametrize(("count", "warned"), [(255, True), (256, False)])
def test_fewer_than_256_problems_give_a_warning(count, warned, tiny_model, tmp_path, caplog):
    problems = [{"prompt": f"Add {i} to {i}.", "solution": str(2 * i)} for i in range(count)]
    build(tiny_model, tmp_path, Correct(), watched=problems)
    assert (f"watch_dataset has {count} problems. With fewer than 256, only a large loss" in caplog.text) == warned


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"watch_every": 0}, "watch_every is 0, but must be at least 1"),
        ({"max_accuracy_loss": 2.0}, "max_accuracy_loss is 2.0"),
        ({"on_loss": "halt"}, "on_loss is 'halt', but must be one of 'warn', 'stop', 'best'"),
        ({"watched": []}, "The watch dataset is empty"),
        ({"watched": WATCHED.to_iterable_dataset()}, "watch_dataset is a stream"),
    ],
)
def test_settings_are_checked_before_training(changes, message, tiny_model, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(tiny_model, tmp_path, Correct(), **changes)


def test_tools_are_refused(tiny_model, tmp_path):
    def add(a: int, b: int) -> int:
        """
        Add two numbers.

        Args:
            a: One number.
            b: Another number.
        """
        return a + b

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = resources.files("trl").joinpath("chat_templates/qwen3.jinja").read_text()
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": f"{i}?"}]} for i in range(4)])
    with pytest.raises(ValueError, match="watch_dataset cannot be used with tools or environments"):
        ConciseGRPOTrainer(
            tiny_model, Correct(), args, prompts, processing_class=tokenizer, tools=[add], watch_dataset=prompts
        )


def test_the_best_model_is_complete_after_a_kill_between_two_renames(tiny_model, tmp_path):
    changes = {"on_loss": "best", "save_strategy": "steps", "save_steps": 2, "max_steps": 4, "watch_every": 1}
    build(tiny_model, tmp_path, Correct(), **changes).train()
    before = (tmp_path / BEST_FOLDER / "model.safetensors").read_bytes()
    (tmp_path / BEST_FOLDER).rename(tmp_path / f"{BEST_FOLDER}.old")
    build(tiny_model, tmp_path, Correct(), **changes).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert (tmp_path / BEST_FOLDER / "model.safetensors").read_bytes() == before
    assert not (tmp_path / f"{BEST_FOLDER}.old").exists()


def test_a_best_model_is_not_a_checkpoint_and_is_not_uploaded(tiny_model, tmp_path):
    """transformers counts every folder named `checkpoint-*` when it deletes old ones."""
    changes = {"on_loss": "best", "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    trainer = build(tiny_model, tmp_path, Correct(), **changes)
    trainer.add_callback(MakeOld())
    trainer.train()
    assert trainer.watch_set.best["step"] == 2
    assert (tmp_path / BEST_FOLDER / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint-4"]
    files = [
        f"{BEST_FOLDER}/model.safetensors",
        f"{BEST_FOLDER}.tmp/model.safetensors",
        f"sft/{BEST_FOLDER}/config.json",
    ]
    assert not list(filter_repo_objects(files, ignore_patterns=PRIVATE_FILES))


def test_a_new_run_removes_the_best_model_of_an_earlier_one(tiny_model, tmp_path):
    (tmp_path / BEST_FOLDER).mkdir()
    trainer = build(tiny_model, tmp_path, Correct({2: 0.0, 4: 0.0}), on_loss="best")
    trainer.train()
    assert trainer.watch_set.best is None and not (tmp_path / BEST_FOLDER).exists()


def test_a_judge_without_a_verdict_is_an_error(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, Correct({0: None}))
    with pytest.raises(ValueError, match="gave no verdict on any problem of watch_dataset"):
        trainer.train()


def test_figures_are_in_the_progress_the_card_and_the_report(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, Correct({4: 0.0}))
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    trainer.add_callback(ConciseProgressCallback(console))
    trainer.train()
    trainer.create_model_card()
    lines = [line for line in console.file.getvalue().splitlines() if "watch set" in line]
    assert [line.partition(": ")[0] for line in lines] == ["step 0/4", "step 2/4", "step 4/4"]
    assert "step 4/4: watch set 0%, at 8 tokens" in lines[-1]
    card = (tmp_path / "README.md").read_text()
    assert "**Watch set**" in card and "| base model | 100.0% [74.1–100.0] | 8.0 [8.0–8.0]" in card
    assert "| **this model** | **0.0%** [0.0–25.9] |" in card
    assert "Accuracy on it is lower than before training, by more than the run accepted." in card
    written = report([tmp_path], tmp_path / "plots")
    assert "| watch set | " in written["report.md"].read_text() and written["curves.png"].is_file()
    curves = training_curves({"run": trainer.state.log_history})
    assert curves["Accuracy"]["run, watch set"] == ([0, 2, 4], [1, 1, 0])
    assert curves["Completion tokens"]["run, watch set"] == ([0, 2, 4], [8, 8, 8])


def test_the_bar_keeps_the_latest_figures_of_the_watch_set(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, Correct(), max_steps=3)
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=200)
    trainer.add_callback(ConciseProgressCallback(console))
    trainer.train()
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", console.file.getvalue())
    assert re.search(r"Training .* 3/3 .*accuracy \d+%, \d+ tokens, watch set 100%, at 8 tokens", shown)


def test_the_options_of_the_commands(tmp_path, capsys):
    file = tmp_path / "hard.jsonl"
    file.write_text(
        "".join(json.dumps({"problem": f"What is {i} + {i}?", "answer": str(2 * i)}) + "\n" for i in range(9))
    )
    command = [
        "--watch_dataset",
        str(file),
        "--watch_problems",
        "5",
        "--on_loss",
        "stop",
        "--max_accuracy_loss",
        "0.1",
    ]
    script = TrainingScript(HAPOConfig, [*command, "--system_prompt", "Think."])
    args, watch_dataset = script.training_args, script.trainer_arguments()["watch_dataset"]
    assert (args.watch_every, args.on_loss, args.max_accuracy_loss) == (50, "stop", 0.1)
    assert len(watch_dataset) == 5 and watch_dataset[0]["prompt"][0] == {"role": "system", "content": "Think."}
    assert (
        watch_dataset["solution"]
        == TrainingScript(HAPOConfig, command).trainer_arguments()["watch_dataset"]["solution"]
    )
    assert TrainingScript(HAPOConfig, []).trainer_arguments()["watch_dataset"] is None
    suffix = ["--dataset_name", str(file), "--prompt_suffix", "Use a box."]  # the prompts are those of training
    prompts = TrainingScript(HAPOConfig, [*command, *suffix]).trainer_arguments()["watch_dataset"]["prompt"]
    assert all(prompt[-1]["content"].endswith("Use a box.") for prompt in prompts)
    for wrong, message in [
        (["--watch_dataset", str(tmp_path / "none.jsonl")], "none.jsonl"),
        (
            ["--watch_dataset", str(file), "--watch_problems", "0"],
            "--watch_problems/--watch-problems: must be at least 1, got 0",
        ),
        (["--on_loss", "halt"], "invalid choice: 'halt'"),
    ]:
        with pytest.raises(SystemExit):
            TrainingScript(HAPOConfig, wrong).trainer_arguments()
        assert message in capsys.readouterr().err


def test_two_processes_share_the_problems_and_decide_alike(tiny_model, tmp_path, two_processes):
    first, second = (json.loads((two_processes / "watch" / f"rank{rank}.json").read_text()) for rank in (0, 1))
    one = watch.report(tiny_model, tmp_path, rows_per_process=8)
    assert (first["stop"].pop("world_size"), one["stop"].pop("world_size")) == (2, 1)
    shares = [run["best"].pop("judged") for run in (first, second)]
    assert [len(share) for share in shares] == [3, 3]  # one of the five problems twice
    assert set(shares[0]) | set(shares[1]) == set(one["best"]["judged"]) and len(set(one["best"].pop("judged"))) == 5
    for run in (first, second, one):
        for run_of in ("stop", "best"):
            run[run_of].pop("judged", None), run[run_of].pop("world_size", None)
    assert first == second == one
    assert first["stop"]["stopped"] == 2 and first["best"]["stopped"] == 4
    assert [log["watch/accuracy"] for log in first["stop"]["measured"]] == pytest.approx([1, 0.8, 0])
    assert first["best"]["best"]["step"] == 1 and first["kept"] == [BEST_FOLDER]
