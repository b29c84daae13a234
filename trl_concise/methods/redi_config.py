# SPDX-License-Identifier: Apache-2.0
"""Configuration of REDI. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import DPOConfig

from ..config import ConfigMixin


@dataclass
class REDIConfig(ConfigMixin, DPOConfig):
    r"""
    Configuration of [`REDITrainer`]: [`~trl.DPOConfig`] and REDI's own settings.

    Everything else keeps TRL's defaults; the authors' whole setting is `examples/configs/redi_1.5b.yaml`. `beta` has no
    effect. Settings that select another loss or a reference model are refused.

    > Parameters in addition to those of [`~trl.DPOConfig`]

    Args:
        alpha (`float`, *optional*, defaults to `0.8`):
            $\alpha$, weight of the incorrect traces, in `[0, 1]`. 0 is supervised fine-tuning on the correct ones, 1 the
            symmetric objective, which collapses easily.
        collapse_slope (`float`, *optional*, defaults to `0.01`):
            Warn when the mean log-probabilities per token of correct and of incorrect traces both fall by more than this
            per optimizer step, in nats. `None` never warns. The paper gives no number; this one is ours.
    """

    alpha: float = field(
        default=0.8,  # the authors' final choice (Sec. 4)
        metadata={"help": "Weight of the incorrect traces, in [0, 1]. 0: SFT on the correct ones, 1: symmetric."},
    )
    collapse_slope: float | None = field(
        default=0.01,  # ours: 0.2 nats per token in 20 steps
        metadata={
            "help": "Warn when the mean log-probabilities per token of correct and incorrect traces both fall by more "
            "than this per optimizer step (nats). None: never."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha weighs the incorrect traces and lies in [0, 1]; got {self.alpha}.")
        if self.collapse_slope is not None and not self.collapse_slope > 0:
            raise ValueError(
                f"collapse_slope is a fall in nats per step, above 0, or None for no warning; got {self.collapse_slope}."
            )
