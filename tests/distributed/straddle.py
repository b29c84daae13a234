# SPDX-License-Identifier: Apache-2.0
"""
Train HAPO on three groups of four completions a step, with the same completions however many processes share them.

With two processes, six rows each, the second group straddles both. Every process writes what it knows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset

from tests import tiny
from trl_concise import HAPOConfig, HAPOTrainer


def length(step: int, row: int) -> int:
    return 2 + (5 * row + 3 * step) % 9


def rollout(prompts, trainer):
    start = trainer.accelerator.process_index * len(prompts)
    lengths = [length(trainer.state.global_step, start + i) for i in range(len(prompts))]
    return tiny.rollouts_of([lengths])(prompts, trainer)


def correct_if_even(completion_ids, **kwargs):
    return [float(len(ids) % 2) for ids in completion_ids]  # with EOS: an even length without it


def train(model: str, folder: Path, rows_per_process: int) -> HAPOTrainer:
    problems = Dataset.from_list([{"prompt": f"{i}?", "prompt_id": f"p{i}"} for i in range(6)])
    args = HAPOConfig(
        **tiny.settings(
            folder, max_steps=4, per_device_train_batch_size=rows_per_process, save_strategy="steps", save_steps=4
        )
    )
    trainer = HAPOTrainer(model, correct_if_even, args, problems, rollout_func=rollout)
    trainer.train()
    return trainer


def report(trainer: HAPOTrainer) -> dict:
    return {
        "world_size": trainer.accelerator.num_processes,
        "history": trainer.history.to_pandas().sort_index().fillna(-1).to_dict("index"),
        "logged": [
            {key: entry[key] for key in entry if key.startswith(("hapo/", "reward"))}
            for entry in trainer.state.log_history[:-1]
        ],
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    trainer = train(model, Path(folder), rows_per_process=6)
    Path(folder, f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(report(trainer)))
