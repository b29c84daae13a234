# SPDX-License-Identifier: Apache-2.0
"""
Run other modules of this folder under FSDP2 or DeepSpeed, on the CPU.

    accelerate launch --config_file examples/accelerate/fsdp2.yaml --num_processes 2 --mixed_precision no \\
        -m tests.distributed tests.distributed.engines MODEL FOLDER

On a CPU accelerate turns to plain data parallel without a word. Here it is told that each process has a device, which is the
CPU; what it then shards, it shards for real. Each module writes into a folder of its own name, and this one the engine that ran.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import sys
from pathlib import Path


os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
os.environ["DS_ACCELERATOR"] = "cpu"

from accelerate import PartialState  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from accelerate.utils import DistributedType  # noqa: E402

from tests import tiny  # noqa: E402
from tests.distributed.every import MODULES  # noqa: E402


def pretend_to_have_devices() -> None:
    settings = tiny.settings
    tiny.settings = lambda *args, **changes: {**settings(*args, **changes), "use_cpu": False}
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)


if __name__ == "__main__":
    pretend_to_have_devices()
    model, folder = sys.argv[1:]
    for name, arguments in MODULES.items():
        # Evaluation before training, which accelerate refuses under FSDP2, and systems that refuse a sharded model
        if name in ("evaluation", "resa", "scale_bio"):
            continue
        gc.collect()
        gc.freeze()  # what was imported; see tests/conftest.py
        Path(folder, name).mkdir(parents=True, exist_ok=True)
        sys.argv = [name, *arguments, model, str(Path(folder, name))]
        left = runpy.run_module(f"tests.distributed.{name}", run_name="__main__")
        if name == "straddle":
            trainer = left["trainer"]
            engine = {
                "distributed_type": AcceleratorState().distributed_type.value,
                "processes": AcceleratorState().num_processes,
                "parameter": type(next(trainer.model.parameters())).__name__,
                "zero_stage": getattr(trainer.accelerator.deepspeed_plugin, "zero_stage", None),
                "evaluated": "eval_accuracy" in trainer.evaluate(trainer.train_dataset),
            }
            Path(folder, f"engine{os.environ['RANK']}.json").write_text(json.dumps(engine))
