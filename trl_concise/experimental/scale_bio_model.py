# SPDX-License-Identifier: Apache-2.0
"""The equations of ScaleBiO, and the module that holds both models and the shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn


if TYPE_CHECKING:
    from .scale_bio_config import ScaleBiOConfig


def share_gradient(share_logits: Tensor, losses: Tensor, tracker_losses: Tensor, *, alpha: float) -> Tensor:
    r"""
    Gradient of the objective with respect to the parameters of the shares, in closed form. [`bilevel_loss`] has the same.

    $$ \alpha\, p_k \Big[D_k - \sum_j p_j D_j\Big], \qquad D_k = l_k(w) - l_k(u), \quad p = \operatorname{softmax}(\lambda) $$

    Args:
        share_logits (`torch.Tensor`): `(K,)`, $\lambda$.
        losses, tracker_losses (`torch.Tensor`): `(K,)`, $l_k(w)$ and $l_k(u)$, the mean loss of the rows of each source in a step.
        alpha (`float`): $\alpha$.

    Returns:
        `torch.Tensor`: `(K,)`, with the sum 0.

    Examples:
        >>> share_gradient(torch.tensor([1.0, 3.0]).log(), torch.tensor([2.0, 4.0]), torch.tensor([1.9, 3.5]), alpha=10)
        tensor([-0.7500,  0.7500])
    """
    shares = share_logits.softmax(0)
    gaps = losses - tracker_losses
    return alpha * shares * (gaps - (shares * gaps).sum())


def bilevel_loss(
    share_logits: Tensor,
    sources: Tensor,
    losses: Tensor,
    tracker_losses: Tensor,
    counts: Tensor,
    validation_loss: Tensor,
    *,
    alpha: float,
) -> Tensor:
    r"""
    One scalar whose gradients are those of all three updates: w and the shares descend the objective, u ascends it.

    $$ J = L_1(w) + \alpha \sum_k p_k l_k(w) + \alpha \sum_k \bar p_k l_k(u) - \alpha \sum_k p_k \bar l_k(u) $$

    A bar means: without gradient. The value is $L_1(w) + \alpha L_2(w)$. A reconstruction: the authors have three backward passes. The sum over the
    micro-batches and processes of a step is that of the whole step.

    Args:
        share_logits (`torch.Tensor`): `(K,)`, the parameters of the shares $p$ before the softmax.
        sources (`torch.Tensor`): `(R,)`, integers: the source of each row of a micro-batch, -1 for a row that does not count.
        losses, tracker_losses (`torch.Tensor`): `(R,)`, the losses of w and u on each row.
        counts (`torch.Tensor`): `(K,)`, rows of each source in the whole step, at least 1.
        validation_loss (`torch.Tensor`): A scalar, this micro-batch's part of $L_1(w)$.
        alpha (`float`): $\alpha$.

    Returns:
        `torch.Tensor`: A scalar.
    """
    weights = torch.where(sources >= 0, (share_logits.softmax(0) / counts)[sources.clamp(min=0)], 0.0)
    fixed = weights.detach()
    penalty = (weights * losses).sum() + (fixed * tracker_losses).sum() - (weights * tracker_losses.detach()).sum()
    return validation_loss + alpha * penalty


class BilevelModel(nn.Module):
    """
    Both models and the shares as one module, so that one optimizer, one backward pass and one DDP wrapper have all of them.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]): The model w.
        tracker: The model u, a copy.
        share_logits (`torch.nn.Parameter`): `(K,)`.
    """

    def __init__(self, model: nn.Module, tracker: nn.Module, share_logits: nn.Parameter):
        super().__init__()
        self.model = model
        self.tracker = tracker
        self.share_logits = share_logits

    def forward(self, inputs: dict[str, Tensor], sources: Tensor, counts: Tensor, alpha: float) -> dict[str, Tensor]:
        """
        Compute [`bilevel_loss`] of a micro-batch.

        Args:
            inputs (`dict[str, torch.Tensor]`): `(R, T)` each: `input_ids`, `attention_mask`, and `labels` with -100 outside completions.
            sources (`torch.Tensor`): `(R,)`, -1 for a row of the validation set.
            counts (`torch.Tensor`): `(K + 1,)`, of the whole step: rows of each source, and completion tokens of the validation rows.
            alpha (`float`): Weight of the penalty.

        Returns:
            `dict[str, torch.Tensor]`: `loss`; `sums`, `(2K + 1,)`, without gradient: losses of w by source, of u by source, and of the
            tokens of the validation rows.
        """
        totals, tokens = _row_losses(self.model, inputs)
        validation = totals[sources < 0].sum()
        rows = (sources >= 0).nonzero()[:, 0]
        if not len(rows):  # u is called nevertheless: every process makes the same calls
            rows = sources.new_zeros(1)
        own = sources[rows]
        losses = (totals / tokens.clamp(min=1))[rows]
        totals, tokens = _row_losses(self.tracker, {name: value[rows] for name, value in inputs.items()})
        tracked = totals / tokens.clamp(min=1)
        loss = bilevel_loss(self.share_logits, own, losses, tracked, counts[:-1], validation / counts[-1], alpha=alpha)
        by_source = losses.new_zeros(2, len(counts) - 1)
        is_training = own >= 0
        for line, values in zip(by_source, (losses.detach(), tracked.detach()), strict=True):
            line.index_add_(0, own[is_training], values[is_training])
        return {"loss": loss, "sums": torch.cat([by_source.flatten(), validation.detach()[None]])}


def _row_losses(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of each row, summed over its completion tokens, and their number."""
    outputs = model(**inputs, use_cache=False, fused_lm_head=True)
    return -outputs.log_probs.float().sum(1), outputs.label_mask.sum(1)


def parameter_groups(pair: BilevelModel, args: ScaleBiOConfig, decayed: set[str]) -> list[dict[str, Any]]:
    """
    Return the groups of the optimizer: w, u and the shares, each with a learning rate of its own.

    Args:
        pair ([`BilevelModel`]): Both models and the shares.
        args ([`ScaleBiOConfig`]): Learning rates and weight decay.
        decayed (`set[str]`): Names of the parameters of the models that `weight_decay` applies to.
    """
    tracker_rate = args.tracker_learning_rate if args.tracker_learning_rate is not None else args.learning_rate
    groups = []
    for part, rate in (("model.", args.learning_rate), ("tracker.", tracker_rate)):
        own = {name: value for name, value in pair.named_parameters() if name.startswith(part) and value.requires_grad}
        for decays in (True, False):
            parameters = [value for name, value in own.items() if (name in decayed) == decays]
            groups.append({"params": parameters, "lr": rate, "weight_decay": args.weight_decay if decays else 0.0})
    shares = {"params": [pair.share_logits], "lr": args.share_learning_rate, "weight_decay": args.share_weight_decay}
    return [*(group for group in groups if group["params"]), shares]
