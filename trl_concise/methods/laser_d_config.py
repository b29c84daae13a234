# SPDX-License-Identifier: Apache-2.0
"""Configuration of LASER-D and LASER-DE. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig


@dataclass
class LASERDConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`LASERDTrainer`]: [`ConciseGRPOConfig`] and the settings of LASER-D and LASER-DE.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        length_bonus (`float`, *optional*, defaults to `0.5`):
            $\alpha$, bonus of a correct completion within its target.
        explore (`bool`, *optional*, defaults to `False`):
            LASER-DE: reward wrong completions beyond their target too.
        shortest_target (`int`, *optional*):
            Shortest length that is tried as a target, in tokens; the longest is `max_completion_length`. Defaults to a
            quarter of that, the paper's 4,096 of 16,384.
        target_interval (`int`, *optional*):
            Distance between the lengths that are tried, in tokens. Defaults to a sixteenth of `max_completion_length`,
            the paper's 1,024 of 16,384.
        monitor_prompts (`int`, *optional*, defaults to `500`):
            Prompts in the monitor set.
        monitor_generations (`int`, *optional*, defaults to `8`):
            Completions per prompt of the monitor set.
        monitor_every (`int`, *optional*, defaults to `20`):
            Optimizer steps between two samplings of the monitor set.
    """

    length_bonus: float = field(
        default=0.5,  # alpha, authors' code
        metadata={"help": "Bonus of a correct completion within its target."},
    )
    explore: bool = field(
        default=False, metadata={"help": "LASER-DE: reward wrong completions beyond their target too."}
    )
    shortest_target: int | None = field(
        default=None,
        metadata={"help": "Shortest target that is tried. Defaults to a quarter of max_completion_length."},
    )
    target_interval: int | None = field(
        default=None,
        metadata={"help": "Distance between targets. Defaults to a sixteenth of max_completion_length."},
    )
    monitor_prompts: int = field(
        default=500,  # section 5.2 and `train_sample500`
        metadata={"help": "Prompts in the monitor set."},
    )
    monitor_generations: int = field(
        default=8,  # authors' scripts
        metadata={"help": "Completions per prompt of the monitor set."},
    )
    monitor_every: int = field(
        default=20,  # monitor_freq, authors' scripts
        metadata={"help": "Optimizer steps between two samplings of the monitor set."},
    )
