# SPDX-License-Identifier: Apache-2.0
"""A run's whole life on a pretrained model: train, resume, measure, describe, push, plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from tests.distributed import ROOT
from tests.hub_server import HubServer
from trl_concise.cli import main
from trl_concise.memory import Architecture, PlanSettings, plan


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
        env={**os.environ, "OMP_NUM_THREADS": "2", **(environment or {})},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def test_a_resumed_run_is_the_run(run, smollm2, problems, tmp_path):
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


MEASURE = """
import json, resource, sys, torch
from datasets import Dataset
from peft import LoraConfig
from trl_concise import HAPOConfig, HAPOTrainer
torch.set_num_threads(2)
model, length = sys.argv[1], int(sys.argv[2])
def rollout(prompts, trainer):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(100, 40000, (len(prompts), length), generator=generator).tolist()
    return {"prompt_ids": [[5] * 16] * len(prompts), "completion_ids": ids, "logprobs": None}
def alternate(completions, **kwargs):
    return [float(i % 2) for i in range(len(completions))]
args = HAPOConfig(output_dir=sys.argv[3], use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, max_steps=2,
    save_strategy="no", per_device_train_batch_size=4, num_generations=4, max_completion_length=length,
    gradient_checkpointing=True, model_init_kwargs={"dtype": "float32"})
trainer = HAPOTrainer(model, alternate, args, Dataset.from_list([{"prompt": str(i)} for i in range(8)]),
    rollout_func=rollout, peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
trainer.train()
print(json.dumps({"grown": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before), "weights": weights}))
"""


def test_the_plan_predicts_the_memory_of_a_step(smollm2, tmp_path):
    """Growth of the process beyond the loaded model, against what is planned beyond weights and context."""
    length = 1024
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, smollm2, str(length), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2", "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    planned = plan(
        PlanSettings(
            method="hapo",
            max_prompt_length=16,
            max_completion_length=length,
            num_generations=4,
            per_device_train_batch_size=4,
            use_peft=True,
            lora_r=16,
            lora_target_modules=["all-linear"],
        ),
        Architecture.from_config(AutoConfig.from_pretrained(smollm2)),
    )
    fixed = {"CUDA context", "weights", "adapter", "fragmentation"}
    predicted = max(
        sum(size for part, size in parts.items() if part not in fixed)
        for phase, parts in planned.parts.items()
        if phase != "generation"
    )
    print(f"predicted {predicted / 2**20:.0f} MiB, measured {measured['grown'] / 2**20:.0f} MiB")
    assert 0.7 < predicted / measured["grown"] < 1.4
