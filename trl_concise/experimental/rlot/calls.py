# SPDX-License-Identifier: Apache-2.0
"""
Calls of a frozen model, and how many episodes share them: blocks and readers are generators that yield calls and receive replies.

    def ask(prompt):
        (reply,) = yield [Generate(prompt, max_new_tokens=64)]
        return reply.text
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ...evaluation.sampling import Sampler, SamplingSettings, TransformersSampler


if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def _check_prompt(prompt: list[int]) -> None:
    if not prompt:
        raise ValueError("A prompt has 0 tokens, and at least one is needed. Leave out problems without text.")


@dataclass(frozen=True)
class Generate:
    """
    Generate from a prompt.

    Args:
        prompt (`list[int]`): Token ids.
        max_new_tokens (`int`): Tokens after which the reply is truncated.
        temperature (`float`, *optional*, defaults to `0.0`): `0.0` decodes greedily.
        stops (`tuple[int, ...]`, *optional*): Further tokens that end the reply, which contains them. transformers only.
    """

    prompt: list[int]
    max_new_tokens: int
    temperature: float = 0.0
    stops: tuple[int, ...] = ()

    def __post_init__(self):
        _check_prompt(self.prompt)


@dataclass(frozen=True)
class Score:
    """
    Score tokens after a prompt, without generating. transformers only.

    Args:
        prompt (`list[int]`): Token ids, at least one.
        completion (`list[int]`): Token ids to score; may be empty.
    """

    prompt: list[int]
    completion: list[int]

    def __post_init__(self):
        _check_prompt(self.prompt)


@dataclass(frozen=True)
class Reply:
    """
    What the model returned.

    Attributes:
        ids (`list[int]`): Generated tokens; empty for a `Score`.
        text (`str`): Their text, without special tokens.
        truncated (`bool`): Whether the reply reached its limit.
        logprobs (`list[float]`): Of a `Score`: log-probability of each token of the completion.
        entropy (`float`): Of a `Score`: entropy in nats of the token after the completion.
    """

    ids: list[int]
    text: str = ""
    truncated: bool = False
    logprobs: tuple[float, ...] = ()
    entropy: float = 0.0


Turn = Generator[Sequence[Generate | Score], Sequence[Reply], T]


@dataclass
class Cost:
    """
    Cost of an episode.

    Attributes:
        calls (`int`): Calls of the model, ratings and checks included.
        generated_tokens (`int`): Tokens that the model generated in all of them.
        prompt_tokens (`int`): Tokens that it read as prompts, or that it scored.
    """

    calls: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0


class FrozenModel:
    """
    Model that is called and never trained.

    Args:
        sampler ([`~trl_concise.evaluation.sampling.Sampler`]): Generates. With stops and scores, it must be a `TransformersSampler`.
        batch_size (`int`, *optional*, defaults to `64`): Largest number of calls at a time.

    Raises:
        `ValueError`: If `batch_size` is less than 1.
    """

    def __init__(self, sampler: Sampler, batch_size: int = 64):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.sampler, self.batch_size = sampler, batch_size
        self._stopping: dict[tuple[int, ...], TransformersSampler] = {}

    @property
    def tokenizer(self) -> Any:
        """The sampler's tokenizer."""
        return self.sampler.tokenizer

    def call(self, calls: Sequence[Generate | Score], seed: int) -> list[Reply]:
        """
        Answer calls; those with the same settings share a batch.

        Args:
            calls (`Sequence`): The calls.
            seed (`int`): Seed of the draws.

        Returns:
            `list[Reply]`: One reply per call, in their order.
        """
        kinds: dict[tuple[Any, ...], list[int]] = {}
        for place, call in enumerate(calls):
            key = (call.max_new_tokens, call.temperature, call.stops) if isinstance(call, Generate) else ()
            kinds.setdefault(key, []).append(place)
        replies: dict[int, Reply] = {}
        for key, places in kinds.items():
            for first in range(0, len(places), self.batch_size):
                own = places[first : first + self.batch_size]
                batch: list[Any] = [calls[place] for place in own]
                replies |= zip(own, self._generate(batch, *key, seed) if key else self._score(batch), strict=True)
        return [replies[place] for place in range(len(calls))]

    def _generate(
        self, batch: Sequence[Generate], limit: int, temperature: float, stops: tuple[int, ...], seed: int
    ) -> list[Reply]:
        sampler = self._with_stops(stops) if stops else self.sampler
        settings = SamplingSettings(max_new_tokens=limit, temperature=temperature, top_p=1.0, seed=seed)
        drawn = sampler.sample([call.prompt for call in batch], settings)
        texts = self.tokenizer.batch_decode(drawn, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [
            Reply(ids, text, truncated=not ids or ids[-1] not in sampler.end_token_ids)
            for ids, text in zip(drawn, texts, strict=True)
        ]

    def _with_stops(self, stops: tuple[int, ...]) -> TransformersSampler:
        if stops not in self._stopping:
            own = self._transformers()
            self._stopping[stops] = TransformersSampler(own.model, own.tokenizer)
            self._stopping[stops].end_token_ids = own.end_token_ids | set(stops)
        return self._stopping[stops]

    def _transformers(self) -> TransformersSampler:
        if not isinstance(self.sampler, TransformersSampler):
            raise ValueError(
                f"Stops and scores need a TransformersSampler, but the sampler is {type(self.sampler).__name__}. Load the model without "
                "vLLM, or use blocks and a reader that only generate."
            )
        return self.sampler

    def _score(self, batch: Sequence[Score]) -> list[Reply]:
        model, pad = self._transformers().model, self.tokenizer.pad_token_id
        rows = [[*call.prompt, *call.completion] for call in batch]
        width = max(map(len, rows))
        ids = torch.tensor([row + [pad or 0] * (width - len(row)) for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
        training = model.training
        model.eval()
        with torch.inference_mode():
            logprobs: Tensor = model(input_ids=ids, attention_mask=mask).logits.float().log_softmax(dim=-1)
        model.train(training)
        entropies = -(logprobs.exp() * logprobs).sum(dim=-1)
        replies = []
        for place, (call, row) in enumerate(zip(batch, rows, strict=True)):
            begin = len(call.prompt)
            of_tokens = logprobs[place, begin - 1 : len(row) - 1].gather(-1, ids[place, begin : len(row), None])
            replies.append(
                Reply(
                    [], logprobs=tuple(of_tokens.squeeze(-1).tolist()), entropy=entropies[place, len(row) - 1].item()
                )
            )
        return replies


def run_together(turns: Sequence[Turn[T]], costs: Sequence[Cost], model: FrozenModel, seeds: Any) -> list[T]:
    """
    Run turns to their ends. In each round, the calls of all that are not finished are answered together.

    Args:
        turns (`Sequence`): Generators that yield lists of calls.
        costs (`Sequence[Cost]`): Where the cost of each turn is added.
        model ([`FrozenModel`]): Answers the calls.
        seeds (`Iterator[int]`): Seeds of the rounds, without end.

    Returns:
        `list`: What each turn returned.
    """
    results: dict[int, T] = {}
    waiting: dict[int, Sequence[Generate | Score]] = {}

    def advance(place: int, replies: Sequence[Reply] | None) -> None:
        try:
            waiting[place] = turns[place].send(replies) if replies is not None else next(turns[place])
        except StopIteration as end:
            waiting.pop(place, None)
            results[place] = end.value

    for place in range(len(turns)):
        advance(place, None)
    while waiting:
        asked = {place: list(calls) for place, calls in sorted(waiting.items())}
        replies = iter(model.call([call for calls in asked.values() for call in calls], next(seeds)))
        for place, calls in asked.items():
            own = [next(replies) for _ in calls]
            costs[place].calls += len(calls)
            costs[place].generated_tokens += sum(len(reply.ids) for reply in own)
            costs[place].prompt_tokens += sum(
                len(call.prompt) + (len(call.completion) if isinstance(call, Score) else 0) for call in calls
            )
            advance(place, own)
    return [results[place] for place in range(len(turns))]
