# SPDX-License-Identifier: Apache-2.0
"""
Runs that are compared at an equal number of generated tokens: training, evaluation, and a folder for each run.

Used by methods.py, thinking.py, otc.py and cure.py. A run's folder has the files of `trl-concise eval` and `training.json`, which records the settings. A run
whose `training.json` exists is not repeated.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback

from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo
from trl_concise.evaluation import evaluate
from trl_concise.state.checkpoint import write_atomically


BASE = "before training"
TRAINING = "training.json"


def train(
    tokens: int,
    dataset: Dataset,
    seed: int,
    *,
    model: str | Path | None = None,
    trainer_class: type[ConciseGRPOTrainer] = ConciseGRPOTrainer,
    config_class: type[ConciseGRPOConfig] = ConciseGRPOConfig,
    rewards: Sequence[Any] = (),
    config: Mapping[str, Any] | None = None,
    slots: Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **more: Any,
) -> tuple[ConciseGRPOTrainer, dict[str, Any]]:
    """
    Train with the demo's settings until the tokens are generated, the output of tools included.

    Args:
        tokens (`int`): Tokens to generate.
        dataset (`Dataset`): Problems to train on.
        seed (`int`): Seed of the run.
        model (`str` or `Path`, *optional*): Where to start. Default: the embedded model.
        trainer_class, config_class: Classes of the trainer and its config.
        rewards (`Sequence`, *optional*): Reward functions in addition to the correctness.
        config, slots (`Mapping`, *optional*): Settings that differ from the demo's, and components.
        callbacks (`Sequence`, *optional*): Callbacks in addition to the one that counts tokens.
        **more: Further arguments of the trainer.

    Returns:
        `tuple[ConciseGRPOTrainer, dict]`: The trainer, and the facts `generated_tokens`, `rollouts` and `steps`.
    """
    spending = demo.TokenBudget(tokens)
    with tempfile.TemporaryDirectory() as output_dir:
        settings = {name: value for name, value in demo.SETTINGS.items() if name != "model_name_or_path"} | {
            "output_dir": output_dir,
            "max_steps": 10**6,
            "lr_scheduler_type": "constant_with_warmup",  # the end of a run is not known as a step
            "save_strategy": "no",
            "disable_tqdm": True,
            "seed": seed,
        }
        trainer = trainer_class(
            model=str(model or demo.model_path()),
            reward_funcs=[spending.accuracy_reward, *rewards],
            args=config_class(**{**settings, **(config or {})}),
            train_dataset=dataset,
            callbacks=[spending, *callbacks],
            **(slots or {}),
            **more,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer, {
        "generated_tokens": spending.tokens,
        "rollouts": spending.completions,
        "steps": trainer.state.global_step,
    }


def measure(model: Any, tokenizer: Any, sets: Mapping[str, Sequence[int]], problems: int, run: Run) -> None:
    """Evaluate a model on problems of each set, whose numbers of operations are given, and write the results of the run."""
    evaluate(
        model,
        {name: demo.problem_dataset(problems, operations=lengths) for name, lengths in sets.items()},
        run.folder,
        tokenizer=tokenizer,
        seed=run.seed,
        model_name=run.method,
        progress=False,
        **demo.EVALUATION,
    )


def load(path: Path) -> tuple[Any, Any]:
    """Return the model and the tokenizer of a folder."""
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


@dataclass(frozen=True)
class Run:
    """
    One run of a comparison.

    Args:
        method (`str`): Its name in the tables.
        seed (`int`): Its seed.
        folder (`Path`): Where its results are.
    """

    method: str
    seed: int
    folder: Path

    def facts(self) -> dict[str, Any]:
        """Return the content of `training.json`."""
        return json.loads((self.folder / TRAINING).read_text(encoding="utf-8"))


def finished_runs(
    output_dir: Path,
    methods: Iterable[str],
    seeds: Iterable[int],
    settings: Mapping[str, Any],
    carry_out: Callable[[Run], Mapping[str, Any]],
    at_most: int = -1,
) -> Iterator[Run]:
    """
    Carry out the missing runs, and yield all finished ones, seed by seed.

    Args:
        output_dir (`Path`): Folder of the runs.
        methods, seeds: One run for each pair.
        settings (`Mapping`): What all runs of a table have in common.
        carry_out (`Callable`): Trains and evaluates, and returns the facts of the run.
        at_most (`int`, *optional*, defaults to `-1`): Largest number of runs to carry out; -1 is all.

    Raises:
        `SystemExit`: If a finished run has other settings, or did not record them.
    """
    for seed in seeds:
        for method in methods:
            run = Run(method, seed, output_dir / f"{method.replace(' ', '-')}-{seed}")
            if not (run.folder / TRAINING).is_file():
                if at_most == 0:
                    continue
                at_most -= 1
                shutil.rmtree(run.folder, ignore_errors=True)  # an evaluation that was interrupted
                start = time.perf_counter()
                facts = {"method": method, "seed": seed, "settings": settings, **carry_out(run)}
                facts["seconds"] = time.perf_counter() - start
                write_atomically(run.folder / TRAINING, json.dumps(facts, indent=2).encode() + b"\n")
                print(f"{method}, seed {seed}: {facts['seconds']:.0f} s", flush=True)
            if (found := run.facts().get("settings")) != settings:
                raise SystemExit(
                    f"{run.folder} has a run with {found or 'unknown settings'}, but this command has {settings}. Use the same options, or "
                    "another --output_dir."
                )
            yield run


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.1f}"


def one_decimal(value: float) -> str:
    """Return a number with one decimal."""
    return f"{value:.1f}"


def seed_range(values: Sequence[float], form: Callable[[float], str]) -> str:
    """Return the smallest and the largest value over seeds; nothing for a single one."""
    return f" ({form(min(values))} to {form(max(values))})" if len(values) > 1 else ""
