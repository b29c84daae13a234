# SPDX-License-Identifier: Apache-2.0
"""Configuration of Stochastic GRPO. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import ConciseGRPOConfig


CAPS = ("left", "random")


@dataclass
class SGRPOConfig(ConciseGRPOConfig):
    r"""
    Configuration of [`SGRPOTrainer`]: [`ConciseGRPOConfig`] and the token selection of Stochastic GRPO.

    We found no public values of the authors, so those of `cutoff`, `max_tokens` and `probability` are ours: for
    completions of 200 to 300 tokens they keep 30 to 50% of the tokens, the range that is reported for the paper.

    > Parameters in addition to those of [`ConciseGRPOConfig`]

    Args:
        loss_type (`str`, *optional*, defaults to `"grpo"`):
            As in [`~trl.GRPOConfig`]. `"grpo"` is the paper's objective: the mean over completions of the mean over
            their selected tokens.
        cutoff (`int`, *optional*, defaults to `50`):
            How many tokens at the beginning of a completion are always in the loss.
        max_tokens (`int`, *optional*, defaults to `100`):
            No random token is selected once this many tokens are, at least 1.
        probability (`float`, *optional*, defaults to `0.5`):
            Probability of taking a token after the first `cutoff`.
        count_forced (`bool`, *optional*, defaults to `True`):
            Whether the first `cutoff` tokens count toward `max_tokens`.
        cap (`str`, *optional*, defaults to `"left"`):
            Which random tokens are kept if more than `max_tokens` are drawn: the leftmost (`"left"`) or a random subset
            (`"random"`). Descriptions of the method differ.
    """

    loss_type: str = field(
        default="grpo",  # the paper's objective: mean over the group of the mean over the selected tokens
        metadata={"help": "Loss type. 'grpo' is the objective of Stochastic GRPO."},
    )
    cutoff: int = field(default=50, metadata={"help": "How many tokens at the beginning are always in the loss."})
    max_tokens: int = field(default=100, metadata={"help": "No random token is selected once this many tokens are."})
    probability: float = field(
        default=0.5, metadata={"help": "Probability of taking a token after the first `cutoff`, in [0, 1]."}
    )
    count_forced: bool = field(
        default=True, metadata={"help": "Whether the first `cutoff` tokens count toward `max_tokens`."}
    )
    cap: str = field(
        default="left",
        metadata={
            "help": "Which random tokens are kept if more than `max_tokens` are drawn: the leftmost or a random subset.",
            "choices": list(CAPS),
        },
    )
