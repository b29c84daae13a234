# SPDX-License-Identifier: Apache-2.0
"""
Learn when to think: AdaptThink, AutoThink and GRPO on a model that thinks or answers directly, by difficulty.

    python benchmarks/thinking.py

Every run starts from the embedded model with two modes (`demo.two_mode_model`), trains on the same problems of two and three operations, and
generates until its token budget is used up. Then it is evaluated, without anything forced, on problems that training never saw: accuracy, tokens
and the share of completions that think, for each number of operations. The reference of AdaptThink is the embedded model, which always
thinks. Each run has a folder with the files of `trl-concise eval`, and a finished run is not repeated, so the command can be interrupted, and
run again for the table and the plot alone. Settings of the methods are their defaults, except those in METHODS; the rest is the demo's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from trl_concise import ConciseGRPOTrainer, demo, load_problems
from trl_concise.evaluation import evaluate, filter_problems, read_summary
from trl_concise.evaluation.plots import plot_modes
from trl_concise.evaluation.summaries import SUMMARY_FILE
from trl_concise.methods.adapt_think import AdaptThinkConfig, AdaptThinkTrainer
from trl_concise.methods.auto_think import AutoThinkConfig, AutoThinkTrainer


BASE, REFERENCE = "before training", "always thinks"
METHODS: dict[str, tuple[Any, Any, dict[str, Any]]] = {  # trainer, config, settings
    "GRPO": (ConciseGRPOTrainer, ConciseGRPOTrainer.config_class, {}),
    "AdaptThink": (AdaptThinkTrainer, AdaptThinkConfig, {"thinking_start": "We"}),
    "AutoThink": (AutoThinkTrainer, AutoThinkConfig, {"stage_steps": [15, 30]}),
}
TRAINING = "training.json"


def reference_table(folder: Path, seed: int, options: argparse.Namespace) -> Dataset:
    """Return the problems to train on, with the accuracy of the embedded model on each."""
    problems, table = folder / f"problems-{seed}.jsonl", folder / f"reference-{seed}.jsonl"
    if not table.is_file():
        rows = demo.generate_problems(options.training_problems, seed, "train", demo.OPERATIONS)
        problems.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        filter_problems(
            *(str(problems), "demo", table),
            keep=(0, 1),
            num_completions=options.reference_completions,
            max_new_tokens=demo.EVALUATION["max_new_tokens"],
            seed=seed,
            progress=False,
        )
    return load_problems(str(table))


def train(method: str, seed: int, start: Path, dataset: Dataset, options: argparse.Namespace) -> tuple[Any, dict]:
    trainer_class, config_class, changes = METHODS[method]
    spending = demo.TokenBudget(options.tokens)
    with tempfile.TemporaryDirectory() as output_dir:
        settings = {name: value for name, value in demo.SETTINGS.items() if name != "model_name_or_path"} | {
            "output_dir": output_dir,
            "max_steps": 10**6,
            "lr_scheduler_type": "constant_with_warmup",  # the end of a run is not known as a step
            "save_strategy": "no",
            "disable_tqdm": True,
            "seed": seed,
        }
        trainer = trainer_class(
            model=str(start),
            reward_funcs=spending.accuracy_reward,
            args=config_class(**{**settings, **changes}),
            train_dataset=dataset,
            callbacks=[spending],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer, {"generated_tokens": spending.tokens, "steps": trainer.state.global_step}


def carry_out(method: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Train, unless nothing is to be trained, and evaluate."""
    started = time.perf_counter()
    facts: dict[str, Any] = {"method": method, "seed": seed}
    start = demo.two_mode_model(options.output_dir / "two-modes")
    if method in METHODS:
        dataset = reference_table(options.output_dir, seed, options)
        trainer, spent = train(method, seed, start, dataset, options)
        model, tokenizer = trainer.model, trainer.processing_class
        facts |= spent
    else:
        path = demo.model_path() if method == REFERENCE else start
        model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    sets = {
        f"{length} operations": demo.problem_dataset(options.problems, operations=(length,))
        for length in demo.OPERATIONS
    }
    evaluate(model, sets, folder, tokenizer=tokenizer, seed=seed, model_name=method, progress=False, **demo.EVALUATION)
    facts["seconds"] = time.perf_counter() - started
    (folder / TRAINING).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"{method}, seed {seed}: {facts['seconds']:.0f} s", flush=True)


def spread(values: list[float], form: str) -> str:
    """Return the mean over seeds and, with several, the smallest and the largest value."""
    text = format(fmean(values), form)
    return text if len(values) == 1 else f"{text} ({format(min(values), form)} to {format(max(values), form)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--tokens", type=int, default=150_000, help="tokens that a run may generate")
    parser.add_argument("--problems", type=int, default=256, help="problems of each set in the evaluation")
    parser.add_argument("--training_problems", type=int, default=256, help="problems to train on")
    parser.add_argument("--reference_completions", type=int, default=8, help="per problem, for the table")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/thinking"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small
    options.output_dir.mkdir(parents=True, exist_ok=True)

    runs: dict[str, list[list[dict[str, Any]]]] = {}
    for seed in options.seeds:
        for method in [REFERENCE, BASE, *options.methods]:
            folder = options.output_dir / f"{method.replace(' ', '-')}-{seed}"
            if not (folder / TRAINING).is_file():
                carry_out(method, seed, folder, options)
            runs.setdefault(method, []).append(read_summary(folder / SUMMARY_FILE))
    print("\n| Problems | Model | Accuracy | Tokens | Thinking | Accuracy, direct |\n|---|---|---|---|---|---|")
    bars: dict[str, dict[str, dict[str, Any]]] = {}
    for index, record in enumerate(runs[BASE][0]):
        for method, summaries in runs.items():
            records = [records[index] for records in summaries]
            direct = [one["direct_accuracy"] for one in records if one["direct_accuracy"] is not None]
            cells = [
                record["dataset"],
                method,
                spread([one["accuracy"] for one in records], ".1%"),
                spread([one["tokens_mean"] for one in records], ".1f"),
                spread([one["thinking_fraction"] for one in records], ".1%"),
                spread(direct, ".1%") if direct else "",
            ]
            print(f"| {' | '.join(cells)} |")
            bars.setdefault(record["dataset"], {})[method] = {
                name: fmean(values) if (values := [one[name] for one in records if one[name] is not None]) else None
                for name in record
                if name.startswith(("thinking_", "direct_"))
            }
    plot_modes(bars, options.output_dir / "modes.png")


if __name__ == "__main__":
    main()
