# SPDX-License-Identifier: Apache-2.0
"""
Compare the length methods: same model, same problems, same number of generated tokens.

    python benchmarks/methods.py

Every run starts from the embedded model and generates until its token budget is used up, including tokens of a monitor; then the model
answers problems that training never saw. Each run leaves a file in the output folder, and a run whose file is there is not
repeated, so the command can be interrupted, and given again for the table and the plot alone.

Settings are those of the papers, lengths scaled to the limit of this task: 128 tokens here correspond to 16,384 there. None was
tuned. L1 is left out, because it needs a model that can read a number of tokens in its prompt.
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
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl.rewards import get_soft_overlong_punishment

from trl_concise import (
    BatchWhitening,
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    DifficultyWeighting,
    EfficientReasoningReward,
    GRPOLEADReward,
    HAPOLengthReward,
    KimiLengthReward,
    LASERDReward,
    LASERReward,
    ShorterBetterReward,
    SIRISchedule,
    TruncationPenalty,
    accuracy_efficiency_score,
    demo,
    math_accuracy_reward,
)
from trl_concise.evaluation import FrontierPoint, plot_frontier
from trl_concise.state.checkpoint import write_atomically


LIMIT = demo.SETTINGS["max_completion_length"]  # 128 tokens
QUARTER = {"shortest_target": LIMIT // 4, "longest_target": LIMIT, "interval": LIMIT // 16}
MONITOR = {"monitor_prompts": 32, "monitor_generations": 4}

# Per method: parts in `reward_funcs`, parts in slots, and what its config sets differently.
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
    "GRPO-LEAD": {"rewards": lambda: [GRPOLEADReward()], "slots": lambda: {"token_credit": DifficultyWeighting()}},
    "Arora and Zanette": {
        "rewards": lambda: [EfficientReasoningReward(alpha=0.2)],
        "config": {"scale_rewards": "none"},
    },
    "Soft overlong": {
        "rewards": lambda: [get_soft_overlong_punishment(LIMIT, LIMIT // 5)],
        "config": {"reward_weights": [2.0, 1.0]},  # the paper's correctness is +1 or -1
    },
    "DLER": {
        "rewards": lambda: [TruncationPenalty()],
        "slots": lambda: {"token_credit": BatchWhitening()},
        "config": {"scale_rewards": "none", "epsilon_high": 0.28, "max_completion_length": LIMIT // 2},
    },
}


class Spending(TrainerCallback):
    """Counts what is generated, where every completion passes, and ends training when the tokens are spent."""

    def __init__(self, budget: int):
        self.budget = budget
        self.tokens = self.completions = 0

    def accuracy_reward(self, completions, completion_ids, **kwargs):
        self.completions += len(completion_ids)
        self.tokens += sum(map(len, completion_ids))
        return math_accuracy_reward(completions, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = self.tokens >= self.budget


def train(method: str, seed: int, budget: int) -> tuple[ConciseGRPOTrainer, Spending]:
    recipe, spending = METHODS[method], Spending(budget)
    with tempfile.TemporaryDirectory() as output_dir:
        settings = {name: value for name, value in demo.SETTINGS.items() if name != "model_name_or_path"}
        changes = {
            "output_dir": output_dir,
            "max_steps": 10**6,
            "lr_scheduler_type": "constant_with_warmup",  # the end of a run is not known as a step
            "disable_tqdm": True,
            "seed": seed,
        }
        trainer = ConciseGRPOTrainer(
            model=str(demo.model_path()),
            reward_funcs=[spending.accuracy_reward, *recipe.get("rewards", list)()],
            args=ConciseGRPOConfig(**{**settings, **changes, **recipe.get("config", {})}),
            train_dataset=demo.train_dataset(seed=seed),
            callbacks=[spending],
            **recipe.get("slots", dict)(),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer, spending


def measure(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, unless the method is `base`, and evaluate on problems of the `test` split."""
    start = time.perf_counter()
    spent = {}
    if method == "base":
        model = AutoModelForCausalLM.from_pretrained(demo.model_path())
        tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    else:
        trainer, spending = train(method, seed, options.tokens)
        model, tokenizer = trainer.model, trainer.processing_class
        spent = {
            "generated_tokens": spending.tokens,
            "rollouts": spending.completions,
            "steps": trainer.state.global_step,
        }
    rows = demo.generate_problems(options.problems, seed=0, split="test")
    summary = demo.evaluate_model(model, tokenizer, rows, seed=seed).summary()
    return {"method": method, "seed": seed, **summary, **spent, "seconds": time.perf_counter() - start}


def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of every run, of those that are missing too, which are carried out now."""
    runs = []
    for seed in options.seeds:
        for method in ["base", *options.methods]:
            path = options.output_dir / f"{method.replace(' ', '-')}-{seed}.json"
            if not path.is_file():
                if options.at_most == 0:
                    continue
                options.at_most -= 1
                figures = measure(method, seed, options)
                write_atomically(path, json.dumps(figures, indent=2).encode() + b"\n")
                print(f"{method}, seed {seed}: {figures['seconds']:.0f} s", flush=True)
            runs.append(json.loads(path.read_text()))
    return runs


def mean_and_range(values: list[float], form: str) -> str:
    if len(values) == 1:
        return form.format(values[0])
    return f"{form.format(fmean(values))} ({form.format(min(values))} to {form.format(max(values))})"


def report(runs: list[dict[str, Any]], plot: Path) -> None:
    """Print the table and plot the frontier: means over seeds, with the range of the seeds."""
    bases = {run["seed"]: run for run in runs if run["method"] == "base"}
    print("| Method | Seeds | Accuracy | Tokens | Cut | AES (1, 3, 5) | Rollouts |\n|---|---|---|---|---|---|---|")
    points = []
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        accuracies = [run["accuracy"] for run in own]
        tokens = [run["tokens_mean"] for run in own]
        scores = [
            accuracy_efficiency_score(
                run["accuracy"],
                run["tokens_mean"],
                bases[run["seed"]]["accuracy"],
                bases[run["seed"]]["tokens_mean"],
            )
            for run in own
        ]
        cells = [
            method,
            str(len(own)),
            mean_and_range(accuracies, "{:.1%}"),
            mean_and_range(tokens, "{:.1f}"),
            f"{fmean(run['truncated_fraction'] for run in own):.1%}",
            mean_and_range(scores, "{:+.2f}"),
            f"{fmean(run['rollouts'] for run in own):,.0f}" if "rollouts" in own[0] else "",
        ]
        print("| " + " | ".join(cells) + " |")
        points.append(
            FrontierPoint(
                label="before training" if method == "base" else "",  # the legend names them: labels would overlap
                accuracy=fmean(accuracies),
                tokens=fmean(tokens),
                kind="base" if method == "base" else "model",
                series=method,
                accuracy_interval=(min(accuracies), max(accuracies)),
                tokens_interval=(min(tokens), max(tokens)),
            )
        )
    plot_frontier(points, plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=120_000, help="tokens that a run may generate")
    parser.add_argument("--problems", type=int, default=512, help="held-out problems")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/methods"))
    parser.add_argument("--at_most", type=int, default=-1, help="carry out so many runs, then report; default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    runs = run_all(options)
    report(runs, options.output_dir / "frontier.png")


if __name__ == "__main__":
    main()
