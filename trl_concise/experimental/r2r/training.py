# SPDX-License-Identifier: Apache-2.0
"""Training of R2R's router on labeled responses. Neither model is changed."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .labels import LabeledResponse
from .reading import evaluation_mode, read_completion
from .router import RouterConfig, TokenRouter, positive_weight, router_loss, search_threshold
from .rules import entropy


if TYPE_CHECKING:
    from .reading import Model


@dataclass(frozen=True)
class RouterTraining:
    """
    Settings of [`train_router`]. The defaults are those of the authors, except `validation_share`.

    Args:
        learning_rate (`float`, *optional*, defaults to `5e-5`): Of AdamW, constant.
        weight_decay (`float`, *optional*, defaults to `5e-4`): Of AdamW.
        batch_size (`int`, *optional*, defaults to `1024`): Tokens per step.
        epochs (`int`, *optional*, defaults to `50`): At most this many passes over the tokens.
        patience (`int`, *optional*, defaults to `10`): Epochs without a lower validation loss after which training ends.
        recall_factor (`float`, *optional*, defaults to `1.0`): Factor of the weight of divergent tokens.
        min_recall (`float`, *optional*, defaults to `0.95`): Of the threshold (see [`search_threshold`]).
        validation_share (`float`, *optional*, defaults to `0.2`): Share of the responses that are kept for the validation loss and the threshold.
        seed (`int`, *optional*, defaults to `0`): Seed of weights, split and order.

    Raises:
        `ValueError`: If a number is out of range.
    """

    learning_rate: float = 5e-5
    weight_decay: float = 5e-4
    batch_size: int = 1024
    epochs: int = 50
    patience: int = 10
    recall_factor: float = 1.0
    min_recall: float = 0.95
    validation_share: float = 0.2
    seed: int = 0

    def __post_init__(self):
        if min(self.batch_size, self.epochs, self.patience) < 1:
            raise ValueError(
                f"batch_size, epochs and patience must be at least 1, got {self.batch_size}, {self.epochs} and {self.patience}."
            )
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and self.recall_factor > 0 and self.seed >= 0):
            raise ValueError(
                "learning_rate and recall_factor must be positive, weight_decay and seed at least 0; got "
                f"{self.learning_rate}, {self.recall_factor}, {self.weight_decay} and {self.seed}."
            )
        if not (0 <= self.min_recall <= 1 and 0 < self.validation_share < 1):
            raise ValueError(
                "min_recall must be between 0 and 1 and validation_share strictly between them; got "
                f"{self.min_recall} and {self.validation_share}."
            )


@dataclass(frozen=True)
class TokenFeatures:
    """
    What the router sees of labeled tokens, on the CPU.

    Attributes:
        hidden (`Tensor`): `(n, width)`.
        top_logits (`Tensor`): `(n, k)`.
        tokens (`Tensor`): The proposed tokens, `(n,)`.
        labels (`Tensor`): 1 for divergent tokens, else 0, `(n,)`.
        entropies (`Tensor`): Of the small model's distribution, `(n,)`.
    """

    hidden: Tensor
    top_logits: Tensor
    tokens: Tensor
    labels: Tensor
    entropies: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def token_features(small: Model, responses: Sequence[LabeledResponse], top_k: int) -> TokenFeatures:
    """
    Read labeled responses with the small model. Tokens whose verdict is unreadable, and those of the prompts, are left out.

    Args:
        small ([`~transformers.PreTrainedModel`]): The small model.
        responses (`Sequence[LabeledResponse]`): At least one.
        top_k (`int`): How many logits are kept.
    """
    parts: list[tuple[Tensor, ...]] = []
    with evaluation_mode(small):
        for response in responses:
            labels, start = response.labels, 0
            for hidden, logits in read_completion(small, response.prompt_ids, response.completion_ids):
                own = slice(start, start + len(logits))
                start = own.stop
                keep = [place for place, label in enumerate(labels[own]) if label is not None]
                rows = (hidden[keep], logits[keep].topk(top_k, dim=-1).values)
                tokens = torch.tensor(response.proposed_ids[own])[keep]
                known = torch.tensor([label for label in labels[own] if label is not None], dtype=torch.long)
                parts.append((*(part.cpu() for part in rows), tokens, known, entropy(logits[keep]).cpu()))
    # Tensors of inference mode cannot be used in training; a copy can
    return TokenFeatures(*(torch.cat(column).clone() for column in zip(*parts, strict=True)))


def train_router(
    small: Model,
    responses: Sequence[LabeledResponse],
    config: RouterConfig | None = None,
    training: RouterTraining | None = None,
) -> TokenRouter:
    """
    Train a router on labeled tokens, and search its threshold.

    A share of the responses is kept for validation. The weights are those of the epoch with the lowest validation loss. The random state of the caller
    does not change.

    Args:
        small ([`~transformers.PreTrainedModel`]): The small model of the labels. It is not changed.
        responses (`Sequence[LabeledResponse]`): Labels of [`label_tokens`]. At least two need a divergent token.
        config ([`RouterConfig`], *optional*): Sizes. Default: those of the released routers.
        training ([`RouterTraining`], *optional*): Settings. Default: those of the authors.

    Returns:
        [`TokenRouter`]: In evaluation mode, on the device of the small model, with `threshold`, `recall` and `flagged_share`.

    Raises:
        `ValueError`: If fewer than two responses have a divergent token, or `top_k` is larger than the vocabulary.
    """
    training = training or RouterTraining()
    generator = torch.Generator().manual_seed(training.seed)
    devices = [small.device] if small.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(training.seed)  # weights and dropout
        router = TokenRouter.for_model(small, config)
        kept, validation = split_responses(responses, training.validation_share, training.seed)
        data, held_out = (token_features(small, part, router.config.top_k) for part in (kept, validation))
        weight = positive_weight(data.labels, training.recall_factor)
        optimizer = torch.optim.AdamW(
            router.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        best, waited, state = math.inf, 0, copy.deepcopy(router.state_dict())
        for _ in range(training.epochs):
            router.train()
            for batch in torch.randperm(len(data), generator=generator).split(training.batch_size):
                logits = router(data.hidden[batch], data.top_logits[batch], data.tokens[batch])
                router_loss(logits, data.labels[batch], weight).backward()
                optimizer.step()
                optimizer.zero_grad()
            loss = router_loss(predict(router, held_out), held_out.labels, weight).item()
            waited = 0 if loss < best else waited + 1
            if loss < best:
                best, state = loss, copy.deepcopy(router.state_dict())
            elif waited >= training.patience:
                break
        router.load_state_dict(state)
    probabilities = predict(router, held_out).sigmoid()
    found = search_threshold(probabilities, held_out.labels, training.min_recall)
    router.threshold, router.recall, router.flagged_share = found
    return router


def split_responses(
    responses: Sequence[LabeledResponse], validation_share: float, seed: int
) -> tuple[list[LabeledResponse], list[LabeledResponse]]:
    """
    Divide responses into those to train on and those for validation. Both get some with a divergent token.

    Raises:
        `ValueError`: If fewer than two responses have a divergent token.
    """
    divergent = [response for response in responses if 1 in response.labels]
    others = [response for response in responses if 1 not in response.labels]
    if len(divergent) < 2:
        raise ValueError(
            f"{len(divergent)} of the {len(responses)} responses have a divergent token, but a router needs two such responses: one to train on and "
            "one for validation. Label more responses, or harder problems."
        )
    kept: list[LabeledResponse] = []
    validation: list[LabeledResponse] = []
    for kind in (divergent, others):
        random.Random(seed).shuffle(kind)
        count = min(math.ceil(validation_share * len(kind)), max(len(kind) - 1, 0))
        validation += kind[:count]
        kept += kind[count:]
    return kept, validation


@torch.no_grad()
def predict(router: TokenRouter, data: TokenFeatures, batch_size: int = 8192) -> Tensor:
    """Return the router's logits in evaluation mode, `(n,)`, on the CPU."""
    router.eval()
    batches = torch.arange(len(data)).split(batch_size)
    return torch.cat([router(data.hidden[b], data.top_logits[b], data.tokens[b]).cpu() for b in batches])
