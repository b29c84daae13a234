# SPDX-License-Identifier: Apache-2.0
"""
Replay: new groups that start inside a completion of the batch, as further rows of the same batch.

A plain group shares prefixes near the prompt only, so late tokens never branch. A replayed group shares the prefix that it
starts from, and branches directly after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..batch.rollouts import CompletionTokens, weighted_sum


if TYPE_CHECKING:
    from ..components import TrainerView


@dataclass(frozen=True)
class ReplayedGroup:
    """
    A group of completions that start with the same prefix.

    Attributes:
        rows (`range`): Its rows in the batch.
        start (`int`): Tokens of the prefix.
        ids (`list[list[int]]`): Token ids generated after the prefix.
        rewards (`list[float]`): Rewards of the whole completions, prefix included; NaN where unknown.
    """

    rows: range
    start: int
    ids: list[list[int]]
    rewards: list[float]


def check_replay(trainer: TrainerView, per_prompt: int, size: int) -> None:
    """Raise an error, at construction, for settings that do not work with the additional rows."""
    args = trainer.args
    prompts, straddling = divmod(args.per_device_train_batch_size * args.steps_per_generation, args.num_generations)
    if straddling:
        raise ValueError(
            "Replay needs whole groups on each process, but per_device_train_batch_size * steps_per_generation = "
            f"{args.per_device_train_batch_size * args.steps_per_generation} is not a multiple of num_generations = "
            f"{args.num_generations}."
        )
    rows = prompts * per_prompt * size
    if rows % args.steps_per_generation:
        raise ValueError(
            f"Replay adds {rows} rows to a generation batch on each process, which steps_per_generation = "
            f"{args.steps_per_generation} does not divide. Choose replay_per_prompt * replay_group_size so that it does."
        )
    for refused, reason in [
        (args.beta != 0, "beta > 0: the reference has not scored the replayed rows. Set beta=0."),
        (args.use_vllm and args.vllm_importance_sampling_correction, "vLLM's correction, which covers the batch's original rows only. "
         "Set vllm_importance_sampling_correction=False."),
        (len(trainer.token_credits) > 1, "another token credit, which expects the batch's original rows."),
        (bool(trainer.group_rewards), "group rewards, which score the batch's original groups."),
        (trainer.environment_factories is not None or bool(trainer.tools), "tools or environments, which replay does not "
         "call."),
    ]:  # fmt: skip
        if refused:
            raise ValueError(f"Replay does not combine with {reason}")


def replay(
    trainer: TrainerView,
    inputs: Sequence[dict[str, Any]],
    batch: dict[str, Any],
    tokens: CompletionTokens,
    *,
    per_prompt: int,
    size: int,
    seed: int,
) -> list[ReplayedGroup]:
    """
    Start new groups at tokens of the batch's completions, chosen uniformly, and append their completions to the batch.

    Args:
        trainer ([`TrainerView`]): Generates, rewards and scores.
        inputs (`Sequence[dict]`): Dataset rows of the batch.
        batch (`dict[str, Any]`): TRL's batch, changed in place.
        tokens ([`CompletionTokens`]): The batch's completions.
        per_prompt (`int`): New groups per prompt.
        size (`int`): Completions per new group.
        seed (`int`): Seed of the choice, which also depends on step and row.
    """
    own, starts = tokens.own(), []
    for first in range(0, len(own), tokens.num_generations):
        rng = np.random.default_rng([seed, tokens.step, tokens.earlier + tokens.local.start + first])
        for _ in range(per_prompt):
            row = first + int(rng.integers(tokens.num_generations))
            length = len(own[row][0])
            starts.append((row, int(rng.integers(1, length)) if length > 1 else 0))
    prefixes = [own[row][0][:start] for row, start in starts]
    rows = [inputs[row] for row, _ in starts]
    generated = trainer.generate_rollouts(rows, size, prefix_ids=prefixes)
    rewards = weighted_sum(trainer.reward_rollouts(rows, generated), trainer.reward_weights).tolist()
    sources = [row for row, _ in starts for _ in range(size)]
    first_row = len(own)
    append_rows(
        batch,
        sources,
        generated.prefix_ids,
        generated.completion_ids,
        trainer.mask_truncated_completions & generated.truncated,
    )
    if "old_per_token_logps" in batch:
        prompts = [
            [*prompt, *prefix] for prompt, prefix in zip(generated.prompt_ids, generated.prefix_ids, strict=True)
        ]
        logps = trainer.score_logps(prompts, generated.completion_ids)
        for row, (prefix, ids) in enumerate(zip(generated.prefix_ids, generated.completion_ids, strict=True)):
            span = slice(len(prefix), len(prefix) + len(ids))
            batch["old_per_token_logps"][first_row + row, span] = logps[row, : len(ids)]
    return [
        ReplayedGroup(
            rows=range(first_row + i * size, first_row + (i + 1) * size),
            start=start,
            ids=generated.completion_ids[i * size : (i + 1) * size],
            rewards=rewards[i * size : (i + 1) * size],
        )
        for i, (_, start) in enumerate(starts)
    ]


def append_rows(
    batch: dict[str, Any],
    sources: list[int],
    prefix_ids: list[list[int]],
    completion_ids: list[list[int]],
    left_out: Tensor,
) -> None:
    """
    Append completions to TRL's batch, each with the prompt of an existing row.

    Args:
        batch (`dict[str, Any]`): Tensors of b rows; other widths than the completion's stay as they are.
        sources (`list[int]`): Row of the prompt, per new completion.
        prefix_ids, completion_ids (`list[list[int]]`): Tokens of the new completions: the prefix, and the rest.
        left_out (`torch.Tensor`): `(len(sources),)` bool, completions that the loss leaves out.
    """
    device, old_width = batch["completion_ids"].device, batch["completion_ids"].size(1)
    new = [torch.tensor([*prefix, *ids]) for prefix, ids in zip(prefix_ids, completion_ids, strict=True)]
    ids = torch.nn.utils.rnn.pad_sequence(new, batch_first=True).to(device)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in new], batch_first=True).to(device)
    mask = mask * (~left_out.to(device)).long()[:, None]
    width = max(old_width, ids.size(1))
    filled = {"completion_ids": ids, "completion_mask": mask, "tool_mask": torch.ones_like(ids)}
    for name, value in batch.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            continue
        if name in ("prompt_ids", "prompt_mask"):
            batch[name] = torch.cat([value, value[sources]])
            continue
        rows = filled.get(name, value.new_zeros(len(sources), *value.shape[1:])).to(value)
        if value.ndim == 2:
            value, rows = (F.pad(block, (0, width - block.size(1))) for block in (value, rows))
        batch[name] = torch.cat([value, rows])
