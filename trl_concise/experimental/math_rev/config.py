# SPDX-License-Identifier: Apache-2.0
"""Configuration of the verifier. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from trl import DPOConfig

from ...config import ConfigMixin


@dataclass
class VerifierConfig(ConfigMixin, DPOConfig):
    r"""
    Configuration of [`~trl_concise.experimental.math_rev.VerifierTrainer`]: [`~trl.DPOConfig`] and the margin of the loss.

    The paper's values were not public in what we read; both are ours. Settings that select another loss or a reference model are refused.

    > Parameters in addition to those of [`~trl.DPOConfig`]

    Args:
        beta (`float`, *optional*, defaults to `2.0`):
            $\beta$, scale of the difference of the mean log-probabilities. Positive.
        gamma (`float`, *optional*, defaults to `1.0`):
            $\gamma$, margin, at least 0. $\gamma / \beta$ is the difference in mean log-probability that the loss aims at.
    """

    unsuitable_defaults: ClassVar[tuple[tuple[str, object], ...]] = (("beta", 0.1),)  # of a plain DPOConfig

    beta: float = field(
        default=2.0, metadata={"help": "Scale of the difference of the mean log-probabilities. Positive."}
    )
    gamma: float = field(default=1.0, metadata={"help": "Margin of the loss, at least 0."})

    def __post_init__(self):
        super().__post_init__()
        check_beta_and_gamma(self.beta, self.gamma)


def check_beta_and_gamma(beta: float, gamma: float) -> None:
    """
    Check the settings of the loss.

    Raises:
        `ValueError`: If beta is not positive, or gamma is negative.
    """
    if not (0 < beta < math.inf and 0 <= gamma < math.inf):
        raise ValueError(f"beta must be a finite number above 0, and gamma one of at least 0; got {beta} and {gamma}.")
