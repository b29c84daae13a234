# SPDX-License-Identifier: Apache-2.0
"""
Train with GRESO on two groups of four completions a step, then resume from within the second epoch.

Which prompts are solved depends on their row alone, so the same prompts are skipped however many processes share the
work. A budget swings meanwhile. Every process writes what it has decided.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset

from tests import tiny
from trl_concise import GRESO, ConciseGRPOConfig, ConciseGRPOTrainer, SIRISchedule


class Recording(GRESO):
    def __init__(self):
        super().__init__()
        self.visited, self.longest = [], []

    def observe(self, rollouts):
        super().observe(rollouts)
        self.longest.append(int(rollouts.lengths.max()))
        self.visited.append(list(rollouts.prompt_keys[:: rollouts.num_generations]))


def first_half_right(completions, row, **kwargs):
    return [float(number < 6 or (number < 8 and i % 2)) for i, number in enumerate(row)]


def train(model: str, folder: Path, rows_per_process: int, resume: str | None = None) -> dict:
    problems = Dataset.from_list([{"prompt": f"{i}?", "row": i} for i in range(12)])
    args = ConciseGRPOConfig(
        **tiny.settings(
            folder, max_steps=16, per_device_train_batch_size=rows_per_process, save_strategy="steps", save_steps=8
        )
    )
    greso, schedule = Recording(), SIRISchedule(longest=8, shortest=4, cycle=4)
    trainer = ConciseGRPOTrainer(
        model, first_half_right, args, problems, prompt_selector=greso, budget_schedule=schedule
    )
    trainer.train(resume_from_checkpoint=resume)
    return {
        "world_size": trainer.accelerator.num_processes,
        "visited": greso.visited,
        "longest": greso.longest,
        "streaks": greso.streaks,
        "exploration": [greso.p_easy, greso.p_hard],
    }


if __name__ == "__main__":
    model, folder = sys.argv[1], Path(sys.argv[2])
    whole = train(model, folder, rows_per_process=4)
    resumed = train(model, folder / "resumed", rows_per_process=4, resume=str(folder / "checkpoint-8"))
    rank = PartialState().process_index
    (folder / f"rank{rank}.json").write_text(json.dumps({"whole": whole, "resumed": resumed}))
