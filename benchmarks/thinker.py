# SPDX-License-Identifier: Apache-2.0
"""
Train Thinker and GRPO from the same model, for the same number of steps on the same fast prompts, and evaluate fast answers and whole dialogues.

    python benchmarks/thinker.py

Every run starts from the embedded model that has learned Thinker's turns (`demo.thinker_model`, which is trained first), and trains on problems
of two operations. Then it is evaluated on problems that training never saw: of two operations, and harder ones of three. Each run has a folder,
and a finished run is not repeated, so the command can be interrupted, and run again for the table and the plot alone. The settings are those
of the demo, the budgets those of `demo.thinker`; none was tuned.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from comparison import BASE, Run, finished_runs, load, one_decimal, percent, seed_range, train
from methods import CONTROL

from trl_concise import demo
from trl_concise.demo.thinker import BUDGETS, turn_settings
from trl_concise.evaluation import FrontierPoint, plot_frontier, read_summary
from trl_concise.evaluation.thinker import ThinkerTurns, evaluate_thinker
from trl_concise.methods.thinker import Thinker


OPERATIONS = (2, 3)  # of the problem sets; training has the first only
METHODS = (CONTROL, "Thinker")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs of one table have in common."""
    return {name: getattr(options, name) for name in ("steps", "problems", "training_problems", "steps_before")}


def carry_out(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Train, unless the run is `BASE`, and evaluate."""
    start = demo.thinker_model(options.output_dir / "thinker-model", steps=options.steps_before)
    facts: dict[str, Any] = {}
    if run.method == BASE:
        model, tokenizer = load(start)
    else:
        trainer, _ = train(
            10**12,
            demo.thinker_dataset(options.training_problems, seed=run.seed, split="train"),
            run.seed,
            model=start,
            config={"max_steps": options.steps, "max_completion_length": BUDGETS["fast"]},
            slots={"advantage": Thinker(**turn_settings("verification", "slow", "summary"))}
            if run.method != CONTROL
            else None,
        )
        model, tokenizer = trainer.model, trainer.processing_class
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        per_answer = [entry["completions/mean_length"] + entry.get("thinker/later_tokens", 0) for entry in logged]
        facts = {
            "steps": trainer.state.global_step,
            "generated_tokens": round(sum(per_answer) * trainer.args.per_device_train_batch_size),
            "logged": logged,
        }
    sampling = {name: value for name, value in demo.EVALUATION.items() if name != "max_new_tokens"}
    evaluate_thinker(
        model,
        {f"{n} operations": demo.problem_dataset(options.problems, operations=[n]) for n in OPERATIONS},
        run.folder,
        turns=ThinkerTurns(**turn_settings("fast", "verification", "slow")),
        tokenizer=tokenizer,
        seed=run.seed,
        model_name=run.method,
        progress=False,
        **sampling,
    )
    return facts


def table(runs: dict[str, list[Run]]) -> str:
    """Return the table of all problem sets, in Markdown: accuracies with 95 % intervals for one seed, with their range for several."""
    lines = [
        "| Problems | Model | Fast accuracy | Tokens | Full accuracy | Tokens | Verdicts that are right | Slow answers | Generated in training |",
        "|---|---|---|---:|---|---:|---|---|---:|",
    ]
    for place, n in enumerate(OPERATIONS):
        for method, own in runs.items():
            summaries = [read_summary(run.folder) for run in own]
            fast, full = ([records[2 * place + i] for records in summaries] for i in (0, 1))
            cells = [f"{n} operations", method]
            for records in (fast, full):
                accuracies = [record["accuracy"] for record in records]
                tokens = [record["tokens_mean"] for record in records]
                low, high = records[0]["accuracy_interval"]
                spread = f" [{percent(low)}, {percent(high)}]" if len(own) == 1 else seed_range(accuracies, percent)
                cells += [
                    f"{percent(fmean(accuracies))} %{spread}",
                    f"{one_decimal(fmean(tokens))}{seed_range(tokens, one_decimal)}",
                ]
            cells += [
                f"{percent(fmean(record[name] for record in full))} %"
                for name in ("verification_accuracy", "slow_fraction")
            ]
            generated = [run.facts()["generated_tokens"] for run in own if method != BASE]
            lines.append(f"| {' | '.join([*cells, f'{fmean(generated):,.0f}' if generated else ''])} |")
    return "\n".join(lines)


def plot(runs: dict[str, list[Run]], path: Path) -> None:
    """Plot accuracy against tokens on the easiest and the hardest set: a line from the fast answer to the whole dialogue per model."""
    points = []
    for place in (0, len(OPERATIONS) - 1):
        for method, own in runs.items():
            summaries = [read_summary(run.folder) for run in own]
            for i, label in enumerate(("fast", "full")):
                records = [records[2 * place + i] for records in summaries]
                accuracy, tokens = (fmean(record[name] for record in records) for name in ("accuracy", "tokens_mean"))
                series = f"{method}, {OPERATIONS[place]} operations"
                points.append(FrontierPoint(label, accuracy, tokens, "checkpoint", series))
    plot_frontier(points, path, title="The fast answer alone, and the whole dialogue")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=32, help="steps of each run")
    parser.add_argument("--problems", type=int, default=256, help="problems of each set in the evaluation")
    parser.add_argument("--training_problems", type=int, default=256, help="problems to train on")
    parser.add_argument("--steps_before", type=int, default=250, help="steps that teach the model the turns")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/thinker"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    runs: dict[str, list[Run]] = {}
    for run in finished_runs(
        options.output_dir,
        [BASE, *options.methods],
        options.seeds,
        settings(options),
        lambda run: carry_out(run, options),
    ):
        runs.setdefault(run.method, []).append(run)
    print(f"\n{table(runs)}")
    plot(runs, options.output_dir / "thinker.png")


if __name__ == "__main__":
    main()
