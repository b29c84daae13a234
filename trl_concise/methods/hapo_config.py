# SPDX-License-Identifier: Apache-2.0
"""Configuration of HAPO. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig


SHAPES = ("cosine", "linear")
AGGREGATES = ("min", "mean")


@dataclass
class HAPOConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`HAPOTrainer`]: [`ConciseGRPOConfig`] and HAPO's own settings.

    The defaults of these are the authors'; everything else keeps TRL's defaults. All settings of the authors are in
    `examples/configs/hapo_paper.yaml`.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        length_reward_weight (`float`, *optional*, defaults to `1.0`):
            $w$, weight of the length reward relative to the correctness. In `[0, 1]` every correct completion outranks
            every wrong one.
        length_reward_shape (`str`, *optional*, defaults to `"cosine"`):
            `"cosine"` or `"linear"`.
        length_reward_floor (`float`, *optional*, defaults to `-0.7`):
            Lowest length reward of a correct completion.
        history_aggregate (`str`, *optional*, defaults to `"min"`):
            `"min"` compares with the shortest correct completion so far, `"mean"` with the mean length of correct ones.
    """

    length_reward_weight: float = field(
        default=1.0,  # w = 1.0, default of the authors' code
        metadata={"help": "Weight of the length reward relative to the correctness, in [0, 1]."},
    )
    length_reward_shape: str = field(
        default="cosine",  # default of the authors' code (utils.py)
        metadata={"help": "Shape of the length reward.", "choices": list(SHAPES)},
    )
    length_reward_floor: float = field(
        default=-0.7,  # -0.7 (utils.py)
        metadata={"help": "Lowest length reward of a correct completion, in [-1, 0]."},
    )
    history_aggregate: str = field(
        default="min",  # mode="min", default of the authors' code
        metadata={
            "help": "Compare with the shortest ('min') or the mean ('mean') length of earlier correct completions.",
            "choices": list(AGGREGATES),
        },
    )
