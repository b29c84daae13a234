# SPDX-License-Identifier: Apache-2.0
"""Entropies and likelihoods of the tokens of a completion, from raw logits or from the most likely tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


POSITIONS = 128  # whose probabilities are computed at a time in float32


@dataclass(frozen=True)
class TokenScores:
    """
    How uncertain a model was at each token of a completion, in nats, from raw logits at temperature 1.

    Attributes:
        entropies (`list[float]`): Of the next-token distributions; lower bounds with `masses`.
        nlls (`list[float]`): Negative log-likelihoods of the tokens.
        masses (`list[float]`, *optional*): Probability of the tokens that vLLM returned; `None` where entropies are exact.
    """

    entropies: list[float]
    nlls: list[float]
    masses: list[float] | None = None


def score_logits(logits: torch.Tensor, ids: Sequence[int]) -> TokenScores:
    """Return the scores of one completion, from logits of shape (L, V) of any data type, some positions at a time."""
    entropies: list[float] = []
    nlls: list[float] = []
    for first in range(0, len(ids), POSITIONS):
        logps = logits[first : first + POSITIONS].float().log_softmax(dim=-1)
        tokens = torch.tensor(ids[first : first + POSITIONS], device=logps.device)
        entropies += torch.special.entr(logps.exp()).sum(dim=-1).tolist()
        nlls += (-logps.gather(1, tokens[:, None])[:, 0]).tolist()
    return TokenScores(entropies, nlls)


def entropy_bounds(probabilities: Sequence[float], vocabulary: int) -> tuple[float, float]:
    """
    Return the smallest and the largest entropy in nats of a distribution of which only some probabilities are known.

    Args:
        probabilities (`Sequence[float]`): The known ones.
        vocabulary (`int`): Number of tokens. In the lower bound the rest is one token, in the upper one it is spread evenly.

    Examples:
        >>> [round(bound, 6) for bound in entropy_bounds([0.643914, 0.236883], 4)]
        [0.878137, 0.960762]
    """
    known = -sum(p * math.log(p) for p in probabilities if p > 0)
    rest, others = 1 - sum(probabilities), vocabulary - len(probabilities)
    if rest <= 0 or others <= 0:
        return known, known
    return known - rest * math.log(rest), known - rest * math.log(rest / others)
