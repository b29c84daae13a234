# SPDX-License-Identifier: Apache-2.0
"""Every example runs on the embedded model as a command line would run it, for two steps, all in this process."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from trl import SFTTrainer
from trl.chat_template_utils import deepseek_r1_distill_chat_template

from trl_concise import REDITrainer, demo
from trl_concise.evaluation.runs import read_measurements
from trl_concise.methods.experimental_table import EXPERIMENTAL_METHODS


EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = "--max_steps 2 --report_problems 0"
ROLLOUTS = f"{QUICK} --per_device_train_batch_size 8 --num_generations 4 --max_completion_length 24"
FLAGS = {  # what an example takes beside, or instead of, the flags for a quick run
    "adapt_think": f"{ROLLOUTS} --demo_steps 1 --demo_problems 8 --demo_completions 1",
    "auto_think": f"{ROLLOUTS} --demo_steps 1 --stage_steps 1",
    "delethink": f"{ROLLOUTS} --demo_steps 1 --chunk_size 18",
    "cft": f"{QUICK} --per_device_train_batch_size 2 --report_problems 2",
    "cure": f"{ROLLOUTS} --sources 2 --forks 1 --critical_top_k 3 --overlong_buffer 4",
    "hapo": f"{ROLLOUTS} --report_problems 2",
    "laser_d": f"{ROLLOUTS} --monitor_prompts 4",
    "mr_rlvr": f"{ROLLOUTS} --process_steps 1 --demo_steps 1",
    "light_r1": f"{QUICK} --sft_per_device_train_batch_size 2 --per_device_train_batch_size 2 --demo_problems 12 --samples 1",
    "multiplication": "--max_steps 2 --seeds 0 --methods S-GRPO --completions 8 --tokens 4",
    "one_shot_rlvr": f"{ROLLOUTS} --report_problems 2",
    "otc": f"{ROLLOUTS} --demo_steps 1 --demo_problems 8",
    "realignment": f"{QUICK} --per_device_train_batch_size 2 --demo_steps 1 --report_problems 2",
    "redi": f"{QUICK} --per_device_train_batch_size 2 --dataset_name traces.jsonl",
    "tdrm": f"{QUICK} --per_device_train_batch_size 2 --demo_problems 8 --report_problems 1",
    "thinker": f"{ROLLOUTS} --demo_steps 1 --demo_problems 8",
    "saturn": f"{ROLLOUTS} --demo_steps 1 --formulas 8 --held_out 2 --report_problems 1",
    "self_verify": f"{ROLLOUTS} --demo_steps 1",
    "siri": f"{ROLLOUTS} --min_completion_length 12",
}


EXPERIMENTAL = {
    method.page.removeprefix("experimental/") for method in EXPERIMENTAL_METHODS
}  # tests/experimental runs theirs


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(EXAMPLES.glob("*.py")) if path.stem not in EXPERIMENTAL],
    ids=lambda path: path.stem,
)
def test_example(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, *FLAGS.get(path.stem, ROLLOUTS).split()])
    if path.stem == "redi":
        write_traces("traces.jsonl")
    runpy.run_path(str(path), run_name="__main__")
    if path.stem == "multiplication":
        assert "| S-GRPO |" in capsys.readouterr().out
        return
    cards = tmp_path.glob("outputs/**/README.md")
    card, *others = [path for path in cards if path.parent.name != "process"]  # MR-RLVR's first stage has a card too
    assert not others
    assert (card.parent / "model.safetensors").is_file()
    if path.stem == "adapt_think":  # the evaluation of its reference is not one of the run's base
        assert not read_measurements(card.parent) and list(card.parent.glob("reference/*/summary.json"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_header_describes_how_to_run_the_script(path):
    header = path.read_text().split('"""')[1]
    assert "--model_name_or_path" in header or "--config" in header or path.stem == "multiplication"
    assert "Time and memory: " in header


DIFFS = re.findall(r"```diff\n(.*?)```", (EXAMPLES / "migrate_from_trl.md").read_text(), flags=re.DOTALL)
QUICK_ARGUMENTS = {
    "per_device_train_batch_size": 4,
    "max_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "gradient_checkpointing": False,
}


