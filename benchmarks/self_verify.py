# SPDX-License-Identifier: Apache-2.0
"""
Train with self-verification and with plain GRPO from the same model, on the same problems, for the same number of steps, and evaluate greedily, by
majority vote and by the vote that the model's own verdicts weight.

    python benchmarks/self_verify.py --seeds 0

Every run starts from the embedded model that has learned to verify (`demo.verifier_model`, which is trained first). The evaluation is on problems that
training never saw: as long as those of training, and one operation longer. A finished run is not repeated, so the command can be interrupted, and
run again for the table alone. None of the settings was tuned.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from comparison import BASE, Run, finished_runs, load, one_decimal, percent, seed_range, train
from methods import CONTROL

from trl_concise import demo
from trl_concise.evaluation import Vote, evaluate, read_summary
from trl_concise.evaluation.plots import new_figure, run_styles, save_figure, show_as_percent
from trl_concise.methods.self_verify import SelfVerification


LIMIT = 96  # tokens of a completion
LONGER = "GRPO, twice the steps"  # as many generated tokens as self-verification, verdicts included
METHODS: dict[str, dict[str, Any]] = {
    CONTROL: {},
    LONGER: {"steps": 2},
    "Self-verification": {"slots": lambda: {"advantage": SelfVerification()}},
}


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs of one table have in common."""
    names = ("steps", "operations", "problems", "completions", "training_problems", "steps_before", "alpha")
    return {name: getattr(options, name) for name in names}


def problem_sets(options: argparse.Namespace) -> dict[str, Any]:
    """Return the sets of the evaluation, by name."""
    lengths = (options.operations, options.operations + 1)
    return {f"{length} operations": demo.problem_dataset(options.problems, operations=[length]) for length in lengths}


