# SPDX-License-Identifier: Apache-2.0
"""Train ScaleBiO on sixteen rows a step, however many processes share them; every process writes what it knows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from tests import tiny
from trl_concise.experimental.scale_bio import ScaleBiOConfig, ScaleBiOTrainer


def rows(count: int, letter: str, conversational: bool = True) -> Dataset:
    """Rows whose completions repeat a letter, of different lengths."""

    def message(role: str, content: str) -> Any:
        return [{"role": role, "content": content}] if conversational else content

    return Dataset.from_list(
        [
            {
                "prompt": message("user", f"What is {i} + {i}? {letter}"),
                "completion": message("assistant", letter * (1 + (3 * i) % 5) + str(i)),
            }
            for i in range(count)
        ]
    )


def sources(**options: Any) -> dict[str, Dataset]:
    """Three sources; the validation set is like the first one."""
    return {letter: rows(count, letter, **options) for letter, count in (("a", 12), ("b", 9), ("c", 14))}


def validation(**options: Any) -> Dataset:
    return rows(20, "a", **options).select(range(12, 20))


def settings(output_dir, **changes: Any) -> dict[str, Any]:
    """Arguments of a `ScaleBiOConfig` for a few quick steps on the CPU: sixteen rows a step, five for validation."""
    ours = {
        k: v for k, v in tiny.settings(output_dir).items() if k not in ("num_generations", "max_completion_length")
    }
    return {
        **ours,
        "per_device_train_batch_size": 16,
        "validation_rows": 5,
        "alpha": 10.0,
        "learning_rate": 0.02,
        "share_learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_grad_norm": 1e6,
        "optim": "sgd",
        "max_steps": 3,
        **changes,
    }


def train(model: str, folder: Path, resume=None, trainer_kwargs=None, **changes: Any) -> ScaleBiOTrainer:
    args = ScaleBiOConfig(**settings(folder, **changes))
    options = {"train_dataset": sources(), "validation_dataset": validation(), **(trainer_kwargs or {})}
    trainer = ScaleBiOTrainer(model, args, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def report(trainer: ScaleBiOTrainer) -> dict[str, Any]:
    folder = Path(trainer.args.output_dir)
    pair = trainer._pair
    return {
        "world_size": trainer.accelerator.num_processes,
        "weights": {name: value.detach().cpu() for name, value in pair.named_parameters()},
        "shares": trainer.shares,
        "mixture": json.loads((folder / "mixture.json").read_text()),
        "lines": [json.loads(line) for line in (folder / "shares.jsonl").read_text().splitlines()],
        "logged": [
            {key: entry[key] for key in entry if "scale_bio/" in key or key in ("loss", "grad_norm")}
            for entry in trainer.state.log_history[:-1]
        ],
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    trainer = train(model, Path(folder), per_device_train_batch_size=4, gradient_accumulation_steps=2)
    trainer.accelerator.wait_for_everyone()
    torch.save(report(trainer), Path(folder, f"rank{trainer.accelerator.process_index}.pt"))
