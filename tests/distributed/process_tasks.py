# SPDX-License-Identifier: Apache-2.0
"""Train on tasks of both kinds, with completions that are right, partly right and wrong, however many processes share them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset

from tests import slot_rows, tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, demo
from trl_concise.methods.mr_rlvr import fill_reward, order_reward


TEXTS = (
    "[blank 1] 1",
    "Order: 1, 3, 2",
    "Order: 2, 1, 3",
    "[blank 1] 44\n[blank 2] 3",
    "Order: 3, 2, 1",
    "Order: 3, 1, 2",
)


def tasks() -> Dataset:
    rows = [
        {**row, "task": ("fill", "order")[i % 2]} for i, row in enumerate(demo.worked_solutions(8, operations=(3,)))
    ]
    return demo.process_tasks(Dataset.from_list(rows))


def rollout(prompts, trainer):
    """Give the first blank of every other fill task, and one of a few orders to the others."""
    first = trainer.accelerator.process_index * len(prompts)
    known = {row["prompt"][0]["content"]: row for row in tasks()}
    texts = []
    for place, prompt in enumerate(prompts, start=first):
        row = known[prompt[0]["content"]]
        text = TEXTS[(place + trainer.state.global_step) % len(TEXTS)]
        texts.append(f"[blank 1] {row['blanks'][0]}" if row["blanks"] and place % 2 else text)
    tokenizer = trainer.processing_class
    return {
        "prompt_ids": [[5, 6, 7]] * len(prompts),
        "completion_ids": [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts],
        "logprobs": None,
    }


def build(model: str, folder: Path, rows_per_process: int, **changes) -> ConciseGRPOTrainer:
    settings = tiny.settings(
        folder,
        max_steps=4,
        per_device_train_batch_size=rows_per_process,
        max_completion_length=40,
        shuffle_dataset=False,
    )
    return ConciseGRPOTrainer(
        model,
        [fill_reward, order_reward],
        ConciseGRPOConfig(**settings | changes),
        tasks(),
        rollout_func=rollout,
    )


def train(model: str, folder: Path, rows_per_process: int, **changes) -> ConciseGRPOTrainer:
    trainer = build(model, folder, rows_per_process, **changes)
    trainer.train()
    return trainer


def report(trainer: ConciseGRPOTrainer) -> dict:
    return {
        "world_size": trainer.accelerator.num_processes,
        "logged": [
            {key: entry[key] for key in entry if key.startswith(("mr_rlvr/", "reward"))}
            for entry in slot_rows.logged(trainer)
        ],
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    trainer = train(model, Path(folder), rows_per_process=4)
    Path(folder, f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(report(trainer)))
