# SPDX-License-Identifier: Apache-2.0
"""Configuration of GRESO. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig


@dataclass
class GRESOConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`GRESOTrainer`]: [`ConciseGRPOConfig`] and GRESO's own settings, whose defaults are the authors'.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        exploration (`float`, *optional*, defaults to `0.5`):
            Probability, to the power of the streak, with which a prompt is rolled out at first, in `[0.05, 0.95]`.
        zero_variance_target (`float`, *optional*, defaults to `0.25`):
            Share of groups without variance that the exploration is adjusted to.
    """

    exploration: float = field(
        default=0.5,  # p_easy = p_hard = 0.5 (presampling_selector.py)
        metadata={"help": "Probability, to the power of the streak, with which a prompt is rolled out at first."},
    )
    zero_variance_target: float = field(
        default=0.25,  # 0.0833 for all-correct and 0.1667 for all-wrong groups (presampling_selector.py)
        metadata={"help": "Share of groups without variance that the exploration is adjusted to."},
    )
