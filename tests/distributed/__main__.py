# SPDX-License-Identifier: Apache-2.0
"""
Run a module on several processes, and close their process group at the end.

    python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.distributed MODULE ARGUMENTS

Gloo's threads end a process that exits with an open group: "terminate called without an active exception".
"""

from __future__ import annotations

import runpy
import sys

import torch.distributed


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__")
    torch.distributed.destroy_process_group()
