# SPDX-License-Identifier: Apache-2.0
"""
Generated tokens until the same held-out accuracy, with GRESO and without.

    python benchmarks/greso.py

The embedded model is trained with GRPO on generated problems, for a reward of correctness alone. It may write 64 tokens, fewer
than it mostly needs, so there is something to learn. Every few steps it answers problems that training never saw, within
the same limit. All generated tokens count, including those of the prompts that replace skipped ones. Each run leaves a file in the output folder, and a run whose file is there is not repeated, so the command can be
interrupted, and given again for the table alone.
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

from trl_concise import GRESO, ConciseGRPOConfig, ConciseGRPOTrainer, demo, math_accuracy_reward
from trl_concise.demo.problems import Problem
from trl_concise.state.checkpoint import write_atomically


METHODS = {"GRPO": None, "GRESO": GRESO}
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


class Curve(TrainerCallback):
    """Counts what is generated, and evaluates the model on held-out problems every few steps."""

    def __init__(self, problems: int, every: int):
        self.problems = demo.problem_dataset(problems, split="validation", operations=demo.OPERATIONS)
        self.every = every
        self.tokens = 0
        self.points: list[dict[str, float]] = []

    def accuracy_reward(self, completions, completion_ids, **kwargs):
        self.tokens += sum(map(len, completion_ids))
        return math_accuracy_reward(completions, **kwargs)

    def on_train_begin(self, args, state, control, model, processing_class, **kwargs):
        self.evaluate(model, processing_class, state.global_step)

    def on_step_end(self, args, state, control, model, processing_class, **kwargs):
        if state.global_step % self.every == 0:
            self.evaluate(model, processing_class, state.global_step)

    def evaluate(self, model, tokenizer, step: int) -> None:
        record = demo.evaluate_model(model, tokenizer, self.problems, max_new_tokens=LIMIT, seed=step)
        self.points.append({"step": step, "tokens": self.tokens, "accuracy": record["accuracy"]})


def run(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    start = time.perf_counter()
    set_seed(seed)
    curve, selector = Curve(options.problems, options.every), METHODS[method]
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
            prompt_selector=selector(seed=seed) if selector else None,
            callbacks=[curve],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    zero_variance = [log["frac_reward_zero_std"] for log in trainer.state.log_history if "frac_reward_zero_std" in log]
    skipped = [log["greso/skipped_fraction"] for log in trainer.state.log_history if "greso/skipped_fraction" in log]
    return {
        "method": method,
        "seed": seed,
        "curve": curve.points,
        "zero_variance": float(np.mean(zero_variance)),
        "skipped": float(np.mean(skipped)) if skipped else 0.0,
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
    tokens, accuracy = (
        np.mean([[point[name] for point in curve] for curve in points], axis=0) for name in ("tokens", "accuracy")
    )
    window = np.ones(SMOOTHING) / SMOOTHING
    return np.convolve(tokens, window, "valid"), np.convolve(accuracy, window, "valid")


def report(runs: list[dict[str, Any]]) -> str:
    """Return the table, as Markdown."""
    curves = {method: mean_curve(runs, method) for method in METHODS}
    tokens, accuracy = curves["GRPO"]
    lines = ["| Held-out accuracy | GRPO, tokens | GRESO, tokens | GRPO over GRESO |", "|---|---|---|---|"]
    for part in LEVELS:
        level = accuracy[0] + part * (accuracy.max() - accuracy[0])
        plain, greso = (tokens_until(*curves[method], level) for method in METHODS)
        ratio = f"{plain / greso:.2f}" if greso else "not reached"
        lines.append(f"| {level:.1%} | {plain:,.0f} | {f'{greso:,.0f}' if greso else '-'} | {ratio} |")
    for method in METHODS:
        own = [run for run in runs if run["method"] == method]
        before, after = curves[method][1][0], curves[method][1][-1]
        lines.append(
            f"{method}: {before:.1%} at first, {after:.1%} in the end ({curves[method][1].max():.1%} at best); groups "
            f"without variance {np.mean([run['zero_variance'] for run in own]):.0%}, skipped "
            f"{np.mean([run['skipped'] for run in own]):.0%}, {np.mean([run['seconds'] for run in own]):.0f} s a run"
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
            path = options.output / f"{method}-{seed}.json"
            if not path.exists():
                write_atomically(path, json.dumps(run(method, seed, options)).encode())
            runs.append(json.loads(path.read_text()))
            print(f"{path} {runs[-1]['seconds']:.0f} s", flush=True)
    print(report(runs))


if __name__ == "__main__":
    main()
