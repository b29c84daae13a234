# SPDX-License-Identifier: Apache-2.0
"""The verifier's loss, and its trainer: REDI's pairs, rows and checks, with another loss of a pair."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from ...components import Paper
from ...methods.redi import REDITrainer
from .config import VerifierConfig, check_beta_and_gamma


MATH_REV_PAPER = Paper(
    title="Improving LLM Reasoning through Scaling Inference Computation with Collaborative Verification",
    id="2410.05318",
    # docstyle-ignore
    citation="""\
@article{mathrev2024,
    title        = {{Improving LLM Reasoning through Scaling Inference Computation with Collaborative Verification}},
    year         = 2024,
    eprint       = {arXiv:2410.05318}
}""",
    reconstructed="beta and gamma of the loss, and how pairs are made",
)


def verifier_loss(
    chosen_logps: Tensor,
    chosen_lengths: Tensor,
    rejected_logps: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> Tensor:
    r"""
    Prefer the correct solution of a pair by its mean log-probability per token, without a reference model.

    $$ L = -\log \sigma\big(\beta (m(y_w) - m(y_l)) - \gamma\big), \qquad m(y) = \frac{\log \pi(y \mid x)}{|y|} $$

    The reviews of the paper name it SimPO; the formula is that of SimPO's paper (https://huggingface.co/papers/2405.14734). $\beta$ and $\gamma$ are ours.

    Args:
        chosen_logps (`torch.Tensor`): `(pairs,)`, log-probability of the correct solution, summed over its tokens.
        chosen_lengths (`torch.Tensor`): `(pairs,)`, its tokens, the end token included, prompt and padding excluded.
        rejected_logps (`torch.Tensor`): `(pairs,)`, the same of the wrong solution.
        rejected_lengths (`torch.Tensor`): `(pairs,)`, its tokens.
        beta (`float`, *optional*, defaults to `2.0`): $\beta$, above 0.
        gamma (`float`, *optional*, defaults to `1.0`): $\gamma$, at least 0.

    Returns:
        `torch.Tensor`: `(pairs,)`, the loss of each pair. The loss of a batch is their mean. A length of 0 counts as 1.

    Raises:
        `ValueError`: If beta or gamma is out of range.

    Examples:
        >>> from torch import tensor
        >>> verifier_loss(tensor([-0.8]), tensor([4]), tensor([-1.2]), tensor([2]))
        tensor([0.7981])
    """
    check_beta_and_gamma(beta, gamma)
    margin = chosen_logps / chosen_lengths.clamp(min=1) - rejected_logps / rejected_lengths.clamp(min=1)
    return -logsigmoid(beta * margin - gamma)


class VerifierTrainer(REDITrainer):
    """
    Trainer of a verifier: [`REDITrainer`] with [`verifier_loss`].

    Takes the arguments of [`~trl.DPOTrainer`], without a `ref_model`. The datasets have TRL's preference format (`prompt`, `chosen`: a correct
    solution, `rejected`: a wrong one), as [`~trl_concise.experimental.math_rev.build_verifier_pairs`] makes them.

    Args:
        model, args, data_collator, train_dataset, ...:
            As for [`~trl.DPOTrainer`]. `args` may be a plain [`~trl.DPOConfig`], whose default of `beta` is then replaced, and is never changed.

    Raises:
        `ValueError`: If there is a `ref_model`, a setting of DPO's loss that would have no effect, or an empty dataset; if rows are not pairs, or
            the chat template drops text of a solution.

    Example:

    ```python
    >>> trainer = VerifierTrainer("Qwen/Qwen2.5-1.5B-Instruct", VerifierConfig(output_dir="verifier"), train_dataset=pairs)
    >>> trainer.train()
    ```
    """

    config_class: type[Any] = VerifierConfig
    _tag_names = ["trl", "trl-concise", "math-rev"]
    _name = "Math-Rev"
    _paper = MATH_REV_PAPER.as_card()
    _metrics_prefix = "verifier"

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        columns = set(next(iter(dataset)))
        if not {"chosen", "rejected"} <= columns or "weight" in columns:
            raise ValueError(
                f"A verifier is trained on pairs with `chosen` and `rejected`, without a `weight`; the {dataset_name} dataset has "
                f"{sorted(columns)}. Build pairs with build_verifier_pairs."
            )
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def _pair_loss(self, chosen, chosen_lengths, rejected, rejected_lengths):
        return verifier_loss(
            chosen, chosen_lengths, rejected, rejected_lengths, beta=self.args.beta, gamma=self.args.gamma
        )
