# SPDX-License-Identifier: Apache-2.0
"""
Completions that are written in chunks: after each, the context is reset to the prompt and a short part of what was written.

From Delethink (Aghajohari et al., 2025, https://huggingface.co/papers/2510.06557), whose component for training is
[`~trl_concise.methods.delethink.Delethink`].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .sampling import Sampler, SamplingSettings
from .token_scores import TokenScores


@dataclass(frozen=True)
class Chunking:
    """
    How a completion is divided into chunks, and what is carried over from one to the next.

    The first chunk has at most C tokens. Each later one begins with the prompt and C/2 carried tokens, the first `keep_head` tokens of
    the completion and the last ones before the chunk, and has at most C/2 tokens.

    Args:
        chunk_size (`int`): $C$, the largest number of tokens in the context after the prompt. Even, at least 2.
        keep_head (`int`, *optional*, defaults to `100`): Carried tokens that are the first of the completion, less than C/2.

    Raises:
        `ValueError`: If a number is out of range.
    """

    chunk_size: int
    keep_head: int = 100

    def __post_init__(self):
        if self.chunk_size < 2 or self.chunk_size % 2:
            raise ValueError(f"chunk_size must be an even number of at least 2 tokens, got {self.chunk_size}.")
        if not 0 <= self.keep_head < self.carried:
            raise ValueError(
                f"keep_head must be at least 0 and less than half of chunk_size = {self.chunk_size}, got {self.keep_head}: half of the "
                "chunk is carried over, and its end must be the last tokens written. Lower keep_head, or raise chunk_size."
            )

    def check(self, max_new_tokens: int, *, stops_thinking: bool = False) -> None:
        """Raise a `ValueError` if completions have one chunk only, or are continued where their thinking is stopped."""
        if max_new_tokens <= self.chunk_size:
            raise ValueError(
                f"max_new_tokens = {max_new_tokens} is the limit of a whole completion and must be larger than chunk_size = "
                f"{self.chunk_size}: for two chunks it is {self.budget(2)}. Raise it, or lower chunk_size."
            )
        if stops_thinking:
            raise ValueError(
                "A thinking budget continues the whole thinking in one context, which chunk_size does not allow. Leave one of them out."
            )

    @property
    def carried(self) -> int:
        """$m = C/2$, the number of carried tokens."""
        return self.chunk_size // 2

    @property
    def keep_tail(self) -> int:
        """$C/2$ less `keep_head`: carried tokens that are the last ones written."""
        return self.carried - self.keep_head

    def budget(self, max_chunks: int) -> int:
        """
        Return $C + (I - 1)(C - m)$, the tokens that fit into $I$ chunks.

        Examples:
            >>> [Chunking(8192).budget(chunks) for chunks in (1, 2, 5, 23)]
            [8192, 12288, 24576, 98304]
        """
        return self.chunk_size + (max_chunks - 1) * (self.chunk_size - self.carried)

    def limit(self, written: int) -> int:
        """Return how many tokens the chunk may have that begins after `written` tokens."""
        return self.chunk_size - self.carried if written else self.chunk_size

    def trim(self, ids: Sequence[int]) -> list[int]:
        """
        Return what is carried over to the next chunk.

        Args:
            ids (`Sequence[int]`): The tokens carried over to this chunk, and those written in it: more than C/2.

        Examples:
            >>> chunking = Chunking(chunk_size=10, keep_head=2)
            >>> cut = chunking.trim([1, 2, 3, 4, 5, 6, 7, 8])
            >>> cut, chunking.trim([*cut, 9, 10, 11])
            ([1, 2, 6, 7, 8], [1, 2, 9, 10, 11])
        """
        if len(ids) <= self.carried:
            raise ValueError(f"A chunk of {len(ids)} tokens cannot be trimmed to {self.carried}. Continue it instead.")
        return [*ids[: self.keep_head], *ids[len(ids) - self.keep_tail :]]

    def split(self, ids: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """
        Return the chunks of a whole completion, of all tokens written: the tokens carried over to each, and those written in it.

        Examples:
            >>> Chunking(chunk_size=4, keep_head=1).split([1, 2, 3, 4, 5, 6, 7])
            [([], [1, 2, 3, 4]), ([1, 4], [5, 6]), ([1, 6], [7])]
        """
        chunks: list[tuple[list[int], list[int]]] = []
        carried: list[int] = []
        start = 0
        while start < len(ids) or not chunks:
            own = list(ids[start : start + self.limit(start)])
            chunks.append((carried, own))
            start += len(own)
            carried = self.trim([*carried, *own]) if start < len(ids) else []
        return chunks

    def judged(self, ids: Sequence[int]) -> list[int]:
        """Return what rewards see of a whole completion: the carried tokens and the last chunk."""
        carried, own = self.split(ids)[-1]
        return [*carried, *own]


def judged_ids(sampler: Sampler, completions: Sequence[list[int]]) -> Sequence[list[int]]:
    """Return the token ids of completions that are judged: all, or those that a [`ChunkedSampler`] leaves in the context."""
    if not isinstance(sampler, ChunkedSampler):
        return completions
    return [sampler.chunking.judged(ids) for ids in completions]


class ChunkedSampler:
    """
    Samples in chunks with another [`Sampler`]. Its completions are all tokens written, without the carried ones.

    Args:
        sampler ([`Sampler`]): Draws each chunk.
        chunking ([`Chunking`]): How completions are divided.
    """

    def __init__(self, sampler: Sampler, chunking: Chunking):
        self.sampler = sampler
        self.chunking = chunking
        self.tokenizer: PreTrainedTokenizerBase = sampler.tokenizer
        self.end_token_ids = sampler.end_token_ids  # the same set, to which vLLM adds those that it meets

    def sample(self, prompts: Sequence[list[int]], settings: SamplingSettings) -> list[list[int]]:
        """See [`Sampler`]. `settings.max_new_tokens` is the limit of the whole completion."""
        written: list[list[int]] = [[] for _ in prompts]
        open_rows, start = list(range(len(prompts))), 0
        while open_rows and start < settings.max_new_tokens:
            limit = min(self.chunking.limit(start), settings.max_new_tokens - start)
            contexts = [[*prompts[row], *self._carried(written[row])] for row in open_rows]
            seed = int(np.random.SeedSequence([settings.seed, start]).generate_state(1)[0]) if start else settings.seed
            drawn = self.sampler.sample(contexts, replace(settings, seed=seed, max_new_tokens=limit))
            for row, ids in zip(open_rows, drawn, strict=True):
                written[row] += ids
            start += limit
            open_rows = [
                row for row in open_rows if len(written[row]) == start and written[row][-1] not in self.end_token_ids
            ]
        return written

    def next_token_probabilities(self, prompts: Sequence[list[int]], token_ids: Sequence[int]) -> list[float]:
        """See [`Sampler`]. Prompts are whole contexts."""
        return self.sampler.next_token_probabilities(prompts, token_ids)

    def score_tokens(self, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[TokenScores]:
        """See [`Sampler`]. Not available: each chunk was written in a context of its own."""
        raise NotImplementedError("The tokens of completions that were written in chunks cannot be scored.")

    def _carried(self, written: list[int]) -> list[int]:
        if not written:
            return []
        carried, own = self.chunking.split(written)[-1]
        return self.chunking.trim([*carried, *own])
