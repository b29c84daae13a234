# SPDX-License-Identifier: Apache-2.0
"""Train each row of `tests/slot_rows.py`: three groups of four completions a step. With two processes, the second straddles both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests import slot_rows
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer


COMPARED = {"loss", "grad_norm", "reward", "reward_std", "kl", "completions/mean_length"}


def train(model: str, folder: Path, row: str, rows_per_process: int) -> ConciseGRPOTrainer:
    trainer = slot_rows.build(
        ConciseGRPOTrainer, ConciseGRPOConfig, model, folder, row, per_device_train_batch_size=rows_per_process
    )
    trainer.train()
    return trainer


def report(trainer: ConciseGRPOTrainer) -> dict:
    states = {component.name: component.state_dict() for component in trainer.components}
    return {
        "world_size": trainer.accelerator.num_processes,
        "state": json.loads(json.dumps(states, default=lambda tensor: tensor.tolist())),
        "logged": slot_rows.logged(trainer),
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    for row in slot_rows.ROWS:
        trainer = train(model, Path(folder, row), row, rows_per_process=6)
        rank = trainer.accelerator.process_index
        Path(folder, f"{row}{rank}.json").write_text(json.dumps(report(trainer)))
