# SPDX-License-Identifier: Apache-2.0
"""
Train on Boolean formulas with and without SATURN's curriculum: the same model, formulas, reward and number of steps.

    python benchmarks/saturn.py --seeds 0

Every run starts from the embedded model that has learned the form of the answer (`demo.formula_model`, which is trained first), and
is trained on three levels: one after the other, as validation decides, or mixed. Then it answers formulas that training
never saw, of each level and of one that is harder than all of them. A finished run is not repeated. The learning rate is the first that was
tried; nothing was tuned.
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
from comparison import BASE, TRAINING, one_decimal, percent, seed_range
from transformers import PrinterCallback

from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo
from trl_concise.data.saturn import saturn_difficulty
from trl_concise.evaluation import accuracy_interval, bootstrap_interval
from trl_concise.methods.saturn import SATURNCurriculum, saturn_reward
from trl_concise.state.checkpoint import write_atomically


LEVELS = demo.FORMULA_LEVELS
HARDER = (2, 4, 10)
LIMIT = 16  # tokens of a completion; an answer has 11
CONTROL, METHOD = "levels mixed", "SATURN's curriculum"
METHODS = (CONTROL, METHOD)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all runs of one table have in common."""
    names = ("steps", "formulas", "problems", "steps_before", "learning_rate", "threshold", "every", "held_out")
    return {name: getattr(options, name) for name in names}


class Judge:
    """[`saturn_reward`] that keeps what it has seen."""

    def __init__(self):
        self.rewards: list[float] = []
        self.tokens = 0

    def saturn_reward(self, completions: list[Any], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        rewards = saturn_reward(completions, **kwargs)
        self.rewards += rewards
        self.tokens += sum(map(len, completion_ids))
        return rewards


def make_trainer(model: Any, judge: Judge, folder: Path, options: argparse.Namespace, seed: int, **more: Any):
    changes = {
        "output_dir": str(folder),
        "max_steps": options.steps,
        "max_completion_length": LIMIT,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "per_device_eval_batch_size": 64,
        "num_generations_eval": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": seed,
    }
    given = {name: value for name, value in demo.SETTINGS.items() if name not in ("model_name_or_path", "beta")}
    trainer = ConciseGRPOTrainer(
        model=model,
        reward_funcs=judge.saturn_reward,
        args=ConciseGRPOConfig(**given | changes),
        train_dataset=demo.formula_dataset(options.formulas, seed=seed),
        eval_dataset=demo.formula_dataset(options.held_out, split="validation", seed=seed),
        **more,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def carry_out(method: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    """Train, unless the method is `BASE`, and evaluate."""
    started = time.perf_counter()
    facts: dict[str, Any] = {"method": method, "seed": seed, "settings": settings(options)}
    start = demo.formula_model(options.output_dir / "formula-model", steps=options.steps_before)
    judge = Judge()
    selector = SATURNCurriculum(options.threshold, options.every) if method == METHOD else None
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = make_trainer(str(start), judge, Path(output_dir), options, seed, prompt_selector=selector)
        if method != BASE:
            trainer.train()
            facts["generated_tokens"] = judge.tokens
            facts["log"] = [
                {name: entry[name] for name in ("step", "reward", "saturn/level") if name in entry}
                for entry in trainer.state.log_history
                if "reward" in entry
            ]
        if selector is not None:
            facts["validation_tokens"] = selector.validation_tokens
            facts["state"] = selector.state_dict()
        facts["sets"] = {}
        for level in (*LEVELS, HARDER):
            judge.rewards = []
            metrics = trainer.evaluate(demo.formula_dataset(options.problems, split="test", levels=[level]))
            facts["sets"][str(level)] = {
                "rewards": judge.rewards[: options.problems],
                "tokens": metrics["eval_tokens_mean"],
            }
    facts["seconds"] = time.perf_counter() - started
    write_atomically(folder / TRAINING, json.dumps(facts).encode() + b"\n")
    print(f"{method}, seed {seed}: {facts['seconds']:.0f} s", flush=True)


def satisfied(facts: dict[str, Any], level: str) -> list[float]:
    return [float(reward == 1) for reward in facts["sets"][level]["rewards"]]


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table, in Markdown."""
    levels = [str(level) for level in (*LEVELS, HARDER)]
    heads = [f"{level}, D {saturn_difficulty(*level):.1f}" for level in (*LEVELS, HARDER)]
    lines = [f"| | {' | '.join(heads)} | Tokens | Generated tokens |", "|---" * (len(heads) + 3) + "|"]
    for method, own in runs.items():
        cells = [method]
        for level in levels:
            correct = [satisfied(facts, level) for facts in own]
            low, high = accuracy_interval([list(column) for column in zip(*correct, strict=True)])
            means = [fmean(one) for one in correct]
            cell = f"{percent(fmean(means))} % [{percent(low)}, {percent(high)}]{seed_range(means, percent)}"
            if method == METHOD and CONTROL in runs:
                pairs = zip(correct, (satisfied(facts, level) for facts in runs[CONTROL]), strict=False)
                changes = [[100 * (a - b) for a, b in zip(one, other, strict=True)] for one, other in pairs]
                least, most = bootstrap_interval([list(column) for column in zip(*changes, strict=True)])
                cell += f"; {fmean(map(fmean, changes)):+.1f} [{least:+.1f}, {most:+.1f}]"
            cells.append(cell)
        tokens = fmean(one["tokens"] for facts in own for one in facts["sets"].values())
        cells.append(one_decimal(tokens))
        spent = fmean(facts.get("generated_tokens", 0) + facts.get("validation_tokens", 0) for facts in own)
        cells.append("" if method == BASE else f"{spent:,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=120, help="optimizer steps of a run")
    parser.add_argument("--formulas", type=int, default=512, help="formulas per level to train on")
    parser.add_argument("--held_out", type=int, default=64, help="formulas per level to validate on")
    parser.add_argument("--problems", type=int, default=160, help="formulas per level in the evaluation")
    parser.add_argument(
        "--steps_before", type=int, default=200, help="steps that teach the model the form of the answer"
    )
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--every", type=int, default=120)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: both")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/saturn"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for method in [BASE, *options.methods]:
            folder = options.output_dir / f"{method.replace(' ', '-')}-{seed}"
            if not (folder / TRAINING).is_file():
                folder.mkdir(parents=True, exist_ok=True)
                carry_out(method, seed, folder, options)
            facts = json.loads((folder / TRAINING).read_text())
            if facts["settings"] != settings(options):
                raise SystemExit(
                    f"{folder} has a run with {facts['settings']}, but this command has {settings(options)}. Use the same options, or "
                    "another --output_dir."
                )
            runs.setdefault(method, []).append(facts)
    print(f"\n{table(runs)}")


if __name__ == "__main__":
    main()
