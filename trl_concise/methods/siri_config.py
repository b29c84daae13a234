# SPDX-License-Identifier: Apache-2.0
"""Configuration of SIRI. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig


SHAPES = ("cosine", "stair", "stair-cosine")


@dataclass
class SIRIConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`SIRITrainer`]: [`ConciseGRPOConfig`] and SIRI's own settings.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        min_completion_length (`int`, *optional*):
            $L_{\min}$, the smallest generation limit, in tokens. Defaults to half of `max_completion_length`, which is
            $L_{\max}$, as in the paper (8,192 of 16,384).
        budget_cycle (`int`, *optional*, defaults to `640`):
            $T$, optimizer steps per cycle.
        budget_shape (`str`, *optional*, defaults to `"cosine"`):
            `"cosine"`, `"stair"` or `"stair-cosine"`.
    """

    min_completion_length: int | None = field(
        default=None,
        metadata={"help": "Smallest generation limit, in tokens. Defaults to half of max_completion_length."},
    )
    budget_cycle: int = field(
        default=640,  # the best of 320, 480 and 640 (section 5.3, figure 7a)
        metadata={"help": "Optimizer steps per cycle of the generation limit."},
    )
    budget_shape: str = field(
        default="cosine",
        metadata={"help": "Shape of the generation limit over a cycle.", "choices": list(SHAPES)},
    )
