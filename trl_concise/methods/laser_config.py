# SPDX-License-Identifier: Apache-2.0
"""Configuration of LASER: no trainer is imported for it, so that a command line is read quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig


@dataclass
class LASERConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`LASERTrainer`]: [`ConciseGRPOConfig`] and LASER's own settings.

    > Parameters of this class, beside those of [`ConciseGRPOConfig`]

    Args:
        length_bonus (`float`, *optional*, defaults to `0.5`):
            $\alpha$, what a correct completion within the target earns.
        target_length (`int`, *optional*):
            $L$, in tokens. Defaults to half of `max_completion_length`, the paper's 8,192 of 16,384.
    """

    length_bonus: float = field(
        default=0.5,  # alpha, authors' code
        metadata={"help": "What a correct completion within the target earns."},
    )
    target_length: int | None = field(
        default=None,
        metadata={"help": "Target in tokens. Defaults to half of max_completion_length."},
    )
