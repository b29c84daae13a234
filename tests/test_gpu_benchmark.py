# SPDX-License-Identifier: Apache-2.0
"""`benchmarks/gpu.py --smoke`: every method trains a step on the CPU and is planned."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch


BENCHMARK = str(Path(__file__).parent.parent / "benchmarks" / "gpu.py")


def test_smoke(tmp_path, capsys):
    runpy.run_path(BENCHMARK)["main"](["--smoke", "--output", str(tmp_path / "gpu.json")])
    written = json.loads((tmp_path / "gpu.json").read_text())
    results = written["results"]
    assert [result["method"] for result in results] == ["grpo", "sgrpo", "tspmo", "hapo", "redi", "dpo"]
    assert all(result["seconds"] > 0 and result["predicted"] > 0 and result["peak"] is None for result in results)
    for result in (*results, *written["rollouts"]):
        online = "method" not in result
        assert list(result["phases"]) == (["generation", "log-probs"] if online else ["loss", "backward"])
        assert all(phase["seconds"] > 0 and phase["predicted"] > 0 for phase in result["phases"].values())
    assert len(written["rollouts"]) == 1
    printed = capsys.readouterr().out
    assert all(f"| {result['method']} | 16 |" in printed for result in results)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys):
    with pytest.raises(SystemExit):
        runpy.run_path(BENCHMARK)["main"]([])
    assert "--smoke runs on the CPU" in capsys.readouterr().err
