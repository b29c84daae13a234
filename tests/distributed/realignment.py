# SPDX-License-Identifier: Apache-2.0
"""Train TrRa on four completions a step, however many processes share them; every process writes what it knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from tests import tiny
from trl_concise.methods.realignment import TrRaConfig, TrRaTrainer


def rows(count: int = 12) -> Dataset:
    """Completions of different lengths, as messages."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"What is {i} + {i}?"}],
                "completion": [{"role": "assistant", "content": "So " * (i % 4) + str(2 * i)}],
            }
            for i in range(count)
        ]
    )


def aligned_model(path: str):
    """Another random model with the same vocabulary, the same in every process."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def settings(output_dir, **changes: Any) -> dict[str, Any]:
    """Arguments of a `TrRaConfig` for a few quick steps on the CPU: four completions a step."""
    ours = {k: v for k, v in tiny.settings(output_dir).items() if k != "num_generations"}
    return {**ours, "max_completion_length": 16, "per_device_train_batch_size": 4, **changes}


def train(model: str, folder: Path, resume=None, **changes: Any) -> TrRaTrainer:
    args = TrRaConfig(**settings(folder, **changes))
    trainer = TrRaTrainer(model, aligned_model(model), args, rows())
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def report(trainer: TrRaTrainer) -> dict[str, Any]:
    parameters = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    names = ("loss", "grad_norm", "entropy", "num_tokens", "completions/mean_length", "completions/clipped_ratio")
    return {
        "world_size": trainer.accelerator.num_processes,
        "weights": {name: parameter.detach().cpu() for name, parameter in parameters},
        "logged": [{name: entry[name] for name in names} for entry in trainer.state.log_history[:-1]],
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    for name, changes in {"vocabulary": {}, "positions": {"normalize_over": "positions"}}.items():
        changes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "optim": "sgd", **changes}
        trainer = train(model, Path(folder, name), **changes)
        torch.save(report(trainer), Path(folder, f"{name}-rank{trainer.accelerator.process_index}.pt"))
