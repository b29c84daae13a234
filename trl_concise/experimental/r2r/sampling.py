# SPDX-License-Identifier: Apache-2.0
"""A sampler of two models: the small one writes, and the large one replaces the tokens that a rule chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers.generation.logits_process import TopPLogitsWarper

from ...evaluation.sampling import SamplingSettings, TransformersSampler, load_sampler
from .reading import CachedReader, check_cache, evaluation_mode
from .rules import Proposals, RoutingRule


if TYPE_CHECKING:
    from ...evaluation.sampling import Sampler
    from ...evaluation.token_scores import TokenScores

_NO_DISTRIBUTION = (
    "A RoutedSampler has no probabilities of tokens, because the model that writes a token depends on the one drawn. Leave out what needs them, such "
    "as a vote by verdicts and the uncertainty; a majority vote needs none."
)


@dataclass(frozen=True)
class RoutedCompletion:
    """
    A completion of two models.

    Attributes:
        ids (`list[int]`): Its token ids, end-of-turn token included.
        routed (`list[int]`): The positions, from 0, of the tokens that the large model wrote: one call each.
        large_positions (`int`): How many tokens the large model has read, those of the prompt included.
    """

    ids: list[int]
    routed: list[int]
    large_positions: int

    @property
    def large_share(self) -> float:
        """Share of the tokens that the large model wrote."""
        return len(self.routed) / len(self.ids) if self.ids else 0.0


class RoutedSampler:
    """
    Samples with two models and a rule. It is a [`~trl_concise.evaluation.sampling.Sampler`], so that [`~trl_concise.evaluation.evaluate`] takes it.

    The small model reads every position and proposes the next token. Where the rule says so, the large model first reads all tokens of the row
    that it has not read yet, and writes this token instead. Nothing is undone: the cache of the small model never contained the rejected token. With the
    same settings, a row draws the same tokens whatever the other rows of the batch are, up to the rounding of the models' arithmetic.

    Args:
        small, large ([`~trl_concise.evaluation.sampling.TransformersSampler`]): The models with their tokenizers, which must be the same. Prompts are
            rendered with the chat template of the large one. The end-of-turn tokens of both end a row.
        rule ([`RoutingRule`]): Which tokens the large model writes.

    Attributes:
        completions (`list[RoutedCompletion]`): What `sample` has drawn, call by call.

    Raises:
        `ValueError`: If the models do not fit together or with the rule, or one of them runs in vLLM.
    """

    def __init__(self, small: Sampler, large: Sampler, rule: RoutingRule):
        self.small, self.large = check_pair(small, large)
        rule.check(self.small.model)
        self.rule = rule
        self.tokenizer = self.large.tokenizer
        self.end_token_ids = self.small.end_token_ids | self.large.end_token_ids
        self.completions: list[RoutedCompletion] = []

    def sample(self, prompts: Sequence[list[int]], settings: SamplingSettings) -> list[list[int]]:
        """See [`~trl_concise.evaluation.sampling.Sampler`]."""
        drawn = self.draw(prompts, settings)
        self.completions += drawn
        return [item.ids for item in drawn]

    def next_token_probabilities(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> list[float]:
        """Raise a `ValueError`: which model writes a token depends on the token that is drawn."""
        raise ValueError(_NO_DISTRIBUTION)

    def score_tokens(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[TokenScores]:
        """Raise a `ValueError`, for the same reason."""
        raise ValueError(_NO_DISTRIBUTION)

    def draw(self, prompts: Sequence[Sequence[int]], settings: SamplingSettings) -> list[RoutedCompletion]:
        """
        Draw one completion per prompt.

        Args:
            prompts (`Sequence[Sequence[int]]`): Token ids, at least one each.
            settings ([`~trl_concise.evaluation.sampling.SamplingSettings`]): Temperature and nucleus are those of both models.

        Returns:
            `list[RoutedCompletion]`: In the order of `prompts`.

        Raises:
            `ValueError`: If a prompt is empty.
        """
        if empty := [row for row, prompt in enumerate(prompts) if not len(prompt)]:
            raise ValueError(f"Prompt {empty[0]} has no token, but the models need one to begin with. Leave it out.")
        with evaluation_mode(self.small.model, self.large.model):
            return self._draw([list(prompt) for prompt in prompts], settings)

    def _draw(self, prompts: list[list[int]], settings: SamplingSettings) -> list[RoutedCompletion]:
        small, large = (CachedReader(model, len(prompts)) for model in (self.small.model, self.large.model))
        contexts = [list(prompt) for prompt in prompts]
        routed: list[list[int]] = [[] for _ in prompts]
        read: list[int] = [0] * len(prompts)  # by the large model
        random = [np.random.default_rng([settings.seed, row]) for row in range(len(prompts))]
        open_rows = list(range(len(prompts)))
        for position in range(settings.max_new_tokens):
            if not open_rows:
                break
            # Of the small model's draw, the rule's and the large model's, also where they are not needed
            uniforms = torch.tensor(np.array([random[row].random(3) for row in open_rows]))
            logits, hidden = small.read(open_rows, [contexts[row][small.lengths[row] :] for row in open_rows])
            tokens = draw_tokens(logits, uniforms[:, 0], settings)
            flags = self.rule.routes(Proposals(hidden, logits, tokens, uniforms[:, 1].to(tokens.device)))
            places = flags.nonzero()[:, 0].tolist()
            chosen = tokens.tolist()
            if places:
                rows = [open_rows[place] for place in places]
                logits, _ = large.read(rows, [contexts[row][large.lengths[row] :] for row in rows])
                written = draw_tokens(logits, uniforms[places, 2], settings).tolist()
                for place, row, token in zip(places, rows, written, strict=True):
                    chosen[place] = token
                    routed[row].append(position)
                    read[row] = large.lengths[row]
            for row, token in zip(open_rows, chosen, strict=True):
                contexts[row].append(token)
            ended = [row for row, token in zip(open_rows, chosen, strict=True) if token in self.end_token_ids]
            for row in ended:
                small.forget(row)
                large.forget(row)
            open_rows = [row for row in open_rows if row not in ended]
        return [
            RoutedCompletion(contexts[row][len(prompt) :], routed[row], read[row])
            for row, prompt in enumerate(prompts)
        ]


class AloneSampler:
    """
    Samples with one model of a pair, and records the same as a [`RoutedSampler`].

    Args:
        sampler ([`~trl_concise.evaluation.sampling.TransformersSampler`]): The model.
        is_large (`bool`): Whether it is the large one.

    Attributes:
        completions (`list[RoutedCompletion]`): What `sample` has drawn, call by call.
    """

    def __init__(self, sampler: TransformersSampler, is_large: bool):
        self.sampler = sampler
        self.is_large = is_large
        self.tokenizer = sampler.tokenizer
        self.end_token_ids = sampler.end_token_ids
        self.completions: list[RoutedCompletion] = []

    def sample(self, prompts: Sequence[list[int]], settings: SamplingSettings) -> list[list[int]]:
        """See [`~trl_concise.evaluation.sampling.Sampler`]."""
        drawn = self.sampler.sample(prompts, settings)
        for prompt, ids in zip(prompts, drawn, strict=True):
            read = len(prompt) + len(ids) - 1 if self.is_large else 0
            self.completions.append(RoutedCompletion(ids, list(range(len(ids))) if self.is_large else [], read))
        return drawn

    def next_token_probabilities(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> list[float]:
        """See [`~trl_concise.evaluation.sampling.Sampler`]."""
        return self.sampler.next_token_probabilities(prompts, token_ids)

    def score_tokens(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[TokenScores]:
        """See [`~trl_concise.evaluation.sampling.Sampler`]."""
        return self.sampler.score_tokens(prompts, completions)


def draw_tokens(logits: Tensor, uniforms: Tensor, settings: SamplingSettings) -> Tensor:
    """
    Draw one token per row, with the rules of transformers for temperature and nucleus: the token that crosses `top_p` is kept.

    Args:
        logits (`Tensor`): `(n, vocabulary)`.
        uniforms (`Tensor`): A random number in [0, 1) per row, `(n,)`, which decides the token.
        settings ([`~trl_concise.evaluation.sampling.SamplingSettings`]): At temperature 0, the likeliest token is returned.

    Returns:
        `Tensor`: `(n,)`.
    """
    logits = logits.float()
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    scores = logits / settings.temperature
    if settings.top_p < 1:
        scores = TopPLogitsWarper(settings.top_p)(torch.empty(0), scores)
    sums = scores.double().softmax(dim=-1).cumsum(dim=-1)
    points = uniforms.to(sums)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, points, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def check_pair(small: Sampler, large: Sampler) -> tuple[TransformersSampler, TransformersSampler]:
    """
    Check that two models can write one completion.

    Raises:
        `ValueError`: If one of them runs in vLLM, they have different tokenizers, or the cache of a layer is not one key and value per token.
    """
    if not isinstance(small, TransformersSampler) or not isinstance(large, TransformersSampler):
        raise ValueError(
            f"R2R needs two TransformersSamplers, got {type(small).__name__} and {type(large).__name__}. vLLM returns no hidden states "
            "during decoding and does not run a second model: load both with transformers."
        )
    vocabularies = [sampler.tokenizer.get_vocab() for sampler in (small, large)]
    if vocabularies[0] != vocabularies[1]:
        sizes = [len(vocabulary) for vocabulary in vocabularies]
        raise ValueError(
            f"The small and the large model have different tokenizers, with {sizes[0]:,} and {sizes[1]:,} tokens. Choose two models that share "
            "one, for example of the same family."
        )
    check_cache(small.model)
    check_cache(large.model)
    return small, large


def load_pair(
    small: str, large: str, *, use_vllm: bool = False, dtype: str | None = None
) -> tuple[TransformersSampler, TransformersSampler]:
    """
    Load a small and a large model.

    Args:
        small, large (`str`): Path or Hub id of a model or an adapter.
        use_vllm (`bool`, *optional*, defaults to `False`): Refused.
        dtype (`str`, *optional*): Data type of the weights. Default: that of each checkpoint.

    Raises:
        `ValueError`: If vLLM is requested, or the models do not fit together.
        `FileNotFoundError`: If a model is not found.
    """
    if use_vllm:
        raise ValueError(
            "R2R cannot use vLLM: it returns no hidden states during decoding and does not run a second model. Leave out --use_vllm."
        )
    return check_pair(load_sampler(small, dtype=dtype), load_sampler(large, dtype=dtype))
