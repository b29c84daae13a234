# SPDX-License-Identifier: Apache-2.0
"""Configuration of DLER. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..config import ConciseGRPOConfig


@dataclass
class DLERConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`DLERTrainer`]: [`ConciseGRPOConfig`] and DLER's own settings.

    The length penalty is `max_completion_length`. The defaults of DLER's own settings are the paper's; those of the authors' script are in
    `examples/configs/dler_paper.yaml`. `scale_rewards` is `"none"`, also in place of the default of a plain [`~trl.GRPOConfig`]; other values are refused.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        epsilon_high (`float`, *optional*, defaults to `0.28`):
            As in [`~trl.GRPOConfig`]: the upper clip. The paper's value for models of 1.5B and 7B parameters; 0.36 for 8B.
        truncation_factor (`float`, *optional*, defaults to `0.0`):
            What a truncated completion keeps of its reward, in `[0, 1]`. 0 in the paper, 0.1 in the authors' code.
        max_refills (`int`, *optional*, defaults to `10`):
            How often groups whose completions are all correct or all wrong are replaced per generation batch. The authors have no
            limit.
        unbiased_variance (`bool`, *optional*, defaults to `False`):
            Whether advantages are divided by the unbiased standard deviation, as in the authors' code, or by the population's.
        advantage_boost (`float`, *optional*, defaults to `0.0`):
            Added to the advantage of correct completions. 0 in the paper, 0.1 in the authors' code.
        boost_truncated (`bool`, *optional*, defaults to `True`):
            Whether `advantage_boost` is also added for truncated completions that are correct, as in the authors' code.
        difficulty_limits (`list[int]`, *optional*):
            DA-DLER (partly reconstructed): limits in tokens, from the most difficult groups to the easiest, such as 4000 and 2000.
            Completions that exceed the limit of their group count as truncated. Default: `max_completion_length` alone.
        difficulty_thresholds (`list[float]`, *optional*, defaults to `[0.5]`):
            DA-DLER: the shares of correct completions above which the next of `difficulty_limits` applies.
    """

    unsuitable_defaults: ClassVar[Sequence[tuple[str, Any]]] = (("scale_rewards", "group"),)

    scale_rewards: str = field(
        default="none", metadata={"help": "DLER normalizes advantages itself, so rewards are not scaled: none."}
    )
    epsilon_high: float | None = field(
        default=0.28,  # the paper's
        metadata={"help": "Upper clip. 0.28 is DLER's."},
    )
    truncation_factor: float = field(
        default=0.0,  # the paper's; 0.1 in the authors' script
        metadata={"help": "What a truncated completion keeps of its reward, in [0, 1]."},
    )
    max_refills: int = field(
        default=10, metadata={"help": "How often groups without a signal are replaced per generation batch."}
    )
    unbiased_variance: bool = field(
        default=False, metadata={"help": "Divide advantages by the unbiased standard deviation, as the authors' code."}
    )
    advantage_boost: float = field(
        default=0.0,  # the paper's; 0.1 in the authors' script
        metadata={"help": "Added to the advantage of correct completions."},
    )
    boost_truncated: bool = field(
        default=True, metadata={"help": "Add advantage_boost for truncated completions that are correct, too."}
    )
    difficulty_limits: list[int] | None = field(
        default=None,
        metadata={"help": "DA-DLER: limits in tokens, from the most difficult groups to the easiest: 4000 2000."},
    )
    difficulty_thresholds: list[float] = field(
        default_factory=lambda: [0.5],
        metadata={"help": "DA-DLER: shares of correct completions above which the next limit applies."},
    )
