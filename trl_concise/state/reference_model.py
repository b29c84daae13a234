# SPDX-License-Identifier: Apache-2.0
"""A reference model that moves during training, in a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoint import STATE_FOLDER, read_tensors, write_tensors


_REFERENCE_FILE = "reference_model.safetensors"


def save_reference_model(folder: str | Path, model: torch.nn.Module) -> None:
    """Write the weights of a reference model that `sync_ref_model` moves: no other file of a checkpoint holds them."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    write_tensors(Path(folder, STATE_FOLDER, _REFERENCE_FILE), state)


def load_reference_model(folder: str | Path, model: torch.nn.Module) -> None:
    """
    Restore what [`save_reference_model`] wrote.

    Raises:
        `ValueError`: If the checkpoint holds no reference model.
    """
    path = Path(folder, STATE_FOLDER, _REFERENCE_FILE)
    if not path.exists():
        raise ValueError(
            f"{folder} contains no reference model, which `sync_ref_model` has moved since the run began: a resumed run "
            "would measure the KL divergence from another one. Resume with sync_ref_model=False, or start from the beginning."
        )
    model.load_state_dict(read_tensors(path))
