# SPDX-License-Identifier: Apache-2.0
"""Configuration of AutoThink. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig


@dataclass
class AutoThinkConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`AutoThinkTrainer`]: [`ConciseGRPOConfig`] and AutoThink's own settings.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        stage (`int`, *optional*, defaults to `1`):
            Stage of the run at its start: 1, 2 or 3.
        stage_steps (`list[int]`, *optional*):
            Optimizer steps after which the next stages begin, for example `[300, 600]`. Default: the run stays in its stage,
            and the next one is a run of its own that starts from its model.
        stage_limits (`list[int]`, *optional*):
            Generation limit of each stage of the run, in tokens, one more value than `stage_steps`. Default:
            `max_completion_length` in all of them; with `stage_limits`, that setting limits evaluation only.
        balance_target (`float`, *optional*, defaults to `0.5`):
            $\gamma$, share of each mode that stage 1 leaves alone, in `[0.5, 1]`.
        balance_slope (`float`, *optional*, defaults to `2.0`):
            $\lambda$, how fast a mode above that share loses reward.
        correct_slope (`float`, *optional*, defaults to `0.05`):
            $\alpha$, effect of length on correct completions in stage 3.
        wrong_slope (`float`, *optional*, defaults to `0.05`):
            $\beta$, effect of length on wrong completions in stage 3.
    """

    stage: int = field(
        default=1,
        metadata={
            "help": "Stage at the start: 1 balances the modes, 2 is correctness, 3 shortens.",
            "choices": [1, 2, 3],
        },
    )
    stage_steps: list[int] | None = field(
        default=None, metadata={"help": "Steps after which the next stages begin. Default: none begins in this run."}
    )
    stage_limits: list[int] | None = field(
        default=None,
        metadata={"help": "Generation limit of each stage, in tokens. Default: max_completion_length in all stages."},
    )
    balance_target: float = field(
        default=0.5, metadata={"help": "Share of each mode that stage 1 leaves alone, in [0.5, 1]."}
    )
    balance_slope: float = field(
        default=2.0, metadata={"help": "How fast a mode above that share loses reward in stage 1."}
    )
    correct_slope: float = field(
        default=0.05, metadata={"help": "Effect of length on correct completions in stage 3."}
    )
    wrong_slope: float = field(default=0.05, metadata={"help": "Effect of length on wrong completions in stage 3."})
