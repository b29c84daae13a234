# SPDX-License-Identifier: Apache-2.0
"""
Measure the controls of the demo, whose figures ship in `trl_concise/demo/controls`.

    python benchmarks/demo_controls.py --tokens 220000

- GRPO without a length reward: TRL's `GRPOTrainer` with the demo's model, problems and settings, until it has generated as many
  tokens as the demo.
- Supervised fine-tuning: the embedded model completes each training problem of the demo 8 times, and TRL's `SFTTrainer` trains on
  the shortest correct completion of each for 10 epochs.

Each is trained with three seeds and evaluated as the demo is. The figures are means over seeds and problems. A run that has been
evaluated is not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

from trl_concise import demo
from trl_concise.demo.report import CONTROL_NAME, CONTROLS, held_out_sets
from trl_concise.evaluation import evaluate, read_completions, read_summary, summarize
from trl_concise.evaluation.folder import COMPLETIONS_FILE
from trl_concise.evaluation.identity import fingerprint
from trl_concise.evaluation.summaries import SUMMARY_FILE
from trl_concise.state.checkpoint import write_atomically


COMPLETIONS_PER_PROBLEM, EPOCHS, BATCH_SIZE, LEARNING_RATE = 8, 10, 16, 2e-4  # of SFT
Trained = tuple[Any, dict[str, Any]]  # the model, and facts about its training


def train_grpo(seed: int, options: argparse.Namespace) -> Trained:
    """Train the GRPO control."""
    with tempfile.TemporaryDirectory() as output_dir:
        settings = {name: value for name, value in demo.SETTINGS.items() if name != "model_name_or_path"}
        changes = {"output_dir": output_dir, "save_strategy": "no", "disable_tqdm": True, "seed": seed}
        dataset = demo.train_dataset(options.training_problems, seed=seed)
        trainer, spent = demo.train_control(str(demo.model_path()), dataset, options.tokens, settings | changes)
    return trainer.model, {"generated_tokens": spent.tokens}


def shortest_correct(model, tokenizer, problems: Dataset, seed: int) -> list[dict[str, str]]:
    """Return prompt and shortest correct completion of each problem that the model solves at least once."""
    with tempfile.TemporaryDirectory() as folder:
        evaluate(
            model,
            {"train": problems},
            folder,
            tokenizer=tokenizer,
            num_completions=COMPLETIONS_PER_PROBLEM,
            seed=seed,
            model_name="model",
            progress=False,
            **demo.EVALUATION,
        )
        items = read_completions(Path(folder) / COMPLETIONS_FILE)
    shortest: dict[int, list[int]] = {}
    for item in items:
        if item.correct and item.tokens < len(shortest.get(item.problem, item.completion_ids + [0])):
            shortest[item.problem] = item.completion_ids
    prompts = tokenizer.apply_chat_template(list(problems["prompt"]), add_generation_prompt=True, tokenize=False)
    return [
        {"prompt": prompts[problem], "completion": tokenizer.decode(ids)} for problem, ids in sorted(shortest.items())
    ]


def train_sft(seed: int, options: argparse.Namespace) -> Trained:
    """Train the SFT control."""
    model = AutoModelForCausalLM.from_pretrained(demo.model_path())
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    pairs = shortest_correct(model, tokenizer, demo.train_dataset(options.training_problems, seed=seed), seed)
    with tempfile.TemporaryDirectory() as output_dir:
        args = SFTConfig(
            output_dir=output_dir,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            seed=seed,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SFTTrainer(model, args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.model, {}


CONTROL_RUNS: dict[str, tuple[str, Callable[[int, argparse.Namespace], Trained]]] = {
    "grpo": (CONTROL_NAME, train_grpo),
    "sft": ("SFT on shortest correct", train_sft),
}


def carry_out(key: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Train one control with one seed, and evaluate it."""
    name, train = CONTROL_RUNS[key]
    model, facts = train(seed, options)
    shutil.rmtree(folder, ignore_errors=True)
    evaluate(
        model,
        held_out_sets(),
        folder,
        tokenizer=AutoTokenizer.from_pretrained(demo.model_path()),
        limit=options.problems,
        seed=seed,
        model_name=name,
        progress=False,
        **demo.EVALUATION,
    )
    write_atomically(folder / "training.json", json.dumps(facts).encode())
    for record in read_summary(folder):
        print(
            f"{name}, seed {seed}, {record['dataset']}: {record['accuracy']:.1%}, {record['tokens_mean']:.1f} tokens"
        )


def pool(folders: list[Path], seeds: list[int], command: str, commit: str) -> list[dict[str, Any]]:
    """Return one record per problem set, over the completions of all seeds."""
    records = []
    for first in read_summary(folders[0]):
        items = [
            replace(item, completion=seed)
            for folder, seed in zip(folders, seeds, strict=True)
            for item in read_completions(folder / COMPLETIONS_FILE)
            if item.dataset == first["dataset"]
        ]
        facts = [json.loads((folder / "training.json").read_text()) for folder in folders]
        spent = [fact["generated_tokens"] for fact in facts if "generated_tokens" in fact]
        records.append(
            {
                **first,
                **summarize(items),
                **({"generated_tokens": round(sum(spent) / len(spent))} if spent else {}),
                "seeds": seeds,
                "measured_by": command,
                "commit": commit,
                "start_weights": fingerprint(AutoModelForCausalLM.from_pretrained(demo.model_path())),
            }
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, required=True, help="tokens that the GRPO control generates")
    parser.add_argument("--controls", nargs="+", choices=list(CONTROL_RUNS), default=list(CONTROL_RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--problems", type=int, default=1536, help="largest number of problems of each set")
    parser.add_argument("--training_problems", type=int, default=128)
    parser.add_argument("--work_dir", type=Path, default=Path("outputs/demo-controls"), help="one folder per run")
    parser.add_argument("--output_dir", type=Path, default=CONTROLS, help="one summary.json per control")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    seeds = " ".join(map(str, options.seeds))
    command = f"python benchmarks/demo_controls.py --tokens {options.tokens} --seeds {seeds}"
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=7", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    for key in options.controls:
        folders = [options.work_dir / f"{key}-{seed}" for seed in options.seeds]
        for seed, folder in zip(options.seeds, folders, strict=True):
            if not (folder / "training.json").is_file():
                carry_out(key, seed, folder, options)
        records = pool(folders, options.seeds, command, commit)
        place = options.output_dir / key / SUMMARY_FILE
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, json.dumps(records, indent=2).encode() + b"\n")


if __name__ == "__main__":
    main()