def test_migrations_are_three_diffs_of_at_most_five_lines():
    assert [name for diff in DIFFS for name in re.findall(r"^\+trainer = (\w+)", diff, flags=re.MULTILINE)] == [
        "HAPOTrainer",
        "REDITrainer",
        "CFTTrainer",
    ]
    for diff in DIFFS:
        assert all(len(re.findall(rf"^\{sign}", diff, flags=re.MULTILINE)) <= 5 for sign in "+-")


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("method", ["hapo", "redi", "cft"])
def test_migration_runs(method, side, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drop, keep = ("+", "-") if side == "before" else ("-", "+")
    diff = DIFFS[["hapo", "redi", "cft"].index(method)]
    script = "\n".join(line[1:] for line in diff.splitlines() if line[:1] in (keep, " ", "") and line[:1] != drop)
    # The embedded model, a few rows and small settings in the place of what is downloaded and takes a GPU.
    script = re.sub(r'"Qwen/[^"]+"', repr(str(demo.model_path())), script)
    script = re.sub(r"load_dataset\(.*\)", "rows", script.replace("from datasets import load_dataset\n", ""))
    quick = ", ".join(f"{name}={value!r}" for name, value in QUICK_ARGUMENTS.items())
    if method == "hapo":
        quick += ", num_generations=4, max_completion_length=32"
    if method == "cft":
        config = "from trl import SFTConfig\n"
        script = config + script.replace("rows,", f"rows,\n    args=SFTConfig('out', {quick}),")
    else:
        script = re.sub(r'Config\(output_dir="[^"]+",.*\)', f"Config('out', {quick})", script)
    results = {"rows": migration_rows(method, side)}
    exec(compile(script, f"{method}, {side}", "exec"), results)
    assert results["trainer"].state.global_step == 1


def migration_rows(method: str, side: str) -> Dataset:
    if method == "hapo":
        return demo.train_dataset(8)
    problems = demo.generate_problems(8, seed=0)
    if method == "cft" and side == "after":
        return Dataset.from_list(demo.generate_critiques(8, seed=0))
    if method == "cft":
        return Dataset.from_list(
            [
                {"messages": [{"role": role, "content": row["problem"]} for role in ("user", "assistant")]}
                for row in problems
            ]
        )
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["problem"]}],
                "chosen": [{"role": "assistant", "content": rf"\boxed{{{row['answer']}}}"}],
                "rejected": [{"role": "assistant", "content": r"\boxed{-1}"}],
            }
            for row in problems
        ]
    )


def write_traces(path: str) -> None:
    """A right and a wrong trace of some problems, instead of some that are sampled."""
    with open(path, "w") as file:
        for row in demo.generate_problems(16, seed=0):
            answers = row["answer"], str(int(row["answer"]) + 1)
            generations = [f"<think>\n</think>\n\\boxed{{{answer}}}" for answer in answers]
            file.write(json.dumps({**row, "generations": generations}) + "\n")


@pytest.mark.parametrize("kind", ["pairs", "single"])
def test_redi_takes_finished_examples(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [dict(row) for row in migration_rows("redi", "after")]
    if kind == "single":
        rows = [
            {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
            for row in rows
            for side in ("chosen", "rejected")
        ]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen = {}
    for trainer in (SFTTrainer, REDITrainer):
        monkeypatch.setattr(trainer, "train", lambda self, *_, **__: seen.update({type(self): self.train_dataset}))
    command = "--per_device_train_batch_size 2 --report_problems 0 --dataset_name examples.jsonl --disable_tqdm True"
    monkeypatch.setattr(sys, "argv", ["redi.py", *command.split()])
    runpy.run_path(str(EXAMPLES / "redi.py"), run_name="__main__")
    first, second = seen.values()
    assert len(first) == 8  # the correct ones
    assert len(second) == len(rows) and "rejected" not in first.column_names


def test_redi_reads_every_row_before_it_keeps_a_chat_template(tiny_model):
    """The reasoning may be in a later row than the first: without it, supervised fine-tuning would drop it silently."""
    keep_traces = runpy.run_path(str(EXAMPLES / "redi.py"))["keep_traces"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = deepseek_r1_distill_chat_template
    replies = ["2", "<think>\n1 + 1 = 2</think>\n2"]
    rows = [
        {
            "prompt": [{"role": "user", "content": "1 + 1?"}],
            "completion": [{"role": "assistant", "content": reply}],
        }
        for reply in replies
    ]
    assert keep_traces(tokenizer, Dataset.from_list(rows[:1])).chat_template == deepseek_r1_distill_chat_template
    rendered = keep_traces(tokenizer, Dataset.from_list(rows)).apply_chat_template(
        rows[1]["prompt"] + rows[1]["completion"], tokenize=False
    )
    assert "1 + 1 = 2" in rendered
