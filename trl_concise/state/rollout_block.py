# SPDX-License-Identifier: Apache-2.0
"""The completions of a generation block that is not yet trained on, in a checkpoint. Each process writes its own file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .checkpoint import STATE_FOLDER, read_tensors, write_tensors


logger = logging.getLogger(__name__)


def save_rollout_block(
    folder: str | Path, batches: list[dict[str, Any]], *, micro_step: int, process_index: int, num_processes: int
) -> None:
    """
    Write the rollouts that a generation block still has to train on. Every process writes its own.

    Args:
        folder (`str` or `Path`): The checkpoint folder.
        batches (`list[dict]`): The block, one batch per micro-step: tensors, lists of numbers, or `None`.
        micro_step (`int`): Forward and backward passes done in this run.
        process_index (`int`): Rank of this process.
        num_processes (`int`): Number of processes.
    """
    tensors: dict[str, Any] = {}
    values: list[Any] = []
    for i, batch in enumerate(batches):
        values.append({key: value for key, value in batch.items() if not isinstance(value, Tensor)})
        tensors |= {f"{i}.{key}": value.clone() for key, value in batch.items() if isinstance(value, Tensor)}
    header = {"micro_step": micro_step, "num_processes": num_processes, "values": values}
    write_tensors(_block_file(folder, process_index), tensors, metadata={"rollouts": json.dumps(header)})


def drop_rollout_block(folder: str | Path, process_index: int) -> None:
    """Remove what [`save_rollout_block`] wrote into this folder before."""
    _block_file(folder, process_index).unlink(missing_ok=True)


def load_rollout_block(
    folder: str | Path, *, process_index: int, num_processes: int, block_steps: int, device: torch.device | str
) -> tuple[int, list[dict[str, Any]]] | None:
    """
    Read the block that [`save_rollout_block`] wrote.

    Args:
        folder (`str` or `Path`): The checkpoint folder.
        process_index (`int`): Rank of this process.
        num_processes (`int`): Number of processes.
        block_steps (`int`): Micro-steps of a block: `steps_per_generation`.
        device (`torch.device` or `str`): Where the tensors go.

    Returns:
        `tuple[int, list[dict]]` or `None`: Micro-steps done, and the block; `None` if the checkpoint was written between
        two blocks, or by a run with blocks of another shape (with a warning: the prompts of that block are rolled out
        again).

    Raises:
        `ValueError`: If the file is damaged.
    """
    if not (own := _block_file(folder, process_index)).exists():
        return None
    header, tensors = _read_block(own)
    batches = header["values"]
    if (header["num_processes"], len(batches)) != (num_processes, block_steps):
        logger.warning(
            "%s was saved inside a generation block of %d micro-steps by %d processes and is resumed with %d by %d: its "
            "rollouts cannot be redistributed, so the prompts of that block are rolled out, and counted by the components, once "
            "more.",
            folder,
            len(batches),
            header["num_processes"],
            block_steps,
            num_processes,
        )
        return None
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        batches[int(index)][key] = tensor.to(device)
    return header["micro_step"], batches


def _block_file(folder: str | Path, process_index: int) -> Path:
    return Path(folder, STATE_FOLDER, f"rollouts-{process_index}.safetensors")


def _read_block(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["rollouts"]), tensors
