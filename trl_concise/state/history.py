# SPDX-License-Identifier: Apache-2.0
"""The record of each prompt in a run: lengths of its correct completions, visits, and how often it was solved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..batch.rollouts import prompt_digest
from .checkpoint import SavedRecords


if TYPE_CHECKING:
    import pandas as pd

# Field -> dtype and the value of a prompt without a correct completion. How two histories merge follows from it: the
# smaller `shortest`, the sum of everything else.
_FIELDS = {
    "shortest": (np.int64, np.iinfo(np.int64).max),  # fewest tokens among correct completions
    "total": (np.int64, 0),  # tokens of all correct completions together
    "correct": (np.int64, 0),  # number of correct completions
    "visits": (np.int64, 0),  # batches in which the prompt was judged
    "solved": (np.int64, 0),  # batches in which it had a correct completion
}


class PromptHistory(SavedRecords):
    """
    Per-prompt records of a run, in arrays: 40 bytes of numbers and a 16-byte digest per prompt on disk, about 160 bytes in memory.

    Lengths are completion tokens without EOS, padding and tool output. A prompt is named by its key (see
    [`prompt_key`]) or its `prompt_id`. Updates commute: batches may be split and ordered in any way.

    Examples:
        >>> history = PromptHistory()
        >>> history.update(["a", "a", "b"], lengths=[50, 30, 20], correct=[1, 1, 0])
        >>> history.shortest(["a", "b", "c"])
        tensor([30., nan, nan], dtype=torch.float64)
        >>> history.mean(["a"]), history.visits(["a", "b", "c"])
        (tensor([40.], dtype=torch.float64), tensor([1, 1, 0]))
    """

    records_name = "a prompt history"

    def __init__(self):
        self._rows: dict[bytes, int] = {}  # digest -> row in the arrays
        self._arrays = {name: np.empty(0, dtype) for name, (dtype, _) in _FIELDS.items()}  # capacity >= len(self)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return prompt_digest(key) in self._rows

    def __repr__(self) -> str:
        solved = int((self._arrays["correct"][: len(self)] > 0).sum())
        return f"PromptHistory({len(self)} prompts, {solved} solved)"

    def update(
        self,
        keys: Sequence[str],
        lengths: Sequence[float] | Tensor,
        correct: Sequence[float] | Tensor,
    ) -> None:
        """
        Record a batch of completions. One call is one visit of each prompt in it, however many completions it has.

        Args:
            keys (`Sequence[str]`): Prompt of each completion.
            lengths (`Sequence[float]` or `torch.Tensor`): `(n,)`, tokens, at least 0.
            correct (`Sequence[float]` or `torch.Tensor`): `(n,)`, 1 correct, 0 wrong; NaN is unknown and not
                recorded.

        Raises:
            `ValueError`: If the three differ in length, or a correct completion's length is negative or not finite.
        """
        lengths = torch.as_tensor(lengths, dtype=torch.float64).cpu().numpy()
        correct = torch.as_tensor(correct, dtype=torch.float64).cpu().numpy()
        if not len(keys) == len(lengths) == len(correct):
            raise ValueError(
                f"update() needs one length and one verdict per key, got {len(keys)} keys, {len(lengths)} lengths "
                f"and {len(correct)} verdicts."
            )
        is_correct = correct == 1
        if not (is_correct | (correct == 0) | np.isnan(correct)).all():
            raise ValueError(f"Verdicts are 1, 0 or NaN, got {sorted(set(correct[~np.isnan(correct)]))}.")
        bad = lengths[is_correct & ~(np.isfinite(lengths) & (lengths >= 0))]
        if len(bad):
            raise ValueError(f"Lengths are finite and at least 0, got {bad[0]}.")

        known = np.flatnonzero(~np.isnan(correct))
        rows = self._rows_of([keys[i] for i in known.tolist()])
        visited = np.unique(rows)
        solved_rows, solved_lengths = rows[is_correct[known]], lengths[is_correct].astype(np.int64)
        np.minimum.at(self._arrays["shortest"], solved_rows, solved_lengths)
        np.add.at(self._arrays["total"], solved_rows, solved_lengths)
        np.add.at(self._arrays["correct"], solved_rows, 1)
        self._arrays["visits"][visited] += 1
        self._arrays["solved"][np.unique(solved_rows)] += 1

    def shortest(self, keys: Iterable[str]) -> Tensor:
        """Return the fewest tokens among each prompt's correct completions: `(n,)` float64, NaN if never solved."""
        shortest, correct = self._read("shortest", keys), self._read("correct", keys)
        return torch.where(correct > 0, shortest.double(), math.nan)

    def mean(self, keys: Iterable[str]) -> Tensor:
        """Return the mean length of each prompt's correct completions: `(n,)` float64 tokens, NaN if never solved."""
        return self._read("total", keys).double() / self._read("correct", keys)  # 0 / 0 is NaN

    def visits(self, keys: Iterable[str]) -> Tensor:
        """Return the number of batches in which each prompt was judged: `(n,)` int64."""
        return self._read("visits", keys)

    def solved(self, keys: Iterable[str]) -> Tensor:
        """Return the number of batches in which each prompt had a correct completion: `(n,)` int64."""
        return self._read("solved", keys)

    def merge(self, other: PromptHistory) -> None:
        """
        Add the records of another run. Visits of the two runs must be disjoint, or they count twice.

        Args:
            other ([`PromptHistory`]): Left unchanged.

        Raises:
            `TypeError`: If the records are of another type, and so of another unit.
        """
        if type(other) is not type(self):
            raise TypeError(
                f"A {type(self).__name__} cannot be merged with a {type(other).__name__}. Pass one of the same type."
            )
        count = len(other)
        theirs = {name: array[:count].copy() for name, array in other._arrays.items()}
        rows = self._rows_of_digests(list(other._rows))
        for name, array in theirs.items():
            reduce = np.minimum if name == "shortest" else np.add
            self._arrays[name][rows] = reduce(self._arrays[name][rows], array)

    def to_pandas(self) -> pd.DataFrame:
        """
        Return one row per prompt: `shortest`, `mean` (tokens, NaN if never solved), `correct` (completions), `visits`,
        `solved` (batches). The index is the prompt key; [`prompt_key`] of a dataset row finds it.
        """
        import pandas as pd

        keys = [digest.hex() for digest in self._rows]
        columns = {
            "shortest": self.shortest(keys).numpy(),
            "mean": self.mean(keys).numpy(),
            **{name: self._read(name, keys).numpy() for name in ("correct", "visits", "solved")},
        }
        return pd.DataFrame(columns, index=pd.Index(keys, name="prompt_key"))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the records as tensors: `keys` `(n, 16)` uint8 and one `(n,)` int64 per field."""
        keys = np.frombuffer(b"".join(self._rows), dtype=np.uint8).reshape(-1, 16).copy()
        arrays = {name: array[: len(self)].copy() for name, array in self._arrays.items()}
        return {"keys": torch.from_numpy(keys), **{name: torch.from_numpy(array) for name, array in arrays.items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """
        Replace the records by those of [`~PromptHistory.state_dict`].

        Raises:
            `ValueError`: If the tensors are not those of a history.
        """
        expected = {"keys", *_FIELDS}
        if set(state) != expected:
            raise ValueError(f"A prompt history holds the tensors {sorted(expected)}, got {sorted(state)}.")
        count = len(state["keys"])
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if shapes != {"keys": (count, 16), **dict.fromkeys(_FIELDS, (count,))}:
            raise ValueError(f"A prompt history of {count} prompts cannot have tensors of the shapes {shapes}.")
        flat = state["keys"].to(torch.uint8).numpy().tobytes()
        rows = {flat[16 * row : 16 * row + 16]: row for row in range(count)}
        if len(rows) != count:
            raise ValueError(f"A prompt history names each prompt once, but {count - len(rows)} keys are repeated.")
        self._rows = rows
        self._arrays = {name: state[name].numpy().astype(dtype) for name, (dtype, _) in _FIELDS.items()}

    def _read(self, name: str, keys: Iterable[str]) -> Tensor:
        default = _FIELDS[name][1]
        rows = np.array([self._rows.get(prompt_digest(key), -1) for key in keys], dtype=np.int64)
        if len(self) == 0:
            return torch.full((len(rows),), default, dtype=torch.int64)
        return torch.from_numpy(np.where(rows < 0, default, self._arrays[name][rows]))

    def _rows_of(self, keys: Sequence[str]) -> np.ndarray:
        return self._rows_of_digests([prompt_digest(key) for key in keys])

    def _rows_of_digests(self, digests: Sequence[bytes]) -> np.ndarray:
        """Return the rows of prompts, making room for new ones."""
        rows = np.array([self._rows.setdefault(digest, len(self._rows)) for digest in digests], dtype=np.int64)
        capacity = len(self._arrays["visits"])
        if len(self._rows) > capacity:
            missing = max(len(self._rows), 2 * capacity) - capacity  # doubling: appending stays linear
            for name, (dtype, default) in _FIELDS.items():
                self._arrays[name] = np.concatenate([self._arrays[name], np.full(missing, default, dtype)])
        return rows
