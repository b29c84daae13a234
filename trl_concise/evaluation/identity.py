# SPDX-License-Identifier: Apache-2.0
"""Identity of an evaluated model: its name, and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .sampling import Sampler

BLOCK, BLOCKS = 2**20, 64  # bytes read in a row, and how often, of a file of weights
ELEMENTS = 1024  # read of a parameter


def name_of(model: str | PreTrainedModel | Sampler) -> str:
    """
    Return the name of a model: an id as it is, a folder without its parents. A checkpoint keeps the name of its run.

    Raises:
        `ValueError`: If a model in memory was not loaded from anywhere.
    """
    name = model if isinstance(model, str) else getattr(getattr(model, "config", None), "_name_or_path", None)
    if not name:
        raise ValueError("A model in memory that was not loaded from anywhere has no name: pass model_name=.")
    if not Path(name).exists():
        return name
    folder = Path(name).resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith(PREFIX_CHECKPOINT_DIR) else folder.name


def fingerprint(model: str | PreTrainedModel | Sampler) -> str | None:
    """
    Return a fingerprint of a model's weights, at a cost that does not grow with the model.

    Large files and parameters are read at evenly spaced places, because training changes all of them. A copy of a folder
    has the same fingerprint.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or `Sampler`): Folder of a model or an adapter, or a model in memory.

    Returns:
        `str`, *optional*: 32 hexadecimal digits. `None` for a `Sampler`, and if the model is not a folder with weights.
    """
    digest = hashlib.blake2b(digest_size=16)
    if not isinstance(model, str) and not hasattr(model, "named_parameters"):
        return None
    parts = _of_folder(Path(model)) if isinstance(model, str) else _of_parameters(model)
    empty = True
    for part in parts:
        digest.update(part)
        empty = False
    return None if empty else digest.hexdigest()


def _of_folder(folder: Path) -> Iterator[bytes]:
    files = (path for pattern in ("*model*.safetensors", "*model*.bin", "*.gguf") for path in folder.glob(pattern))
    for path in sorted(set(files)):
        size = path.stat().st_size
        yield f"{path.name} {size}".encode()
        with open(path, "rb") as file:
            for start in range(0, size, max(BLOCK, size // BLOCKS)):
                file.seek(start)
                yield file.read(BLOCK)


def _of_parameters(model: PreTrainedModel) -> Iterator[bytes]:
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()
        yield f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode()
        yield values[:: max(1, len(values) // ELEMENTS)].float().cpu().numpy().tobytes()
