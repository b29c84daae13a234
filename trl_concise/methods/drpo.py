# SPDX-License-Identifier: Apache-2.0
"""
DRPO: decoupled reward policy optimization (Li et al., 2025, https://huggingface.co/papers/2510.04474).

A discriminative objective instead of advantages relative to a group: it raises the mean log-probability per token of correct completions,
weighted towards short ones, and lowers that of wrong ones. Length only re-weights correct completions, so a long correct completion
is never pushed down.

Differences from the authors' code (Optimization-AI/DRPO @ 405f702):
  1. The objective is expressed as advantages, with `loss_type="grpo"`. Its gradient is equal to the authors' while each generation
     serves one optimizer step. With several steps, the weights are those of the policy that generated, TRL clips the ratio, and the
     result is an approximation. The authors' penalty on the divergence from that policy is left out: it is 0 in the first case.
  2. Correct and wrong come from the correctness function, not from rewards of exactly 1 and 0.
  3. The weights are computed once per generation on the gathered batch; theirs are computed per micro-batch, which must contain whole groups.
  4. The log has the value of the objective; theirs has a surrogate with the same gradient.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from ..batch.rollouts import LocalRollouts, Rollouts
from ..components import Advantage, Paper, TrainerView


logger = logging.getLogger(__name__)

DRPO_PAPER = Paper(
    title="DRPO: Efficient Reasoning via Decoupled Reward Policy Optimization",
    id="2510.04474",
    # docstyle-ignore
    citation="""\
@article{li2025drpo,
    title        = {{DRPO: Efficient Reasoning via Decoupled Reward Policy Optimization}},
    author       = {Gang Li and Yan Chen and Ming Lin and Tianbao Yang},
    year         = 2025,
    eprint       = {arXiv:2510.04474}
}""",
    reconstructed="The objective is expressed as advantages; the gradient is equal while each generation serves one optimizer step.",
)


def positive_weights(
    lengths: Tensor, correct: Tensor, *, max_length: float, length_temperature: float = 0.1
) -> Tensor:
    r"""
    Return the weights of the correct completions of a group, which prefer short ones.

    $$ w_i = \frac{\exp(r_i / \lambda)}{\sum_{c=1} \exp(r / \lambda)}, \qquad r_i = 1 - \ell_i / C $$

    Args:
        lengths (`torch.Tensor`): `(groups, G)`, $\ell$ in tokens.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.
        max_length (`float`): $C$, the generation limit in tokens.
        length_temperature (`float`, *optional*, defaults to `0.1`): $\lambda$; infinity weighs all alike.

    Returns:
        `torch.Tensor`: `(groups, G)` float32. They sum to 1 in a group with a correct completion, and are 0 where not correct.

    Examples:
        >>> import torch
        >>> positive_weights(torch.tensor([[800, 1500, 2600, 500]]), torch.tensor([[1.0, 1, 1, 0]]), max_length=8000)
        tensor([[0.6569, 0.2738, 0.0692, 0.0000]])
    """
    return _softmax(-lengths.float() / (max_length * length_temperature), correct == 1)


def negative_weights(scores: Tensor, correct: Tensor, *, temperature: float = 10.0) -> Tensor:
    r"""
    Return the weights of the wrong completions of a group, which prefer likely ones.

    $$ v_j = \frac{\exp(s_j / \tau)}{\sum_{c=0} \exp(s / \tau)} $$

    Args:
        scores (`torch.Tensor`): `(groups, G)`, $s$: mean log-probability per token.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.
        temperature (`float`, *optional*, defaults to `10.0`): $\tau$; infinity weighs all alike.

    Returns:
        `torch.Tensor`: `(groups, G)`. They sum to 1 in a group with a wrong completion, and are 0 where not wrong.
    """
    return _softmax(scores / temperature, correct == 0)


def has_both(correct: Tensor) -> Tensor:
    """Return which groups have a correct and a wrong completion: `(groups, 1)` bool."""
    return (correct == 1).any(dim=1, keepdim=True) & (correct == 0).any(dim=1, keepdim=True)


def drpo_objective(
    scores: Tensor,
    lengths: Tensor,
    correct: Tensor,
    *,
    max_length: float,
    length_temperature: float = 0.1,
    temperature: float = 10.0,
) -> Tensor:
    r"""
    Compute DRPO's loss without the penalty on the divergence from the policy that generated.

    $$ -\frac{1}{Q} \sum_q \left( \sum_{c=1} w_i s_i - \tau \log \operatorname{mean}_{c=0} \exp(s_j / \tau) \right) $$

    over the groups with a correct and a wrong completion; $Q$ counts all groups.

    Args:
        scores (`torch.Tensor`): `(groups, G)`, $s$: mean log-probability per token.
        lengths (`torch.Tensor`): `(groups, G)`, in tokens.
        correct (`torch.Tensor`): `(groups, G)`, 1 correct, 0 wrong, NaN unknown.
        max_length, length_temperature, temperature (`float`): See [`positive_weights`] and [`negative_weights`].

    Returns:
        `torch.Tensor`: The loss, a scalar.
    """
    weights = positive_weights(lengths, correct, max_length=max_length, length_temperature=length_temperature)
    is_wrong = correct == 0
    if math.isinf(temperature):
        negative = (scores * is_wrong).sum(dim=1, keepdim=True) / is_wrong.sum(dim=1, keepdim=True).clamp(min=1)
    else:
        logits = torch.where(is_wrong, scores / temperature, -torch.inf)
        # A group without a wrong completion is left out below; its logarithm would be infinite, and its gradient NaN.
        logits = torch.where(has_both(correct), logits, 0.0)
        count = is_wrong.sum(dim=1, keepdim=True).clamp(min=1)
        negative = temperature * (logits.logsumexp(dim=1, keepdim=True) - count.log())
    loss = negative - (weights * scores).sum(dim=1, keepdim=True)
    return torch.where(has_both(correct), loss, 0.0).mean()


def drpo_advantages(
    scores: Tensor,
    lengths: Tensor,
    correct: Tensor,
    *,
    max_length: float,
    length_temperature: float = 0.1,
    temperature: float = 10.0,
) -> Tensor:
    r"""
    Return the advantages with which the loss `"grpo"`, at a ratio of 1, has the gradient of [`drpo_objective`].

    $$ A_i = G w_i \text{ if correct}, \quad A_j = -G v_j \text{ if wrong} $$

    Args:
        scores, lengths, correct, max_length, length_temperature, temperature: See [`drpo_objective`].

    Returns:
        `torch.Tensor`: `(groups, G)`. In a group with a correct and a wrong completion they sum to 0; in another they are 0.
    """
    positive = positive_weights(lengths, correct, max_length=max_length, length_temperature=length_temperature)
    negative = negative_weights(scores, correct, temperature=temperature)
    return correct.size(1) * (positive - negative) * has_both(correct)


def _softmax(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the softmax over the chosen entries of each row, and 0 elsewhere."""
    return logits.masked_fill(~chosen, -torch.inf).softmax(dim=1).masked_fill(~chosen, 0.0)


