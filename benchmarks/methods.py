# SPDX-License-Identifier: Apache-2.0
"""
Compare the length methods with each other and with GRPO without a length reward: same model, same problems, same number of generated
tokens.

    python benchmarks/methods.py --seeds 0
    python benchmarks/methods.py --methods GRPO HAPO LASER ShorterBetter SIRI  # three seeds

Every run starts from the embedded model and generates until its token budget is used up, including the tokens of a monitor. Then
the model is evaluated on three problem sets that training never saw: problems like those in training (two operations), and harder ones
with one and with two operations more. Before training, the model solves those with one more, and hardly any with two more. Each run has a folder with the files of `trl-concise eval` and with `training.json`. A run
whose `training.json` exists is not repeated, so the command can be interrupted, and run again for the tables and the plot alone.

The settings are the papers', with lengths scaled to the limit of this task: 128 tokens here correspond to 16,384 there. None was
tuned. L1 and effort levels are left out, because they need a model that can read a request in its prompt.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from comparison import BASE, Run, finished_runs, load, measure, one_decimal, percent, seed_range, train
from transformers import TrainerCallback
from trl.rewards import get_soft_overlong_punishment

from trl_concise import (
    BatchWhitening,
    DifficultyWeighting,
    DynamicSampling,
    EfficientReasoningReward,
    GRPOLEADReward,
    HAPOLengthReward,
    KimiLengthReward,
    LASERDReward,
    LASERReward,
    ShorterBetterReward,
    SIRISchedule,
    TruncationPenalty,
    demo,
)
from trl_concise.evaluation import accuracy_efficiency_score, accuracy_interval, bootstrap_interval
from trl_concise.evaluation.completions import read_completions
from trl_concise.evaluation.folder import COMPLETIONS_FILE
from trl_concise.evaluation.plots import BLACK, new_figure, run_styles, save_figure, show_as_percent
from trl_concise.methods.campo import RepetitionReward, StagedBudget
from trl_concise.methods.capo import CAPO
from trl_concise.methods.cost_constraints import CostConstraints, LengthLimit
from trl_concise.methods.crisp import CRISP
from trl_concise.methods.ddca import DDCA
from trl_concise.methods.dler import TruncationFactor
from trl_concise.methods.drpo import DRPO
from trl_concise.methods.effort import ReasoningAnswerReward
from trl_concise.methods.gated_brevity import BrevityReward
from trl_concise.methods.gfpo import GFPO, KeptBaseline
from trl_concise.methods.ktae import KTAE
from trl_concise.methods.mgpo import MGPO
from trl_concise.methods.on_policy_sft import OnPolicySFT
from trl_concise.methods.prorl import K2Penalty, ReferenceReset
from trl_concise.methods.rlpr import RewardStdFilter, RLPRReward
from trl_concise.methods.t1 import AnchoredKL


CONTROL = "GRPO"
LIMIT = demo.SETTINGS["max_completion_length"]  # 128 tokens
QUARTER = {"shortest_target": LIMIT // 4, "longest_target": LIMIT, "interval": LIMIT // 16}
MONITOR = {"monitor_prompts": 32, "monitor_generations": 4}


def ask_to_be_brief(prompt: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the prompt of CRISP's teacher: of those that were tried, the one that costs the embedded model the least accuracy."""
    return [{"role": "system", "content": "Be brief."}, *prompt]


class StopAtLength(TrainerCallback):
    """Ends a run when the mean length of the completions of the last three steps has fallen to a number of tokens."""

    def __init__(self, tokens: float):
        self.tokens = tokens
        self.lengths: list[float] = []

    def on_log(self, args, state, control, logs, **kwargs):
        if "completions/mean_length" in logs:
            self.lengths.append(logs["completions/mean_length"])
            control.should_training_stop |= fmean(self.lengths[-3:]) <= self.tokens


