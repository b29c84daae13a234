# SPDX-License-Identifier: Apache-2.0
"""Configuration of LASER. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig


@dataclass
class LASERConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`LASERTrainer`]: [`ConciseGRPOConfig`] and LASER's own settings.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        length_bonus (`float`, *optional*, defaults to `0.5`):
            $\alpha$, bonus of a correct completion within the target.
        target_length (`int`, *optional*):
            $L$, in tokens. Defaults to half of `max_completion_length`, the paper's 8,192 of 16,384.
    """

    length_bonus: float = field(
        default=0.5,  # alpha, authors' code
        metadata={"help": "Bonus of a correct completion within the target."},
    )
    target_length: int | None = field(
        default=None,
        metadata={"help": "Target in tokens. Defaults to half of max_completion_length."},
    )
