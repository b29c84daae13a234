# SPDX-License-Identifier: Apache-2.0
"""A reference model that moves during training, in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import STATE_FOLDER, read_tensors, write_tensors


_REFERENCE_FILE = "reference_model.safetensors"


def save_reference_model(folder: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors of a reference model that moves: no other file of a checkpoint contains them."""
    state = {name: value.clone() for name, value in tensors.items()}
    write_tensors(Path(folder, STATE_FOLDER, _REFERENCE_FILE), state)


@torch.no_grad()
def load_reference_model(folder: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """
    Copy what [`save_reference_model`] wrote into the tensors of a reference model.

    Raises:
        `ValueError`: If the checkpoint holds no reference model, or another one.
    """
    path = Path(folder, STATE_FOLDER, _REFERENCE_FILE)
    if not path.exists():
        raise ValueError(
            f"{folder} contains no reference model, which has moved since the run began: a resumed run would measure the KL "
            "divergence from another one. Resume with sync_ref_model=False and without a component that moves the reference, or "
            "start from the beginning."
        )
    saved = read_tensors(path)
    if saved.keys() != tensors.keys():
        raise ValueError(
            f"{path} is the reference of another model. Resume with the model that the run was started with."
        )
    for name, tensor in tensors.items():
        tensor.copy_(saved[name])
