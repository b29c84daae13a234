# SPDX-License-Identifier: Apache-2.0
"""Rules that decide which tokens the large model writes: the router, and the baselines that need no training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .router import TokenRouter, digest_model


if TYPE_CHECKING:
    from .reading import Model

ENTROPY = 0.45  # of the authors' entropy rule


@dataclass(frozen=True)
class Proposals:
    """
    The next token of each row, as the small model proposes it.

    Attributes:
        hidden (`Tensor`): Last hidden states, `(n, width)`.
        logits (`Tensor`): Raw logits, `(n, vocabulary)`.
        tokens (`Tensor`): Proposed tokens, `(n,)`.
        uniforms (`Tensor`): Random numbers in [0, 1), one per row, `(n,)`.
    """

    hidden: Tensor
    logits: Tensor
    tokens: Tensor
    uniforms: Tensor


class RoutingRule(ABC):
    """Decides, from the small model's proposals, which tokens the large model writes instead."""

    name: str

    @abstractmethod
    def routes(self, proposals: Proposals) -> Tensor:
        """Return whether the large model writes the token, `(n,)` booleans. A row's result must not depend on the other rows."""

    def check(self, small: Model) -> None:  # noqa: B027 (most rules fit every model)
        """Raise a `ValueError` if the rule does not fit the small model."""


class RouterRule(RoutingRule):
    """
    The large model writes a token if the router's probability is at least the threshold.

    Args:
        router ([`TokenRouter`]): A router, used in evaluation mode.
        threshold (`float`, *optional*): At least 0. 0 leaves every token to the large model, and more than 1 none. Default: the router's own.

    Raises:
        `ValueError`: If the threshold is negative, or missing.
    """

    name = "router"

    def __init__(self, router: TokenRouter, threshold: float | None = None):
        if threshold is None:
            threshold = router.threshold
        if threshold is None:
            raise ValueError("The router has no threshold, because it was not trained. Pass threshold=.")
        if not threshold >= 0:
            raise ValueError(
                f"threshold must be at least 0, got {threshold}: 0 leaves every token to the large model. Raise it."
            )
        self.router = router.eval()
        self.threshold = threshold

    @torch.inference_mode()
    def routes(self, proposals: Proposals) -> Tensor:
        top = proposals.logits.topk(self.router.config.top_k, dim=-1).values
        logits = self.router(proposals.hidden, top, proposals.tokens)
        return (logits.sigmoid() >= self.threshold).to(proposals.tokens.device)

    def check(self, small: Model) -> None:
        digest = digest_model(small)
        if self.router.small_model not in (None, digest):
            raise ValueError(
                f"The router was trained for another small model: its digest is {self.router.small_model}, that of the given one {digest}. Give the "
                "small model of the labels, or label and train again."
            )


class EntropyRule(RoutingRule):
    """
    The large model writes a token if the entropy of the small model's distribution is at least the threshold.

    Args:
        threshold (`float`, *optional*, defaults to `0.45`): In nats, at least 0.

    Raises:
        `ValueError`: If the threshold is negative.
    """

    name = "entropy"

    def __init__(self, threshold: float = ENTROPY):
        if not threshold >= 0:
            raise ValueError(f"threshold must be an entropy of at least 0 nats, got {threshold}. Raise it.")
        self.threshold = threshold

    def routes(self, proposals: Proposals) -> Tensor:
        return entropy(proposals.logits) >= self.threshold


class RandomRule(RoutingRule):
    """
    The large model writes each token with the same probability.

    Args:
        share (`float`): The probability, in [0, 1].

    Raises:
        `ValueError`: If the share is out of range.
    """

    name = "random"

    def __init__(self, share: float):
        if not 0 <= share <= 1:
            raise ValueError(f"share must be a probability between 0 and 1, got {share}.")
        self.share = share

    def routes(self, proposals: Proposals) -> Tensor:
        return proposals.uniforms < self.share


def entropy(logits: Tensor) -> Tensor:
    """
    Return the entropy, in nats, of the distributions with these logits, `(n, vocabulary)` -> `(n,)`.

    Examples:
        >>> [round(value, 4) for value in entropy(torch.tensor([[0.0, 0.0], [2.0, 0.0]])).tolist()]
        [0.6931, 0.3653]
    """
    logs = logits.float().log_softmax(dim=-1)
    return -(logs.exp() * logs).nan_to_num(0.0).sum(dim=-1)


def mean_parameters(share: float, small: float, large: float) -> tuple[float, float]:
    """
    Return the mean number of parameters that are active per token.

    Args:
        share (`float`): Share of the tokens that the large model writes, in [0, 1].
        small, large (`float`): Parameters of the models.

    Returns:
        `tuple[float, float]`: As the authors' recorder counts them, one model per token; and with the small model at every position, where it runs.

    Raises:
        `ValueError`: If the share is out of range.

    Examples:
        >>> [round(value, 1) for value in mean_parameters(0.1, 234_912, 883_680)]
        [299788.8, 323280.0]
    """
    if not 0 <= share <= 1 or math.isnan(share):
        raise ValueError(f"share must be between 0 and 1, got {share}.")
    return (1 - share) * small + share * large, small + share * large
