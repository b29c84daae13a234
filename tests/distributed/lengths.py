# SPDX-License-Identifier: Apache-2.0
"""
Train with group-relative parts on groups that straddle two processes, and with a monitor that both share.

The bonus of LASER-D is 0: its monitor draws other completions on two processes than on one, all the rest is the same.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from datasets import Dataset

from tests import tiny
from tests.distributed.straddle import correct_if_even, rollout
from trl_concise import (
    BatchWhitening,
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    DifficultyWeighting,
    KimiLengthReward,
    LASERDReward,
    ShorterBetterReward,
)


class Noted(BatchWhitening):
    """Writes down what it returns."""

    advantages: list = []

    def compute(self, rollouts, advantages):
        whitened = super().compute(rollouts, advantages)
        self.advantages.append(whitened[rollouts.local].tolist())
        return whitened


def train(model: str, folder: Path, rows_per_process: int) -> dict:
    problems = Dataset.from_list([{"prompt": f"{i}?", "prompt_id": f"p{i}"} for i in range(6)])
    settings = tiny.settings(folder, max_steps=2, per_device_train_batch_size=rows_per_process, scale_rewards="none")
    laser_d = LASERDReward(2, 8, 2, alpha=0.0, monitor_prompts=6, monitor_generations=3, monitor_every=1)
    whitening = Noted()
    trainer = ConciseGRPOTrainer(
        model,
        [correct_if_even, ShorterBetterReward(beta=0.1), KimiLengthReward(), laser_d],
        ConciseGRPOConfig(**settings),
        problems,
        rollout_func=rollout,
        advantage=[DifficultyWeighting(), whitening],
    )
    trainer.train()
    return {
        "world_size": trainer.accelerator.num_processes,
        "advantages": whitening.advantages,
        "laser_d": laser_d.state_dict(),
    }


if __name__ == "__main__":
    model, folder = sys.argv[1:]
    report = train(model, Path(folder), rows_per_process=6)
    Path(folder, f"rank{os.environ['RANK']}.json").write_text(json.dumps(report))
