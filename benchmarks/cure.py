# SPDX-License-Identifier: Apache-2.0
"""
Compare CURE with DAPO: same model, same problems, same number of steps, and the entropy of the policy during training.

    python benchmarks/cure.py

Every run starts from the embedded model and trains on problems of three and of four operations, of which it has seen the former only. Group
size, clips, the missing KL term and the loss are those of DAPO; groups without a signal are not replaced. Every few steps, the mean entropy of
the tokens is measured on completions of held-out problems, which are sampled from the prompts alone. Then the model is evaluated on problems
that training never saw, with several completions of each. A finished run is not repeated, so the command can be interrupted, and run again
for the table and the plot alone. CURE's `top_k` is scaled to completions of this length; nothing was tuned.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from comparison import BASE, Run, finished_runs, load, one_decimal, percent, seed_range, train
from transformers import TrainerCallback

from trl_concise import ConciseGRPOTrainer, demo
from trl_concise.evaluation import evaluate, read_summary
from trl_concise.evaluation.plots import new_figure, run_styles, save_figure
from trl_concise.methods.cure import CURE


CONTROL = "DAPO"
OPERATIONS = (3, 4)  # of the training problems
SETS = {"3 operations": [3], "4 operations": [4], "5 operations": [5]}
LIMIT = 160  # tokens
TOP_K = 3  # of the paper's 20, for completions of a hundred tokens instead of thousands
DAPO = {
    "num_generations": 16,
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "delta": 10.0,
    "beta": 0.0,
    "max_completion_length": LIMIT,
}


class Entropies(TrainerCallback):
    """Measures the mean entropy of the policy's tokens on held-out problems, before training and every few steps."""

    def __init__(self, every: int, problems: int):
        self.every = every
        self.rows = list(demo.problem_dataset(problems, split="validation", operations=OPERATIONS))
        self.steps: list[int] = []
        self.values: list[float] = []
        self.trainer: ConciseGRPOTrainer | None = None

    def measure(self, step: int) -> None:
        assert self.trainer is not None
        rollouts = self.trainer.generate_rollouts(self.rows, 1)
        entropies = self.trainer.score_entropies(rollouts.prompt_ids, rollouts.completion_ids)
        self.steps.append(step)
        self.values.append(entropies.sum().item() / sum(map(len, rollouts.completion_ids)))

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.measure(0)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            self.measure(state.global_step)


class Staged(CURE):
    """CURE for a number of steps (stage 1), then DAPO (stage 2)."""

    def __init__(self, steps: int, **settings: Any):
        super().__init__(**settings)
        self.steps = steps

    def generate(self, trainer, rows):
        generated = super().generate(trainer, rows)
        self.in_training = trainer.state.global_step + 1 < self.steps
        return generated


