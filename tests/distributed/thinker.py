# SPDX-License-Identifier: Apache-2.0
"""Train Thinker on three groups of four completions a step. With two processes, the second group straddles both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests import slot_rows, thinker_runs


def train(model: str, folder: Path, rows_per_process: int):
    return thinker_runs.train(
        model,
        folder,
        thinker=thinker_runs.component(bonus=0.01),
        max_steps=2,
        beta=0.1,
        per_device_train_batch_size=rows_per_process,
    )


def report(trainer) -> dict:
    logged = [
        {key: entry[key] for key in entry if key.startswith(("thinker/", "reward", "loss", "grad", "kl"))}
        for entry in slot_rows.logged(trainer)
    ]
    return {
        "world_size": trainer.accelerator.num_processes,
        "state": trainer.components[0].state_dict(),
        "turns": [len(turn) for turn in trainer.asked],
        "logged": logged,
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    trainer = train(model, Path(folder), rows_per_process=6)
    Path(folder, f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(report(trainer)))