class DRPO(Advantage):
    r"""
    DRPO's weights as advantages. Needs `loss_type="grpo"`, and replaces TRL's advantages, so `scale_rewards` has no effect.

    See [`drpo_advantages`]. Each batch of completions is scored once more under the policy, without a gradient, unless
    `temperature` is infinite. Rewards other than the correctness have no effect.

    Args:
        length_temperature (`float`, *optional*, defaults to `0.1`):
            $\lambda$, above 0: how evenly correct completions are weighted. Infinity: all alike, whatever their length, as in
            DisCO.
        temperature (`float`, *optional*, defaults to `10.0`):
            $\tau$, above 0: how evenly wrong completions are weighted. Infinity: all alike.
        max_length (`int`, *optional*):
            $C$, the length in tokens by which lengths are divided. Default: `max_completion_length` of the trainer.

    Raises:
        `ValueError`: If a setting is out of range, the loss is another one, or completions are not limited.
    """

    name = "drpo"
    paper = DRPO_PAPER
    reads_tokens = True

    def __init__(
        self, length_temperature: float = 0.1, temperature: float = 10.0, max_length: int | None = None
    ) -> None:
        for name, value in (("length_temperature", length_temperature), ("temperature", temperature)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}. The authors' values are 0.1 and 10.")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1 token, got {max_length}.")
        self.length_temperature = length_temperature
        self.temperature = temperature
        self.max_length = max_length
        self._trainer: TrainerView | None = None

    def attach(self, trainer: TrainerView) -> None:
        args = trainer.args
        if args.loss_type != "grpo":
            raise ValueError(
                "DRPO weights the mean log-probability per token of each completion, but "
                f'loss_type={args.loss_type!r} does not average over the tokens of each completion. Set loss_type="grpo".'
            )
        if self.max_length is None:
            if trainer.max_completion_length is None:
                raise ValueError(
                    "DRPO divides lengths by the generation limit, but max_completion_length is None. Set max_length."
                )
            self.max_length = trainer.max_completion_length
        if args.steps_per_generation * args.num_iterations > args.gradient_accumulation_steps:
            logger.warning(
                "Each generation serves several optimizer steps, for which DRPO is an approximation: its weights are those of the "
                "policy that generated. Set steps_per_generation to gradient_accumulation_steps and num_iterations to 1 for "
                "the exact gradient."
            )
        self._trainer = trainer

    def measure(self, local: LocalRollouts) -> dict[str, Tensor]:
        if math.isinf(self.temperature):
            return {}
        assert self._trainer is not None  # attached
        logps = self._trainer.score_logps(local.prompt_ids, local.completion_ids)  # (b, T), 0 after the end
        written = torch.zeros_like(logps)
        for row, ids in enumerate(local.completion_ids):
            mask = local.tool_mask[row] if local.tool_mask is not None else [1] * len(ids)
            written[row, : len(ids)] = torch.tensor(mask).to(logps)
        return {"score": (logps * written).sum(dim=1) / written.sum(dim=1).clamp(min=1)}

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        assert self.max_length is not None  # attached
        usable = (
            rollouts.loss_lengths > 0
        )  # a completion without a token in the loss would take weight from the others
        correct = rollouts.by_group(rollouts.correct.masked_fill(~usable, torch.nan))
        lengths = rollouts.by_group(rollouts.lengths)
        scores = rollouts.measured.get(self.name, {}).get("score")
        settings = {
            "max_length": self.max_length,
            "length_temperature": self.length_temperature,
            "temperature": self.temperature,
        }
        self._metrics = {"mixed_groups": has_both(correct).float().mean().item()}
        if scores is None:
            by_group = torch.zeros_like(correct)
        else:
            by_group = rollouts.by_group(scores)
            objective = drpo_objective(by_group, lengths, correct, **settings)
            self._metrics["objective"] = objective.item()
        return drpo_advantages(by_group, lengths, correct, **settings).flatten().to(advantages)
