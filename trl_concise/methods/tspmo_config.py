# SPDX-License-Identifier: Apache-2.0
"""Configuration of T-SPMO. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig
from .tspmo_prefix_tree import BASELINES


@dataclass
class TSPMOConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`TSPMOTrainer`]: [`ConciseGRPOConfig`] and the settings of replay, a reconstruction.

    We found no public settings of the authors.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        replay_per_prompt (`int`, *optional*, defaults to `0`):
            Additional groups per prompt that start inside one of its completions. 0 disables replay.
        replay_group_size (`int`, *optional*):
            Completions per additional group. Defaults to `num_generations`.
        baseline (`str`, *optional*, defaults to `"weighted"`):
            The mean that is subtracted at a prefix: over the completions that reach it (`"weighted"`) or over the tokens
            chosen there (`"unweighted"`). Descriptions of the method leave this open.
    """

    replay_per_prompt: int = field(
        default=0, metadata={"help": "Additional groups per prompt that start inside one of its completions; 0: none."}
    )
    replay_group_size: int | None = field(
        default=None, metadata={"help": "Completions per additional group. Defaults to num_generations."}
    )
    baseline: str = field(
        default="weighted",
        metadata={
            "help": "The mean that is subtracted at a prefix: over its completions or over the tokens chosen there.",
            "choices": list(BASELINES),
        },
    )