def methods(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the slots of each run."""
    return {
        CONTROL: {},
        "CURE": {"rollout": CURE(top_k=TOP_K)},
        "CURE, random order": {"rollout": CURE(top_k=TOP_K, ordering="random")},
        "CURE, two stages": {"rollout": Staged(options.steps // 2, top_k=TOP_K)},
    }


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs of one table have in common."""
    names = ("steps", "problems", "completions", "every", "learning_rate")
    return {name: getattr(options, name) for name in names}


def carry_out(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Train, unless nothing is to be trained, and evaluate."""
    facts: dict[str, Any] = {}
    if run.method == BASE:
        model, tokenizer = load(demo.model_path())
    else:
        entropies = Entropies(options.every, options.entropy_problems)

        class Measured(ConciseGRPOTrainer):
            def train(self, *args, **kwargs):
                entropies.trainer = self
                return super().train(*args, **kwargs)

        trainer, facts = train(
            10**9,
            demo.train_dataset(512, seed=run.seed, operations=OPERATIONS),
            run.seed,
            trainer_class=Measured,
            config={**DAPO, "max_steps": options.steps, "learning_rate": options.learning_rate},
            slots=methods(options)[run.method],
            callbacks=[entropies],
        )
        facts |= {"entropy_steps": entropies.steps, "entropies": entropies.values, "log": trainer.state.log_history}
        model, tokenizer = trainer.model, trainer.processing_class
    evaluate(
        model,
        {name: demo.problem_dataset(options.problems, operations=lengths) for name, lengths in SETS.items()},
        run.folder,
        tokenizer=tokenizer,
        seed=run.seed,
        num_completions=options.completions,
        model_name=run.method,
        progress=False,
        **demo.EVALUATION,
    )
    return facts


def generated_tokens(facts: dict[str, Any]) -> float:
    """Return the tokens that a run has generated for its steps. The facts of [`train`] count copied tokens too."""
    lengths = [entry["completions/mean_length"] for entry in facts["log"] if "loss" in entry]  # without copied tokens
    return fmean(lengths) * facts["rollouts"]


def row(method: str, records: list[dict[str, Any]], facts: list[dict[str, Any]]) -> str:
    """Return one row of a table, in Markdown; means over seeds."""
    first, k = records[0], max(map(int, records[0]["pass_at_k"]))
    low, high = first["accuracy_interval"]
    accuracies = [record["accuracy"] for record in records]
    interval = f" [{percent(low)}, {percent(high)}]" if len(records) == 1 else ""
    trained = method != BASE
    cells = [
        method,
        f"{percent(fmean(accuracies))} %{interval}{seed_range(accuracies, percent)}",
        f"{percent(fmean(record['pass_at_k'][str(k)] for record in records))} %",
        one_decimal(fmean(record["tokens_mean"] for record in records)),
        f"{fmean(one['entropies'][-1] for one in facts):.3f}" if trained else "",
        f"{fmean(map(generated_tokens, facts)):,.0f}" if trained else "",
    ]
    return f"| {' | '.join(cells)} |"


def plot(facts: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    """Plot the entropy over the steps, means over seeds. The axis begins at 0: small changes look small."""
    figure = new_figure(7.5, 3.2)
    axes = figure.subplots()
    trained = {method: own for method, own in facts.items() if method != BASE}
    for (method, own), (color, marker) in zip(trained.items(), run_styles(len(trained)), strict=True):
        means = [fmean(values) for values in zip(*(one["entropies"] for one in own), strict=True)]
        axes.plot(own[0]["entropy_steps"], means, color=color, marker=marker, label=method)
    axes.set_xlabel("Training step")
    axes.set_ylabel("Entropy of a token, nats")
    axes.set_ylim(0, 1.1 * max(max(one["entropies"]) for own in trained.values() for one in own))
    axes.legend(frameon=False, loc="lower right")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of a run")
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--problems", type=int, default=64, help="problems of each set in the evaluation")
    parser.add_argument("--completions", type=int, default=8, help="completions of each problem in the evaluation")
    parser.add_argument("--every", type=int, default=10, help="steps between measurements of the entropy")
    parser.add_argument("--entropy_problems", type=int, default=64, help="problems of a measurement")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/cure"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    runs: dict[str, list[Run]] = {}
    for run in finished_runs(
        options.output_dir,
        [BASE, *(options.methods or methods(options))],
        options.seeds,
        settings(options),
        lambda run: carry_out(run, options),
    ):
        runs.setdefault(run.method, []).append(run)
    facts = {method: [run.facts() for run in own] for method, own in runs.items()}
    for index, name in enumerate(SETS):
        print(
            f"\n{name}\n\n| | Accuracy | pass@{options.completions} | Tokens | Entropy | Generated |\n|---|---|---|---|---|---|"
        )
        for method, own in runs.items():
            print(row(method, [read_summary(run.folder)[index] for run in own], facts[method]))
    plot(facts, options.output_dir / "entropy.png")


if __name__ == "__main__":
    main()
