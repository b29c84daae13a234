# SPDX-License-Identifier: Apache-2.0
"""`benchmarks/gpu/real_model.py` with the engine options that it sets on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from trl_concise import demo


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "real_model.py"


def test_an_arm_trains_and_answers_with_vllm(embedded, tmp_path):
    rows = demo.generate_problems(4, seed=0, split="test")
    options = []
    for name in ("train", "test", "harder"):
        lines = [json.dumps({"problem": row["problem"], "answer": row["answer"]}) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
        options += [f"--{name}", tmp_path / f"{name}.jsonl"]
    options += ["--model", embedded, "--output_dir", tmp_path / "out", "--arms", "base", "sgrpo"]
    options += ["--context", "512", "--max_new_tokens", "32"]
    trainer = {
        "use_cpu": True,
        "bf16": False,
        "dtype": "float32",
        "max_steps": 2,
        "max_completion_length": 64,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "num_generations": 4,
    }
    options += [text for key, value in trainer.items() for text in (f"--{key}", str(value))]
    command = [sys.executable, SCRIPT, "run", "--engine", "vllm", *options]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB; the script's own size is for a GPU
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)
    logs = "".join(log.read_text() for log in (tmp_path / "out" / "logs").glob("*.log"))
    assert done.returncode == 0, logs[-5000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["arms"]["sgrpo"]["steps"] == 2 and results["versions"]["vllm"]
    settings = json.loads((tmp_path / "out" / "sgrpo" / "evaluation" / "settings.json").read_text())
    assert settings["engine"] == "vllm" and settings["temperature"] == 0.0
