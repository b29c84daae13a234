# SPDX-License-Identifier: Apache-2.0
"""
The state of components on disk, next to the optimizer's.

`concise_state/` holds `state.json` (format, versions, and every number and string, readable) and one `.safetensors` per
component that has tensors. Every file is written whole or not at all, and `state.json`, written last, has the
checksum of each tensor file, so a half-written or mixed folder is recognized when it is read. Values that JSON lacks are
written as an object with one entry: NaN and infinity as `{"__float__": "nan"}`, a dict with other keys than strings as
`{"__items__": [[key, value], ...]}`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


if TYPE_CHECKING:
    from ..components import Stateful

STATE_FOLDER = "concise_state"
_STATE_FILE = "state.json"
_FORMAT = 1
_FLOAT, _ITEMS = "__float__", "__items__"


@dataclass(frozen=True)
class FrozenState:
    """
    Copy of a component's state, saved in the component's place.

    Attributes:
        name (`str`): Name of the component.
        state (`dict[str, Any]`): The copy of its `state_dict`.
    """

    name: str
    state: dict[str, Any]

    @classmethod
    def of(cls, component: Stateful) -> FrozenState:
        """Copy the state of a component."""
        return cls(component.name, copy.deepcopy(component.state_dict()))

    def state_dict(self) -> dict[str, Any]:
        """Return the copy."""
        return self.state


def save_components(components: Sequence[Stateful | FrozenState], folder: str | Path) -> None:
    """
    Write the state of components into `folder/concise_state`.

    Args:
        components (`Sequence[Component]`): Components with distinct names.
        folder (`str` or `Path`): The checkpoint folder.

    Raises:
        `ValueError`: If a state has a value that cannot be saved.
    """
    folder = Path(folder, STATE_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for component in components:
        values, tensors = _split_state(component)
        entry: dict[str, Any] = {"values": values}
        if tensors:
            path = folder / f"{component.name}.safetensors"
            entry["tensors"] = {"file": path.name, "sha256": write_tensors(path, tensors)}
        entries[component.name] = entry
    state = {"format": _FORMAT, "trl_concise": version("trl-concise"), "components": entries}
    write_atomically(folder / _STATE_FILE, json.dumps(state, indent=2, allow_nan=False).encode())


def check_states(components: Sequence[Stateful | FrozenState]) -> None:
    """
    Check that the state of each component can be saved.

    Args:
        components (`Sequence[Component]`): Components.

    Raises:
        `ValueError`: If a state has a value that cannot be saved.
    """
    for component in components:
        _split_state(component)


def _split_state(component: Stateful | FrozenState) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON values and the tensors of a component's state."""
    values, tensors = {}, {}
    for name, value in component.state_dict().items():
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            values[name] = _encode(value, f"`{component.name}`: state_dict()[{name!r}]")
    return values, tensors


def _encode(value: Any, place: str) -> Any:
    """Return a value as JSON from which `_decode` restores it; NumPy numbers are restored as Python numbers."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (str, bool, int, NoneType)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: str(float(value))}
    if isinstance(value, (list, tuple)):
        return [_encode(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        items = {key: _encode(item, f"{place}[{key!r}]") for key, item in value.items()}
        if all(isinstance(key, str) and key not in (_FLOAT, _ITEMS) for key in items):
            return items
        return {_ITEMS: [[_encode(key, f"the key {key!r} of {place}"), item] for key, item in items.items()]}
    raise ValueError(
        f"{place} is a {type(value).__name__}. A saved state has numbers, strings, booleans, None, lists and dicts of these, "
        "and tensors at the top level. Convert this value in state_dict()."
    )


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _FLOAT in value:
        return float(value[_FLOAT])
    if _ITEMS in value:
        pairs = _decode(value[_ITEMS])
        return {tuple(key) if isinstance(key, list) else key: item for key, item in pairs}
    return {key: _decode(item) for key, item in value.items()}


def load_components(components: Sequence[Stateful], folder: str | Path) -> list[str] | None:
    """
    Restore the state of components from `folder/concise_state`.

    Args:
        components (`Sequence[Component]`): The components of the resumed run.
        folder (`str` or `Path`): The checkpoint folder.

    Returns:
        `list[str]` or `None`: Names of the components without a state in the checkpoint, which start from the beginning;
        `None` if the checkpoint was written without components at all.

    Raises:
        `ValueError`: If a file is damaged, or the checkpoint holds the state of a component that this run lacks.
    """
    folder = Path(folder, STATE_FOLDER)
    path = folder / _STATE_FILE
    if not folder.exists():
        return None
    if not path.exists():
        raise ValueError(f"{folder} is incomplete: {_STATE_FILE} is missing. Resume from another checkpoint.")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        form, entries = state["format"], state["components"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: expected JSON with `format` and `components` ({error}).") from error
    if form != _FORMAT:
        raise ValueError(f"{path} has format {form}; this version of trl_concise reads format {_FORMAT}.")
    known = {component.name: component for component in components}
    unknown = sorted(set(entries) - set(known))
    if unknown:
        raise ValueError(
            f"{folder} holds the state of {unknown}, but this run has only {sorted(known)}. Resume with the "
            f"components that the run was started with, or delete {folder} to start all of them without a state."
        )
    for name, entry in entries.items():
        values = _decode(entry["values"])
        if "tensors" in entry:
            values |= read_tensors(folder / entry["tensors"]["file"], sha256=entry["tensors"]["sha256"])
        known[name].load_state_dict(values)
    return sorted(set(known) - set(entries))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write a safetensors file atomically and return its SHA-256."""
    data = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, metadata=metadata)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def read_tensors(
    path: Path, *, sha256: str | None = None, metadata: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """
    Read a safetensors file.

    Args:
        path (`Path`): The file.
        sha256 (`str`, *optional*): Checksum that the file must have.
        metadata (`Mapping[str, str]`, *optional*): Metadata that the file must carry.

    Raises:
        `FileNotFoundError`: If the file does not exist.
        `ValueError`: If the file is damaged or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one in {_STATE_FILE} ({sha256}).")
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: expected a safetensors file ({error}).") from error
    if metadata is not None and any(found.get(key) != value for key, value in metadata.items()):
        raise ValueError(
            f"{path} has another format: expected a file with the metadata {dict(metadata)}, found {found}."
        )
    return tensors


class SavedRecords(ABC):
    """Mixin that saves records as a `.safetensors` file, and loads them."""

    records_name: ClassVar[str]  # for messages, for example "a prompt history"

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """Return the records as tensors."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace the records. Raises `ValueError` if the tensors are not those of `state_dict`."""

    def save(self, path: str | Path) -> None:
        """Write the records to a `.safetensors` file. After a crash the file is either the old or the complete new one."""
        write_tensors(Path(path), self.state_dict(), metadata=self._metadata())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """
        Read a file that `save` wrote.

        Raises:
            `FileNotFoundError`: If the file does not exist.
            `ValueError`: If the file is damaged, or contains something else.
        """
        records = cls()
        state = read_tensors(Path(path), metadata=cls._metadata())
        try:
            records.load_state_dict(state)
        except ValueError as error:
            raise ValueError(f"{path} is not {cls.records_name}. {error}") from error
        return records

    @classmethod
    def _metadata(cls) -> dict[str, str]:
        return {"format": f"trl_concise.{cls.__name__}", "version": "1"}


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, whenever the process dies, it holds either the old bytes or all of the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # if the disk is full, remove the incomplete file
