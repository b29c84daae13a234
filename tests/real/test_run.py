# SPDX-License-Identifier: Apache-2.0
"""A run's whole life on a pretrained model: train, resume, measure, describe, push."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed import ROOT
from tests.hub_server import HubServer
from trl_concise.cli.commands import main


SVAMP = Path(__file__).parents[3] / "shared" / "data" / "svamp_test.jsonl"
COMMON = [
    "--use_cpu",
    "--bf16",
    "False",
    "--dtype",
    "float32",
    "--report_to",
    "none",
    "--gradient_checkpointing",
    "False",
]
HAPO = ["hapo", *COMMON, "--use_peft", "--lora_target_modules", "all-linear", "--per_device_train_batch_size", "4"]
HAPO += ["--num_generations", "4", "--max_completion_length", "48", "--learning_rate", "1e-3", "--save_steps", "1"]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """A file of word problems."""
    names = [("Mia", "pears"), ("Noah", "shells"), ("Ines", "stamps"), ("Omar", "marbles")]
    rows = [
        {
            "question": f"{name} has {have} {things} and finds {found} more. How many {things} does {name} have?",
            "answer": str(have + found),
        }
        for name, things in names
        for have, found in [(3, 4), (12, 9), (25, 50), (8, 8)]
    ]
    path = tmp_path_factory.mktemp("data") / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def run(smollm2, problems, tmp_path_factory):
    """Output folder of two steps, saved after each."""
    folder = tmp_path_factory.mktemp("run") / "smollm2-hapo"
    options = [
        "--model_name_or_path",
        smollm2,
        "--dataset_name",
        problems,
        "--output_dir",
        str(folder),
        "--max_steps",
        "2",
    ]
    assert command(*HAPO, *options).returncode == 0
    return folder


def command(*argv: str, environment=None) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", "trl_concise", *argv],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def test_a_resumed_run_equals_the_original_run(run, smollm2, problems, tmp_path):
    options = ["--model_name_or_path", smollm2, "--dataset_name", problems, "--max_steps", "2"]
    options += ["--output_dir", str(tmp_path / "resumed"), "--resume_from_checkpoint", str(run / "checkpoint-1")]
    command(*HAPO, *options)
    whole, resumed = (
        load_file(folder / "checkpoint-2" / "adapter_model.safetensors") for folder in (run, tmp_path / "resumed")
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_measure_describe_and_push(run, problems):
    assert main(["eval", str(run), problems, "--output_dir", str(run / "eval"), "--max_new_tokens", "96"]) == 0
    record = json.loads((run / "eval" / "summary.json").read_text())[0]
    assert record["problems"] == 16 and 0 < record["tokens_mean"] <= 96 and record["accuracy"] > 0
    with HubServer() as hub:
        command("card", str(run))
        command("push", str(run), "--repo_id", "tester/smollm2-hapo", environment=hub.environment())
        files = hub.repos["tester/smollm2-hapo"].files()
    assert {"README.md", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= set(files)
    card = (run / "README.md").read_text()
    assert "HAPO" in card and f"{record['tokens_mean']:.1f}" in card


@pytest.mark.skipif(not SVAMP.is_file(), reason=f"the SVAMP problems are not at {SVAMP}")
def test_evaluate_on_svamp(smollm2, tmp_path):
    """Greedy completions of 32 problems. Where one says what its final answer is, the verdict is checked against it."""
    argv = ["eval", smollm2, str(SVAMP), "--limit", "32", "--output_dir", str(tmp_path), "--temperature", "0"]
    argv += ["--max_new_tokens", "256", "--budgets", "128", "--prompt_suffix", r" Put the final answer in \boxed{}."]
    assert main(argv) == 0
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    problems = [json.loads(line) for line in SVAMP.read_text().splitlines()[:32]]
    assert [row["gold"] for row in rows] == [problem["answer"] for problem in problems]
    stated = [(row, re.search(r"answer is:? (\d+)\.?$", row["text"])) for row in rows]
    verdicts = [(row["correct"], found[1] == row["gold"]) for row, found in stated if found]
    assert len(verdicts) >= 8 and all(given == expected for given, expected in verdicts)
    assert all(row["tokens"] == len(row["completion_ids"]) for row in rows)

    whole, short = json.loads((tmp_path / "summary.json").read_text())
    assert whole["problems"] == short["problems"] == 32 and short["budget"] == 128
    assert whole["accuracy"] == sum(row["correct"] for row in rows) / 32
    assert whole["tokens_mean"] == sum(row["tokens"] for row in rows) / 32
    assert short["tokens_mean"] == sum(min(row["tokens"], 128) for row in rows) / 32
    for record in (whole, short):
        low, high = record["accuracy_interval"]
        assert low <= record["accuracy"] <= high
