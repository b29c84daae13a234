# SPDX-License-Identifier: Apache-2.0
"""
Run a module on several processes, and end them without the interpreter's own shutdown.

    python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.distributed MODULE ARGUMENTS

Objects that outlive `destroy_process_group`, such as FSDP2's device mesh, keep Gloo's threads alive. Such a thread may release a tensor while
Python shuts down; it then waits for the GIL, is ended inside a destructor, and aborts the process: "terminate called without an active
exception" (https://github.com/pytorch/pytorch/pull/179291). A module that fails ends its process with a traceback, as usual.
"""

from __future__ import annotations

import atexit
import os
import runpy
import sys

import torch.distributed


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__")
    torch.distributed.barrier()  # no process is still at work with another
    torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()  # as multiprocessing ends its processes
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
