# SPDX-License-Identifier: Apache-2.0
"""
Is a resumed run the run? Prints a matrix of settings and steps.

    python -m tests.tools.resume_matrix

Each row trains two epochs and saves after every step. Then every checkpoint is resumed in a fresh process, and what it
logs (losses, rewards, lengths, the parts' metrics) must equal what the uninterrupted run logged, digit for digit; so must
the completions, and the state of the parts at the end.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests import tiny


# The machine's, not the run's; `train_loss` is a mean over what this process did.
VOLATILE = ("time", "per_second", "flos", "train_loss")

CASES: dict[str, dict[str, Any]] = {
    "plain": {"parts": ()},
    "hapo": {},
    "hapo, beta": {"beta": 0.1},
    "hapo, moving reference": {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 3},
    "hapo, num_iterations 2": {"num_iterations": 2},
    "hapo, generation for 2 steps": {"steps_per_generation": 2, "per_device_train_batch_size": 4},
    "hapo, both, accumulation": {
        "num_iterations": 2,
        "steps_per_generation": 4,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
    },
    "hapo, lora": {"lora": True},
    "refill": {"parts": ("hapo", "filter")},
    "every slot": {"parts": ("hapo", "selector", "filter", "credit", "budget"), "num_iterations": 2},
}


def make_trainer(model: str, output_dir: str | Path, case: dict[str, Any]):
    """Build the trainer of one row, with a callback that writes down every completion."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback

    from tests.tools import parts
    from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, HAPOLengthReward

    torch.set_num_threads(1)
    case = dict(case)
    chosen, lora = case.pop("parts", ("hapo",)), case.pop("lora", False)
    rows = [{"prompt": [{"role": "user", "content": f"What is {i} + {i}?"}]} for i in range(8)]
    settings = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2, "max_steps": -1, **case}
    seen: list[list[list[int]]] = []

    def reward(completion_ids, **kwargs):
        seen.append(completion_ids)
        return tiny.even_reward(completion_ids)

    class Mark(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append([[state.global_step]])

    trainer = ConciseGRPOTrainer(
        model,
        [reward, *([HAPOLengthReward()] if "hapo" in chosen else [])],
        ConciseGRPOConfig(**tiny.settings(output_dir, **settings)),
        Dataset.from_list(rows),
        callbacks=[Mark()],
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear") if lora else None,
        **{slot: part() for name, (slot, part) in parts.SLOTS.items() if name in chosen},
    )
    trainer.remove_callback(PrinterCallback)
    trainer.seen = seen
    return trainer


def run(model: str, output_dir: str, case: dict[str, Any], checkpoint: str | None) -> dict[str, Any]:
    """Train to the end, from the start or from a checkpoint, and return what the run did."""
    from trl_concise.state.checkpoint import STATE_FOLDER

    gc.freeze()  # what was imported before the fork; see tests/conftest.py
    trainer = make_trainer(model, output_dir, case)
    trainer.train(resume_from_checkpoint=checkpoint)
    last = Path(output_dir, f"checkpoint-{trainer.state.global_step}")
    return {
        "log": [
            {key: value for key, value in entry.items() if not any(word in key for word in VOLATILE)}
            for entry in trainer.state.log_history
        ],
        "completions": trainer.seen,
        "state": {path.name: path.read_bytes() for path in sorted((last / STATE_FOLDER).iterdir())},
        "weights": {path.name: path.read_bytes() for path in sorted(last.glob("*.safetensors"))},
    }


def difference(whole: dict[str, Any], resumed: dict[str, Any], step: int) -> str | None:
    """Name the first thing that a run resumed after `step` did otherwise."""
    for one, other in zip(whole["log"], resumed["log"], strict=True):
        for key in one.keys() | other.keys():
            if one.get(key) != other.get(key) and not (one.get(key) != one.get(key)):
                return f"{key} at step {one.get('step')}: {one.get(key)} became {other.get(key)}"
    rest = whole["completions"][whole["completions"].index([[step]]) + 1 :]
    if rest != resumed["completions"]:
        return "completions"
    for kind in ("state", "weights"):
        if whole[kind] != resumed[kind]:
            return kind
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=f"of {list(CASES)}"
    )
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    # Fresh processes that need not import everything again: forked from one that has imported, and nothing more.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trl_concise.trainer", "trl_concise.methods.hapo", "peft", "tests.tools.parts"])
    failures = 0
    with tempfile.TemporaryDirectory() as folder, context.Pool(options.processes, maxtasksperchild=1) as pool:
        model = tiny.make_model(Path(folder, "model"))
        wholes = {
            name: pool.apply_async(run, (model, f"{folder}/{name}", CASES[name], None)) for name in options.cases
        }
        for name, pending in wholes.items():
            whole = pending.get()
            steps = range(1, max(entry["step"] for entry in whole["log"]))
            resumed = [
                pool.apply_async(
                    run, (model, f"{folder}/{name} from {step}", CASES[name], f"{folder}/{name}/checkpoint-{step}")
                )
                for step in steps
            ]
            found = {step: difference(whole, one.get(), step) for step, one in zip(steps, resumed, strict=True)}
            print(f"{name:<32}" + " ".join("." if what is None else "X" for what in found.values()), flush=True)
            for step, what in found.items():
                if what is not None:
                    failures += 1
                    print(f"    resumed after step {step}: {what}", flush=True)
    print(f"{failures} differences" if failures else "every resumed run is the run")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
