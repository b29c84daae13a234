# SPDX-License-Identifier: Apache-2.0
"""Configuration of TDRM. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import RewardConfig

from ..config import ConfigMixin


@dataclass
class TDRMConfig(ConfigMixin, RewardConfig):
    r"""
    Configuration of [`TDRMTrainer`]: [`~trl.RewardConfig`] and TDRM's own settings.

    Everything else keeps TRL's defaults. A state with more than `max_length` tokens loses its first tokens, as in the authors' code;
    [`~trl.RewardTrainer`] leaves such rows out. `center_rewards_coefficient` belongs to another loss and is refused.

    > Parameters in addition to those of [`~trl.RewardConfig`]

    Args:
        n_steps (`int`, *optional*, defaults to `1`):
            $n$, rewards in a target before the value of a later state. The authors train with 1, 2 and 3.
        gamma (`float`, *optional*, defaults to `0.8`):
            $\gamma$, discount per step, in `[0, 1]`.
        terminal_weight (`float`, *optional*, defaults to `1.0`):
            $w_T$, weight of the last state of a completion, whose target is the label. Positive.
        step_separator (`str`, *optional*, defaults to an empty line):
            Text between the steps of a completion, at the end of every step but the last. It is saved with the model, together with
            `max_length`, for [`ProcessReward`].
    """

    n_steps: int = field(default=1, metadata={"help": "Rewards in a target before the value of a later state."})
    gamma: float = field(
        default=0.8,  # the authors' code
        metadata={"help": "Discount per step, in [0, 1]."},
    )
    terminal_weight: float = field(
        default=1.0,  # the authors' code
        metadata={"help": "Weight of the last state of a completion, whose target is the label."},
    )
    step_separator: str = field(
        default="\n\n", metadata={"help": "Text between the steps of a completion. Default: an empty line."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.n_steps < 1 or not 0 <= self.gamma <= 1 or not 0 < self.terminal_weight < float("inf"):
            raise ValueError(
                "TDRM needs n_steps >= 1, gamma in [0, 1] and a positive terminal_weight; got "
                f"{self.n_steps}, {self.gamma} and {self.terminal_weight}."
            )
        if not self.step_separator:
            raise ValueError(
                "step_separator is an empty text. Give the text between two steps, such as '\\n\\n', an empty line."
            )
        if self.center_rewards_coefficient is not None:
            raise ValueError(
                f"center_rewards_coefficient={self.center_rewards_coefficient} has no effect in TDRM, whose loss has no pairs. "
                "Leave it out."
            )
