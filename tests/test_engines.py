# SPDX-License-Identifier: Apache-2.0
"""FSDP2 and DeepSpeed, started with the configurations that ship: the same run as plain data parallel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests import component_rows
from tests.distributed import ROOT, components, contract, token_credit


deepspeed = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed"),
]


def read(folder: Path, name: str) -> list[dict]:
    return [json.loads((folder / name / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("configuration", "engine"),
    [
        (
            "fsdp2",
            {
                "distributed_type": "FSDP",
                "processes": 2,
                "parameter": "DTensor",
                "zero_stage": None,
                "evaluated": True,
            },
        ),
        pytest.param(
            "zero2",
            {
                "distributed_type": "DEEPSPEED",
                "processes": 2,
                "parameter": "Parameter",
                "zero_stage": 2,
                "evaluated": True,
            },
            marks=deepspeed,
        ),
        pytest.param(
            "zero3",
            {
                "distributed_type": "DEEPSPEED",
                "processes": 2,
                "parameter": "Parameter",
                "zero_stage": 3,
                "evaluated": True,
            },
            marks=deepspeed,
        ),
    ],
)
def test_a_sharded_model_trains_alike(configuration, engine, tiny_model, tmp_path, two_processes):
    shipped = ROOT / "examples" / "accelerate" / f"{configuration}.yaml"
    launch = ["accelerate.commands.launch", "--config_file", str(shipped), "--num_processes", "2"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "--mixed_precision", "no", "--main_process_port", "0"]
        + ["-m", "tests.distributed", "tests.distributed.engines", tiny_model, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    for rank in (0, 1):
        assert json.loads((tmp_path / f"engine{rank}.json").read_text()) == engine

    # the same prompts, completions, rewards and states of parts, to the digit
    assert read(tmp_path, "straddle") == read(two_processes, "straddle")
    assert read(tmp_path, "selecting") == read(two_processes, "selecting")
    assert read(tmp_path, "lengths")[0]["advantages"] == read(two_processes, "lengths")[0]["advantages"]
    for here, there in zip(read(tmp_path, "resuming"), read(two_processes, "resuming"), strict=True):
        assert here["resumed"] == here["whole"]
        assert here["whole"]["history"] == there["whole"]["history"]
        assert here["whole"]["greso"] == there["whole"]["greso"]

    # the same losses and gradients
    for here, there in zip(read(tmp_path, "critiques"), read(two_processes, "critiques"), strict=True):
        assert here["losses"] == pytest.approx(there["losses"], rel=1e-5)
    here, there = (
        json.loads((folder / "token_credit" / "steps.json").read_text()) for folder in (tmp_path, two_processes)
    )
    for credit in token_credit.CREDITS:
        for sharded, plain in zip(here[credit], there[credit], strict=True):
            assert sharded == pytest.approx(plain, rel=1e-4, abs=1e-6)
    for module in (contract, components):
        name = module.__name__.rpartition(".")[2]
        for path in sorted((two_processes / name).glob("*0.json")):
            if module is components and not component_rows.ROWS[path.name.removesuffix("0.json")].shards:
                continue
            plain, sharded = (
                json.loads((folder / name / path.name).read_text()) for folder in (two_processes, tmp_path)
            )
            for one, other in zip(plain["logged"], sharded["logged"], strict=True):
                for key in module.COMPARED & one.keys():
                    assert other[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5), (path.name, key)
    here, there = (torch.load(folder / "redi" / "rank0.pt") for folder in (tmp_path, two_processes))
    assert [step["loss"] for step in here["logged"]] == pytest.approx([step["loss"] for step in there["logged"]])
    if configuration == "fsdp2":
        for name, weight in there["weights"].items():
            torch.testing.assert_close(here["weights"][name], weight, rtol=1e-5, atol=1e-6)
