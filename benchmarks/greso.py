# SPDX-License-Identifier: Apache-2.0
"""
Generated tokens until the same held-out accuracy, with GRESO, PCL, a band of accuracies, dynamic sampling, and with none of them.

    python benchmarks/greso.py

The embedded model is trained with GRPO on generated problems, for a reward of correctness alone. It may write 64 tokens, fewer
than it mostly needs, so there is something to learn. Every few steps it answers problems that training never saw, within
the same limit. All generated tokens count, including those of the prompts that replace skipped ones, and of groups that are replaced.
Dynamic sampling generates more per step: it is evaluated after as many tokens as GRPO generates between two evaluations, and stops when it
has generated as many as GRPO in the whole run. Each run has a file in the output folder, and a run whose file exists is not repeated, so
the command can be interrupted, and given again for the table alone.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import PrinterCallback, TrainerCallback, set_seed

from trl_concise import (
    GRESO,
    AccuracyBand,
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    DynamicSampling,
    demo,
    math_accuracy_reward,
)
from trl_concise.demo.problems import Problem
from trl_concise.methods.pcl import PCL
from trl_concise.state.checkpoint import write_atomically


CONTROL = "GRPO"
METHODS = {  # slots, by seed
    CONTROL: lambda seed: {},
    "GRESO": lambda seed: {"prompt_selector": GRESO(seed=seed)},
    "PCL": lambda seed: {"prompt_selector": PCL()},
    "Accuracy band": lambda seed: {"prompt_selector": AccuracyBand(seed=seed)},
    "Dynamic sampling": lambda seed: {"group_filter": DynamicSampling()},
}
REFILLS = ("Dynamic sampling",)  # generates more per step
LEVELS = (0.25, 0.5, 0.75, 1.0)  # of what plain GRPO gains in accuracy
SMOOTHING = 3  # evaluations
LIMIT = 64  # tokens of a completion
OPERATIONS = 8  # of a problem far beyond the model, which knows chains of two and three


def pool(options: argparse.Namespace, seed: int) -> Dataset:
    """Return the problems to train on, of which the wanted share is far beyond the model: chains of many operations."""
    hard = round(options.too_hard * options.pool)
    easier = demo.train_dataset(options.pool - hard, seed=seed, operations=demo.OPERATIONS)
    if not hard:
        return easier
    rng = random.Random(seed)
    rows = []
    for _ in range(hard):
        problem = Problem(rng.randint(70, 99), tuple((rng.choice("+-"), rng.randint(2, 9)) for _ in range(OPERATIONS)))
        prompt = [{"role": "user", "content": problem.text}]
        rows.append({"prompt": prompt, "solution": str(problem.results[-1]), "prompt_id": problem.text})
    return concatenate_datasets([easier, Dataset.from_list(rows)])


def path_of(method: str, seed: int, options: argparse.Namespace) -> Path:
    return options.output / f"{method.replace(' ', '-')}-{seed}.json"


class Curve(TrainerCallback):
    """
    Counts what is generated, and evaluates the model on held-out problems every few steps or, given the curve of a control, every as many
    tokens as the control, until it has generated as many as the control.
    """

    def __init__(self, problems: int, every: int, control: list[dict[str, float]] | None = None):
        self.problems = demo.problem_dataset(problems, split="validation", operations=demo.OPERATIONS)
        self.every = every
        self.limit = control[-1]["tokens"] if control else None
        self.gap = control[-1]["tokens"] / (len(control) - 1) if control else None
        self.tokens = 0
        self.points: list[dict[str, float]] = []

    def accuracy_reward(self, completions, completion_ids, **kwargs):
        self.tokens += sum(map(len, completion_ids))
        return math_accuracy_reward(completions, **kwargs)

    def on_train_begin(self, args, state, control, model, processing_class, **kwargs):
        self.evaluate(model, processing_class, state.global_step)

    def on_step_end(self, args, state, control, model, processing_class, **kwargs):
        if self.gap is None or self.limit is None:
            is_due = state.global_step % self.every == 0
        else:
            is_due = self.tokens >= self.gap * len(self.points)
            control.should_training_stop |= self.tokens >= self.limit
        if is_due:
            self.evaluate(model, processing_class, state.global_step)

    def evaluate(self, model, tokenizer, step: int) -> None:
        record = demo.evaluate_model(model, tokenizer, self.problems, max_new_tokens=LIMIT, seed=step)
        self.points.append({"step": step, "tokens": self.tokens, "accuracy": record["accuracy"]})


def run(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    set_seed(seed)
    control = json.loads(path_of(CONTROL, seed, options).read_text())["curve"] if method in REFILLS else None
    curve = Curve(options.problems, options.every, control)
    settings = {name: value for name, value in demo.SETTINGS.items() if name != "model_name_or_path"}
    with tempfile.TemporaryDirectory() as output_dir:
        changes = {
            "output_dir": output_dir,
            "max_steps": options.steps,
            "max_completion_length": LIMIT,
            "lr_scheduler_type": "constant_with_warmup",  # a falling rate would make the end look like convergence
            "disable_tqdm": True,
            "seed": seed,
        }
        trainer = ConciseGRPOTrainer(
            model=str(demo.model_path()),
            reward_funcs=curve.accuracy_reward,
            args=ConciseGRPOConfig(**{**settings, **changes}),
            train_dataset=pool(options, seed),
            callbacks=[curve],
            **METHODS[method](seed),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    zero_variance = [log["frac_reward_zero_std"] for log in trainer.state.log_history if "frac_reward_zero_std" in log]
    skipped = [log["greso/skipped_fraction"] for log in trainer.state.log_history if "greso/skipped_fraction" in log]
    missing = [log["refill/missing_fraction"] for log in trainer.state.log_history if "refill/missing_fraction" in log]
    return {
        "method": method,
        "seed": seed,
        "curve": curve.points,
        "zero_variance": float(np.mean(zero_variance)),
        "skipped": float(np.mean(skipped)) if skipped else 0.0,
        "missing": float(np.mean(missing)) if missing else 0.0,
        "steps": trainer.state.global_step,
        "seconds": time.perf_counter() - start,
    }


def tokens_until(tokens: np.ndarray, accuracy: np.ndarray, level: float) -> float | None:
    """Return the tokens at which a curve first reaches a level, by linear interpolation; `None` if it never does."""
    reached = np.flatnonzero(accuracy >= level)
    if not len(reached):
        return None
    last = reached[0]
    if last == 0:
        return float(tokens[0])
    return float(np.interp(level, accuracy[last - 1 : last + 1], tokens[last - 1 : last + 1]))


def mean_curve(runs: list[dict[str, Any]], method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and accuracy of a method, averaged over its seeds and a few neighboring evaluations."""
    points = [run["curve"] for run in runs if run["method"] == method]
    points = [curve[: min(map(len, points))] for curve in points]
    tokens, accuracy = (
        np.mean([[point[name] for point in curve] for curve in points], axis=0) for name in ("tokens", "accuracy")
    )
    window = np.ones(SMOOTHING) / SMOOTHING
    return np.convolve(tokens, window, "valid"), np.convolve(accuracy, window, "valid")


