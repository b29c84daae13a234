# SPDX-License-Identifier: Apache-2.0
"""The view of a batch of completions that a component receives, and the key of a prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor


def prompt_digest(key: str) -> bytes:
    """
    Return the 128-bit digest of a prompt key.

    A key that already is a digest in hexadecimal (32 lower-case digits) is returned unchanged, so a digest can be passed
    as a string and digested again.

    Args:
        key (`str`):
            A `prompt_id`, or any other text that identifies a prompt.

    Returns:
        `bytes`: 16 bytes.
    """
    if len(key) == 32 and not key.strip("0123456789abcdef"):
        return bytes.fromhex(key)
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def pack_keys(keys: Iterable[str]) -> Tensor:
    """Return the digests of prompt keys as a tensor that can be saved: `(n, 16)` uint8."""
    digests = bytearray(b"".join(prompt_digest(key) for key in keys))
    return torch.frombuffer(digests, dtype=torch.uint8).view(-1, 16) if digests else torch.empty(0, 16).byte()


def unpack_keys(packed: Tensor) -> list[str]:
    """Return the prompt keys of a tensor that [`pack_keys`] made, as digests in hexadecimal."""
    return [bytes(digest).hex() for digest in packed.tolist()]


def prompt_key(row: Mapping[str, Any]) -> str:
    """
    Return the key of a dataset row: the digest of its `prompt_id` if it has one, else of its prompt.

    The key never depends on the row's position, on the process or on Python's hash seed, so a history stays valid
    under shuffling, filtering, streaming and restarts.

    Args:
        row (`Mapping[str, Any]`):
            A dataset row with a `prompt_id`, or a text-only `prompt` (a string or a list of messages).

    Returns:
        `str`: 32 hexadecimal digits.

    Raises:
        `ValueError`: If the row has neither a `prompt_id` nor a prompt of text.
    """
    name = row.get("prompt_id")
    if name is not None and name == name:  # not NaN, which pandas writes for none
        return prompt_digest(str(name)).hex()
    if row.get("prompt") is None or row.get("image") is not None or row.get("images") is not None:
        raise ValueError(
            f"A row with the columns {sorted(row)} has no key: a prompt is identified by its `prompt_id`, or by its text "
            "if it has no images. Add a `prompt_id` column that is unique per prompt."
        )
    # Arrow fills the keys that a message lacks with None, a streamed row does not: both must give the same digest.
    text = json.dumps(_without_nones(row["prompt"]), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _without_nones(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nones(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_nones(item) for item in value]
    return value


def weighted_sum(rewards: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of `(b, functions)` rewards as in TRL: `(b,)`, NaN where every function abstained."""
    return torch.where(rewards.isnan().all(dim=1), torch.nan, (rewards * weights.to(rewards)).nansum(dim=1))


def completion_lengths(
    completion_ids: list[list[int]], tool_mask: list[list[int]] | None, end_token_ids: set[int]
) -> list[int]:
    """
    Count the tokens that the model wrote, without the end of the completion.

    Args:
        completion_ids (`list[list[int]]`): Token ids per completion.
        tool_mask (`list[list[int]]`, *optional*): 1 where the model wrote the token, 0 where a tool did.
        end_token_ids (`set[int]`): EOS and padding tokens, not counted at the end.

    Returns:
        `list[int]`: Tokens per completion.
    """
    lengths = []
    for row, ids in enumerate(completion_ids):
        end = len(ids)
        while end and ids[end - 1] in end_token_ids:
            end -= 1
        lengths.append(sum(tool_mask[row][:end]) if tool_mask is not None else end)
    return lengths


