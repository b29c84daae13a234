# SPDX-License-Identifier: Apache-2.0
"""[`GenerationBatch`]: what is known about the completions of one generation, from the dataset rows to the advantages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather

from ..verification.finished import completions_open_reasoning
from .generation import Generated
from .refill import join_rows
from .rollouts import CompletionTokens, LocalRollouts, Rollouts, completion_lengths, prompt_digest, prompt_key
from .token_credit import gather_tokens


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class GenerationBatch:
    """
    What is known about a generation batch. The trainer makes one per generation, in training and in evaluation, and each stage adds
    to it: generation the token ids, the rewards the gathered view. It is dropped when the batch has its advantages.

    Attributes:
        rows (`list[dict[str, Any]]`): The b dataset rows of this process, one per completion.
        training (`bool`): `False` in evaluation.
        step (`int`): Optimizer steps done so far.
        num_generations (`int`): Completions per prompt, G.
        process_index (`int`): This process.
        end_ids (`set[int]`): Tokens that end a completion.
        device (`torch.device`): The trainer's device.
        mask_truncated (`bool`): Whether the loss leaves truncated completions out.
        earlier (`int`): Completions of the same optimizer step in generation batches before this one.
        generated ([`Generated`], *optional*): What the rollout component has returned; `None` if TRL generates.
        prompt_ids (`list[list[int]]`): Token ids of the prompts.
        completion_ids (`list[list[int]]`): Token ids of the completions, terminating EOS included.
        tool_mask (`list[list[int]]`, *optional*): 1 where the model wrote the token; `None` if it wrote all.
        reasoning_opened (`list[bool]`): Whether a prompt ends with an open `<think>`, which the completion has to close.
        tokens ([`CompletionTokens`], *optional*): Token ids for the token credits; `None` without them.
        selections (`list[torch.Tensor | None]`): What each token credit has selected.
        own ([`LocalRollouts`], *optional*): This process's completions; `None` without components.
        correct (`torch.Tensor`, *optional*): `(B,)`, the judgments of all processes' completions, as in [`Rollouts`].
        rollouts ([`Rollouts`], *optional*): The batch of all processes, with every reward; `None` without components.
        dropped (`torch.Tensor`, *optional*): `(B,)` bool, completions of all processes that are left out of the loss; `None` if
            all are kept.
        divisor (`str`): What the loss divides by: `"kept"` completions, or `"all"`.
        dropped_by (`str`): The component that dropped completions.
        surplus (`int`): Completions at the end of the gathered batch that only give every process the same number of rows.
        surplus_tokens (`int`): Their tokens.
    """

    rows: list[dict[str, Any]]
    training: bool
    step: int
    num_generations: int
    process_index: int
    end_ids: set[int]
    device: torch.device
    mask_truncated: bool = False
    earlier: int = 0
    generated: Generated | None = None
    prompt_ids: list[list[int]] = field(default_factory=list)
    completion_ids: list[list[int]] = field(default_factory=list)
    tool_mask: list[list[int]] | None = None
    reasoning_opened: list[bool] = field(default_factory=list)
    tokens: CompletionTokens | None = None
    selections: list[torch.Tensor | None] = field(default_factory=list)
    own: LocalRollouts | None = None
    correct: torch.Tensor | None = None
    rollouts: Rollouts | None = None
    dropped: torch.Tensor | None = None
    divisor: str = "kept"
    dropped_by: str = ""
    surplus: int = 0
    surplus_tokens: int = 0

    @property
    def is_chunked(self) -> bool:
        """Whether the rollout component generates in chunks."""
        return self.generated is not None and self.generated.chunks is not None

    @property
    def earlier_lengths(self) -> list[int]:
        """Tokens that the model wrote in earlier chunks of each completion; 0 unless the rollout component generates in chunks."""
        return self.generated.earlier_lengths if self.generated is not None else [0] * len(self.completion_ids)

    @property
    def limited_lengths(self) -> list[int]:
        """Tokens of each completion that the generation limit bounds: all chunks, and the output of tools, but no carried tokens."""
        if not self.is_chunked:
            return [len(ids) for ids in self.completion_ids]
        assert self.tool_mask is not None  # the carried tokens
        return [sum(mask) + earlier for mask, earlier in zip(self.tool_mask, self.earlier_lengths, strict=True)]

    @property
    def local(self) -> slice:
        """This process's completions in the gathered batch."""
        start = self.process_index * len(self.rows)
        return slice(start, start + len(self.rows))

    def add_completions(
        self,
        prompt_ids: list[list[int]],
        completion_ids: list[list[int]],
        tool_mask: list[list[int]] | None,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        """Add what TRL's generation returned."""
        self.prompt_ids, self.completion_ids, self.tool_mask = prompt_ids, completion_ids, tool_mask
        prompts = [row.get("prompt") for row in self.rows]
        self.reasoning_opened = completions_open_reasoning(tokenizer, prompts, prompt_ids)

    def loss_mask(self) -> list[list[int]]:
        """Return 1 for each token that the loss may use: the model wrote it, and the completion is not left out as truncated."""
        mask = self.tool_mask
        if mask is None:
            mask = [[1] * len(row) for row in self.completion_ids]
        if not self.mask_truncated:
            return mask
        return [
            row if own[-1] in self.end_ids else [0] * len(row)
            for row, own in zip(mask, self.completion_ids, strict=True)
        ]

    def add_tokens(self, needs_groups: bool) -> CompletionTokens:
        """
        Add and return the token ids from which token credits select.

        Args:
            needs_groups (`bool`): Whether groups that straddle processes are gathered.
        """
        self.tokens = CompletionTokens(
            ids=self.completion_ids,
            mask=self.loss_mask(),
            num_generations=self.num_generations,
            step=self.step,
            start=self.local.start,
            local=self.local,
            earlier=self.earlier,
        )
        straddling = len(self.rows) % self.num_generations != 0  # the same on every process
        if straddling and needs_groups:
            self.tokens = gather_tokens(self.tokens)
        return self.tokens

    def local_rollouts(self, rows: Sequence[dict[str, Any]], prompts: list, completions: list) -> LocalRollouts:
        """
        Add and return this process's completions as [`LocalRollouts`].

        Args:
            rows (`Sequence[dict[str, Any]]`): The dataset rows, with the columns that generation has added.
            prompts, completions (`list`): As reward functions receive them.
        """
        last = completion_lengths(self.completion_ids, self.tool_mask, self.end_ids)
        lengths = [own + earlier for own, earlier in zip(last, self.earlier_lengths, strict=True)]
        self.own = LocalRollouts(
            prompts=prompts,
            completions=completions,
            completion_ids=self.completion_ids,
            tool_mask=self.tool_mask,
            lengths=torch.tensor(lengths, device=self.device),
            columns={key: [row[key] for row in rows] for key in rows[0] if key != "prompt"},
            num_generations=self.num_generations,
            step=self.step,
            training=self.training,
            prompt_ids=self.prompt_ids,
        )
        return self.own

    def drop(self, dropped: torch.Tensor, divisor: str, by: str) -> None:
        """
        Leave completions out of the loss.

        Args:
            dropped (`torch.Tensor`): `(B,)` bool, the same on every process.
            divisor (`str`): `"kept"` or `"all"`.
            by (`str`): The component that drops them.

        Raises:
            `ValueError`: If another component has dropped completions with another divisor.
        """
        if not dropped.any():
            return
        if self.dropped is not None and divisor != self.divisor:
            raise ValueError(
                f"{self.dropped_by} divides the loss by {self.divisor} completions, {by} by {divisor}. Set `divisor` of both to the "
                "same value."
            )
        self.dropped = self.dropped | dropped if self.dropped is not None else dropped
        self.divisor, self.dropped_by = divisor, by

    def without_surplus(self, rollouts: Rollouts) -> Rollouts:
        """Return the gathered batch without the surplus, whose tokens are counted."""
        rows = len(rollouts) - self.surplus
        self.surplus_tokens = int(rollouts.lengths[rows:].sum())
        assert self.correct is not None
        self.correct = self.correct[:rows]
        own = max(0, min(rows, self.local.stop) - self.local.start)
        return dataclasses.replace(
            join_rows([rollouts], range(rows)),
            local=slice(self.local.start, self.local.start + own),
            measured_tokens={
                component: {name: values[:own] for name, values in measures.items()}
                for component, measures in rollouts.measured_tokens.items()
            },
        )

    def gather(
        self,
        local: LocalRollouts,
        correct: torch.Tensor,
        rewards: dict[str, torch.Tensor],
        weights: dict[str, float],
    ) -> Rollouts:
        """
        Return the completions of all processes, without measures.

        Args:
            local ([`LocalRollouts`]): This process's.
            correct (`torch.Tensor`): `(B,)`, gathered.
            rewards (`dict[str, torch.Tensor]`): `(B,)` each, gathered.
            weights (`dict[str, float]`): Of all reward functions.
        """
        # One gather carries the key (two 64-bit words), the lengths and the truncation of each completion.
        digests = b"".join(prompt_digest(prompt_key(row)) for row in self.rows)
        words = torch.from_numpy(np.frombuffer(digests, dtype="<i8").reshape(-1, 2).copy()).to(self.device)
        truncated = torch.tensor([ids[-1] not in self.end_ids for ids in self.completion_ids], device=self.device)
        masks = zip(self.loss_mask(), self.earlier_lengths, strict=True)
        in_loss = torch.tensor([sum(mask) + earlier * any(mask) for mask, earlier in masks], device=self.device)
        columns = [words, *(column[:, None].long() for column in (local.lengths, truncated, in_loss))]
        packed = gather(torch.cat(columns, dim=1))  # (B, 5)
        digests = packed[:, :2].cpu().numpy().astype("<i8").tobytes()
        return Rollouts(
            prompt_keys=tuple(digests[i : i + 16].hex() for i in range(0, len(digests), 16)),
            lengths=packed[:, 2],
            truncated=packed[:, 3].bool(),
            loss_lengths=packed[:, 4],
            correct=correct,
            rewards=rewards,
            weights=weights,
            num_generations=self.num_generations,
            step=self.step,
            training=self.training,
            local=self.local,
            tokens=self.tokens,
        )
