# SPDX-License-Identifier: Apache-2.0
"""Applies [`Advantage`] components to a generation batch, and leaves the completions that they drop out of the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor

from ..checks import describe
from ..components import DIVISORS, Advantage
from .batch import GenerationBatch


DIVIDE_BY_TOKENS = ("dapo", "cispo", "vespo")  # of the whole generation batch; the other losses divide by completions


def compute_advantages(components: Sequence[Advantage], batch: GenerationBatch, tensors: dict[str, Any]) -> None:
    """
    Replace TRL's advantages by those of the components, in order.

    Args:
        components (`Sequence[Advantage]`): The components.
        batch ([`GenerationBatch`]): The batch, which remembers the dropped completions.
        tensors (`dict[str, Any]`): TRL's tensors of this process's rows, changed in place.

    Raises:
        `ValueError`: If a component returns another shape or an infinite advantage, or has an unknown divisor.
    """
    rollouts = batch.rollouts
    assert rollouts is not None  # set by the rewards
    advantages = gather(tensors["advantages"])  # (B,)
    for component in components:
        computed = component.compute(rollouts, advantages)
        name = type(component).__name__
        if not isinstance(computed, Tensor) or computed.shape != advantages.shape:
            raise ValueError(
                f"{name}.compute returned {describe(computed)} for {len(advantages)} completions. Return a tensor of the shape "
                f"({len(advantages)},)."
            )
        if computed.isinf().any():
            raise ValueError(
                f"{name}.compute returned an infinite advantage, which would make the weights NaN. Return finite numbers, or NaN "
                "for a completion that is dropped."
            )
        if component.divisor not in DIVISORS:
            raise ValueError(f"{name}.divisor is {component.divisor!r}, but must be one of {DIVISORS}.")
        is_dropped = computed.isnan()
        batch.drop(is_dropped, component.divisor, by=name)
        advantages = computed.to(advantages).masked_fill(is_dropped, 0.0)
    tensors["advantages"] = advantages[rollouts.local].clone()


def leave_out_dropped(batch: GenerationBatch, tensors: dict[str, Any], loss_type: str) -> None:
    """
    Leave the dropped completions out of the loss, and set what the loss divides by.

    Losses that divide by tokens (`dapo`, `cispo`, `vespo`) divide by the tokens of the generation batch: those of the kept
    completions, or all. Losses that divide by completions keep TRL's divisor, or their advantages and KL term are scaled up by the
    share of kept completions (`loss_scale`). Both are the same for all processes and micro-batches.

    Args:
        batch ([`GenerationBatch`]): The batch.
        tensors (`dict[str, Any]`): TRL's tensors of this process's rows, changed in place.
        loss_type (`str`): TRL's loss.

    Raises:
        `ValueError`: If the loss divides by the tokens of each micro-batch (`bnpo`).
    """
    if batch.dropped is None:
        return
    if loss_type == "bnpo":
        raise ValueError(
            f'{batch.dropped_by} drops completions, but loss_type="bnpo" divides by the tokens of each micro-batch. Choose another, '
            'such as "dapo".'
        )
    kept = ~batch.dropped
    own = kept[batch.local][:, None].long()
    mask = tensors.get("tool_mask", torch.ones_like(tensors["completion_mask"])).clone()
    mask[: len(own)] *= own  # rows that a component has added come after these
    tensors["tool_mask"] = mask
    if batch.divisor == "all":
        return
    if loss_type in DIVIDE_BY_TOKENS:
        tensors["num_items_in_batch"] = gather((tensors["completion_mask"] * tensors["tool_mask"]).sum()).sum()
    else:
        scale = len(kept) / kept.sum().clamp(min=1)
        tensors["advantages"] = tensors["advantages"] * scale
        tensors["loss_scale"] = scale


def metrics_of(components: Sequence[Advantage]) -> dict[str, float]:
    """Return the metrics of the components, the same on every process. Unknown ones are left out."""
    return {
        f"{component.name}/{name}": float(value)
        for component in components
        for name, value in component.metrics().items()
        if not math.isnan(value)
    }
