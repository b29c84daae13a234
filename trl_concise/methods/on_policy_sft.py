# SPDX-License-Identifier: Apache-2.0
"""
On-policy supervised fine-tuning (Zhao et al., 2026, https://huggingface.co/papers/2602.13407).

Each step samples completions and takes one cross-entropy step on those that are correct, finished and within a length limit. There is
no comparison within groups, no negative example, no clip and no KL term.

The full text of the paper was not available to us. The objective is that of its Eq. 9 as quoted by others, the rest is from the authors'
code (EIT-NLP/On-Policy-SFT @ d788bc0).

Truncation, the divisor and the empty step (2, 5 and 6) are reconstructed. Differences from the authors' code:
  1. Cross-entropy is expressed as advantages: 1 for the kept completions, while the others are dropped. The gradient is equal while each
     generation serves one optimizer step.
  2. A truncated completion is not kept. Their limit is the generation limit, and a truncated completion that already contains the
     correct answer is kept.
  3. Correct is what the correctness function says, not a score above 0.
  4. All kept completions are trained on. Theirs are trimmed to a multiple of the number of processes.
  5. One divisor per optimizer step. Theirs averages micro-batches of different sizes with equal weights.
  6. A step in which nothing is kept changes nothing; `kept_fraction` is 0. Their code does not handle it.
  7. `OnPolicySFTFilter` is ours: it replaces prompts of which no completion is kept.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ..batch.advantages import DIVIDE_BY_TOKENS
from ..batch.rollouts import Rollouts
from ..checks import restricted_sampling
from ..components import Advantage, GroupFilter, Paper, TrainerView


logger = logging.getLogger(__name__)

ON_POLICY_SFT_PAPER = Paper(
    title="On-Policy Supervised Fine-Tuning for Efficient Reasoning",
    id="2602.13407",
    # docstyle-ignore
    citation="""\
