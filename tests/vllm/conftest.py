# SPDX-License-Identifier: Apache-2.0
"""Runs with `make test-vllm` only: the engine needs an environment of its own."""

from __future__ import annotations

import importlib.util
import os

import pytest


if importlib.util.find_spec("vllm") is None:
    pytest.skip("needs the vLLM engine: make test-vllm", allow_module_level=True)

from tests.vllm import engine  # noqa: E402, I001 (sets the environment of torch and vLLM)
from trl_concise.demo.settings import model_path  # noqa: E402
from trl_concise.cli.launch import set_master_port  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def prepared():
    engine.prepare()


@pytest.fixture(scope="session")
def embedded() -> str:
    """Folder of the embedded model."""
    return str(model_path())


@pytest.fixture(scope="session")
def server(embedded, tmp_path_factory):
    """Settings of a trainer that generates with a server."""
    before = os.environ.pop("MASTER_PORT", None)
    set_master_port()
    port = int(os.environ.pop("MASTER_PORT"))
    if before is not None:
        os.environ["MASTER_PORT"] = before
    process = engine.start_server(embedded, port, tmp_path_factory.mktemp("server") / "log")
    yield {"vllm_mode": "server", "vllm_server_host": "127.0.0.1", "vllm_server_port": port}
    process.terminate()
    process.wait(30)


@pytest.fixture(params=["colocate", "server"])
def mode(request) -> dict:
    """Settings of a trainer that generates with vLLM, in its own process and with a server."""
    return engine.COLOCATE if request.param == "colocate" else request.getfixturevalue("server")
