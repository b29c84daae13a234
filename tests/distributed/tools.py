# SPDX-License-Identifier: Apache-2.0
"""Train HAPO and OTC with tools on three groups of four completions a step. With two processes, the second group straddles both."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests import slot_rows, tool_runs
from trl_concise import HAPOTrainer, math_accuracy_reward
from trl_concise.methods.otc import OTCReward


def train(model: str, folder: Path, rows_per_process: int):
    return tool_runs.train(
        model,
        folder,
        [math_accuracy_reward, OTCReward()],
        HAPOTrainer,
        max_steps=3,
        per_device_train_batch_size=rows_per_process,
    )


def report(trainer) -> dict:
    histories = trainer.components[0].call_history, trainer.history
    logged = [
        {key: entry[key] for key in entry if key.startswith(("otc/", "hapo/", "reward", "tools/", "loss", "grad"))}
        for entry in slot_rows.logged(trainer)
    ]
    return {
        "world_size": trainer.accelerator.num_processes,
        "histories": [history.to_pandas().sort_index().fillna(-1).to_dict("index") for history in histories],
        "logged": logged,
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    trainer = train(model, Path(folder), rows_per_process=6)
    Path(folder, f"rank{trainer.accelerator.process_index}.json").write_text(json.dumps(report(trainer)))
