# SPDX-License-Identifier: Apache-2.0
"""Pretrained models, fetched by `make test-real`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.distributed import ROOT


def folder_of(name: str) -> str:
    folder = Path(os.environ.get("REAL_MODELS", ROOT / ".models"), name)
    if not (folder / "tokenizer_config.json").is_file():
        pytest.skip(f"{name} is missing: make test-real, or python -m tests.real.get_model {name} {folder}")
    return str(folder)


@pytest.fixture(scope="session")
def smollm2() -> str:
    """Folder of SmolLM2-135M-Instruct (Llama architecture)."""
    return folder_of("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def qwen() -> str:
    """Folder of Qwen2.5-Coder-0.5B-Instruct."""
    return folder_of("qwen2.5-coder-0.5b-instruct")
