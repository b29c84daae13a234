# SPDX-License-Identifier: Apache-2.0
"""Train REDI on eight pairs a step, however many processes share them; every process writes what it knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor

from tests import tiny
from trl_concise import REDIConfig, REDITrainer


def pairs() -> Dataset:
    """16 pairs of traces of different lengths."""

    def message(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    return Dataset.from_list(
        [
            {
                "prompt": message("user", f"What is {i} + {i}?"),
                "chosen": message("assistant", "So " * (i % 3) + str(2 * i)),
                "rejected": message("assistant", "hm" * (i % 5) + str(i)),
            }
            for i in range(16)
        ]
    )


def settings(output_dir, **changes: Any) -> dict[str, Any]:
    """Arguments of a `REDIConfig` for a few quick steps on the CPU: eight pairs a step."""
    ours = {
        k: v for k, v in tiny.settings(output_dir).items() if k not in ("num_generations", "max_completion_length")
    }
    return {**ours, "dataloader_num_workers": 0, **changes}


def train(model: str, folder: Path, pairs_per_process: int) -> REDITrainer:
    args = REDIConfig(**settings(folder, per_device_train_batch_size=pairs_per_process, optim="sgd"))
    trainer = REDITrainer(model, args=args, train_dataset=pairs())
    trainer.train()
    return trainer


def report(trainer: REDITrainer) -> dict[str, Any]:
    parameters = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    return {
        "world_size": trainer.accelerator.num_processes,
        "weights": {name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().cpu() for name, p in parameters},
        "logged": [
            {key: entry[key] for key in entry if "/" in key or key in ("loss", "entropy", "num_tokens")}
            for entry in trainer.state.log_history[:-1]
        ],
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    trainer = train(model, Path(folder), pairs_per_process=4)
    torch.save(report(trainer), Path(folder, f"rank{trainer.accelerator.process_index}.pt"))
