# SPDX-License-Identifier: Apache-2.0
"""
One-shot RLVR: reinforcement learning on a single problem (Wang et al., 2025, https://huggingface.co/papers/2504.20571).

One problem (or a few), repeated to fill the batch, is trained on with GRPO, a small KL term and an entropy bonus. The
problem is the one whose accuracy varied most while the whole pool was trained on.

The loss is TRL's: `beta=0.001`, `entropy_coef=0.001` and `loss_type="dapo"`. All settings of the authors are in
`examples/configs/one_shot_rlvr_paper.yaml`.

Differences from the authors' code (ypwang61/One-Shot-RLVR @ 21ed529):
  1. Ranking by the variance, computed exactly; theirs ranks by its square root, rounded. Ties keep their order in both.
  2. The loss is a mean over the tokens of the whole optimizer step; theirs depends on how micro-batches are packed.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

from datasets import Dataset


Key = TypeVar("Key", bound=Hashable)


def historical_variance(accuracies: Sequence[float]) -> float:
    r"""
    Return how much the accuracy on a problem varied during training.

    $$ v_i = \operatorname{var}(s_{i,1}, \dots, s_{i,E}) $$

    Args:
        accuracies (`Sequence[float]`): $s_{i,e}$, share of correct completions at each visit, at least one.

    Returns:
        `float`: Variance of the visits themselves (ddof 0); 0 if the accuracy never changed.

    Raises:
        `ValueError`: If `accuracies` is empty.

    Examples:
        >>> historical_variance([0, 0.125, 0.5, 1, 1])
        0.1775
    """
    if not len(accuracies):
        raise ValueError("historical_variance needs the accuracy of at least one visit, got none.")
    return statistics.pvariance(map(float, accuracies))  # Eq. 1; exact, so that equal histories tie


def rank_by_historical_variance(accuracies: Mapping[Key, Sequence[float]]) -> list[Key]:
    """
    Rank problems by how much their accuracy varied. The paper trains on the first.

    Args:
        accuracies (`Mapping[Key, Sequence[float]]`): Accuracies of each problem at its visits, which may differ in
            number: an [`AccuracyHistory`], or accuracies that another trainer logged.

    Returns:
        `list[Key]`: Keys by decreasing variance (Eq. 2); ties keep their order.

    Examples:
        >>> rank_by_historical_variance({"easy": [1, 1], "learned": [0, 1], "hard": [0, 0]})
        ['learned', 'easy', 'hard']
    """
    return sorted(accuracies, key=lambda key: historical_variance(accuracies[key]), reverse=True)


def repeat_example(examples: Dataset | Sequence[dict[str, Any]] | dict[str, Any], rows: int = 128) -> Dataset:
    """
    Repeat one example, or a few, to fill a batch.

    Each row is rolled out as a group of its own: 128 rows are 128 independent groups of `num_generations` completions.
    So that every step sees each example equally often, `rows` should be the prompts of a step,
    `args.generation_batch_size // args.num_generations`.

    Args:
        examples (`Dataset`, `Sequence[dict]` or `dict`):
            The row, or rows, to train on.
        rows (`int`, *optional*, defaults to `128`):
            Rows of the result, a multiple of the number of examples. 128 is the authors' batch.

    Returns:
        `Dataset`: The examples in turn: two examples fill 64 rows each.

    Raises:
        `ValueError`: If `examples` is empty, or the examples cannot have equal shares.
    """
    if isinstance(examples, dict):
        examples = [examples]
    if not isinstance(examples, Dataset):
        examples = Dataset.from_list(list(examples))
    count = len(examples)
    if count == 0 or rows < count or rows % count:
        raise ValueError(
            f"{count} examples cannot have equal shares of {rows} rows: rows must be a multiple of their number."
        )
    return examples.select(list(range(count)) * (rows // count))
