# SPDX-License-Identifier: Apache-2.0
"""Started on two processes by test_distributed.py: each has an engine of its own, and a group straddles them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from tests.vllm import engine
from tests.vllm.runs import assert_engine_is_policy, train
from trl_concise import HAPOConfig, HAPOTrainer


def main(model: str, output_dir: str) -> None:
    engine.prepare()
    trainer, logs = train(
        HAPOTrainer,
        HAPOConfig,
        model,
        engine.COLOCATE,
        output_dir,
        rows=3,
        per_device_train_batch_size=6,
        num_generations=4,
        num_train_epochs=3,
    )
    assert_engine_is_policy(trainer, rows=2)
    state = trainer.history.state_dict()
    report = {
        "world_size": trainer.accelerator.num_processes,
        "history": {name: value.tolist() if torch.is_tensor(value) else value for name, value in state.items()},
        "coverage": [entry["hapo/history_coverage"] for entry in logs],
    }
    rank = trainer.accelerator.process_index
    Path(output_dir, f"rank{rank}.json").write_text(json.dumps(report, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
