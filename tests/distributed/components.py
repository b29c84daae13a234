# SPDX-License-Identifier: Apache-2.0
"""Train with each row of `tests/component_rows.py`: three groups of four completions a step. With two processes, the second straddles both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from tests import component_rows, slot_rows
from trl_concise import ConciseGRPOTrainer


COMPARED = {"loss", "grad_norm", "reward", "reward_std", "completions/mean_length"}


def train(model: str, folder: Path, row: str, rows_per_process: int) -> ConciseGRPOTrainer:
    trainer = component_rows.build(
        model,
        folder,
        row,
        arguments=component_rows.ROWS[row].on_processes,
        dataset=component_rows.problems(6),
        samples=False,
        max_steps=2,
        per_device_train_batch_size=rows_per_process,
    )
    trainer.train()
    return trainer


def report(trainer: ConciseGRPOTrainer) -> dict:
    return {
        "world_size": trainer.accelerator.num_processes,
        "state": trainer.components[0].state_dict(),
        "logged": slot_rows.logged(trainer),
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    is_sharded = AcceleratorState().distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    for row in (name for name, given in component_rows.ROWS.items() if given.shards or not is_sharded):
        trainer = train(model, Path(folder, row), row, rows_per_process=6)
        rank = trainer.accelerator.process_index
        text = json.dumps(report(trainer), default=lambda tensor: tensor.tolist())
        Path(folder, f"{row}{rank}.json").write_text(text.replace("NaN", '"NaN"'))
