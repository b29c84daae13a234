# SPDX-License-Identifier: Apache-2.0
"""Configuration of SAE-Tuning. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import SFTConfig

from ..config import ConfigMixin


@dataclass
class SAETuningConfig(ConfigMixin, SFTConfig):
    r"""
    Configuration of [`SAETuningTrainer`]: [`~trl.SFTConfig`], the layer, and the path of the gradient.

    Everything else keeps TRL's defaults. The settings of the release are `examples/configs/resa_1.5b.yaml`.

    > Parameters in addition to those of [`~trl.SFTConfig`]

    Args:
        layer (`int`, *optional*):
            Decoder layer after which the SAE is inserted, counted from 0. It is the one that the SAE was trained on, and has no default.
        sae_gradient (`bool`, *optional*, defaults to `True`):
            Whether the gradient passes through the frozen SAE, as in the paper's formula, so that the adapters up to `layer` are trained
            too. `False` detaches the reconstruction, as the release does: these adapters then stay as they are.
    """

    layer: int | None = field(
        default=None, metadata={"help": "Decoder layer after which the SAE is inserted, counted from 0."}
    )
    sae_gradient: bool = field(
        default=True,
        metadata={
            "help": "Pass the gradient through the SAE, as in the paper's formula. False: only adapters after the layer are trained, as "
            "in the release."
        },
    )
