# SPDX-License-Identifier: Apache-2.0
"""
Short runs of every drop-in trainer, whose figures are committed in tests/trajectories, so that a review shows what a change changes.

    python -m tests.tools.trajectories           # compares, and names what differs
    python -m tests.tools.trajectories --update  # rewrites the files

Completions are a function of the step and the row, and the optimizer is SGD, so that the figures do not depend on the processor beyond
the tolerance.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer

from tests import tiny
from tests.distributed import critiques, realignment, redi, tdrm
from trl_concise.batch.generation import GeneratedRollouts
from trl_concise.methods.table import METHODS


FOLDER = Path(__file__).parents[1] / "trajectories"
STEPS = 8
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # tolerances
LIMIT = 10  # tokens, with EOS
SETTINGS: dict[str, dict[str, Any]] = {  # of the methods whose defaults are for longer completions or longer runs
    "LASERTrainer": {"target_length": 5},
    "LASERDTrainer": {
        "shortest_target": 2,
        "target_interval": 2,
        "monitor_prompts": 4,
        "monitor_generations": 4,
        "monitor_every": 3,
    },
    "ShorterBetterTrainer": {"length_penalty": 0.05},
    "SIRITrainer": {"min_completion_length": 4, "budget_cycle": 4},
    "SGRPOTrainer": {"cutoff": 2, "max_tokens": 4},
    "AdaptThinkTrainer": {"thinking_start": "a", "max_completion_length": 12},
    "AutoThinkTrainer": {"stage_steps": [3, 6], "max_completion_length": 24},
}
THINKING = (
    "AdaptThinkTrainer",
    "AutoThinkTrainer",
)  # their prompts end with `<think>`, AutoThink's with an ellipsis after it
FIGURES = ("loss", "grad_norm", "num_tokens", "completions/mean_length", "reward", "reward_std")


def token_ids(step: int, row: int, limit: int) -> list[int]:
    """Return a completion of 1 to 11 tokens and EOS, or as many as the limit allows. The rows of a group diverge one after another."""
    length = 1 + (5 * row + 3 * step) % 11
    return [*(10 + 2 * i + ((row >> max(2 - i, 0)) + step) % 2 for i in range(length)), 2][:limit]


def rollout(prompts: list[str], trainer) -> dict[str, Any]:
    step, limit = trainer.state.global_step, trainer.max_completion_length
    return {
        "prompt_ids": [trainer.processing_class(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": [token_ids(step, row, limit) for row in range(len(prompts))],
        "logprobs": None,
    }


def thoughts(prompts: list[str], trainer) -> dict[str, Any]:
    """Return completions that think for 0 to 10 tokens, closed and with a boxed answer unless they are the last of their group."""
    tokenizer, step = trainer.processing_class, trainer.state.global_step
    end = tokenizer("</think>\\boxed{1}")["input_ids"]
    rows = [token_ids(step, row, LIMIT) for row in range(len(prompts))]
    completions = [
        [*(ids[:-1] if (row + step) % 3 else []), *(end if row % 4 != 3 else []), 2] for row, ids in enumerate(rows)
    ]
    return {**rollout(prompts, trainer), "completion_ids": completions}


def correct(completion_ids: list[list[int]], prompt_id: list[str], **kwargs) -> list[float]:
    """Return 1 for even lengths; the first problem is always solved, the second never."""
    fixed = {"p0": 1.0, "p1": 0.0}
    return [fixed.get(key, float(len(ids) % 2)) for key, ids in zip(prompt_id, completion_ids, strict=True)]


def with_fixed_monitor(trainer_class: type) -> type:
    """Return a trainer whose components receive completions of `token_ids` too."""

    class Fixed(trainer_class):
        def generate_rollouts(self, rows, n, *, prefix_ids=None, **kwargs):
            ids = [token_ids(self.state.global_step, row, LIMIT) for row in range(len(rows) * n)]
            if prefix_ids is not None:  # AdaptThink: the first answers directly; the thinking of the others ends
                direct = prefix_ids[0]
                ids = [
                    own if prefix == direct else [*own[:-1], *direct, 2]
                    for own, prefix in zip(ids, prefix_ids, strict=True)
                ]
            prompts = [self.processing_class(row["prompt"])["input_ids"] for row in rows for _ in range(n)]
            return GeneratedRollouts(
                prompt_ids=prompts,
                prefix_ids=prefix_ids or [[] for _ in ids],
                completion_ids=ids,
                completions=self.processing_class.batch_decode(ids, skip_special_tokens=True),
                lengths=torch.tensor([len(row) - (row[-1] == 2) for row in ids]),
                truncated=torch.tensor([row[-1] != 2 for row in ids]),
            )

    return Fixed


def build(name: str, model: str, folder: str | Path):
    """Return a drop-in trainer of eight steps."""
    (module,) = (method.module for method in METHODS if method.trainer == name)
    methods = importlib.import_module(f"trl_concise.methods.{module}")
    trainer_class, config_class = getattr(methods, name), getattr(methods, name.replace("Trainer", "Config"))
    common: dict[str, Any] = {"max_steps": STEPS, "optim": "sgd", "learning_rate": 0.1}
    if name == "REDITrainer":
        args = config_class(**redi.settings(folder, **common))
        return trainer_class(model, args=args, train_dataset=redi.pairs())
    if name == "CFTTrainer":
        settings = redi.settings(folder, **common)
        args = config_class(**settings, max_length=400)
        return trainer_class(model, args, train_dataset=Dataset.from_list(critiques.ROWS))
    if name == "TrRaTrainer":
        args = config_class(**realignment.settings(folder, **common))
        return trainer_class(model, realignment.aligned_model(model), args, realignment.rows())
    if name == "TDRMTrainer":
        args = config_class(**tdrm.settings(folder, **common))
        tokenizer = tdrm.tokenizer_of(model)
        return trainer_class(tdrm.process_model(model), args, train_dataset=tdrm.rows(), processing_class=tokenizer)
    settings = tiny.settings(folder, **common, **({"max_completion_length": LIMIT} | SETTINGS.get(name, {})))
    rows = [{"prompt": f"{i}?", "prompt_id": f"p{i}"} for i in range(6)]
    options: dict[str, Any] = {"rollout_func": rollout}
    if name in THINKING:
        model = tiny.make_model(f"{folder}/model", more_tokens=["<think>", "</think>"])
        tokenizer = AutoTokenizer.from_pretrained(model)
        tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
        opening = "<think>" + "\n...\n" * (name == "AutoThinkTrainer")
        rows = [{**row, "prompt": row["prompt"] + opening, "pass_rate": 0.5} for row in rows]
        options = {"processing_class": tokenizer, **({"rollout_func": thoughts} if name == "AutoThinkTrainer" else {})}
    dataset = Dataset.from_list(rows)
    return with_fixed_monitor(trainer_class)(model, [correct], config_class(**settings), dataset, **options)


def figures(trainer) -> dict[str, list[float | None]]:
    """Return what a run logged, by name, one number per step: losses, rewards, lengths and the metrics of its method."""
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    own = tuple(f"{component.name}/" for component in getattr(trainer, "components", ()))
    names = sorted({name for entry in entries for name in entry})
    chosen = [name for name in names if name in FIGURES or name.startswith(("rewards/", "tdrm/", *own))]
    return {name: [rounded(entry.get(name)) for entry in entries] for name in chosen}


def rounded(value: float | None) -> float | None:
    if value is None or math.isnan(value):
        return None
    return (
        float(f"{value:.6g}") if abs(value) > ABSOLUTE / 10 else 0.0
    )  # what is left of sums that cancel differs by processor


def run(name: str, model: str, folder: str | Path) -> dict[str, list[float | None]]:
    """Train one drop-in trainer and return its figures."""
    trainer = build(name, model, folder)
    trainer.train()
    return figures(trainer)


def differences(found: dict, expected: dict) -> Iterator[str]:
    """Name each figure of a run that is not the committed one."""
    if found.keys() != expected.keys():
        yield f"figures: {sorted(found.keys() ^ expected.keys())} are in one of the runs only"
    for name in found.keys() & expected.keys():
        for step, (one, other) in enumerate(zip(found[name], expected[name], strict=True), start=1):
            if one is None or other is None:
                same = one is other
            else:
                same = math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
            if not same:
                yield f"{name} at step {step}: {one}, committed: {other}"
                break


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.json"


def trainers() -> list[str]:
    """Return the names of the drop-in trainers, without those of experimental systems, whose runs may change."""
    return [method.trainer for method in METHODS if method.trainer is not None and method.package == "methods"]


def as_json(found: dict[str, list[float | None]]) -> str:
    """Return the text of a file: one line per figure."""
    lines = [f'  "{name}": {json.dumps(values)}' for name, values in sorted(found.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.tools.trajectories", description=__doc__.split("\n\n")[0])
    parser.add_argument("--update", action="store_true", help="rewrite the committed files")
    update = parser.parse_args(argv).update
    torch.set_num_threads(1)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        model = tiny.make_model(f"{folder}/model")
        for name in trainers():
            found = run(name, model, f"{folder}/{name}")
            if update:
                path_of(name).write_text(as_json(found), encoding="utf-8")
                continue
            expected = json.loads(path_of(name).read_text(encoding="utf-8"))
            for difference in differences(found, expected):
                failed = True
                print(f"{name}: {difference}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