@article{zhao2026onpolicy,
    title        = {{On-Policy Supervised Fine-Tuning for Efficient Reasoning}},
    author       = {Anhao Zhao and Ziyang Chen and Junlong Tong and Yingqi Fan and Fanghua Ye and Shuhao Li and Yunpu Ma and Wenjie Li and Xiaoyu Shen},
    year         = 2026,
    eprint       = {arXiv:2602.13407}
}""",  # noqa: E501
    reconstructed="Truncated completions are not kept; the divisor and the step in which nothing is kept are ours.",
)
NORMALIZATIONS = ("tokens", "longest")


def kept_completions(correct: Tensor, truncated: Tensor, lengths: Tensor, *, max_length: int | None = None) -> Tensor:
    r"""
    Return which completions are trained on: $K = \{i : c_i = 1, L_i \le L_{\max}\}$, those that are truncated left out.

    Args:
        correct (`torch.Tensor`): $c$, 1 correct, 0 wrong, NaN unknown.
        truncated (`torch.Tensor`): Bool, no EOS before the generation limit.
        lengths (`torch.Tensor`): $L$, in tokens.
        max_length (`int`, *optional*): $L_{\max}$, in tokens; `None` for no other limit than that of generation.

    Returns:
        `torch.Tensor`: Bool, of the same shape.

    Examples:
        >>> import torch
        >>> kept_completions(torch.tensor([1.0, 0, 1, 1]), torch.tensor([False] * 3 + [True]), torch.tensor([5, 5, 9, 5]))
        tensor([ True, False,  True, False])
    """
    kept = (correct == 1) & ~truncated
    return kept & (lengths <= max_length) if max_length is not None else kept


class OnPolicySFT(Advantage):
    """
    Trains on the completions that are correct, finished and within a limit, as supervised fine-tuning does.

    Their advantage is a positive constant of the batch; the others are left out of the loss. TRL's advantages are ignored, so
    `scale_rewards` and rewards other than the correctness have no effect.

    Args:
        max_length (`int`, *optional*):
            Longest completion that is trained on, in tokens, EOS excluded. Default: any that ends before the generation limit, which
            is the authors' limit.
        normalization (`str`, *optional*, defaults to `"tokens"`):
            `"tokens"`: the loss is the mean over all kept tokens, as in the authors' code. `"longest"`: it is divided by the number of
            kept completions and the length of the longest, as in the paper's Eq. 9; needs a `loss_type` that divides by tokens, such
            as `"dapo"`.

    Raises:
        `ValueError`: If a setting is out of range, or the loss does not fit the normalization.
    """

    name = "on_policy_sft"
    paper = ON_POLICY_SFT_PAPER

    def __init__(self, max_length: int | None = None, normalization: str = "tokens"):
        _check_length(max_length)
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {NORMALIZATIONS}, got {normalization!r}.")
        self.max_length = max_length
        self.normalization = normalization

    def attach(self, trainer: TrainerView) -> None:
        args = trainer.args
        if self.normalization == "longest" and args.loss_type not in DIVIDE_BY_TOKENS:
            raise ValueError(
                f'OnPolicySFT(normalization="longest") replaces the divisor of the losses {DIVIDE_BY_TOKENS}, which divide by tokens, but '
                f'loss_type={args.loss_type!r}. Set loss_type="dapo", or normalization="tokens".'
            )
        changed = {"temperature": args.temperature} if args.temperature != 1 else {}
        if changed := changed | restricted_sampling(args):
            logger.warning(
                "OnPolicySFT samples with %s: the kept completions are then not drawn from the model that is trained. Set "
                "temperature=1, and leave the other settings out.",
                changed,
            )
        if args.steps_per_generation * args.num_iterations > args.gradient_accumulation_steps:
            logger.warning(
                "Each generation serves several optimizer steps: after the first, the completions of OnPolicySFT are off-policy and "
                "TRL clips their ratio. Set steps_per_generation to gradient_accumulation_steps and num_iterations to 1 for the "
                "gradient of supervised fine-tuning."
            )

    def compute(self, rollouts: Rollouts, advantages: Tensor) -> Tensor:
        kept = kept_completions(rollouts.correct, rollouts.truncated, rollouts.lengths, max_length=self.max_length)
        correct = rollouts.correct == 1
        self._metrics = {
            "kept_fraction": kept.float().mean().item(),
            "kept_length": rollouts.lengths[kept].float().mean().item(),
            "rejected_correct": (correct & ~kept).sum().item() / max(1, correct.sum().item()),
        }
        if rollouts.kept is not None:
            kept = kept & rollouts.kept
        scale = 1.0
        if self.normalization == "longest" and kept.any():
            lengths = rollouts.loss_lengths[kept].float()  # the loss divides by their sum
            scale = (lengths.mean() / lengths.max()).item()
        return torch.where(kept, scale, torch.nan).to(advantages)


class OnPolicySFTFilter(GroupFilter):
    """
    Replaces the prompts of which no completion is kept by [`OnPolicySFT`], so that more prompts are trained on per step.

    It accompanies [`OnPolicySFT`] with the same `max_length`: alone, it keeps TRL's advantages. The authors do not replace prompts.

    Args:
        max_length (`int`, *optional*):
            As in [`OnPolicySFT`].
        max_refills (`int`, *optional*, defaults to `10`):
            How often missing groups are replaced per generation batch.

    Raises:
        `ValueError`: If a setting is out of range.
    """

    name = "on_policy_sft_filter"
    paper = ON_POLICY_SFT_PAPER
    divisor = "kept"

    def __init__(self, max_length: int | None = None, max_refills: int = 10):
        _check_length(max_length)
        if max_refills < 0:
            raise ValueError(f"max_refills must be at least 0, got {max_refills}. 0 replaces no group.")
        self.max_length = max_length
        self.max_refills = max_refills

    def keep(self, rollouts: Rollouts) -> Tensor:
        return kept_completions(rollouts.correct, rollouts.truncated, rollouts.lengths, max_length=self.max_length)


def _check_length(max_length: int | None) -> None:
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1 token or None, got {max_length}.")
