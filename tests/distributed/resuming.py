# SPDX-License-Identifier: Apache-2.0
"""
Stop and resume on several processes.

    whole MODEL FOLDER     train, then resume from a checkpoint inside a generation block; write what both runs logged
    load MODEL FOLDER      resume from the last checkpoint of `whole`, on however many processes; write what it held. On several, train
                           with a reward function that fails on the last process then
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset

from tests import tiny
from tests.tools.resume_matrix import VOLATILE
from trl_concise import GRESO, HAPOConfig, HAPOTrainer


STEPS = 6


def build(model: str, folder: Path, reward=tiny.even_reward, **changes) -> HAPOTrainer:
    settings = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        **changes,
    }
    problems = Dataset.from_list([{"prompt": f"{i}?", "prompt_id": f"p{i}"} for i in range(12)])
    args = HAPOConfig(**tiny.settings(folder, **settings))
    return HAPOTrainer(model, reward, args, problems, prompt_selector=GRESO())


def report(trainer: HAPOTrainer) -> dict:
    return {
        "world_size": trainer.accelerator.num_processes,
        "history": trainer.history.to_pandas().sort_index().fillna(-1).to_dict("index"),
        "greso": {name: getattr(trainer.prompt_selector, name) for name in ("streaks", "p_easy", "p_hard", "choices")},
        "logged": [
            {key: value for key, value in entry.items() if not any(word in key for word in VOLATILE)}
            for entry in trainer.state.log_history
        ],
    }


def fail_on_the_last_process(completions, trainer_state=None, **kwargs):
    from accelerate import PartialState

    if PartialState().is_last_process:
        raise RuntimeError("the judge is out of order")
    return [0.0] * len(completions)


def main(command: str, model: str, folder: Path) -> None:
    if command == "whole":
        whole = build(model, folder)
        whole.train()
        resumed = build(model, folder / "resumed")
        resumed.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
        found = {"whole": report(whole), "resumed": report(resumed)}
        (folder / f"rank{whole.accelerator.process_index}.json").write_text(json.dumps(found))
    else:
        trainer = build(model, folder / f"load-{command}", num_generations=2)
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{STEPS}"))
        rank, world_size = trainer.accelerator.process_index, trainer.accelerator.num_processes
        (folder / f"load-{world_size}-{rank}.json").write_text(json.dumps(report(trainer)))
        if world_size > 1:
            build(model, folder / "failing", fail_on_the_last_process, num_generations=2).train()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
