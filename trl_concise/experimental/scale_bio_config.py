# SPDX-License-Identifier: Apache-2.0
"""Configuration of ScaleBiO. This module imports no trainer, so that a command line is parsed quickly."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import SFTConfig

from ..config import ConfigMixin


@dataclass
class ScaleBiOConfig(ConfigMixin, SFTConfig):
    r"""
    Configuration of [`~trl_concise.experimental.scale_bio.ScaleBiOTrainer`]: [`~trl.SFTConfig`] and the settings of the bilevel problem.

    The defaults are those of the authors' experiments on mathematics: `alpha=100`, a cosine schedule after a warm-up of 3 %, one epoch, and no
    weight decay.

    > Parameters in addition to those of [`~trl.SFTConfig`], and other defaults

    Args:
        alpha (`float`, *optional*, defaults to `100.0`):
            Weight of the penalty, above 0. The gradient of the shares is $\alpha / (1 + \alpha)$ times the true one where both models are at their
            optima, so a larger value is less biased.
        share_learning_rate (`float`, *optional*, defaults to `1e-2`):
            Learning rate of the shares, at least 0. AdamW rescales gradients, so the steps hardly depend on `alpha`.
        tracker_learning_rate (`float`, *optional*):
            Learning rate of the model u, at least 0. Default: `learning_rate`, that of the model w.
        share_weight_decay (`float`, *optional*, defaults to `0.0`):
            Weight decay of the shares, at least 0. It pulls them towards uniform ones.
        validation_rows (`int`, *optional*):
            Rows of the validation set in an optimizer step, at least 1. The other rows of the step are training rows, at least one of every
            source. Default: half of the step.
        mixture_size (`int`, *optional*):
            Rows of the mixture that a later run trains on. `mixture.json` then says how many each source contributes.
        learning_rate (`float`, *optional*, defaults to `1e-5`):
            Learning rate of the model w.
        max_grad_norm (`float`, *optional*):
            Largest norm of the gradients of both models and the shares together. Default: `alpha`.
    """

    alpha: float = field(default=100.0, metadata={"help": "Weight of the penalty, above 0."})  # run_scalebio.sh
    share_learning_rate: float = field(default=1e-2, metadata={"help": "Learning rate of the shares."})
    tracker_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the model u. Default: learning_rate."}
    )
    share_weight_decay: float = field(
        default=0.0, metadata={"help": "Weight decay of the shares. It pulls them towards uniform ones."}
    )
    validation_rows: int | None = field(
        default=None, metadata={"help": "Rows of the validation set in an optimizer step. Default: half of the step."}
    )
    mixture_size: int | None = field(
        default=None, metadata={"help": "Rows of the mixture, for the counts in mixture.json."}
    )
    learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate of the model w."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.03, metadata={"help": "Steps of the warm-up; below 1, their share."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Epochs."})
    max_grad_norm: float | None = field(
        default=None, metadata={"help": "Largest norm of all gradients together. Default: alpha."}
    )

    def __post_init__(self):
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}. The authors use 10 and 100.")
        for name in ("learning_rate", "share_learning_rate", "share_weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if self.tracker_learning_rate is not None and not self.tracker_learning_rate >= 0:
            raise ValueError(f"tracker_learning_rate must be at least 0, got {self.tracker_learning_rate}.")
        if self.validation_rows is not None and self.validation_rows < 1:
            raise ValueError(f"validation_rows must be at least 1, got {self.validation_rows}.")
        if self.max_grad_norm is None:
            self.max_grad_norm = self.alpha
        super().__post_init__()
