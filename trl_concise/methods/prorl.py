# SPDX-License-Identifier: Apache-2.0
"""
ProRL: prolonged reinforcement learning (Liu et al., 2025, https://huggingface.co/papers/2505.24864), versions 1 and 2.

Thousands of steps stay stable with a small KL penalty whose reference is reset to the policy now and then. [`ReferenceReset`] resets it, and
[`K2Penalty`] is the KL penalty of version 2. Batch-normalized advantages are [`BatchWhitening`], the refill is [`DynamicSampling`], and IcePop
is an option of TRL.

Sources: NVIDIA-NeMo/RL @ 7ea279a (examples/configs/prorlv2.v2.yaml, docs/guides/prorlv2.md) and OpenRLHF for the settings of version 2. Reconstructed: when to
reset. The authors reset version 1 by hand; for version 2 they give 200 to 500 steps, a spike of the KL divergence and a stalled
validation, without a rule.

Differences from version 2:
  1. The gradient of the KL penalty comes from the advantages of the tokens, not from a term of the loss. The two are the same
     where the policy that is trained is the one that has sampled.
  2. The reference becomes the current policy, never an earlier, best checkpoint.
  3. The length penalty that is switched on and off is not included.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from torch.nn import functional as F
from transformers import TrainerCallback

from ..batch.rollouts import LocalRollouts, Rollouts
from ..batch.token_credit import check_selection
from ..components import Advantage, Paper, TokenCredit, TrainerView


logger = logging.getLogger(__name__)

PRORL_PAPER = Paper(
    title="ProRL: Prolonged Reinforcement Learning Expands Reasoning Boundaries in Large Language Models",
    id="2505.24864",
    # docstyle-ignore
    citation="""\
