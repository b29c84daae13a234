# SPDX-License-Identifier: Apache-2.0
"""Two real processes, and several runs that start at the same moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.distributed import ROOT, run_on_processes


def test_two_processes_keep_one_history(embedded, tmp_path):
    done = run_on_processes(2, "tests.vllm.two_processes", embedded, str(tmp_path))
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["world_size"] == 2
    assert first["coverage"][0] == 0 < first["coverage"][-1]


ONE_RUN = """
from tests.vllm import engine
engine.prepare()
import runpy, sys
sys.argv = ["hapo.py", *sys.argv[1:]]
runpy.run_path("examples/hapo.py", run_name="__main__")
"""


def test_two_runs_start_at_the_same_moment(tmp_path):
    """Both choose a port for the rendezvous of their engine; port 29500 would be the first choice of either."""
    options = ["--max_steps", "1", "--report_problems", "0", "--use_vllm", "--vllm_mode", "colocate"]
    options += [
        "--vllm_max_model_length",
        "512",
        "--use_cpu",
        "--per_device_train_batch_size",
        "8",
        "--num_generations",
        "4",
    ]
    environment = {name: value for name, value in os.environ.items() if name not in ("MASTER_PORT", "WORLD_SIZE")}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_RUN, *options, "--output_dir", str(tmp_path / name)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("first", "second")
    ]
    for run in runs:
        output, _ = run.communicate(timeout=240)
        assert run.returncode == 0, output[-3000:]
