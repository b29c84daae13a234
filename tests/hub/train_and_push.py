# SPDX-License-Identifier: Apache-2.0
"""
Train HAPO on a model that writes ever fewer tokens, and push what is on the frontier.

    python -m tests.hub.train_and_push MODEL RUN STEPS [CHECKPOINT]

Prints, as JSON, the history with which it began and ended.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback

from tests import tiny
from trl_concise import HAPOConfig, HAPOTrainer, HubFrontierCallback


def rollout(prompts, trainer):
    step = trainer.state.global_step
    length = 12 - 2 * step  # evaluated after step 0, 1, 2: 12, 10, 8 tokens
    return tiny.rollouts_of([[max(1, length)] * len(prompts)])(prompts, trainer)


def all_correct(completions, **kwargs):
    return [1.0] * len(completions)


class LateTrainer(HAPOTrainer):
    """Its second process is the last to write its part of a checkpoint."""

    def _save_rng_state(self, output_dir):
        time.sleep(0.5 * self.accelerator.process_index)
        super()._save_rng_state(output_dir)


class Began(TrainerCallback):
    """What the history holds when training begins, after a checkpoint has been loaded."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.history = snapshot(trainer)


def snapshot(trainer: HAPOTrainer) -> dict:
    return trainer.history.to_pandas().sort_index().fillna(-1).to_dict("index")


if __name__ == "__main__":
    model, run, steps, *checkpoint = sys.argv[1:]
    problems = Dataset.from_list([{"prompt": f"a secret question, number {i}"} for i in range(8)])
    settings = tiny.settings(
        run,
        max_steps=int(steps),
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=not checkpoint,
        max_completion_length=16,
    )
    trainer = LateTrainer(
        model, all_correct, HAPOConfig(**settings), problems, problems.select(range(2)), rollout_func=rollout
    )
    trainer.add_callback(began := Began())
    if not checkpoint:
        trainer.add_callback(HubFrontierCallback("tester/model", max_revisions=2, patience=1.0))
    trainer.train(resume_from_checkpoint=checkpoint[0] if checkpoint else None)
    if not checkpoint and (Path(run) / "push_too").exists():
        trainer.push_to_hub()  # TRL's own, into a repository named after the folder
    print(json.dumps({"began": began.history, "ended": snapshot(trainer), "steps": trainer.state.global_step}))
    trainer.accelerator.end_training()
