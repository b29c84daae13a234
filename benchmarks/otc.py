# SPDX-License-Identifier: Apache-2.0
"""
Train the use of a calculator: OTC and GRPO without it, from the same model, on the same problems, with the same number of generated tokens.

    python benchmarks/otc.py --seeds 0

Every run starts from the embedded model that has learned to call a calculator (`demo.tool_model`, which is trained first), and generates until its
token budget is used up, the output of the calculator included. Then it is evaluated, with the calculator, on problems that training never saw:
easy ones, which the model solves in its head, and hard ones, which it does not. A finished run is not repeated, so the command can be
interrupted, and run again for the table alone. The settings are those of the demo; none was tuned.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from comparison import BASE, TRAINING, one_decimal, percent, seed_range, train
from methods import CONTROL
from transformers import PrinterCallback

from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo, math_accuracy_reward
from trl_concise.demo.tools import KINDS
from trl_concise.evaluation import accuracy_interval, bootstrap_interval
from trl_concise.methods.otc import OTCPPOReward, OTCReward, count_tool_calls
from trl_concise.state.checkpoint import write_atomically


LIMIT = 160  # tokens, the output of the calculator included
ALONE = {"reward_weights": [0.0, 1.0]}  # the correctness is part of OTC's reward
METHODS: dict[str, dict[str, Any]] = {
    CONTROL: {},
    "OTC": {"rewards": lambda: [OTCReward()], "config": ALONE},
    "OTC-PPO's reward": {"rewards": lambda: [OTCPPOReward()], "config": ALONE},
}


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs of one table have in common."""
    return {"tokens": options.tokens, "problems": options.problems, "steps_before": options.steps_before}


class Judge:
    """[`math_accuracy_reward`] that keeps what it has seen."""

    def __init__(self):
        self.correct: list[float] = []
        self.calls: list[int] = []

    def accuracy_reward(self, completions: list[Any], **kwargs: Any) -> list[float | None]:
        rewards = math_accuracy_reward(completions, **kwargs)
        self.correct += [float(reward or 0) for reward in rewards]
        self.calls += map(count_tool_calls, completions)
        return rewards


def measure(model: Any, tokenizer: Any, kind: str, folder: Path, seed: int, problems: int) -> dict[str, Any]:
    """Return correctness and tool calls of each problem of a kind, and the mean tokens."""
    judge = Judge()
    defaults = {name: value for name, value in demo.SETTINGS.items() if name not in ("model_name_or_path", "beta")}
    changes = {
        "output_dir": str(folder),
        "max_completion_length": LIMIT,
        "per_device_eval_batch_size": 128,
        "num_generations_eval": 1,
        "disable_tqdm": True,
        "seed": seed,
    }
    dataset = demo.tool_dataset(problems, split="test", kinds=(kind,))
    trainer = ConciseGRPOTrainer(
        model,
        judge.accuracy_reward,
        ConciseGRPOConfig(**defaults | changes),
        dataset,
        processing_class=tokenizer,
        tools=[demo.calculate],
    )
    trainer.remove_callback(PrinterCallback)
    metrics = trainer.evaluate(dataset)
    tokens = metrics["eval_tokens_mean"]
    return {"correct": judge.correct[:problems], "calls": judge.calls[:problems], "tokens": tokens}


def carry_out(method: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Train, unless the method is `BASE`, and evaluate."""
    started = time.perf_counter()
    facts: dict[str, Any] = {"method": method, "seed": seed, "settings": settings(options)}
    start = str(demo.tool_model(options.output_dir / "tool-model", steps=options.steps_before))
    model, tokenizer = start, None
    if method != BASE:
        recipe = METHODS[method]
        trainer, spent = train(
            options.tokens,
            demo.tool_dataset(options.training_problems, seed=seed),
            seed,
            model=start,
            rewards=recipe.get("rewards", list)(),
            config={"max_completion_length": LIMIT, **recipe.get("config", {})},
            tools=[demo.calculate],
        )
        model, tokenizer = trainer.model, trainer.processing_class
        facts |= spent
    facts["sets"] = {kind: measure(model, tokenizer, kind, folder, seed, options.problems) for kind in KINDS}
    facts["seconds"] = time.perf_counter() - started
    write_atomically(folder / TRAINING, json.dumps(facts).encode() + b"\n")
    print(f"{method}, seed {seed}: {facts['seconds']:.0f} s", flush=True)


def two_decimals(value: float) -> str:
    return f"{value:.2f}"


def against_control(own: list[dict[str, Any]], control: list[dict[str, Any]], kind: str) -> str:
    """Return the difference in accuracy, in points, with its 95 % interval, paired over problems and seeds; empty without a control."""
    pairs = [
        zip(facts["sets"][kind]["correct"], other["sets"][kind]["correct"], strict=True)
        for facts, other in zip(own, control, strict=False)
    ]
    if not pairs:
        return ""
    changes = [[100 * (ours - theirs) for ours, theirs in pair] for pair in pairs]  # (seeds, problems)
    low, high = bootstrap_interval([list(column) for column in zip(*changes, strict=True)])
    return f"{fmean(map(fmean, changes)):+.1f} [{low:+.1f}, {high:+.1f}]"


def table(runs: dict[str, list[dict[str, Any]]], kind: str) -> str:
    """Return the table of one kind of problems, in Markdown."""
    lines = [
        "| Model | Accuracy (seeds) | Against GRPO, points | Tool calls per problem (seeds) | Correct per call | Tokens (seeds) | Steps |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, own in runs.items():
        sets = [facts["sets"][kind] for facts in own]
        correct, calls = ([one[name] for one in sets] for name in ("correct", "calls"))  # (seeds, problems)
        low, high = accuracy_interval([list(column) for column in zip(*correct, strict=True)])
        least, most = bootstrap_interval([list(column) for column in zip(*calls, strict=True)])
        accuracies, means = [fmean(one) for one in correct], [fmean(one) for one in calls]
        tokens = [one["tokens"] for one in sets]
        cells = [
            method,
            f"{percent(fmean(accuracies))} % [{percent(low)}, {percent(high)}]{seed_range(accuracies, percent)}",
            "" if method in (BASE, CONTROL) else against_control(own, runs.get(CONTROL, []), kind),
            f"{two_decimals(fmean(means))} [{two_decimals(least)}, {two_decimals(most)}]{seed_range(means, two_decimals)}",
            two_decimals(sum(map(sum, correct)) / sum(map(sum, calls))) if any(map(any, calls)) else "",
            f"{one_decimal(fmean(tokens))}{seed_range(tokens, one_decimal)}",
            "" if method == BASE else f"{fmean(facts['steps'] for facts in own):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=120_000, help="tokens that a run may generate")
    parser.add_argument("--problems", type=int, default=256, help="problems of each kind in the evaluation")
    parser.add_argument("--training_problems", type=int, default=256, help="problems to train on")
    parser.add_argument(
        "--steps_before", type=int, default=300, help="steps that teach the model to call the calculator"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/otc"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for method in [BASE, *options.methods]:
            folder = options.output_dir / f"{method.replace(' ', '-')}-{seed}"
            if not (folder / TRAINING).is_file():
                carry_out(method, seed, folder, options)
            facts = json.loads((folder / TRAINING).read_text())
            if facts["settings"] != settings(options):
                raise SystemExit(
                    f"{folder} has a run with {facts['settings']}, but this command has {settings(options)}. Use the same options, or "
                    "another --output_dir."
                )
            runs.setdefault(method, []).append(facts)
    for kind in KINDS:
        print(f"\n{kind} problems\n\n{table(runs, kind)}")


if __name__ == "__main__":
    main()
