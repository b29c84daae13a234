# SPDX-License-Identifier: Apache-2.0
"""Tune with an SAE on four chunks a step, however many processes share them; every process writes what it knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig

from tests import tiny
from trl_concise.experimental.resa import SAETuningConfig, SAETuningTrainer, TopKSAE


def settings(output_dir, **changes: Any) -> dict[str, Any]:
    """Arguments of a `SAETuningConfig` for a few quick steps on the CPU: four chunks a step."""
    grpo_only = ("num_generations", "max_completion_length")
    ours = {name: value for name, value in tiny.settings(output_dir).items() if name not in grpo_only}
    return {**ours, "layer": 0, "per_device_train_batch_size": 4, "learning_rate": 1e-2, **changes}


def chunks(count: int = 10, length: int = 12) -> Dataset:
    """Chunks of random tokens, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    return Dataset.from_dict({"input_ids": torch.randint(3, 200, (count, length), generator=generator).tolist()})


def lora(**changes: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes)


def sae() -> TopKSAE:
    """A random SAE of the tiny model's width."""
    return TopKSAE(64, 96, 8, seed=1)


def train(model: Any, folder: Path, resume=None, rows: Dataset | None = None, **changes: Any) -> SAETuningTrainer:
    args = SAETuningConfig(**settings(folder, **changes))
    trainer = SAETuningTrainer(model, args, train_dataset=rows or chunks(), sae=sae(), peft_config=lora())
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def report(trainer: SAETuningTrainer) -> dict[str, Any]:
    parameters = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    names = ("loss", "grad_norm", "resa/kl", "resa/fvu", "resa/grad_share_before")
    return {
        "world_size": trainer.accelerator.num_processes,
        "weights": {name: value.detach().cpu() for name, value in parameters if value.requires_grad},
        "logged": [{name: entry[name] for name in names} for entry in trainer.state.log_history if "loss" in entry],
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    for name, gradient in {"paper": True, "release": False}.items():
        changes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "sae_gradient": gradient}
        trainer = train(model, Path(folder, name), optim="sgd", **changes)
        torch.save(report(trainer), Path(folder, f"{name}-rank{trainer.accelerator.process_index}.pt"))