def carry_out(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Train, unless the method is `BASE`, and evaluate."""
    start = demo.verifier_model(options.output_dir / "verifier-model", steps=options.steps_before)
    facts: dict[str, Any] = {}
    if run.method == BASE:
        model, tokenizer = load(start)
    else:
        recipe = METHODS[run.method]
        steps = recipe.get("steps", 1) * options.steps
        trainer, facts = train(
            10**9,
            demo.train_dataset(options.training_problems, seed=run.seed, operations=[options.operations]),
            run.seed,
            model=start,
            config={"max_steps": steps, "max_completion_length": LIMIT},
            slots=recipe.get("slots", dict)(),
        )
        logs = trainer.state.log_history
        size = trainer.num_generations
        facts["verdict_tokens"] = sum(
            log["self_verify/tokens"] * log["self_verify/prompts"] * size
            for log in logs
            if "self_verify/tokens" in log
        )
        facts["verdict_accuracy"] = [log["self_verify/accuracy"] for log in logs if "self_verify/accuracy" in log]
        model, tokenizer = trainer.model, trainer.processing_class
    common = {"tokenizer": tokenizer, "model_name": run.method, "seed": run.seed, "progress": False}
    common |= {"top_p": 1.0, "max_new_tokens": LIMIT, "batch_size": 128}
    sets = problem_sets(options)
    evaluate(model, sets, run.folder / "greedy", temperature=0.0, **common)
    evaluate(
        *(model, sets, run.folder / "votes"),
        temperature=1.0,  # as in training
        num_completions=options.completions,
        vote=Vote("verify", options.alpha),
        **common,
    )
    return facts


def read_records(run: Run, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the record of the greedy completions of one set, and that of the votes."""
    greedy, votes = (
        {record["dataset"]: record for record in read_summary(run.folder / kind)} for kind in ("greedy", "votes")
    )
    return greedy[name], votes[name]


def table(runs: dict[str, list[Run]], name: str, completions: int) -> str:
    """Return the table of one problem set, in Markdown. Intervals are those of the first seed."""
    heads = ["Model", "Greedy", "Tokens", f"Majority of {completions}", "Tokens", f"Verify vote of {completions}"]
    heads += ["Tokens, verifications included", "Verify against majority, points", "Right verdicts"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for method, own in runs.items():
        greedy, sampled = zip(*(read_records(run, name) for run in own), strict=True)
        votes = [record["vote"] for record in sampled]
        right = [vote["verdict_accuracy"] for vote in votes if vote["verdict_accuracy"] is not None]
        low, high = votes[0]["difference_interval"]
        change = fmean(vote["accuracy"] - vote["majority_accuracy"] for vote in votes)
        cells = [
            method,
            accuracy(greedy, "accuracy", "accuracy_interval"),
            one_decimal(fmean(record["tokens_mean"] for record in greedy)),
            accuracy(votes, "majority_accuracy", "majority_interval"),
            one_decimal(fmean(vote["tokens_mean"] - vote["verification_tokens_mean"] for vote in votes)),
            accuracy(votes, "accuracy", "accuracy_interval"),
            one_decimal(fmean(vote["tokens_mean"] for vote in votes)),
            f"{100 * change:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
            f"{percent(fmean(right))} %" if right else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def accuracy(records: Sequence[dict[str, Any]], value: str, interval: str) -> str:
    """Return the mean accuracy, the interval of the first seed, and the range over seeds."""
    means = [record[value] for record in records]
    low, high = records[0][interval]
    return f"{percent(fmean(means))} % [{percent(low)}, {percent(high)}]{seed_range(means, percent)}"


def costs(runs: dict[str, list[Run]]) -> str:
    """Return the table of what training has generated, in Markdown."""
    lines = [
        "| Method | Steps | Tokens of solutions | Tokens of verdicts | Right verdicts, first and last 5 steps |",
        "|---|---|---|---|---|",
    ]
    for method, own in runs.items():
        if method == BASE:
            continue
        facts = [run.facts() for run in own]
        right = facts[0]["verdict_accuracy"]
        cells = [
            method,
            f"{fmean(one['steps'] for one in facts):.0f}",
            f"{fmean(one['generated_tokens'] for one in facts):,.0f}",
            f"{fmean(one['verdict_tokens'] for one in facts):,.0f}",
            f"{percent(fmean(right[:5]))} %, {percent(fmean(right[-5:]))} %" if right else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(runs: dict[str, list[Run]], sets: Sequence[str], path: Path) -> None:
    """Plot accuracy against tokens per problem, a panel per problem set: greedy, majority vote and verify vote of each model."""
    figure = new_figure(4.6 * len(sets), 4.0)
    for axes, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for (method, own), (color, marker) in zip(runs.items(), run_styles(len(runs)), strict=True):
            greedy, sampled = read_records(own[0], name)
            vote = sampled["vote"]
            points = [
                (greedy["tokens_mean"], greedy["accuracy"]),
                (vote["tokens_mean"] - vote["verification_tokens_mean"], vote["majority_accuracy"]),
                (vote["tokens_mean"], vote["accuracy"]),
            ]
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, label=method)
        axes.set_xscale("log")
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlabel("Tokens per problem: greedy, majority vote, verify vote")
        show_as_percent(axes)
    figure.axes[0].set_ylabel("Accuracy")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(runs), frameon=False)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of a run")
    parser.add_argument("--operations", type=int, default=3, help="operations of the training problems")
    parser.add_argument("--problems", type=int, default=128, help="problems of each set in the evaluation")
    parser.add_argument("--completions", type=int, default=8, help="completions per problem that vote")
    parser.add_argument("--alpha", type=float, default=1.0, help="exponent of the verify vote")
    parser.add_argument("--training_problems", type=int, default=256, help="problems to train on")
    parser.add_argument("--steps_before", type=int, default=400, help="steps that teach the model to verify")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/self-verify"))
    parser.add_argument("--at_most", type=int, default=-1, help="largest number of runs to carry out; default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    runs: dict[str, list[Run]] = {}
    for run in finished_runs(
        options.output_dir,
        [BASE, *options.methods],
        options.seeds,
        settings(options),
        lambda run: carry_out(run, options),
        options.at_most,
    ):
        runs.setdefault(run.method, []).append(run)
    sets = list(problem_sets(options))
    for name in sets:
        print(f"\n{name}\n\n{table(runs, name, options.completions)}")
    print(f"\nTraining\n\n{costs(runs)}")
    plot(runs, sets, options.output_dir / "votes.png")


if __name__ == "__main__":
    main()
