# SPDX-License-Identifier: Apache-2.0
"""
Completions that components generate: arguments and result of [`ConciseGRPOTrainer.generate_rollouts`], and result of a [`Rollout`].

The trainer calls TRL. This module contains everything that needs no trainer: the checks, the result, and a random state that
is separate from the trainer's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class GeneratedRollouts:
    """
    Completions of this process's rows: `n` consecutive entries for the first row, then `n` for the second, and so on.

    Attributes:
        prompt_ids (`list[list[int]]`): Token ids of the prompts, without the prefixes.
        prefix_ids (`list[list[int]]`): Token ids that each completion begins with; empty without prefixes.
        completion_ids (`list[list[int]]`): Token ids generated after the prefix, terminating EOS included.
        completions (`list`): Completions as a reward function receives them: prefix and continuation decoded together, a
            string for a prompt that is a string, otherwise a list of one assistant message.
        lengths (`torch.Tensor`): `(len(rows) * n,)` int64, tokens generated after the prefix, EOS excluded.
        truncated (`torch.Tensor`): `(len(rows) * n,)` bool, no EOS before the limit.
        logps (`list[list[float]]`, *optional*): Log-probabilities under the sampler, one per generated token, with vLLM;
            `None` otherwise.
    """

    prompt_ids: list[list[int]]
    prefix_ids: list[list[int]]
    completion_ids: list[list[int]]
    completions: list
    lengths: Tensor
    truncated: Tensor
    logps: list[list[float]] | None = None

    def __len__(self) -> int:
        return len(self.completion_ids)


@dataclass(frozen=True)
class Chunk:
    """
    A part of a completion that the model wrote in another context than the last part: the prompt, then these tokens.

    Attributes:
        completion_ids (`list[int]`): Token ids after the prompt: those carried over from the chunk before, then those that the model
            wrote.
        mask (`list[int]`): 1 where the model wrote the token, 0 where it was carried over.
        logps (`list[float]`, *optional*): As in [`Generated`].
    """

    completion_ids: list[int]
    mask: list[int]
    logps: list[float] | None = None


@dataclass(frozen=True)
class Generated:
    """
    The completions of this process's b rows, in the order of the rows.

    Attributes:
        completion_ids (`list[list[int]]`): Token ids of each completion, at least one, terminating EOS included.
        prompt_ids (`list[list[int]]`, *optional*): Token ids of the prompts. Default: those of the rows' prompts.
        logps (`list[list[float]]`, *optional*): Log-probabilities under the sampler, one per token, which vLLM's importance
            sampling correction needs; NaN where unknown.
        old_logps (`list[list[float]]`, *optional*): Log-probabilities of tokens that were forced, or drawn from another
            distribution, in place of those of the old policy; NaN for the tokens that the old policy drew.
        mask (`list[list[int]]`, *optional*): 1 where the model wrote the token, 0 where it carries no loss. Default: all 1.
        numbers (`dict[str, list[float]]`): Numbers per completion, the same names on every process: reward functions receive them as
            columns, components find them in `local.columns` and, gathered, in `rollouts.measured[rollout.name]`.
        tensors (`dict[str, torch.Tensor]`): `(b, ...)` each, which [`Rollout.scoring`] finds in the micro-batch of the loss.
        chunks (`list[list[Chunk]]`, *optional*): The chunks of each completion before the last one, which `completion_ids` contains,
            in order. They count in its length and are trained with its advantage, and the loss weighs all its tokens alike. A
            component gives them on every process or on none.
        columns (`dict[str, list]`): Other values per completion, such as texts, which stay in this process: reward functions receive
            them as columns, components find them in `local.columns`.
    """

    completion_ids: list[list[int]]
    prompt_ids: list[list[int]] | None = None
    logps: list[list[float]] | None = None
    old_logps: list[list[float]] | None = None
    mask: list[list[int]] | None = None
    numbers: dict[str, list[float]] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    chunks: list[list[Chunk]] | None = None
    columns: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def earlier_lengths(self) -> list[int]:
        """Tokens that the model wrote in the chunks of each completion before the last one."""
        if self.chunks is None:
            return [0] * len(self.completion_ids)
        return [sum(sum(chunk.mask) for chunk in chunks) for chunks in self.chunks]

    @classmethod
    def of(
        cls, rollouts: GeneratedRollouts, prefix_logps: Sequence[Sequence[float]] | None = None, **others: Any
    ) -> Generated:
        """
        Return the completions that `trainer.generate_rollouts` has generated, their prefixes included.

        Args:
            rollouts ([`GeneratedRollouts`]): The completions.
            prefix_logps (`Sequence[Sequence[float]]`, *optional*): Log-probability with which each token of each prefix was
                chosen: the prefixes are then trained on. Default: they carry no loss.
            others: `numbers`, `columns` and `tensors`.
        """
        pairs = list(zip(rollouts.prefix_ids, rollouts.completion_ids, strict=True))
        logps = old_logps = mask = None
        if rollouts.logps is not None:
            logps = [
                [math.nan] * len(prefix) + list(own) for (prefix, _), own in zip(pairs, rollouts.logps, strict=True)
            ]
        if prefix_logps is not None:
            old_logps = [
                [*forced, *[math.nan] * len(ids)] for forced, (_, ids) in zip(prefix_logps, pairs, strict=True)
            ]
        elif any(rollouts.prefix_ids):
            mask = [[0] * len(prefix) + [1] * len(ids) for prefix, ids in pairs]
        return cls([[*prefix, *ids] for prefix, ids in pairs], None, logps, old_logps, mask, **others)


@dataclass(frozen=True)
class GenerationRequest:
    """
    Checked arguments of `generate_rollouts`, one entry per completion.

    Attributes:
        prompts (`list`): Strings or lists of messages.
        prefix_ids (`list[list[int]]`): Empty lists without prefixes.
        limits (`list[int]`): Tokens that may follow the prefix.
    """

    prompts: list
    prefix_ids: list[list[int]]
    limits: list[int]

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, Any]],
        n: int,
        prefix_ids: Sequence[Sequence[int]] | None,
        max_tokens: int | None,
        max_completion_length: int | None,
    ) -> GenerationRequest:
        """Check the arguments of `generate_rollouts` and repeat each row `n` times."""
        if not rows or n < 1:
            raise ValueError(f"generate_rollouts needs at least one row and n >= 1, got {len(rows)} rows and n = {n}.")
        if max_tokens is None and max_completion_length is None:
            raise ValueError(
                "max_completion_length is None: pass max_tokens, the largest number of tokens to generate."
            )
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}.")
        if any(row.get("image") is not None or row.get("images") for row in rows):
            raise ValueError("generate_rollouts takes prompts of text; rows with images cannot be continued.")
        prefixes = [list(ids) for ids in prefix_ids] if prefix_ids is not None else [[]] * len(rows)
        if len(prefixes) != len(rows):
            raise ValueError(
                f"prefix_ids needs one list of token ids per row: got {len(prefixes)} for {len(rows)} rows."
            )
        limit = max_completion_length or 0  # not None without max_tokens, see above
        limits = [max_tokens if max_tokens is not None else limit - len(ids) for ids in prefixes]
        if min(limits) < 1:
            longest = max(map(len, prefixes))
            raise ValueError(
                f"A prefix of {longest} tokens leaves no room in max_completion_length = {max_completion_length}. "
                "Shorten it, or pass max_tokens."
            )
        every = [index for index in range(len(rows)) for _ in range(n)]
        return cls(
            prompts=[rows[i]["prompt"] for i in every],
            prefix_ids=[prefixes[i] for i in every],
            limits=[limits[i] for i in every],
        )


class ForkedRandomState:
    """
    Random states for extra draws: reproducible, different from call to call, and without effect on the main one.

    A call's state depends on the seed, the process, the step and the number of calls in the step, so a resumed run
    draws the same numbers as an uninterrupted one. Calls in evaluation are counted separately, and do not change what training draws.

    Args:
        seed (`int`): The run's seed.
        process_index (`int`): This process.
        device (`torch.device`): The device whose generator is seeded in addition to the CPU's.
    """

    def __init__(self, seed: int, process_index: int, device: torch.device):
        self.seed = seed
        self.process_index = process_index
        self.device = device
        self._step = 0
        self._calls = {True: 0, False: 0}  # in training, in evaluation

    @contextmanager
    def at(self, step: int, training: bool = True) -> Iterator[None]:
        """Seed PyTorch's generators for the next call of this step, in training or in evaluation; restore them afterwards."""
        if step != self._step:
            self._step, self._calls = step, {True: 0, False: 0}
        entropy = [self.seed, self.process_index, step, self._calls[training], *([] if training else [1])]
        self._calls[training] += 1
        on_device = self.device.type != "cpu"
        with torch.random.fork_rng(
            devices=[self.device] if on_device else [], device_type=self.device.type if on_device else "cuda"
        ):
            torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
            yield


