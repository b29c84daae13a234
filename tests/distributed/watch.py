# SPDX-License-Identifier: Apache-2.0
"""
Train with a watch set of five problems, which two processes cannot share evenly.

Training stops at step 2, and the model of step 1 is the best. Every process writes what it measured and decided.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer


WATCHED = Dataset.from_list([{"prompt": f"Add {row}. {'Please. ' * row}"} for row in range(5)])


def train(model: str, folder: Path, rows_per_process: int, on_loss: str) -> dict:
    problems = Dataset.from_list([{"prompt": f"{row}?"} for row in range(6)])
    judged = []

    def correct(prompts, completion_ids, trainer_state, **kwargs):
        if not prompts[0].startswith("Add"):
            return tiny.even_reward(completion_ids)
        judged.extend(prompts)
        lost = {0: 0, 1: 1}.get(trainer_state.global_step, 5)  # problems of the five
        return [float(WATCHED["prompt"].index(prompt) >= lost) for prompt in prompts]

    changes = {"max_steps": 4, "watch_every": 1, "on_loss": on_loss, "learning_rate": 1e-9}
    args = ConciseGRPOConfig(**tiny.settings(folder, per_device_train_batch_size=rows_per_process, **changes))
    trainer = ConciseGRPOTrainer(model, correct, args, problems, watch_dataset=WATCHED)
    trainer.train()
    return {
        "world_size": trainer.accelerator.num_processes,
        "stopped": trainer.state.global_step,
        "judged": judged[: len(judged) // (trainer.state.global_step + 1)],
        "best": trainer.watch_set.best,
        "measured": [
            {name: value for name, value in log.items() if name.startswith(("watch/", "step"))}
            for log in trainer.state.log_history
            if "watch/accuracy" in log
        ],
    }


def report(model: str, folder: Path, rows_per_process: int) -> dict:
    found = {on_loss: train(model, folder / on_loss, rows_per_process, on_loss) for on_loss in ("stop", "best")}
    return {**found, "kept": sorted(path.name for path in (folder / "best").glob("_watch*"))}


if __name__ == "__main__":
    import torch.distributed

    model, folder = sys.argv[1:]
    found = report(model, Path(folder), rows_per_process=4)
    Path(folder, f"rank{torch.distributed.get_rank()}.json").write_text(json.dumps(found))
