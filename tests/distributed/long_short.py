# SPDX-License-Identifier: Apache-2.0
"""Train the short role on three groups of four completions a step. With two processes, the second group straddles both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests import long_short_runs, slot_rows


class Wavering(long_short_runs.ScriptedPartner):
    """Writes another long turn in every process, so that those of a group are equal only if they are shared."""

    def __init__(self, process: int):
        super().__init__((*long_short_runs.LONG[:process], *long_short_runs.LONG[process:][::-1]))


def train(model: str, folder: Path, rows_per_process: int):
    trainer = long_short_runs.build(model, folder, "short", max_steps=2, per_device_train_batch_size=rows_per_process)
    trainer.rollout._partner = Wavering(trainer.accelerator.process_index)
    trainer.train()
    return trainer


def report(trainer) -> dict:
    return {
        "world_size": trainer.accelerator.num_processes,
        "prompts": [generated.prompt_ids for _, generated in trainer.rollout.seen],
        "turns": [generated.numbers["turns"] for _, generated in trainer.rollout.seen],
        "logged": slot_rows.logged(trainer),
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    trainer = train(model, Path(folder), rows_per_process=6)
    Path(folder, f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(report(trainer)))
