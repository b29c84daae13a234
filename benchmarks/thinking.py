# SPDX-License-Identifier: Apache-2.0
"""
Learn when to think: AdaptThink, AutoThink and GRPO on a model that thinks or answers directly, by difficulty.

    python benchmarks/thinking.py

Every run starts from the embedded model with two modes (`demo.two_mode_model`), trains on the same problems of two and three operations, and
generates until its token budget is used up. Then it is evaluated, without anything forced, on problems that training never saw: accuracy, tokens
and the share of completions that think, for each number of operations. The reference of AdaptThink is the embedded model, which always
thinks. Each run has a folder with the files of `trl-concise eval`, and a finished run is not repeated, so the command can be interrupted, and
run again for the table and the plot alone; a folder with other settings is refused. Settings of the methods are their defaults, except those in METHODS; the rest is the demo's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from comparison import BASE, Run, finished_runs, load, measure, one_decimal, percent, seed_range, train
from datasets import Dataset

from trl_concise import ConciseGRPOTrainer, demo, load_problems
from trl_concise.evaluation import filter_problems, read_summary
from trl_concise.evaluation.plots import plot_modes
from trl_concise.methods.adapt_think import AdaptThinkConfig, AdaptThinkTrainer
from trl_concise.methods.auto_think import AutoThinkConfig, AutoThinkTrainer


REFERENCE = "always thinks"
METHODS: dict[str, tuple[Any, Any, dict[str, Any]]] = {  # trainer, config, settings
    "GRPO": (ConciseGRPOTrainer, ConciseGRPOTrainer.config_class, {}),
    "AdaptThink": (AdaptThinkTrainer, AdaptThinkConfig, {"thinking_start": "We"}),
    "AdaptThink token": (
        AdaptThinkTrainer,
        AdaptThinkConfig,
        {"thinking_start": "We", "importance_sampling_level": "token"},
    ),
    "AutoThink": (AutoThinkTrainer, AutoThinkConfig, {"stage_steps": [15, 30]}),
}


def reference_table(folder: Path, seed: int, options: argparse.Namespace) -> Dataset:
    """Return the problems to train on, with the accuracy of the embedded model on each."""
    problems = folder / f"problems-{options.training_problems}-{seed}.jsonl"
    table = folder / f"reference-{options.training_problems}-{options.reference_completions}-{seed}.jsonl"
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


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs of one table have in common."""
    names = ("tokens", "problems", "training_problems", "reference_completions")
    return {name: getattr(options, name) for name in names}


def carry_out(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Train, unless nothing is to be trained, and evaluate."""
    facts: dict[str, Any] = {}
    start = demo.two_mode_model(options.output_dir / "two-modes")
    if run.method in METHODS:
        trainer_class, config_class, config = METHODS[run.method]
        trainer, facts = train(
            options.tokens,
            reference_table(options.output_dir, run.seed, options),
            run.seed,
            model=start,
            trainer_class=trainer_class,
            config_class=config_class,
            config=config,
        )
        model, tokenizer = trainer.model, trainer.processing_class
        facts["method_settings"] = config
    else:
        model, tokenizer = load(demo.model_path() if run.method == REFERENCE else start)
    measure(model, tokenizer, {f"{n} operations": [n] for n in demo.OPERATIONS}, options.problems, run)
    return facts


def over_seeds(values: list[float], form: Callable[[float], str], unit: str = "") -> str:
    """Return the mean over seeds and, with several, the smallest and the largest value; nothing without values."""
    return f"{form(fmean(values))}{unit}{seed_range(values, form)}" if values else ""


def table(runs: dict[str, list[list[dict[str, Any]]]]) -> str:
    """Return the table of all problem sets, in Markdown."""
    lines = ["| Problems | Model | Accuracy | Tokens | Thinking | Accuracy, direct |", "|---|---|---|---|---|---|"]
    for index, record in enumerate(runs[BASE][0]):
        for method, summaries in runs.items():
            values = {
                name: [records[index][name] for records in summaries if records[index][name] is not None]
                for name in ("accuracy", "tokens_mean", "thinking_fraction", "direct_accuracy")
            }
            cells = [
                record["dataset"],
                method,
                over_seeds(values["accuracy"], percent, " %"),
                over_seeds(values["tokens_mean"], one_decimal),
                over_seeds(values["thinking_fraction"], percent, " %"),
                over_seeds(values["direct_accuracy"], percent, " %"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_modes(runs: dict[str, list[list[dict[str, Any]]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the figures of both modes, means over seeds, by problem set and model."""
    means: dict[str, dict[str, dict[str, Any]]] = {}
    for index, record in enumerate(runs[BASE][0]):
        for method, summaries in runs.items():
            records = [own[index] for own in summaries]
            means.setdefault(record["dataset"], {})[method] = {
                name: fmean(values) if (values := [one[name] for one in records if one[name] is not None]) else None
                for name in record
                if name.startswith(("thinking_", "direct_"))
            }
    return means


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
    for run in finished_runs(
        options.output_dir,
        [REFERENCE, BASE, *options.methods],
        options.seeds,
        settings(options),
        lambda run: carry_out(run, options),
    ):
        runs.setdefault(run.method, []).append(read_summary(run.folder))
    print(f"\n{table(runs)}")
    plot_modes(mean_modes(runs), options.output_dir / "modes.png")


if __name__ == "__main__":
    main()
