# SPDX-License-Identifier: Apache-2.0
"""Configuration of TrRa. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from trl import DistillationConfig

from ..config import ConfigMixin


NORMALIZATIONS = ("vocabulary", "positions")


def check_lambda(lambda_: float) -> None:
    """
    Check the weight of the aligned model.

    Raises:
        `ValueError`: If it is not a finite number.
    """
    if isinstance(lambda_, bool) or not isinstance(lambda_, (int, float)) or not math.isfinite(lambda_):
        raise ValueError(
            f"lambda_ must be a finite number, got {lambda_!r}. 0 is the reference model, 1 the aligned model, more than 1 "
            "extrapolates."
        )


def check_beta(beta: float) -> None:
    """
    Check that TRL's interpolation between divergences is that of TrRa.

    Raises:
        `ValueError`: If it is not 0.
    """
    if beta != 0:
        raise ValueError(
            f"beta={beta} selects another divergence, but TrRa's loss is the forward KL divergence. Leave beta out or set it to 0."
        )


@dataclass
class TrRaConfig(ConfigMixin, DistillationConfig):
    r"""
    Configuration of [`TrRaTrainer`]: [`~trl.DistillationConfig`] and TrRa's own settings.

    Everything else keeps TRL's defaults: completions are truncated to `max_completion_length=512` tokens, and the learning rate is
    1e-6. The authors' settings are `examples/configs/realignment_1.5b.yaml`. Settings of the generation have no effect, because
    nothing is generated.

    > Parameters in addition to those of [`~trl.DistillationConfig`]

    Args:
        lambda_ (`float`, *optional*, defaults to `1.5`):
            $\lambda$, weight of the aligned model's logits; the reference model has $1 - \lambda$. 0 is the reference, 1 the aligned
            model, more than 1 extrapolates beyond it. Any finite number.
        normalize_over (`str`, *optional*, defaults to `"vocabulary"`):
            Axis of the softmax in the loss. `"vocabulary"` is the KL divergence of the paper, per token, over the tokens of the
            completion. `"positions"` is what the authors' code computes, see [`kl_over_positions`].
        beta (`float`, *optional*, defaults to `0.0`):
            0, the forward KL divergence. TRL's default is 1; other values are refused, since they are another method's loss.
    """

    # TRL's default is the reverse KL divergence; in a plain config, it is not a choice of the user's.
    unsuitable_defaults: ClassVar[Sequence[tuple[str, Any]]] = (("beta", 1.0),)

    beta: float = field(
        default=0.0,  # KL(p_lambda || pi): the paper
        metadata={"help": "0, the forward KL divergence. Other values are refused."},
    )
    lambda_: float = field(
        default=1.5,  # pref_beta of the released configuration
        metadata={
            "help": "Weight of the aligned model's logits: 0 is the reference model, 1 the aligned model, more than 1 extrapolates."
        },
    )
    normalize_over: str = field(
        default="vocabulary",
        metadata={
            "help": "Axis of the softmax in the loss: 'vocabulary' (the paper), or 'positions' (the authors' code).",
            "choices": list(NORMALIZATIONS),
        },
    )

    def __post_init__(self):
        super().__post_init__()
        check_lambda(self.lambda_)
        check_beta(self.beta)
        if self.normalize_over not in NORMALIZATIONS:
            raise ValueError(f"normalize_over must be one of {list(NORMALIZATIONS)}, got {self.normalize_over!r}.")