@article{liu2025prorl,
    title        = {{ProRL: Prolonged Reinforcement Learning Expands Reasoning Boundaries in Large Language Models}},
    author       = {Mingjie Liu and Shizhe Diao and Ximing Lu and Jian Hu and Xin Dong and Yejin Choi and Jan Kautz and Yi Dong},
    year         = 2025,
    eprint       = {arXiv:2505.24864}
}""",
    reconstructed="When the reference model is reset.",
)
KL_METRICS = ("kl", "k2_penalty/kl")  # of TRL with beta > 0, and of `K2Penalty`


def k2(log_ratio: Tensor, max_log_ratio: float = 20.0, max_penalty: float = 10.0) -> Tensor:
    r"""
    Estimate the KL divergence of each token: $\min\big(c_\text{out}, \tfrac12 x^2\big)$ with $x$ limited to
    $[-c_\text{in}, c_\text{in}]$.

    Args:
        log_ratio (`torch.Tensor`): $x = \log \pi - \log \pi_\text{ref}$, of the sampled tokens.
        max_log_ratio (`float`, *optional*, defaults to `20.0`): $c_\text{in}$.
        max_penalty (`float`, *optional*, defaults to `10.0`): $c_\text{out}$.

    Returns:
        `torch.Tensor`: Of the same shape, at least 0.

    Examples:
        >>> import torch
        >>> k2(torch.tensor([0.3, 30.0]))
        tensor([ 0.0450, 10.0000])
    """
    return (0.5 * log_ratio.clamp(-max_log_ratio, max_log_ratio).square()).clamp(max=max_penalty)


def k2_slope(log_ratio: Tensor, max_log_ratio: float = 20.0, max_penalty: float = 10.0) -> Tensor:
    r"""
    Return the derivative of [`k2`] in $\log \pi$: $x$, and 0 where a limit applies.

    Minus this, as the advantage of a token, has the gradient of the penalty.
    """
    is_free = (log_ratio.abs() <= max_log_ratio) & (0.5 * log_ratio.square() <= max_penalty)
    return log_ratio.detach() * is_free


class ReferenceReset(Advantage):
    """
    Makes the reference model a copy of the policy: every few steps, when the KL divergence is too large, or when the evaluation stalls.

    The advantages stay as they are; combine it with others in a list. Right after a reset the KL divergence is 0. The reference is saved with each
    checkpoint, and a resumed run continues with it. The learning-rate schedule does not change.

    Args:
        every (`int`, *optional*, defaults to `200`):
            Optimizer steps from the last reset to the next; 0 never resets for this reason. Version 2: 200 to 500.
        max_kl (`float`, *optional*):
            KL divergence above which the reference is reset, compared with the logged `kl`, or with `k2_penalty/kl`. `None`: for no value.
        patience (`int`, *optional*):
            Evaluations in a row without a new best value of `metric` after which the reference is reset. `None`: for no number.
        metric (`str`, *optional*, defaults to `"eval_accuracy"`):
            Metric of the evaluation, of which larger is better.
        clear_optimizer (`bool`, *optional*, defaults to `False`):
            Whether a reset also clears the moments of the optimizer, as in version 1. Version 2 keeps them.

    Raises:
        `ValueError`: If an argument is out of range. When the trainer is built, if nothing uses the reference, or with `clear_optimizer` under
            DeepSpeed. In training, if the evaluation does not have `metric`.
    """

    name = "prorl"
    paper = PRORL_PAPER
    divisor = "all"
    needs_correctness = False

    def __init__(
        self,
        every: int = 200,
        max_kl: float | None = None,
        patience: int | None = None,
        metric: str = "eval_accuracy",
        clear_optimizer: bool = False,
    ):
        if every < 0:
            raise ValueError(
                f"every must be at least 0 steps, got {every}. 0 never resets the reference periodically."
            )
        if max_kl is not None and not max_kl > 0:
            raise ValueError(f"max_kl must be above 0 or None, got {max_kl}.")
        if patience is not None and patience < 1:
            raise ValueError(f"patience must be at least 1 evaluation or None, got {patience}.")
        self.every = every
        self.max_kl = max_kl
        self.patience = patience
        self.metric = metric
        self.clear_optimizer = clear_optimizer
        self.moves_reference = every > 0 or max_kl is not None or patience is not None
        self._reset_at = 0  # step
        self._resets = 0
        self._best = -math.inf
        self._stalled = 0  # evaluations since the best one, or the last reset
        self._trainer: TrainerView | None = None

    def attach(self, trainer: TrainerView) -> None:
        args = trainer.args
        others = [component for component in trainer.components if component is not self]
        if self.moves_reference and args.beta == 0 and not any(other.needs_reference for other in others):
            raise ValueError(
                "ReferenceReset resets the reference model, but nothing uses it: beta is 0. Set beta, for example to 1e-4, or add a "
                "K2Penalty as token_credit."
            )
        if self.clear_optimizer and trainer.accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise ValueError(
                "ReferenceReset cannot clear the optimizer of DeepSpeed. Set clear_optimizer=False, or train without DeepSpeed."
            )
        if args.steps_per_generation * args.num_iterations > args.gradient_accumulation_steps:
            logger.warning(
                "Each generation serves several optimizer steps: after a reset, the rest of a generation keeps the scores of the old "
                "reference. Choose a multiple of these steps as `every`."
            )
        self._trainer = trainer

    def callbacks(self) -> list[TrainerCallback]:
        return [_Resets(self)] if self.moves_reference else []

    def reset(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Make the reference a copy of the policy. Every process calls this, between two optimizer steps."""
        assert self._trainer is not None  # attached
        self._trainer.update_reference()
        if self.clear_optimizer:
            optimizer.state.clear()  # not the parameter groups, which hold the learning rates
        self._reset_at, self._stalled = step, 0
        self._resets += 1

    def has_stalled(self, value: float) -> bool:
        """Note the value of an evaluation, and return whether none of the last `patience` ones was a new best."""
        if value > self._best:
            self._best, self._stalled = value, 0
        else:
            self._stalled += 1
        return self.patience is not None and self._stalled >= self.patience

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        self._metrics = {"reference_age": float(rollouts.step - self._reset_at), "resets": float(self._resets)}
        return advantages

    def state_dict(self) -> dict[str, Any]:
        return {
            "reset_at": self._reset_at,
            "resets": self._resets,
            "best": self._best,
            "stalled": self._stalled,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._reset_at, self._resets = state["reset_at"], state["resets"]
        self._best, self._stalled = state["best"], state["stalled"]


class _Resets(TrainerCallback):
    """Resets the reference before the checkpoint of the same step is saved: transformers logs and evaluates first."""

    def __init__(self, component: ReferenceReset):
        self.component = component

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        own = self.component
        if own.every and state.global_step - own._reset_at >= own.every:
            own.reset(state.global_step, optimizer)

    def on_log(self, args, state, control, logs=None, optimizer=None, **kwargs):
        own = self.component
        kl = next((logs[name] for name in KL_METRICS if name in (logs or {})), math.nan)
        if own.max_kl is not None and kl > own.max_kl and own._reset_at < state.global_step:
            own.reset(state.global_step, optimizer)

    def on_evaluate(self, args, state, control, metrics=None, optimizer=None, **kwargs):
        own = self.component
        if own.patience is None:
            return
        if own.metric not in metrics:
            raise ValueError(
                f"ReferenceReset waits for {own.metric!r} to improve, but the evaluation has {sorted(metrics)}. Set `metric` to one of them."
            )
        if own.has_stalled(metrics[own.metric]):
            own.reset(state.global_step, optimizer)


class K2Penalty(TokenCredit):
    """
    Adds the gradient of a KL penalty to the advantages of the tokens, with the estimator of [`k2`].

    TRL's own KL term (`beta`) has another estimator and no limits. Each batch is scored twice without a gradient, by the policy and by
    the reference. The penalty is divided like the rest of the loss.

    Args:
        coefficient (`float`, *optional*, defaults to `1e-4`):
            Weight of the penalty in the loss, at least 0.
        max_log_ratio (`float`, *optional*, defaults to `20.0`):
            Limit of the log-ratio of a token, above 0.
        max_penalty (`float`, *optional*, defaults to `10.0`):
            Limit of the penalty of a token, above 0. Beyond a limit, a token has no gradient.

    Raises:
        `ValueError`: If an argument is out of range. When the trainer is built, if the loss has one ratio per completion, or `beta` is above
            0. In training, if prompts have images.
    """

    name = "k2_penalty"
    paper = PRORL_PAPER
    needs_correctness = False
    needs_reference = True

    def __init__(self, coefficient: float = 1e-4, max_log_ratio: float = 20.0, max_penalty: float = 10.0):
        if not 0 <= coefficient < math.inf:
            raise ValueError(f"coefficient must be at least 0 and finite, got {coefficient}.")
        for name, value in {"max_log_ratio": max_log_ratio, "max_penalty": max_penalty}.items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}.")
        self.coefficient = coefficient
        self.max_log_ratio = max_log_ratio
        self.max_penalty = max_penalty
        self._trainer: TrainerView | None = None

    def attach(self, trainer: TrainerView) -> None:
        args = trainer.args
        check_selection(self, args)
        if args.beta > 0:
            raise ValueError(
                f"K2Penalty replaces TRL's KL term, but beta = {args.beta} adds that too. Set beta=0 and the weight as `coefficient`."
            )
        if args.steps_per_generation * args.num_iterations > args.gradient_accumulation_steps:
            logger.warning(
                "Each generation serves several optimizer steps: the KL penalty is that of the policy that generated. Set "
                "steps_per_generation to gradient_accumulation_steps and num_iterations to 1 for its exact gradient."
            )
        self._trainer = trainer

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        assert self._trainer is not None  # attached
        if {"image", "images"} & set(local.columns):
            raise ValueError(
                "K2Penalty scores text only, but the dataset has a column `image` or `images`. Train without images."
            )
        policy = self._trainer.score_logps(local.prompt_ids, local.completion_ids)
        reference = self._trainer.score_logps(local.prompt_ids, local.completion_ids, model="reference")
        return {"log_ratio": policy - reference}

    def assign(
        self, rollouts: Rollouts, batch: dict[str, Any], advantages: Tensor, selected: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        mask = batch["completion_mask"]
        log_ratio = rollouts.measured_tokens[self.name]["log_ratio"].to(mask.device)
        log_ratio = F.pad(log_ratio, (0, mask.size(1) - log_ratio.size(1)))
        in_loss = (mask * batch["tool_mask"] if "tool_mask" in batch else mask).bool()
        limits = self.max_log_ratio, self.max_penalty
        total = self._gather(torch.stack([k2(log_ratio, *limits)[in_loss].sum(), in_loss.sum()]))
        self._metrics = {"kl": (total[0] / total[1].clamp(min=1)).item()}
        if self.coefficient == 0:
            return advantages, None
        if advantages.ndim == 1:
            advantages = advantages[:, None]
        return advantages - self.coefficient * k2_slope(log_ratio, *limits).to(advantages), None

    def _gather(self, sums: Tensor) -> Tensor:
        assert self._trainer is not None  # attached
        return self._trainer.accelerator.reduce(sums.float(), reduction="sum")
