# SPDX-License-Identifier: Apache-2.0
"""
The state of a run at the beginning of the current optimizer step, from which a checkpoint inside the step is written.

A checkpoint that is saved inside a step (by `enable_jit_checkpoint` after SIGTERM, or by a callback) holds the weights
from before the step, so a resumed run repeats the step. The history, the random state and the rollouts in the checkpoint
must then be those from before the step too: otherwise the batch counts twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from .checkpoint import FrozenState


if TYPE_CHECKING:
    from ..components import Stateful, TrainerView


@dataclass(frozen=True)
class RandomState:
    """State of the random generators of Python, NumPy and PyTorch in this process; the device's for an accelerator."""

    python: Any
    numpy: Any
    cpu: torch.Tensor
    device: torch.Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> RandomState:
        """Return the current state."""
        on_device = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state()
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), on_device)

    def restore(self, device: torch.device) -> None:
        """Set the generators to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.device is not None:
            torch.get_device_module(device).set_rng_state(self.device)


class StepStart(TrainerCallback):
    """
    Keeps the state of the run at the beginning of the current optimizer step, except the weights.

    It must come before every callback that changes a component.

    Args:
        trainer ([`ConciseGRPOTrainer`]): Trainer whose state is kept.
        components (`Callable[[], list]`): Returns every object whose state is saved with a checkpoint.
        attributes (`Callable[[bool], dict[str, Any]]`): Returns the attributes of the trainer that a step changes, by name.
            Called with `True` between two steps, and with `False` inside one.

    Attributes:
        states (`list[FrozenState]`): Inside [`~StepStart.restored`], the state to save; empty where the components' current
            state is to be saved.
    """

    def __init__(
        self,
        trainer: TrainerView,
        components: Callable[[], list[Stateful]],
        attributes: Callable[[bool], dict[str, Any]],
    ):
        self.states: list[FrozenState] = []
        self._trainer = trainer
        self._components = components
        self._attributes = attributes
        self._step: int | None = None
        self._states: list[FrozenState] = []
        self._values: dict[str, Any] = {}
        self._is_updated = False

    def on_train_begin(self, args, state, control, **kwargs):
        self._step = None

    def on_step_begin(self, args, state, control, **kwargs):
        self._step, self._is_updated = state.global_step, False
        self._values = self._capture(between_steps=True)
        if args.should_save:
            self._states = [FrozenState.of(component) for component in self._components()]

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._is_updated = True

    @contextmanager
    def restored(self, is_updated: bool = False) -> Iterator[None]:
        """
        Reset the run to the beginning of the current step, if one has begun and is not counted yet.

        Args:
            is_updated (`bool`, *optional*, defaults to `False`): Whether the weights are known to be updated already.

        Raises:
            `ValueError`: If the weights are updated already: the step can neither be repeated nor continued.
        """
        if self._step != self._trainer.state.global_step:
            yield
            return
        if self._is_updated or is_updated:
            raise ValueError(
                "A checkpoint cannot be saved here: the weights are updated, but the step is not counted yet, so a resumed "
                "run would update them twice. Save in `on_step_end` instead."
            )
        now, self.states = self._capture(between_steps=False), self._states
        self._set(self._values)
        try:
            yield
        finally:
            self.states = []
            self._set(now)

    def _capture(self, between_steps: bool) -> dict[str, Any]:
        return {
            "random": RandomState.capture(self._trainer.accelerator.device),
            "tokens": self._trainer.state.num_input_tokens_seen,
            "attributes": self._attributes(between_steps),
        }

    def _set(self, values: dict[str, Any]) -> None:
        values["random"].restore(self._trainer.accelerator.device)
        self._trainer.state.num_input_tokens_seen = values["tokens"]
        for name, value in values["attributes"].items():
            setattr(self._trainer, name, value)