@dataclass(frozen=True)
class LocalRollouts:
    """
    The b rows of a generation batch that belong to this process, with all data that TRL has about them.

    Attributes:
        prompts (`list`): Prompts as the model saw them: strings or lists of messages.
        completions (`list`): Completions: strings or lists of messages.
        completion_ids (`list[list[int]]`): Generated token ids, terminating EOS included, padding excluded.
        tool_mask (`list[list[int]]`, *optional*): 1 where the model wrote the token, 0 where a tool did; `None`
            without tools.
        lengths (`torch.Tensor`): `(b,)` int64, tokens written by the model, terminating EOS excluded.
        columns (`dict[str, list]`): The other dataset columns.
        num_generations (`int`): Completions per prompt, in consecutive rows. A group may continue on the next process.
        step (`int`): Optimizer steps done so far.
        training (`bool`): `False` in evaluation.
        prompt_ids (`list[list[int]]`): Token ids of the prompts, without padding.
    """

    prompts: list
    completions: list
    completion_ids: list[list[int]]
    tool_mask: list[list[int]] | None
    lengths: Tensor
    columns: dict[str, list]
    num_generations: int
    step: int
    training: bool
    prompt_ids: list[list[int]] = field(default_factory=list)

    def row(self, index: int) -> dict[str, Any]:
        """Return a row as the dataset has it: the prompt and the other columns."""
        return {"prompt": self.prompts[index], **{name: values[index] for name, values in self.columns.items()}}


@dataclass(frozen=True)
class TokenGroup:
    """
    The completions of one prompt, among [`CompletionTokens`].

    Attributes:
        rows (`list[int | None]`): Row of each completion in the batch of this process; `None` on another process.
        ids (`list[list[int]]`): Token ids.
        mask (`list[list[int]]`): 1 where the loss may use the token.
        gathered (`slice`): The completions in the gathered batch.
    """

    rows: list[int | None]
    ids: list[list[int]]
    mask: list[list[int]]
    gathered: slice


