# SPDX-License-Identifier: Apache-2.0
"""
What a checkpoint needs beside the state of the components so that a resumed run is the run: the rollouts of a generation
block that is not used up yet, a reference model that moves, and a way to tell a whole checkpoint from a half-written one.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from .checkpoint import STATE_FOLDER, read_tensors, write_tensors


logger = logging.getLogger(__name__)

_WEIGHTS = (
    SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    ADAPTER_WEIGHTS_NAME,
)
_SHARDS = ("pytorch_model_fsdp*", "global_step*")  # FSDP, DeepSpeed
_ALMOST_NOTHING = 2**20  # bytes
_REFERENCE_FILE = "reference_model.safetensors"


# Rollouts


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
    tensors, values = {}, []
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
    Read what [`save_rollout_block`] wrote.

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
            "rollouts cannot be shared out, so the prompts of that block are rolled out, and counted by the parts, once "
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


# Reference model


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
            f"{folder} holds no reference model, which `sync_ref_model` has moved since the run began: a resumed run "
            "would measure the KL divergence from another one. Resume with sync_ref_model=False, or start anew."
        )
    model.load_state_dict(read_tensors(path))


# Checkpoints


def missing_from_checkpoint(folder: str | Path) -> str | None:
    """
    Say what a half-written checkpoint lacks.

    A process that is killed while it saves leaves a folder without the files that are written last; one that is killed
    while it deletes an old checkpoint leaves a folder without some.

    Args:
        folder (`str` or `Path`): A checkpoint folder.

    Returns:
        `str` or `None`: What is missing or unreadable; `None` if the checkpoint is whole.
    """
    folder = Path(folder)
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))  # the last file to be written
    except FileNotFoundError:
        return TRAINER_STATE_NAME
    except ValueError:
        return f"the end of {TRAINER_STATE_NAME}"
    sharded = any(any(folder.glob(pattern)) for pattern in _SHARDS)
    if not sharded and not any((folder / name).is_file() for name in _WEIGHTS):
        return "the weights"
    for index in (folder / name for name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME)):
        if index.is_file():
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            if absent := sorted(name for name in named if not (folder / name).is_file()):
                return absent[0]
    return None


def clear_checkpoint(folder: str | Path) -> None:
    """
    Remove a checkpoint's files before it is written anew.

    A run that is killed meanwhile leaves no mixture that looks whole. And `torch.save` writes into the file that it finds:
    one that is linked elsewhere, to be sent to the Hub, would change there too.
    """
    Path(folder, TRAINER_STATE_NAME).unlink(missing_ok=True)  # first: with it, the checkpoint counts as whole
    for path in [path for path in Path(folder).rglob("*") if not path.is_dir()]:
        path.unlink(missing_ok=True)


def check_checkpoint(folder: str | Path) -> None:
    """
    Refuse to resume from a half-written checkpoint.

    Raises:
        `ValueError`: If something is missing; the message names the newest checkpoint beside it that is whole.
    """
    if (missing := missing_from_checkpoint(folder)) is None:
        return
    whole = [other for _, other in sorted(checkpoints(Path(folder).parent)) if missing_from_checkpoint(other) is None]
    instead = f"Resume from {whole[-1]}." if whole else "No whole checkpoint stands beside it."
    raise ValueError(f"{folder} is no whole checkpoint: it lacks {missing}. {instead}")


def last_whole_checkpoint(output_dir: str | Path) -> Path:
    """
    Return the newest checkpoint of a run that is whole; each newer one that is not is named in a warning.

    Args:
        output_dir (`str` or `Path`): Output folder of the run.

    Returns:
        `Path`: A checkpoint folder.

    Raises:
        `ValueError`: If there is none.
    """
    skipped = []
    for _, folder in sorted(checkpoints(Path(output_dir)), reverse=True):
        missing = missing_from_checkpoint(folder)
        if missing is None:
            for other, what in skipped:
                logger.warning("%s is half-written (it lacks %s): resuming from %s instead.", other, what, folder)
            return folder
        skipped.append((folder, missing))
    found = ", ".join(f"{folder.name} lacks {what}" for folder, what in skipped) or "there is none"
    raise ValueError(f"No checkpoint to resume from in {output_dir}: {found}. Train without resume_from_checkpoint.")


def checkpoints(output_dir: Path) -> Iterator[tuple[int, Path]]:
    """Yield the steps and folders of a run's checkpoints, in no order."""
    for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.rpartition("-")[2]
        if folder.is_dir() and step.isdecimal():
            yield int(step), folder


@contextmanager
def disk_full_said_clearly(output_dir: str | Path) -> Iterator[None]:
    """
    Turn what a library says when a disk runs full while it writes, each in its own way, into one sentence.

    Args:
        output_dir (`str` or `Path`): Output folder of the run.

    Raises:
        `OSError`: If writing failed and the disk is full. Names the checkpoint to resume from.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        is_full = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(output_dir).free < _ALMOST_NOTHING
        if not is_full:
            raise
        whole = [folder for _, folder in sorted(checkpoints(Path(output_dir))) if not missing_from_checkpoint(folder)]
        rest = f"{whole[-1]} is whole: make room, and train(resume_from_checkpoint=True)" if whole else "Make room"
        raise OSError(errno.ENOSPC, f"The disk ran full while a checkpoint was written. {rest}.") from error
