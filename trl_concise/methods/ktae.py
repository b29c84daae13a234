# SPDX-License-Identifier: Apache-2.0
"""
KTAE: key-token advantage estimation (Sun et al., 2025, https://huggingface.co/papers/2505.16826).

Adds to the advantage of each token a number in (-1, 1): how strongly completions of the group with this token are the correct
ones. From the authors' code (xiaolizh1/KTAE @ ea9fb77, verl/workers/actor/compute_key_tokens.py).

Differences from the authors' code:
  1. Fisher's exact test sums integers. The authors compare probabilities in float32, which can drop the symmetric tail.
  2. All settings can be chosen. The authors' call sets all weights to 1; their scripts pass 2 for the information gain, which nothing
     reads.
  3. The padding and end-of-sequence ids of the tokenizer and of the generation config have the value 0, instead of one id of Qwen.
  4. A completion is correct if the correctness reward says so, instead of if its reward is positive. Completions of unknown correctness,
     and those without a token in the loss, count in no table; the advantages of the former do not change.
  5. TRL divides by the standard deviation plus 1e-4, the authors by that plus 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch.rollouts import CompletionTokens, Rollouts
from ..batch.token_credit import check_selection
from ..components import Paper, TokenCredit, TrainerView


KTAE_PAPER = Paper(
    title="KTAE: A Model-Free Algorithm to Key-Tokens Advantage Estimation in Mathematical Reasoning",
    id="2505.16826",
    # docstyle-ignore
    citation="""\
