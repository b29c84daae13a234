# SPDX-License-Identifier: Apache-2.0
"""
Train HAPO and save more often than the Hub takes an upload.

    python -m tests.hub.save_while_uploading MODEL RUN HOLD

The Hub holds uploads for as long as the file HOLD exists. Step 1: an upload begins. Step 2 is saved meanwhile. Step 3: the
upload ends while it is saved, the next begins. Step 4, the last, is saved meanwhile. Prints what failed of each upload.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from tests import tiny
from trl_concise import HAPOConfig, HAPOTrainer


class SavingTrainer(HAPOTrainer):
    def _save_rng_state(self, output_dir):
        if self.state.global_step == 3:
            hold.unlink()
            self.push_in_progress.wait_until_done()
            pushes.append(self.push_in_progress)
            hold.touch()
        super()._save_rng_state(output_dir)


class Release(TrainerCallback):
    def on_train_end(self, args, state, control, **kwargs):
        hold.unlink()


if __name__ == "__main__":
    model, run, hold = sys.argv[1:]
    hold = Path(hold)
    hold.touch()
    pushes = []
    problems = Dataset.from_list([{"prompt": f"problem {i}"} for i in range(8)])
    settings = tiny.settings(
        run, max_steps=4, save_strategy="steps", save_steps=1, push_to_hub=True, hub_model_id="tester/model"
    )
    trainer = SavingTrainer(model, tiny.even_reward, HAPOConfig(**settings), problems, callbacks=[Release()])
    trainer.train()
    pushes.append(trainer.push_in_progress)
    print(json.dumps([repr(job.exception()) for push in pushes for job in push.jobs]))
