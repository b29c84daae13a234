# SPDX-License-Identifier: Apache-2.0
"""
Kill a training run again and again, and see whether anything is lost.

    python -m tests.tools.kill_loop --kills 50

Trains the embedded model with HAPO and saves after every step. The run is killed with SIGKILL at random moments, every
other time while a checkpoint is being written, and resumed from its newest complete checkpoint. What the last attempt logged
must equal an uninterrupted run digit for digit, and so must the weights and the history at the end.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


STEPS = 10


def train(output_dir: str, steps: int) -> None:
    """Train to the end, from the newest complete checkpoint if there is one."""
    import torch
    from transformers import PrinterCallback

    from trl_concise import HAPOConfig, HAPOTrainer, demo, math_accuracy_reward
    from trl_concise.state.resume import last_complete_checkpoint

    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING, format="    %(message)s")
    settings = demo.SETTINGS | {
        "output_dir": output_dir,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,  # every other checkpoint lies inside a generation block
        "num_generations": 4,
        "max_completion_length": 16,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 3,
        "disable_tqdm": True,
    }
    settings.pop("model_name_or_path")
    trainer = HAPOTrainer(str(demo.model_path()), math_accuracy_reward, HAPOConfig(**settings), demo.train_dataset(8))
    trainer.remove_callback(PrinterCallback)
    try:
        last_complete_checkpoint(output_dir)
    except ValueError:  # killed before the first save was through
        trainer.train()
    else:
        trainer.train(resume_from_checkpoint=True)


def result(output_dir: Path, steps: int) -> dict[str, Any]:
    """What a finished run leaves, without times."""
    import json

    last = output_dir / f"checkpoint-{steps}"
    log = json.loads((last / "trainer_state.json").read_text())["log_history"]
    return {
        "log": [
            {key: value for key, value in entry.items() if "time" not in key and "seconds" not in key} for entry in log
        ],
        "files": {str(path.relative_to(last)): path.read_bytes() for path in sorted(last.rglob("*.safetensors"))},
    }


def difference(whole: dict[str, Any], found: dict[str, Any]) -> str:
    """Name the first thing that a run did otherwise."""
    for one, other in zip(whole["log"], found["log"], strict=False):
        for key in one:
            if one[key] != other.get(key):
                return f"{key} at step {one['step']} is {other.get(key)}, not {one[key]}"
    return ", ".join(name for name in whole["files"] if found["files"].get(name) != whole["files"][name])


def strike(process, output_dir: Path, rng: random.Random, during_save: bool) -> bool:
    """Kill the process at a random moment; `False` if it was done before."""
    known = set(output_dir.glob("checkpoint-*"))
    patience = rng.randint(1, 3)  # saves, or quarters of a second, to let pass
    while during_save and process.is_alive():
        if len(set(output_dir.glob("checkpoint-*")) - known) >= patience:
            time.sleep(rng.uniform(0, 0.05))
            break
        time.sleep(0.001)
    if not during_save:
        process.join(rng.uniform(0.5, 1 + patience))
    if not process.is_alive():
        return False
    process.kill()
    process.join()
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of a run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trl_concise.trainer", "trl_concise.methods.hapo", "trl_concise.demo"])
    kills = runs = 0
    with tempfile.TemporaryDirectory() as folder:
        whole_dir = Path(folder, "whole")
        process = context.Process(target=train, args=(str(whole_dir), options.steps))
        process.start()
        process.join()
        whole = result(whole_dir, options.steps)
        while kills < options.kills:
            runs += 1
            output_dir = Path(folder, f"run-{runs}")
            while True:
                process = context.Process(target=train, args=(str(output_dir), options.steps))
                process.start()
                if kills < options.kills and strike(process, output_dir, rng, during_save=kills % 2 == 0):
                    kills += 1
                    saved = sorted(int(path.name[11:]) for path in output_dir.glob("checkpoint-*"))
                    print(f"run {runs}: kill {kills}, checkpoints {saved}", flush=True)
                    continue
                process.join()
                break
            if process.exitcode != 0:
                print(f"run {runs} could not be resumed: exit status {process.exitcode}")
                return 1
            if (found := result(output_dir, options.steps)) != whole:
                print(f"run {runs} differs from the uninterrupted one: {difference(whole, found)}")
                return 1
    print(f"{kills} kills in {runs} runs: nothing lost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
