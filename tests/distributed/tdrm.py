# SPDX-License-Identifier: Apache-2.0
"""Train TDRM on eight states a step, and HAPO with a process reward, however many processes share them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import slot_rows, tiny
from trl_concise import HAPOConfig, HAPOTrainer
from trl_concise.methods.tdrm import ProcessReward, TDRMConfig, TDRMTrainer


def rows(count: int = 8) -> Dataset:
    """Completions of one to four steps, every second one correct."""
    steps = [[f"{i} + {t} = {i + t}\n\n" for t in range(i % 4)] + [rf"\boxed{{{i}}}"] for i in range(count)]
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"What is {i} + {i}?"}],
                "completions": own,
                "rewards": [1 / (1 + t + i) for t in range(len(own))],
                "label": i % 2 == 0,
            }
            for i, own in enumerate(steps)
        ]
    )


def settings(output_dir, **changes: Any) -> dict[str, Any]:
    """Arguments of a `TDRMConfig` for a few quick steps on the CPU: eight states a step."""
    ours = {
        k: v for k, v in tiny.settings(output_dir).items() if k not in ("num_generations", "max_completion_length")
    }
    return {**ours, "n_steps": 2, **changes}


def process_model(path: str):
    """A random value model with an own value head, the same in every process."""
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)


def train(model: str, folder: Path, states_per_process: int) -> TDRMTrainer:
    args = TDRMConfig(**settings(folder, per_device_train_batch_size=states_per_process, optim="sgd"))
    trainer = TDRMTrainer(process_model(model), args, train_dataset=rows(), processing_class=tokenizer_of(model))
    trainer.train()
    return trainer


def tokenizer_of(model: str):
    return AutoTokenizer.from_pretrained(model)


def even(completion_ids, **kwargs):
    return [float(len(ids) % 2 == 0) for ids in completion_ids]


def reward(model: str, folder: Path, completions_per_process: int) -> HAPOTrainer:
    """Take a step of HAPO with the rule and a process reward; `scores` has the rewards of this process."""
    scores = ProcessReward(process_model(model), tokenizer_of(model), output="sigmoid", batch_size=3)
    args = tiny.settings(folder, per_device_train_batch_size=completions_per_process, max_completion_length=12)
    trainer = HAPOTrainer(
        model,
        [even, scores],
        args=HAPOConfig(**{**args, "max_steps": 1, "reward_weights": [0.8, 0.2]}),
        train_dataset=Dataset.from_list(slot_rows.PROBLEMS[:4]),
        rollout_func=slot_rows.rollout,
    )
    trainer.train()
    return trainer


def report(trainer: TDRMTrainer, rewarded: HAPOTrainer) -> dict[str, Any]:
    logged = [
        {k: v for k, v in entry.items() if k.startswith("tdrm/") or k in ("loss", "num_tokens")}
        for entry in trainer.state.log_history[:-1]
    ]
    rewards = {k: v for k, v in rewarded.state.log_history[0].items() if k.startswith("rewards/") or k == "reward"}
    weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    return {
        "world_size": trainer.accelerator.num_processes,
        "weights": {name: value.detach().cpu() for name, value in weights.items()},
        "logged": logged,
        "rewards": rewards,
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    trainer = train(model, Path(folder, "prm"), states_per_process=4)
    rewarded = reward(model, Path(folder, "hapo"), completions_per_process=4)
    torch.save(report(trainer, rewarded), Path(folder, f"rank{trainer.accelerator.process_index}.pt"))
