# SPDX-License-Identifier: Apache-2.0
"""Configuration of T-SPMO: no trainer is imported for it, so that a command line is read quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig
from ..prefix_tree import BASELINES


@dataclass
class TSPMOConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`TSPMOTrainer`]: [`ConciseGRPOConfig`] and the settings of replay, a reconstruction.

    The authors' settings are not public in what we read.

    > Parameters of this class, beside those of [`ConciseGRPOConfig`]

    Args:
        replay_per_prompt (`int`, *optional*, defaults to `0`):
            Further groups per prompt that start inside one of its completions. 0 switches replay off.
        replay_group_size (`int`, *optional*):
            Completions per further group. Defaults to `num_generations`.
        baseline (`str`, *optional*, defaults to `"weighted"`):
            The mean that is subtracted at a prefix: over the completions that reach it (`"weighted"`) or over the tokens
            chosen there (`"unweighted"`). Descriptions of the method leave this open.
    """

    replay_per_prompt: int = field(
        default=0, metadata={"help": "Further groups per prompt that start inside one of its completions; 0: none."}
    )
    replay_group_size: int | None = field(
        default=None, metadata={"help": "Completions per further group. Defaults to num_generations."}
    )
    baseline: str = field(
        default="weighted",
        metadata={
            "help": "The mean that is subtracted at a prefix: over its completions or over the tokens chosen there.",
            "choices": list(BASELINES),
        },
    )