@dataclass(frozen=True)
class CompletionTokens:
    """
    The token ids of a generation batch, from which a [`TokenCredit`] selects before any reward is known.

    Whole groups in consecutive rows if a component needs them; the rows of this process otherwise.

    Attributes:
        ids (`list[list[int]]`): Generated token ids, terminating EOS included, padding excluded.
        mask (`list[list[int]]`): 1 where the loss may use the token: the model wrote it, and the completion is not left
            out as truncated.
        num_generations (`int`): Completions per prompt, G.
        step (`int`): Optimizer steps done so far.
        local (`slice`): This process's rows in the gathered batch.
        start (`int`): Row of the gathered batch that `ids[0]` is.
        earlier (`int`): Completions of the same optimizer step in generation batches before this one.
    """

    ids: list[list[int]]
    mask: list[list[int]]
    num_generations: int
    step: int = 0
    local: slice = field(default_factory=lambda: slice(0, None))
    start: int = 0
    earlier: int = 0

    @classmethod
    def of(cls, rollouts: Rollouts, batch: Mapping[str, Any]) -> CompletionTokens:
        """Return `rollouts.tokens` or, without a trainer that sets them, the rows of `batch`."""
        if rollouts.tokens is not None:
            return rollouts.tokens
        mask = batch["completion_mask"].bool()
        lengths = (mask * torch.arange(1, mask.size(1) + 1, device=mask.device)).amax(dim=1).tolist()
        chosen = mask if "tool_mask" not in batch else mask & batch["tool_mask"].bool()
        rows = range(len(rollouts))[rollouts.local]
        return cls(
            ids=[ids[:end] for ids, end in zip(batch["completion_ids"].tolist(), lengths, strict=True)],
            mask=[row[:end] for row, end in zip(chosen.long().tolist(), lengths, strict=True)],
            num_generations=rollouts.num_generations,
            step=rollouts.step,
            local=slice(rows.start, rows.stop),
            start=rows.start,
        )

    def groups(self) -> Iterator[TokenGroup]:
        """
        Yield the groups that have a completion in this process.

        Without `needs_groups`, a group that straddles processes has only the completions of this process.
        """
        own, first = len(self.own()), self.local.start or 0  # completions of this process, and where they begin
        size, end = self.num_generations, self.start + len(self.ids)
        for start in range(self.start // size * size, end, size):
            gathered = slice(max(start, self.start), min(start + size, end))
            rows = [
                row - first if first <= row < first + own else None for row in range(gathered.start, gathered.stop)
            ]
            if any(row is not None for row in rows):
                among = slice(gathered.start - self.start, gathered.stop - self.start)
                yield TokenGroup(rows, self.ids[among], self.mask[among], gathered)

    def own(self) -> list[tuple[list[int], list[int]]]:
        """Return ids and mask of this process's completions."""
        end = self.local.stop - self.start if self.local.stop is not None else None
        return list(zip(self.ids, self.mask, strict=True))[self.local.start - self.start : end]


@dataclass(frozen=True)
class Rollouts:
    """
    The whole generation batch, gathered over processes: a few numbers per completion, the same on every process.

    Rows are in groups of `num_generations` completions of one prompt. The tensors are on the trainer's device.

    Attributes:
        prompt_keys (`tuple[str, ...]`): B keys (see [`prompt_key`]).
        lengths (`torch.Tensor`): `(B,)` int64, tokens written by the model; terminating EOS, padding and tool output
            excluded.
        correct (`torch.Tensor`): `(B,)` float32, 1 correct, 0 wrong, NaN unknown.
        num_generations (`int`): Completions per prompt, G.
        truncated (`torch.Tensor`, *optional*): `(B,)` bool, no EOS before the limit. Defaults to all `False`.
        rewards (`dict[str, torch.Tensor]`): `(B,)` float32 by name of the reward function, NaN where it abstained.
            In `score`, the reward functions; in `observe`, the group rewards too.
        measured (`dict[str, dict[str, torch.Tensor]]`): `(B,)` float32 each, the gathered values of [`Component.measure`], by
            component name.
        weights (`dict[str, float]`): Weight of each reward function; 1 for one that is missing.
        step (`int`): Optimizer steps done so far.
        training (`bool`): `False` in evaluation.
        local (`slice`): This process's rows.
        tokens ([`CompletionTokens`], *optional*): Token ids, for a [`TokenCredit`] in training; the rows of this process,
            unless a component needs whole groups that straddle processes.
        measured_tokens (`dict[str, dict[str, torch.Tensor]]`): `(b, T)` each, the values of [`Component.measure`] for the tokens
            of this process's rows, by component name.
        loss_lengths (`torch.Tensor`, *optional*): `(B,)` int64, tokens that the loss may use: those written by the model,
            terminating EOS included; 0 for a truncated completion with `mask_truncated_completions`. Defaults to `lengths`.
        kept (`torch.Tensor`, *optional*): `(B,)` bool, what a [`GroupFilter`] keeps; `None` without one. In
            [`~Component.observe`], groups that were replaced are among the others, after the B rows of the batch.
    """

    prompt_keys: tuple[str, ...]
    lengths: Tensor
    correct: Tensor
    num_generations: int
    truncated: Tensor = cast(Tensor, None)  # filled in below
    rewards: dict[str, Tensor] = field(default_factory=dict)
    measured: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    training: bool = True
    local: slice = field(default_factory=lambda: slice(None))
    tokens: CompletionTokens | None = None
    measured_tokens: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    loss_lengths: Tensor = cast(Tensor, None)  # filled in below
    kept: Tensor | None = None

    def __post_init__(self):
        if len(self.prompt_keys) % self.num_generations:
            raise ValueError(
                f"The number of completions, {len(self.prompt_keys)}, is not a multiple of num_generations = "
                f"{self.num_generations}."
            )
        if self.truncated is None:
            object.__setattr__(self, "truncated", torch.zeros_like(self.lengths, dtype=torch.bool))
        if self.loss_lengths is None:
            object.__setattr__(self, "loss_lengths", self.lengths)

    def __len__(self) -> int:
        return len(self.prompt_keys)

    @property
    def group_index(self) -> Tensor:
        """`(B,)` int64: which group a completion belongs to."""
        return torch.arange(len(self), device=self.lengths.device) // self.num_generations

    def total_rewards(self) -> Tensor:
        """Return the weighted sum of `rewards`, as TRL computes it: `(B,)`, NaN where every function abstained."""
        columns = torch.stack(list(self.rewards.values()), dim=1)  # (B, functions)
        return weighted_sum(columns, torch.tensor([self.weights.get(name, 1.0) for name in self.rewards]))

    def by_group(self, values: Tensor) -> Tensor:
        """Return one row per group: `(B,)` becomes `(B / G, G)`."""
        return values.view(-1, self.num_generations)