@article{sun2025ktae,
    title        = {{KTAE: A Model-Free Algorithm to Key-Tokens Advantage Estimation in Mathematical Reasoning}},
    author       = {Wei Sun and Wen Yang and Pu Jian and Qianlong Du and others},
    year         = 2025,
    eprint       = {arXiv:2505.16826}
}""",
)
SATURATION, LENGTH_PENALTY = 2.0, 0.5  # k1 and b of BM25, as in the authors' code


@lru_cache(maxsize=1024)
def _association(correct: int, wrong: int) -> tuple[NDArray, NDArray, NDArray]:
    """
    Return Fisher's score, information gain and direction, `(correct + 1, wrong + 1)` each, of a token that a of the correct and b of
    the wrong completions contain. They depend on nothing else, so a group's tokens only look them up.
    """
    total = correct + wrong
    fisher, gain, direction = np.zeros((3, correct + 1, wrong + 1))
    for present in range(total + 1):
        ways = {  # tables with the same margins, by a: integers, so that equal ones compare as equal
            a: math.comb(correct, a) * math.comb(wrong, present - a)
            for a in range(max(0, present - wrong), min(correct, present) + 1)
        }
        for a, own in ways.items():
            b = present - a
            tail = sum(count for count in ways.values() if count <= own)
            tables = math.comb(total, present)
            fisher[a, b] = math.exp(-2 * tail / tables) if tail < tables else 0.0
            absent = total - present
            gain[a, b] = _entropy(correct, wrong) - (
                present * _entropy(a, b) + absent * _entropy(correct - a, wrong - b)
            ) / max(total, 1)
            direction[a, b] = math.asin(math.sqrt(a / correct)) - math.asin(math.sqrt(b / wrong))
    return fisher, gain, direction


def _entropy(one: int, other: int) -> float:
    """Entropy of two counts in bits."""
    total = one + other
    return -sum(count / total * math.log2(count / total) for count in (one, other) if count)


def key_token_values(
    ids: Sequence[Sequence[int]],
    correct: Sequence[bool],
    mask: Sequence[Sequence[int]] | None = None,
    *,
    fisher_weight: float = 1.0,
    gain_weight: float = 1.0,
    term_frequency: bool = True,
    ignored_ids: Collection[int] = (),
) -> list[NDArray]:
    r"""
    Return how strongly each token is associated with the correct completions of its group.

    Of a token id, a of the correct and b of the wrong completions contain it, c and d do not. With the p-value of Fisher's two-sided
    exact test and the information gain IG (in bits) of this table,

    $$ F = e^{-2p} \; (0 \text{ if } p = 1), \quad
       x = \arcsin\sqrt{\tfrac{a}{a + c}} - \arcsin\sqrt{\tfrac{b}{b + d}}
           + \frac{tf_C}{tf_W + 10^{-5}} - \frac{tf_W}{tf_C + 10^{-5}} $$

    $$ \text{value} = \tanh\frac{v}{2}, \qquad v = \frac{\alpha F + \beta\, IG}{\alpha + \beta}\, x $$

    where $tf_C$ and $tf_W$ are how often the id occurs in all correct and in all wrong completions, saturated as in BM25.

    Args:
        ids (`Sequence[Sequence[int]]`): Token ids of the completions of one group.
        correct (`Sequence[bool]`): Whether each completion is correct.
        mask (`Sequence[Sequence[int]]`, *optional*): 0 at tokens that do not count, such as tool output. Default: all count.
        fisher_weight (`float`, *optional*, defaults to `1.0`): $\alpha$, at least 0.
        gain_weight (`float`, *optional*, defaults to `1.0`): $\beta$, at least 0.
        term_frequency (`bool`, *optional*, defaults to `True`): Whether $x$ has the two terms with $tf$.
        ignored_ids (`Collection[int]`, *optional*): Ids that get 0, such as end-of-sequence.

    Returns:
        `list[numpy.ndarray]`: One float64 array per completion, with a number in `[-1, 1]` per token; 0 where the mask is 0. All 0 if
        the group has no correct or no wrong completion.

    Examples:
        >>> values = key_token_values([[5, 6], [5, 7], [8, 6], [8, 7]], [True, True, False, False])
        >>> [value.round(2).tolist() for value in values]
        [[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]
    """
    lengths = [len(row) for row in ids]
    if not ids:
        return []
    flat = np.concatenate([np.asarray(row, dtype=np.int64) for row in ids])
    counted = np.concatenate([np.asarray(row, bool) for row in mask]) if mask is not None else np.ones(len(flat), bool)
    row = np.repeat(np.arange(len(ids)), lengths)
    usable = np.bincount(row[counted], minlength=len(ids)) > 0  # completions with a token that counts
    is_correct = np.asarray(correct, bool) & usable
    is_wrong = ~np.asarray(correct, bool) & usable
    values = np.zeros(len(flat))
    if is_correct.any() and is_wrong.any():
        vocabulary, of = np.unique(flat[counted], return_inverse=True)
        size = len(vocabulary)
        counts = np.bincount(row[counted] * size + of, minlength=len(ids) * size).reshape(len(ids), size)
        in_correct, in_wrong = ((counts[own] > 0).sum(axis=0) for own in (is_correct, is_wrong))
        tables = _association(int(is_correct.sum()), int(is_wrong.sum()))
        fisher, gain, x = (table[in_correct, in_wrong] for table in tables)
        if term_frequency:
            tf_correct, tf_wrong = _saturated(counts[is_correct].sum(axis=0), counts[is_wrong].sum(axis=0))
            x = x + tf_correct / (tf_wrong + 1e-5) - tf_wrong / (tf_correct + 1e-5)
        strength = (fisher_weight * fisher + gain_weight * gain) / (fisher_weight + gain_weight)
        of_ids = np.tanh(strength * x / 2)
        of_ids[np.isin(vocabulary, list(ignored_ids))] = 0
        values[counted] = of_ids[of]
    return np.split(values, np.cumsum(lengths)[:-1])


def _saturated(in_correct: NDArray, in_wrong: NDArray) -> tuple[NDArray, NDArray]:
    """Return the term frequencies of all ids in both classes, with the saturation and the length penalty of BM25."""
    of_correct, of_wrong = int(in_correct.sum()), int(in_wrong.sum())
    mean = (of_correct + of_wrong) / 2

    def saturate(counts: NDArray, tokens: int) -> NDArray:
        frequency = counts / tokens
        penalty = SATURATION * (1 - LENGTH_PENALTY + LENGTH_PENALTY * tokens / mean)
        return frequency * (SATURATION + 1) / (frequency + penalty)

    return saturate(in_correct, of_correct), saturate(in_wrong, of_wrong)


class KTAE(TokenCredit):
    r"""
    Adds to each token's advantage how strongly the token is associated with correct completions of its group: see
    [`key_token_values`].

    $$ A'_{i,t} = A_i + w \cdot \text{value}(o_{i,t}) $$

    A group that is all correct or all wrong keeps its advantages.

    Args:
        weight (`float`, *optional*, defaults to `1.0`):
            $w$, at least 0. 0 changes nothing.
        fisher_weight (`float`, *optional*, defaults to `1.0`):
            Share of Fisher's exact test in a token's value, at least 0.
        gain_weight (`float`, *optional*, defaults to `1.0`):
            Share of the information gain, at least 0. One of the two must be positive.
        term_frequency (`bool`, *optional*, defaults to `True`):
            Whether it matters how often a token occurs, in addition to how many completions contain it.

    Raises:
        `ValueError`: If a weight is negative or not finite, or both shares are 0.
    """

    name = "ktae"
    paper = KTAE_PAPER
    needs_groups = True

    def __init__(
        self,
        weight: float = 1.0,
        fisher_weight: float = 1.0,
        gain_weight: float = 1.0,
        term_frequency: bool = True,
    ):
        for name, value in {"weight": weight, "fisher_weight": fisher_weight, "gain_weight": gain_weight}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}.")
        if fisher_weight == gain_weight == 0:
            raise ValueError("fisher_weight and gain_weight are both 0, so no token has a value. Set one above 0.")
        self.weight = weight
        self.fisher_weight = fisher_weight
        self.gain_weight = gain_weight
        self.term_frequency = term_frequency
        self._ignored_ids: set[int] = set()

    def attach(self, trainer: TrainerView) -> None:
        check_selection(self, trainer.args)
        self._ignored_ids = trainer.end_token_ids

    def assign(
        self, rollouts: Rollouts, batch: dict[str, Any], advantages: Tensor, selected: Tensor | None = None
    ) -> tuple[Tensor, None]:
        tokens = CompletionTokens.of(rollouts, batch)
        values = torch.zeros(batch["completion_ids"].shape, dtype=torch.float64)
        informative = []
        for group in tokens.groups():
            correct = rollouts.correct[group.gathered].tolist()
            known = [i for i, verdict in enumerate(correct) if not math.isnan(verdict)]
            of_group = key_token_values(
                [group.ids[i] for i in known],
                [correct[i] > 0 for i in known],
                [group.mask[i] for i in known],
                fisher_weight=self.fisher_weight,
                gain_weight=self.gain_weight,
                term_frequency=self.term_frequency,
                ignored_ids=self._ignored_ids,
            )
            for i, own in zip(known, of_group, strict=True):
                if (row := group.rows[i]) is not None:
                    values[row, : len(own)] = torch.from_numpy(own)
                    informative.append(own[np.asarray(group.mask[i], bool)])
        sizes = np.abs(np.concatenate(informative)) if informative else np.zeros(0)
        sizes = sizes[sizes > 0]
        self._metrics = {
            "key_tokens": len(sizes) / max(1, sum(map(len, informative))),
            "value": float(sizes.mean()) if len(sizes) else math.nan,
        }
        if self.weight == 0:
            return advantages, None
        if advantages.ndim == 1:
            advantages = advantages[:, None]
        return advantages + self.weight * values.to(advantages), None
