# SPDX-License-Identifier: Apache-2.0
"""The reference model of a run: score with it, move it, and its tensors for a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import use_adapter


logger = logging.getLogger(__name__)

MODELS = ("policy", "reference")
_ADAPTER = "ref"  # TRL's name for a reference that is an adapter


@contextmanager
def reference_loaded(args: GRPOConfig, is_needed: bool) -> Iterator[None]:
    """Let the trainer that is built inside load a reference model, which TRL does if `beta > 0`, also without a KL term."""
    beta = args.beta
    if is_needed and beta == 0:
        args.beta = 1.0
    try:
        yield
    finally:
        args.beta = beta


@contextmanager
def scoring_model(trainer: GRPOTrainer, model: str) -> Iterator[torch.nn.Module]:
    """
    Yield the policy or the reference, in evaluation mode.

    The reference is that of the KL term: a separate model, the adapter `ref`, or the model without its adapter.

    Raises:
        `ValueError`: If the model is unknown, or the run has no reference.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {MODELS}, got {model!r}.")
    if model == "reference" and trainer.ref_model is not None:
        yield trainer.ref_model  # never trained
        return
    unwrapped = trainer.accelerator.unwrap_model(trainer.model)
    if model == "reference" and not hasattr(unwrapped, "peft_config"):
        raise ValueError(
            "This run has no reference model. Set beta > 0, or `needs_reference = True` in the class of a component, or train an "
            "adapter, whose base model is the reference."
        )
    training = trainer.model.training
    trainer.model.eval()
    try:
        if model == "policy":
            yield trainer.model
        else:
            with use_adapter(unwrapped, _ADAPTER if _ADAPTER in unwrapped.peft_config else None):
                yield trainer.model
    finally:
        trainer.model.train(training)


def saves_reference(trainer: GRPOTrainer, moving: Sequence[str]) -> bool:
    """
    Whether checkpoints contain the reference model: it moves, and the model is not sharded. Warns if only the first is true.

    Args:
        moving (`Sequence[str]`): Names of the components that move it, in addition to TRL's `sync_ref_model`.
    """
    if not moving and not trainer.args.sync_ref_model:
        return False
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        logger.warning(
            "%s with a sharded model: the reference model moves and is in no checkpoint, so a resumed run starts from the "
            "original one.",
            moving or "sync_ref_model=True",
        )
        return False
    return True


def make_reference_movable(trainer: GRPOTrainer) -> None:
    """Add a separate adapter for the reference, if an adapter is trained. It begins as a copy of that one."""
    if trainer.ref_model is None:
        model = trainer.accelerator.unwrap_model(trainer.model)
        if _ADAPTER not in model.peft_config:
            model.add_adapter(_ADAPTER, model.peft_config["default"])
            move_reference(trainer, 1.0)


@torch.no_grad()
def move_reference(trainer: GRPOTrainer, weight: float) -> None:
    """
    Move the reference towards the policy.

    Args:
        weight (`float`): Share of the policy in the new reference, in `[0, 1]`. 1 copies it.

    Raises:
        `ValueError`: If the weight is out of range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must lie in [0, 1], got {weight}.")
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.ref_model is not None:
        SyncRefModelCallback.sync_target_model(model, trainer.accelerator.unwrap_model(trainer.ref_model), weight)
        return
    for name, tensor in reference_tensors(trainer).items():
        tensor.lerp_(model.get_parameter(name.replace(f".{_ADAPTER}.", ".default.")).to(tensor), weight)


def reference_tensors(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    """Return the tensors of the reference by name, not copies: those of the separate model, or of the adapter `ref`."""
    if trainer.ref_model is not None:
        return dict(trainer.accelerator.unwrap_model(trainer.ref_model).state_dict())
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: tensor.data for name, tensor in model.named_parameters() if f".{_ADAPTER}." in name}
