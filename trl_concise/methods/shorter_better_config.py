# SPDX-License-Identifier: Apache-2.0
"""Configuration of ShorterBetter. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig


@dataclass
class ShorterBetterConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`ShorterBetterTrainer`]: [`ConciseGRPOConfig`] and ShorterBetter's own settings.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        correct_reward (`float`, *optional*, defaults to `2.0`):
            $\alpha$, reward of a correct completion. The first reward function's 1 or 0 is part of it.
        length_penalty (`float`, *optional*, defaults to `0.001`):
            $\beta$, penalty per token of distance to the group's shortest correct completion.
    """

    correct_reward: float = field(
        default=2.0,  # alpha, authors' code
        metadata={"help": "Reward of a correct completion, the correctness of 1 included."},
    )
    length_penalty: float = field(
        default=0.001,  # beta, authors' code
        metadata={"help": "Penalty per token of distance to the group's shortest correct completion."},
    )