def report(runs: list[dict[str, Any]]) -> str:
    """Return the table, as Markdown."""
    curves = {method: mean_curve(runs, method) for method in METHODS if any(run["method"] == method for run in runs)}
    accuracy = curves[CONTROL][1]
    others = [method for method in curves if method != CONTROL]
    header = [
        "Held-out accuracy",
        *(f"{name}, tokens" for name in curves),
        *(f"{CONTROL} over {name}" for name in others),
    ]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for part in LEVELS:
        level = accuracy[0] + part * (accuracy.max() - accuracy[0])
        tokens = {method: tokens_until(*curve, level) for method, curve in curves.items()}
        cells = [f"{needed:,.0f}" if needed is not None else "not reached" for needed in tokens.values()]
        plain = tokens[CONTROL]
        assert plain is not None  # its own level
        ratios = [f"{plain / needed:.2f}" if (needed := tokens[method]) else "" for method in others]
        lines.append(f"| {level:.1%} | {' | '.join([*cells, *ratios])} |")
    for method in curves:
        own = [run for run in runs if run["method"] == method]
        before, after = curves[method][1][0], curves[method][1][-1]
        lines.append(
            f"{method}: {before:.1%} at first, {after:.1%} in the end ({curves[method][1].max():.1%} at best); groups "
            f"without variance {np.mean([run['zero_variance'] for run in own]):.0%}, skipped "
            f"{np.mean([run['skipped'] for run in own]):.0%}, missing {np.mean([run['missing'] for run in own]):.0%}; "
            f"{np.mean([run['steps'] for run in own]):.0f} steps, {np.mean([run['seconds'] for run in own]):.0f} s a run"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of a run")
    parser.add_argument("--pool", type=int, default=64, help="problems to train on")
    parser.add_argument("--too_hard", type=float, default=0.0, help="share of them that is far beyond the model")
    parser.add_argument("--problems", type=int, default=256, help="held-out problems")
    parser.add_argument("--every", type=int, default=6, help="steps between evaluations")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("outputs/greso-benchmark"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = []
    for seed in options.seeds:
        for method in METHODS:
            path = path_of(method, seed, options)
            if not path.exists():
                write_atomically(path, json.dumps(run(method, seed, options)).encode())
            runs.append(json.loads(path.read_text()))
            print(f"{path} {runs[-1]['seconds']:.0f} s", flush=True)
    print(report(runs))


if __name__ == "__main__":
    main()
