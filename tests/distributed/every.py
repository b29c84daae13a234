# SPDX-License-Identifier: Apache-2.0
"""
Run the other modules of this folder one after the other in the same processes, which import torch and TRL only once.

    python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.distributed.every MODEL FOLDER

Each writes into a folder of its own name.
"""

from __future__ import annotations

import gc
import runpy
import sys
from pathlib import Path


MODULES = {
    "straddle": [],
    "lengths": [],
    "selecting": [],
    "resuming": ["whole"],
    "critiques": [],
    "token_credit": [],
    "evaluation": [],
    "redi": [],
    "tdrm": [],
    "realignment": [],
    "watch": [],
    "rows": [],
    "contract": [],
    "components": [],
    "tools": [],
    "process_tasks": [],
    "thinker": [],
    "self_verify": [],
    "resa": [],
    "scale_bio": [],
    "long_short": [],
}

if __name__ == "__main__":
    model, folder = sys.argv[1:]
    for name, arguments in MODULES.items():
        gc.collect()
        gc.freeze()  # what was imported; see tests/conftest.py
        Path(folder, name).mkdir(parents=True, exist_ok=True)
        sys.argv = [name, *arguments, model, str(Path(folder, name))]
        runpy.run_module(f"tests.distributed.{name}", run_name="__main__")