# Per method: components in `reward_funcs`, components in slots, what its config sets differently, and callbacks.
METHODS: dict[str, dict[str, Any]] = {
    "GRPO": {},
    "HAPO": {"rewards": lambda: [HAPOLengthReward()]},
    "LASER": {"rewards": lambda: [LASERReward(LIMIT // 4)]},
    "LASER-D": {"rewards": lambda: [LASERDReward(**QUARTER, **MONITOR)]},
    "LASER-DE": {"rewards": lambda: [LASERDReward(explore=True, **QUARTER, **MONITOR)]},
    "ShorterBetter": {"rewards": lambda: [ShorterBetterReward(beta=6 / LIMIT)]},  # 0.001 at a limit of 6,000
    "SIRI": {
        "rewards": lambda: [TruncationPenalty()],
        "slots": lambda: {
            "budget_schedule": SIRISchedule(LIMIT, LIMIT // 2, cycle=10)
        },  # three cycles a run, as in the paper
    },
    "Kimi k1.5": {"rewards": lambda: [KimiLengthReward()], "config": {"reward_weights": [1.0, 0.4]}},
    "GRPO-LEAD": {"rewards": lambda: [GRPOLEADReward()], "slots": lambda: {"advantage": DifficultyWeighting()}},
    "Arora and Zanette": {
        "rewards": lambda: [EfficientReasoningReward(alpha=0.2)],
        "config": {"scale_rewards": "none"},
    },
    "Soft overlong": {
        "rewards": lambda: [get_soft_overlong_punishment(LIMIT, LIMIT // 5)],
        "config": {"reward_weights": [2.0, 1.0]},  # the paper's correctness is +1 or -1
    },
    "DLER": {  # as version 0.1.0 had it, and as docs/benchmarks.md has it with three seeds
        "rewards": lambda: [TruncationPenalty()],
        "slots": lambda: {"advantage": BatchWhitening()},
        "config": {"scale_rewards": "none", "epsilon_high": 0.28, "max_completion_length": LIMIT // 2},
    },
    "DLER with refill": {
        "rewards": lambda: [TruncationFactor()],
        "slots": lambda: {"advantage": BatchWhitening(), "group_filter": DynamicSampling()},
        "config": {"scale_rewards": "none", "epsilon_high": 0.28, "max_completion_length": LIMIT // 2},
    },
    "DDCA": {"slots": lambda: {"advantage": DDCA()}},
    "DRPO": {"slots": lambda: {"advantage": DRPO()}, "config": {"loss_type": "grpo"}},
    "MGPO": {"slots": lambda: {"advantage": MGPO()}},
    "KTAE": {"slots": lambda: {"token_credit": KTAE()}},
    "CAPO": {"slots": lambda: {"token_credit": CAPO(demo.ArithmeticCritic(), critiques=1, separator="\n")}},
    "CRISP": {"slots": lambda: {"token_credit": CRISP(ask_to_be_brief)}, "config": {"beta": 0.0}},
    "RLPR": {  # without a verifier: correctness has the weight 0, and is only logged
        "rewards": lambda: [RLPRReward(("</think>", "\\boxed{", "}"), pad_answer=False)],
        "slots": lambda: {"group_filter": RewardStdFilter()},
        "config": {"reward_weights": [0.0, 1.0], "epsilon_high": 0.27},
    },
    "ProRL": {  # two resets in a run of twelve steps
        "rewards": lambda: [TruncationFactor(0.0)],
        "slots": lambda: {
            "group_filter": DynamicSampling(),
            "advantage": [BatchWhitening(), ReferenceReset(5)],
            "token_credit": K2Penalty(),
        },
        "config": {"scale_rewards": "none", "epsilon_high": 0.27, "beta": 0.0},
    },
    "T1": {
        "rewards": lambda: [RepetitionReward(), AnchoredKL()],
        "config": {"num_generations": 32, "temperature": 1.2, "entropy_coef": 1e-3, "beta": 0.0},
    },
    "On-Policy SFT": {
        "slots": lambda: {"advantage": OnPolicySFT()},
        "config": {"beta": 0.0, "max_completion_length": LIMIT * 3500 // 16384},  # the limit of the paper's 1.5B model
    },
    "Gated brevity": {"rewards": lambda: [BrevityReward("gated")], "config": {"scale_rewards": "none"}},
    "Pass-rate penalty": {"rewards": lambda: [BrevityReward("pass-rate")], "config": {"scale_rewards": "none"}},
    "GR3": {"rewards": lambda: [BrevityReward("gr3")], "config": {"scale_rewards": "none"}},
    "Long2Short": {"rewards": lambda: [BrevityReward("long2short")]},
    "JET": {"rewards": lambda: [BrevityReward("jet")], "config": {"reward_weights": [0.9, 1.0]}},
    "Reasoning and answer": {"rewards": lambda: [ReasoningAnswerReward()], "config": {"scale_rewards": "none"}},
    "CAMPO": {  # with the second stage after half of a run
        "rewards": lambda: [RepetitionReward()],
        "slots": lambda: {
            "group_filter": DynamicSampling(),
            "budget_schedule": StagedBudget([LIMIT // 2, LIMIT], [15]),
        },
        "config": {"epsilon_high": 0.28},
    },
    "Cost constraints": {  # the reward never counts less than half; a run is too short for the defaults
        "slots": lambda: {
            "advantage": CostConstraints(LengthLimit(40), multiplier_learning_rate=10.0, max_multiplier=1.0)
        },
    },
    "Cost constraints, rate 0.1": {  # and the default for the largest multiplier
        "slots": lambda: {"advantage": CostConstraints(LengthLimit(40), multiplier_learning_rate=0.1)}
    },
    "HAPO to 40 tokens": {"rewards": lambda: [HAPOLengthReward()], "callbacks": lambda: [StopAtLength(40)]},
    "GFPO": {  # the shortest 4 of 16, for as many generated tokens as the others: half of the prompts
        "slots": lambda: {"group_filter": GFPO(4), "advantage": KeptBaseline()},
        "config": {"num_generations": 16},
    },
}


def set_name(operations: list[int]) -> str:
    return f"{' or '.join(map(str, operations))} operations"


def problem_sets(options: argparse.Namespace) -> dict[str, list[int]]:
    """Return the sets of the evaluation, by name: like the training problems, and one and two operations longer."""
    longest = max(options.operations)
    return {set_name(lengths): lengths for lengths in (options.operations, [longest + 1], [longest + 2])}


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs of one table have in common."""
    return {"operations": options.operations, "tokens": options.tokens, "problems": options.problems}


def carry_out(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Train, unless the method is `BASE`, and evaluate."""
    facts: dict[str, Any] = {}
    if run.method == BASE:
        model, tokenizer = load(demo.model_path())
    else:
        recipe = METHODS[run.method]
        trainer, facts = train(
            options.tokens,
            demo.train_dataset(seed=run.seed, operations=options.operations),
            run.seed,
            rewards=recipe.get("rewards", list)(),
            config=recipe.get("config"),
            slots=recipe.get("slots", dict)(),
            callbacks=recipe.get("callbacks", list)(),
        )
        model, tokenizer = trainer.model, trainer.processing_class
    measure(model, tokenizer, problem_sets(options), options.problems, run)
    return facts


@dataclass
class Results:
    """
    The results of a finished run.

    Args:
        facts (`dict`): Content of `training.json`.
        correct, tokens (`dict[str, numpy.ndarray]`): One value per problem, by the name of the set.
        truncated (`dict[str, float]`): Truncated share of the completions, by the name of the set.
    """

    facts: dict[str, Any]
    correct: dict[str, np.ndarray]
    tokens: dict[str, np.ndarray]
    truncated: dict[str, float]


def read_results(run: Run) -> Results:
    items: dict[str, list[Any]] = {}
    for item in read_completions(run.folder / COMPLETIONS_FILE):
        items.setdefault(item.dataset, []).append(item)
    of_sets = {name: sorted(own, key=lambda item: item.problem) for name, own in items.items()}
    return Results(
        facts=run.facts(),
        correct={name: np.array([float(bool(item.correct)) for item in own]) for name, own in of_sets.items()},
        tokens={name: np.array([float(item.tokens) for item in own]) for name, own in of_sets.items()},
        truncated={name: fmean(item.truncated for item in own) for name, own in of_sets.items()},
    )


def run_all(options: argparse.Namespace) -> dict[str, list[Results]]:
    """Carry out the missing runs, at most `--at_most` of them, and return the finished ones of each method, by seed."""
    runs: dict[str, list[Results]] = {}
    for run in finished_runs(
        options.output_dir,
        [BASE, *options.methods],
        options.seeds,
        settings(options),
        lambda run: carry_out(run, options),
        options.at_most,
    ):
        runs.setdefault(run.method, []).append(read_results(run))
    return runs


def change_points(own: list[Results], other: list[Results], name: str) -> str:
    """Return the change in accuracy in points, with its 95 % interval, paired over problems and seeds."""
    pairs = list(zip(own, other, strict=True))
    changes = 100 * np.stack([run.correct[name] - paired.correct[name] for run, paired in pairs], axis=1)
    low, high = bootstrap_interval(changes.tolist())
    return f"{changes.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


def table(runs: dict[str, list[Results]], name: str) -> str:
    """Return the table of one problem set, in Markdown."""
    lines = [
        "| Method | Accuracy (seeds) | Change, points | Against GRPO, points | Tokens (seeds) | AES | Truncated | Generated | Rollouts |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    bases = runs[BASE]
    for method, own in runs.items():
        pooled = np.stack([run.correct[name] for run in own], axis=1)  # (problems, seeds)
        low, high = accuracy_interval(pooled.tolist())
        accuracies = [float(run.correct[name].mean()) for run in own]
        tokens = [float(run.tokens[name].mean()) for run in own]
        scores = [
            accuracy_efficiency_score(accuracy, length, base.correct[name].mean(), base.tokens[name].mean())
            for accuracy, length, base in zip(accuracies, tokens, bases, strict=False)
            if base.correct[name].mean() > 0.1  # against a base that solves hardly anything, the score has no meaning
        ]
        control = runs.get(CONTROL)
        cells = [
            method,
            f"{percent(fmean(accuracies))} % [{percent(low)}, {percent(high)}]{seed_range(accuracies, percent)}",
            "" if method == BASE else change_points(own, bases[: len(own)], name),
            "" if method in (BASE, CONTROL) or not control else change_points(own, control[: len(own)], name),
            f"{fmean(tokens):.1f}{seed_range(tokens, one_decimal)}",
            f"{fmean(scores):+.2f}" if scores and method != BASE else "",
            f"{percent(fmean(run.truncated[name] for run in own))} %",
            *(
                f"{fmean(run.facts[of] for run in own):,.0f}" if method != BASE else ""
                for of in ("generated_tokens", "rollouts")
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(runs: dict[str, list[Results]], sets: list[str], path: Path) -> None:
    """
    Plot accuracy against tokens, a panel per problem set that the model solves before training: means over seeds and problems, with 95 %
    intervals.
    """
    titles = dict(zip(sets, ("as in training", "one more than in training", "two more than in training"), strict=True))
    solved = [name for name in sets if fmean(run.correct[name].mean() for run in runs[BASE]) > 0.1]
    columns = min(len(runs), 5 if len(runs) > 8 else 7)  # of the legend
    figure = new_figure(4.6 * len(solved), 3.6 + 0.22 * math.ceil(len(runs) / columns))
    styles = [(BLACK, "*"), *run_styles(len(runs) - 1)]
    for axes, name in zip(figure.subplots(1, len(solved), squeeze=False)[0], solved, strict=True):
        for (method, own), (color, marker) in zip(runs.items(), styles, strict=True):
            correct = np.stack([run.correct[name] for run in own], axis=1)
            tokens = np.stack([run.tokens[name] for run in own], axis=1)
            x, y = tokens.mean(), correct.mean()
            low, high = accuracy_interval(correct.tolist())
            left, right = bootstrap_interval(tokens.tolist())
            axes.errorbar(
                *(x, y),
                xerr=[[x - left], [right - x]],
                yerr=[[y - low], [high - y]],
                fmt=marker,
                color=color,
                markersize=12 if method == BASE else 7,
                elinewidth=1 if len(runs) <= 8 else 0.4,
                label=method,
            )
        axes.set_title(f"{name}\n{titles[name]}", loc="left", fontsize=10)
        axes.set_xlabel("Mean completion tokens")
        show_as_percent(axes)
    figure.axes[0].set_ylabel("Accuracy")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--operations", type=int, nargs="+", default=[2], help="numbers of operations of the training problems"
    )
    parser.add_argument("--tokens", type=int, default=120_000, help="tokens that a run may generate")
    parser.add_argument("--problems", type=int, default=512, help="problems of each set in the evaluation")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/methods"))
    parser.add_argument("--at_most", type=int, default=-1, help="largest number of runs to carry out; default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    runs, sets = run_all(options), list(problem_sets(options))
    for name in sets:
        print(f"\n{name}\n\n{table(runs, name)}")
    plot(runs, sets, options.output_dir / "frontier.png")


if __name__ == "__main__":
    main()
