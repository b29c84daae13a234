# SPDX-License-Identifier: Apache-2.0
"""
What the real vLLM engine needs on a CPU. Import this module before transformers, TRL and vLLM: it sets their environment.

Three differences from a GPU, all in the tests and none in the package: the engine computes in float32 and without
compilation (TRL passes neither setting), and a server loads new weights from a file (TRL sends them with NCCL).
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path


os.environ.update(
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_NO_USAGE_STATS="1",
)

import torch  # noqa: E402
import trl.generation.vllm_generation as generation  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from trl.generation.vllm_client import VLLMClient  # noqa: E402


CONTEXT = 512  # tokens
CACHE_BYTES = 128 << 20  # vLLM's default is a share of the machine's memory, and one process starts many engines
COLOCATE = {"vllm_mode": "colocate", "vllm_max_model_length": CONTEXT}


def prepare() -> None:
    """Set this process up: TRL's colocate engine in float32, and weights for a server as a file."""
    torch.set_num_threads(1)
    generation.LLM = functools.partial(
        generation.LLM, dtype="float32", enforce_eager=True, kv_cache_memory_bytes=CACHE_BYTES
    )
    VLLMClient.init_communicator = lambda self, device=0: None
    VLLMClient.update_named_params = _send_as_file


def _send_as_file(self, metadata, named_params) -> None:
    weights = {name: parameter.detach().clone().contiguous() for name, parameter in named_params}
    with tempfile.TemporaryDirectory() as folder:
        save_file(weights, f"{folder}/model.safetensors")
        call = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        response = self.session.post(f"{self.base_url}/collective_rpc", json=call)
        assert response.status_code == 200, response.text


def start_server(model: str, port: int, log: Path) -> subprocess.Popen:
    """Start `trl vllm-serve`, and wait until it answers."""
    command = [str(Path(sys.executable).with_name("trl")), "vllm-serve", "--model", model, "--dtype", "float32"]
    command += ["--max_model_len", str(CONTEXT), "--enforce_eager", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB; the command has no option for it
    with open(log, "wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
            return process
        except OSError:
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)
    process.kill()
    raise AssertionError(log.read_text()[-3000:])