def pad_pairs(
    prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], filler: int
) -> tuple[Tensor, Tensor, int]:
    """
    Pad prompts on the left and completions on the right, as TRL does, so that all completions begin in the same column.

    Args:
        prompt_ids (`Sequence[Sequence[int]]`): b prompts, at least one token each.
        completion_ids (`Sequence[Sequence[int]]`): b completions.
        filler (`int`): Padding token.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, int]`: Token ids and attention mask, `(b, P + T)` each, and T: the longest
        completion, at least 1.

    Raises:
        `ValueError`: If the lists differ in length or are empty, or a prompt is empty.
    """
    if not prompt_ids or len(prompt_ids) != len(completion_ids) or not all(prompt_ids):
        raise ValueError(
            f"Each completion needs a prompt of at least one token: got {len(prompt_ids)} prompts (shortest: "
            f"{min(map(len, prompt_ids), default=0)} tokens) for {len(completion_ids)} completions."
        )
    prompt_width, width = max(map(len, prompt_ids)), max(1, *map(len, completion_ids))
    input_ids = torch.full((len(prompt_ids), prompt_width + width), filler)
    attention_mask = torch.zeros_like(input_ids)
    for row, (prompt, completion) in enumerate(zip(prompt_ids, completion_ids, strict=True)):
        span = slice(prompt_width - len(prompt), prompt_width + len(completion))
        input_ids[row, span] = torch.tensor([*prompt, *completion])
        attention_mask[row, span] = 1
    return input_ids, attention_mask, width
