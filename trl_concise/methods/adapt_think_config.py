# SPDX-License-Identifier: Apache-2.0
"""Configuration of AdaptThink. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig


@dataclass
class AdaptThinkConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`AdaptThinkTrainer`]: [`ConciseGRPOConfig`] and AdaptThink's own settings.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        loss_type (`str`, *optional*, defaults to `"grpo"`):
            As in [`~trl.GRPOConfig`]. `"grpo"`, the mean over completions, is the released objective.
        importance_sampling_level (`str`, *optional*, defaults to `"sequence"`):
            As in [`~trl.GRPOConfig`]. `"sequence"` is the released reading of the importance correction, `"token"` the one in
            which the forced token alone has a ratio.
        direct_bonus (`float`, *optional*, defaults to `0.05`):
            $\delta$, the advantage of a direct answer over one with thinking of the same accuracy.
        direct_share (`float`, *optional*, defaults to `0.5`):
            Share of each group that is forced to answer directly, in `[0, 1]`.
        thinking_start (`str`, *optional*, defaults to `"Alright"`):
            First token of the other completions: one with which the model usually begins to think.
        max_direct_length (`int`, *optional*):
            Largest length of a direct answer, in tokens, the forced one included. Defaults to `max_completion_length`; the
            authors allow 4,096 of 16,384.
        corrects_importance (`bool`, *optional*, defaults to `True`):
            Whether the probability with which the first token was forced replaces that of the old policy.
    """

    loss_type: str = field(
        default="grpo",  # the mean over completions of the released code
        metadata={"help": "Loss type. 'grpo' is the objective of AdaptThink."},
    )
    importance_sampling_level: str = field(
        default="sequence",
        metadata={
            "help": "Level of the importance ratio. 'sequence' is the released one; 'token' has it on one token."
        },
    )
    direct_bonus: float = field(
        default=0.05, metadata={"help": "Advantage of a direct answer over one with thinking of the same accuracy."}
    )
    direct_share: float = field(
        default=0.5, metadata={"help": "Share of each group that is forced to answer directly, in [0, 1]."}
    )
    thinking_start: str = field(
        default="Alright", metadata={"help": "First token of the other completions, a usual beginning of a thought."}
    )
    max_direct_length: int | None = field(
        default=None,
        metadata={"help": "Largest length of a direct answer, in tokens. Default: max_completion_length."},
    )
    corrects_importance: bool = field(
        default=True,
        metadata={"help": "Whether the probability of forcing the first token replaces that of the old policy."},
    )
