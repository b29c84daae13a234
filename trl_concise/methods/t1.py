# SPDX-License-Identifier: Apache-2.0
"""
T1: reinforcement learning with many samples and a moving reference (Hou et al., 2025, https://huggingface.co/papers/2501.11651).

A RECONSTRUCTION: the authors published no training code, and every equation here is ours. Known are the ingredients: many completions per prompt at
a high temperature, an entropy bonus, a reference model that follows the policy by an exponential moving average, a normalized KL term, and
penalties for overlong and repetitive completions.

[`AnchoredKL`] is the moving reference with the normalized KL term. The rest are settings of TRL (`num_generations`, `temperature`, `entropy_coef`)
and other components: `RepetitionReward`, and TRL's `get_soft_overlong_punishment`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import GroupReward, Paper, TrainerView


T1_PAPER = Paper(
    title="T1: Advancing Language Model Reasoning through Reinforcement Learning and Inference Scaling",
    id="2501.11651",
    # docstyle-ignore
    citation="""\
@article{hou2025t1,
    title        = {{T1: Advancing Language Model Reasoning through Reinforcement Learning and Inference Scaling}},
    author       = {Zhenyu Hou and Xin Lv and Rui Lu and Jiajie Zhang and Yujiang Li and Zijun Yao and Juanzi Li and Jie Tang and Yuxiao Dong},
    year         = 2025,
    eprint       = {arXiv:2501.11651}
}""",
    reconstructed="Every equation and setting.",
)


def centered_penalty(kl: Tensor, kl_weight: float) -> Tensor:
    r"""
    Return the penalties of a batch, which sum to 0: $-w\,(k_i - \bar k)$.

    Args:
        kl (`torch.Tensor`): `(B,)`, $k$, the estimated KL divergence of each completion, in nats.
        kl_weight (`float`): $w$.

    Examples:
        >>> import torch
        >>> centered_penalty(torch.tensor([1.0, 2.0, 6.0]), 0.5)
        tensor([ 1.0000,  0.5000, -1.5000])
    """
    return -kl_weight * (kl - kl.mean())


class AnchoredKL(GroupReward):
    r"""
    Rewards completions that are closer to a moving reference than the mean of the batch. A reconstruction.

    The reward is [`centered_penalty`] of $k_i = \sum_t \log \pi(y_t) - \log \pi_\text{ref}(y_t)$. After each optimizer step the reference moves:
    $\theta_\text{ref} \leftarrow \tau\, \theta_\text{ref} + (1 - \tau)\, \theta$. It is saved with each checkpoint, and a resumed run
    continues with it. Each batch is scored twice without a gradient. In evaluation the reward is 0.

    Args:
        tau (`float`, *optional*, defaults to `0.995`):
            Share of the reference that stays, in `[0, 1]`. 1 freezes it; 0 makes it a copy of the policy. Ours.
        kl_weight (`float`, *optional*, defaults to `1e-3`):
            $w$, at least 0. 0 gives no reward. Ours.

    Raises:
        `ValueError`: If an argument is out of range. In training, if prompts have images.
    """

    name = "t1"
    paper = T1_PAPER
    reads_tokens = True
    needs_correctness = False

    def __init__(self, tau: float = 0.995, kl_weight: float = 1e-3):
        if not 0 <= tau <= 1:
            raise ValueError(f"tau must lie in [0, 1], got {tau}.")
        if not 0 <= kl_weight < math.inf:
            raise ValueError(f"kl_weight must be at least 0 and finite, got {kl_weight}.")
        self.tau = tau
        self.kl_weight = kl_weight
        self.needs_reference = kl_weight > 0
        self.moves_reference = tau < 1
        self._trainer: TrainerView | None = None

    def attach(self, trainer: TrainerView) -> None:
        self._trainer = trainer

    def callbacks(self) -> list[TrainerCallback]:
        return [_FollowPolicy(self)] if self.moves_reference else []

    def follow(self) -> None:
        """Move the reference towards the policy. Every process calls this, between two optimizer steps."""
        assert self._trainer is not None  # attached
        self._trainer.update_reference(1 - self.tau)

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        trainer = self._trainer
        assert trainer is not None  # attached
        if {"image", "images"} & set(local.columns):
            raise ValueError(
                "AnchoredKL scores text only, but the dataset has a column `image` or `images`. Train without images."
            )
        if not local.training or self.kl_weight == 0:
            return {"kl": torch.zeros(len(local.completions))}
        policy = trainer.score_logps(local.prompt_ids, local.completion_ids)
        log_ratio = policy - trainer.score_logps(local.prompt_ids, local.completion_ids, model="reference")
        if local.tool_mask is not None:
            written = [torch.tensor(row, device=log_ratio.device) for row in local.tool_mask]
            log_ratio = log_ratio * torch.nn.utils.rnn.pad_sequence(written, batch_first=True)
        return {"kl": log_ratio.sum(dim=1)}

    def score(self, rollouts: Rollouts) -> Tensor:
        return centered_penalty(rollouts.measured[self.name]["kl"], self.kl_weight)

    def observe(self, rollouts: Rollouts) -> None:
        self._metrics = {"kl": rollouts.measured[self.name]["kl"].mean().item()}

    def columns(self, rollouts: Rollouts) -> dict[str, Any]:
        return {"kl": rollouts.measured[self.name]["kl"]}


class _FollowPolicy(TrainerCallback):
    """Moves the reference before the checkpoint of the same step is saved."""

    def __init__(self, component: AnchoredKL):
        self.component = component

    def on_step_end(self, args, state, control, **kwargs):
        self.component.follow()
