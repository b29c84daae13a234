# SPDX-License-Identifier: Apache-2.0
"""
MR-RLVR against GRPO on the final answers alone, from the same model, on the same problems, with the same number of steps.

    python benchmarks/mr_rlvr.py --seeds 0

Every run starts from the embedded model that has learned to answer tasks about worked solutions (`demo.process_model`, which is trained
first), and trains on problems of three operations. MR-RLVR spends the first half of its steps on the tasks. Then it is evaluated with
several completions per problem, on problems that training never saw: as in training, and with one more operation. A finished run is not
repeated. The settings are those of the demo; none was tuned.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets
import torch
from comparison import BASE, Run, finished_runs, load, one_decimal, percent, seed_range
from methods import CONTROL
from transformers import PrinterCallback

from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo
from trl_concise.evaluation import evaluate
from trl_concise.evaluation.summaries import read_summary
from trl_concise.methods.mr_rlvr import fill_reward, order_reward


METHOD = "MR-RLVR"
SETS = {"3 operations, as in training": (3,), "4 operations": (4,)}
TRAINED = (3,)


def train(model: Any, tokenizer: Any, rewards: list[Any], dataset: Any, steps: int, seed: int) -> ConciseGRPOTrainer:
    """Train with the demo's settings."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {name: value for name, value in demo.SETTINGS.items() if name != "model_name_or_path"} | {
            "output_dir": folder,
            "max_steps": steps,
            "max_completion_length": 160,  # a problem of three operations takes more than the demo's
            "save_strategy": "no",
            "disable_tqdm": True,
            "seed": seed,
        }
        trainer = ConciseGRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=ConciseGRPOConfig(**settings),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer


def reward_means(trainer: ConciseGRPOTrainer, entries: slice) -> dict[str, float]:
    """Return the mean of each reward over some of the logged steps."""
    names = [f"rewards/{function}/mean" for function in ("fill_reward", "order_reward")]
    logged = trainer.state.log_history[entries]
    found = {name: [entry[name] for entry in logged if entry.get(name) is not None] for name in names}
    return {name.split("/")[1]: fmean(values) for name, values in found.items() if values}


def carry_out(run: Run, options: argparse.Namespace) -> Mapping[str, Any]:
    """Train, unless the method is `BASE`, and evaluate."""
    start = demo.process_model(options.output_dir / "process-model", steps=options.steps_before)
    model, tokenizer = load(start)
    facts: dict[str, Any] = {"tokens": 0}
    remaining = 0 if run.method == BASE else options.steps
    if run.method == METHOD:
        solutions = demo.worked_solutions(options.training_problems, seed=run.seed, operations=TRAINED)
        remaining -= (steps := options.steps // 2)
        tasks = demo.process_tasks(solutions, seed=run.seed)
        trainer = train(model, tokenizer, [fill_reward, order_reward], tasks, steps, run.seed)
        model = trainer.model
        facts["tasks"] = {"first": reward_means(trainer, slice(5)), "last": reward_means(trainer, slice(-6, -1))}
        facts["tokens"] += tokens_of(trainer)
    if remaining:
        problems = demo.train_dataset(options.training_problems, seed=run.seed, operations=TRAINED)
        judge = demo.TokenBudget(10**12)
        trainer = train(model, tokenizer, [judge.accuracy_reward], problems, remaining, run.seed)
        model = trainer.model
        facts["tokens"] += tokens_of(trainer)
    evaluate(
        model,
        {name: demo.problem_dataset(options.problems, operations=lengths) for name, lengths in SETS.items()},
        run.folder,
        tokenizer=tokenizer,
        num_completions=options.completions,
        seed=run.seed,
        model_name=run.method,
        progress=False,
        **demo.EVALUATION,
    )
    return facts


def tokens_of(trainer: ConciseGRPOTrainer) -> int:
    """Return the tokens that a run has generated."""
    per_step = trainer.args.generation_batch_size / trainer.args.steps_per_generation
    return round(sum(entry.get("completions/mean_length", 0) * per_step for entry in trainer.state.log_history))


def table(runs: Mapping[str, list[Run]], name: str, completions: int) -> str:
    """Return the table of one set, in Markdown."""
    lines = [
        f"| Model | pass@1 | pass@{completions // 2} | pass@{completions} | Tokens | Generated tokens in training |",
        "|---|---|---|---|---:|---:|",
    ]
    for method, own in runs.items():
        records = [record for run in own for record in read_summary(run.folder) if record["dataset"] == name]
        ones = [record["accuracy"] for record in records]
        low, high = (fmean(record["accuracy_interval"][side] for record in records) for side in (0, 1))
        interval = f" [{percent(low)}, {percent(high)}]" if len(records) == 1 else seed_range(ones, percent)
        passes = [fmean(record["pass_at_k"][str(k)] for record in records) for k in (completions // 2, completions)]
        tokens = [record["tokens_mean"] for record in records]
        cells = [
            method,
            f"{percent(fmean(ones))} %{interval}",
            *(f"{percent(value)} %" for value in passes),
            f"{one_decimal(fmean(tokens))}{seed_range(tokens, one_decimal)}",
            "" if method == BASE else f"{fmean(run.facts()['tokens'] for run in own):,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=80, help="steps of a run, of both stages together")
    parser.add_argument("--problems", type=int, default=128, help="problems of each set in the evaluation")
    parser.add_argument("--completions", type=int, default=8, help="completions per problem in the evaluation")
    parser.add_argument("--training_problems", type=int, default=128, help="problems to train on")
    parser.add_argument("--steps_before", type=int, default=200, help="steps that teach the model to answer tasks")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/mr_rlvr"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small
    datasets.disable_progress_bars()

    names = ("steps", "problems", "completions", "training_problems", "steps_before")
    settings = {name: getattr(options, name) for name in names}
    runs: dict[str, list[Run]] = {}
    for run in finished_runs(
        options.output_dir, [BASE, CONTROL, METHOD], options.seeds, settings, lambda run: carry_out(run, options)
    ):
        runs.setdefault(run.method, []).append(run)
    for name in SETS:
        print(f"\n{name}\n\n{table(runs, name, options.completions)}")
    for run in runs[METHOD]:
        print(f"\nRewards of the tasks, seed {run.seed}: {run.facts()['tasks']}")


if __name__ == "__main__":
    main()
