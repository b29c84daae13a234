# SPDX-License-Identifier: Apache-2.0
"""The accuracy of each prompt at each visit, used by curricula and to choose examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batch.rollouts import pack_keys, prompt_digest, unpack_keys
from .checkpoint import SavedRecords


_TENSORS = {"keys", "visits", "accuracies", "steps"}


class AccuracyHistory(Mapping[str, list[float]], SavedRecords):
    """
    Per prompt, the share of correct completions at each visit, oldest first.

    A mapping from prompt keys (see [`prompt_key`]); a `prompt_id` finds its prompt too. Visits may differ in number.

    Attributes:
        steps (`dict[str, list[int]]`): Per prompt key, the optimizer steps done at each visit.

    Examples:
        >>> history = AccuracyHistory()
        >>> history.update(["a", "a", "b", "b"], correct=[1, 0, 1, 1], step=0)
        >>> history.update(["a", "a"], correct=[1, 1], step=3)
        >>> history["a"], history["b"], len(history)
        ([0.5, 1.0], [1.0], 2)
    """

    records_name = "an accuracy history"

    def __init__(self):
        self._accuracies: dict[str, list[float]] = {}
        self.steps: dict[str, list[int]] = {}

    def __getitem__(self, key: str) -> list[float]:
        return self._accuracies[prompt_digest(key).hex()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._accuracies)

    def __len__(self) -> int:
        return len(self._accuracies)

    def update(self, keys: Sequence[str], correct: Sequence[float] | Tensor, step: int) -> None:
        """
        Record a batch of completions. One call is one visit of each prompt in it, however many completions it has.

        Args:
            keys (`Sequence[str]`): Prompt of each completion.
            correct (`Sequence[float]` or `torch.Tensor`): `(n,)`, 1 correct, 0 wrong; NaN is unknown and left out.
            step (`int`): Optimizer steps done.
        """
        verdicts: dict[str, list[float]] = {}
        for key, verdict in zip(keys, torch.as_tensor(correct, dtype=torch.float64).tolist(), strict=True):
            if verdict == verdict:  # not NaN
                verdicts.setdefault(prompt_digest(key).hex(), []).append(verdict)
        for key, values in verdicts.items():
            self._accuracies.setdefault(key, []).append(sum(values) / len(values))
            self.steps.setdefault(key, []).append(step)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the records as tensors: `keys` `(n, 16)` uint8, `visits` `(n,)`, and all visits' figures in a row."""
        rows = list(self._accuracies.values())
        return {
            "keys": pack_keys(self),
            "visits": torch.tensor([len(row) for row in rows], dtype=torch.int64),
            "accuracies": torch.tensor([accuracy for row in rows for accuracy in row], dtype=torch.float64),
            "steps": torch.tensor([step for key in self for step in self.steps[key]], dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Replace the records by those of [`~AccuracyHistory.state_dict`].

        Raises:
            `ValueError`: If tensors are missing, or do not fit together.
        """
        if set(state) != _TENSORS:
            raise ValueError(f"An accuracy history holds the tensors {sorted(_TENSORS)}, got {sorted(state)}.")
        count, total = len(state["keys"]), int(state["visits"].sum())
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if shapes != {"keys": (count, 16), "visits": (count,), "accuracies": (total,), "steps": (total,)}:
            raise ValueError(f"An accuracy history of {count} prompts cannot have tensors of the shapes {shapes}.")
        keys, visits = unpack_keys(state["keys"]), state["visits"].tolist()
        self._accuracies, self.steps = (
            {key: values.tolist() for key, values in zip(keys, state[name].split(visits), strict=True)}
            for name in ("accuracies", "steps")
        )
