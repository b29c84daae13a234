# SPDX-License-Identifier: Apache-2.0
"""
Completions that were generated in several chunks, each in a context of its own: how they enter the loss and the metrics.

The last chunk is the row of the batch, and the others are appended as further rows. With the loss `grpo`, TRL would then take the mean
over rows, in which a completion of many chunks counts more. Instead, each token is weighted so that the tokens of a completion have
the same weight in all its chunks, and those of every completion the same sum: the mean over completions of the mean over their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather
from torch import Tensor
from trl import GRPOTrainer

from .generation import Chunk
from .rows import Rows


if TYPE_CHECKING:
    from .batch import GenerationBatch


def check_chunks(trainer: GRPOTrainer, name: str) -> None:
    """
    Check that the loss can weigh the tokens of a completion alike in all its chunks.

    Args:
        trainer ([`~trl.GRPOTrainer`]): The trainer.
        name (`str`): The component that generates in chunks.

    Raises:
        `ValueError`: If a setting weighs or drops tokens by the row that they are in.
    """
    args = trainer.args
    needed = {
        "loss_type": "grpo",
        "importance_sampling_level": "token",
        "off_policy_mask_threshold": None,
        "top_entropy_quantile": 1.0,
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
    }
    if wrong := {key: getattr(args, key) for key, value in needed.items() if getattr(args, key) != value}:
        given = ", ".join(f"{key}={value!r}" for key, value in wrong.items())
        wanted = ", ".join(f"{key}={needed[key]!r}" for key in wrong)
        raise ValueError(
            f"{name} generates completions in chunks, and with {given} the loss would weigh the chunks of one completion like several "
            f"completions. Set {wanted}."
        )
    if trainer.token_credits:
        raise ValueError(
            f"{name} generates completions in chunks, whose tokens all have the advantage of the completion, but "
            f"{type(trainer.token_credits[0]).__name__} gives each token its own. Leave one of them out."
        )


def count_chunks(trainer: GRPOTrainer, chunks: Sequence[Sequence[Chunk]], prompt_ids: Sequence[Sequence[int]]) -> None:
    """Add the tokens of earlier chunks and their prompts to those that TRL counts (`num_tokens`). Every process calls this."""
    own = sum(
        len(prompt) + len(chunk.completion_ids)
        for row, prompt in zip(chunks, prompt_ids, strict=True)
        for chunk in row
    )
    if trainer.model.training:
        trainer.state.num_input_tokens_seen += int(
            gather(torch.tensor([own], device=trainer.accelerator.device)).sum()
        )


def log_whole_lengths(metrics: dict[str, list[float]], batch: GenerationBatch) -> None:
    """
    Replace the lengths that TRL has just logged, those of last chunks, by those of whole completions. Every process calls this.

    Args:
        metrics (`dict[str, list[float]]`): TRL's metrics, changed in place.
        batch ([`GenerationBatch`]): The batch.
    """
    ended = [ids[-1] in batch.end_ids for ids in batch.completion_ids]
    columns = torch.tensor([batch.limited_lengths, ended], dtype=torch.float, device=batch.device).T.contiguous()
    lengths, has_ended = gather(columns).T
    terminated = lengths[has_ended.bool()]
    for name, values in {"": lengths, "terminated_": terminated if len(terminated) else lengths.new_zeros(1)}.items():
        for kind, value in {"mean": values.mean(), "min": values.min(), "max": values.max()}.items():
            metrics[f"completions/{kind}_{name}length"][-1] = value.item()


def chunk_rows(batch: GenerationBatch, tensors: dict[str, Any]) -> tuple[Rows, Tensor]:
    """
    Return the earlier chunks of this process's completions as rows with the advantages of their completions.

    Args:
        batch ([`GenerationBatch`]): The batch, with what the component has generated.
        tensors (`dict[str, Any]`): TRL's tensors of this process's rows.

    Returns:
        `tuple[Rows, torch.Tensor]`: n rows, and for each the row of its completion, `(n,)`. The loss uses the chunks of completions of
        which it uses the last one.
    """
    assert batch.generated is not None and batch.generated.chunks is not None
    owners = [row for row, chunks in enumerate(batch.generated.chunks) for _ in chunks]
    chunks = [chunk for own in batch.generated.chunks for chunk in own]
    is_used = _loss_mask(tensors).any(dim=1).tolist()
    origin = torch.tensor(owners, dtype=torch.long, device=batch.device)
    logps = [chunk.logps for chunk in chunks if chunk.logps is not None]
    rows = Rows(
        prompt_ids=[batch.prompt_ids[row] for row in owners],
        completion_ids=[chunk.completion_ids for chunk in chunks],
        group=owners,
        advantages=tensors["advantages"][origin],
        mask=[
            chunk.mask if is_used[row] else [0] * len(chunk.mask) for row, chunk in zip(owners, chunks, strict=True)
        ],
        logps=logps if chunks and len(logps) == len(chunks) else None,
    )
    return rows, origin


def weigh_completions(tensors: dict[str, Any], origin: Tensor, first: int) -> None:
    """
    Add the weight of each row's tokens to the batch, `row_weights`, with which the loss is a mean over completions.

    Tokens are weighted by the mean length of a completion over the length of theirs. The loss then divides by all tokens, so that each
    token of a completion of $l$ tokens counts $1 / (N l)$, among $N$ completions of all processes.

    Args:
        tensors (`dict[str, Any]`): TRL's tensors of this process's rows, with the chunks from row `first` on, changed in place.
        origin (`torch.Tensor`): `(n,)`, the row of the completion that each chunk belongs to.
        first (`int`): Rows that are completions of their own; after these are the chunks, then rows that the loss does not use.
    """
    tokens = _loss_mask(tensors).sum(dim=1).float()
    lengths = tokens.clone()
    lengths.index_add_(0, origin, tokens[first : first + len(origin)])
    lengths[first : first + len(origin)] = lengths[origin]
    totals = gather(torch.stack([tokens.sum(), tokens.new_tensor(first)])[None]).sum(dim=0)
    tensors["row_weights"] = totals[0] / totals[1] / lengths.clamp(min=1.0)
    tensors["num_items_in_batch"] = totals[0]


def _loss_mask(tensors: dict[str, Any]) -> Tensor:
    mask = tensors["completion_mask"]
    return mask * tensors["tool_mask"] if "tool_mask" in tensors else mask
