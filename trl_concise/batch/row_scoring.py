# SPDX-License-Identifier: Apache-2.0
"""
[`TrainsOnRows`], the mixin of the GRPO trainers for rows that components add to a batch.

TRL scores them as it scores the batch: old policy, reference, vLLM's correction. For this, its
`_generate_and_score_completions` is called once more, and gets the given tokens where it generates, and zeros where it asks
for rewards.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather
from torch.nn import functional as F

from ..components import Component
from .chunks import chunk_rows, weigh_completions
from .limits import changed
from .rollouts import CompletionTokens
from .rows import Rows, append_batch
from .token_credit import select_tokens


if TYPE_CHECKING:
    from trl import GRPOTrainer as _Mixed  # attributes of the class that this mixin is used with

    from ..components import TokenCredit
    from .batch import GenerationBatch
else:
    _Mixed = object


_FIRST_ADDED = 1 << 32  # row number of the first added row, larger than that of any row of a batch


class TrainsOnRows(_Mixed):
    """
    Mixin for [`~trl.GRPOTrainer`]: appends the rows of components to the batch, scored as TRL scores the batch. Comes before the
    trainer among the bases.
    """

    components: Sequence[Component]
    token_credits: Sequence[TokenCredit]
    _batch: GenerationBatch | None
    _rows_to_score: Rows | None = None  # what TRL scores now; None: the batch

    def _collect_rows(self, batch: GenerationBatch) -> Rows | None:
        """Ask the components for rows, and give them advantages. `None` if no process has any. Every process calls this."""
        asked = [component for component in self.components if type(component).rows is not Component.rows]
        if not asked:
            return None
        assert batch.rollouts is not None and batch.own is not None  # set by `_calculate_rewards`
        parts = []
        for component in asked:
            rows = component.rows(self, batch.rollouts, batch.own)
            if rows is not None and not isinstance(rows, Rows):
                raise TypeError(
                    f"{type(component).__name__}.rows returned a {type(rows).__name__}. Return Rows or None."
                )
            rows = (
                rows
                if rows is not None
                else Rows([], [], [], advantages=torch.zeros(0, device=self.accelerator.device))
            )
            rows = rows.with_advantages(self.args.scale_rewards)
            if component not in self.token_credits:
                rows = self._select_added(rows)
            parts.append(rows)
        rows = Rows.joined(parts)
        count = self._shared_count(rows)
        return rows.padded(count, self._tokenizer.eos_token_id) if count else None

    def _shared_count(self, rows: Rows) -> int:
        """Return how many rows every process adds: as many on each, and as many in every micro-batch."""
        longest = int(gather(torch.tensor([len(rows)], device=self.accelerator.device)).max())
        block = self.args.steps_per_generation
        return math.ceil(longest / block) * block

    def _select_added(self, rows: Rows) -> Rows:
        """Let every token credit that needs no groups select tokens of the rows."""
        credits = [credit for credit in self.token_credits if not credit.needs_groups]
        if not credits or not len(rows):
            return rows
        first = _FIRST_ADDED + self.accelerator.process_index * len(rows)
        tokens = CompletionTokens(
            ids=rows.completion_ids,
            mask=rows.loss_mask,
            num_generations=1,
            step=self.state.global_step,
            start=first,
            local=slice(first, first + len(rows)),
        )
        return replace(rows, mask=select_tokens(credits, tokens)[0])

    def _append_rows(self, batch: dict[str, Any], rows: Rows) -> None:
        """Score the rows, and append them to the batch. Every process calls this with the same number."""
        added = self._score_rows(rows)
        assert rows.advantages is not None  # see `_collect_rows`
        # Where dropped completions change the divisor of the loss, they do so for the added rows too.
        advantages = rows.advantages.to(batch["advantages"]) * batch.get("loss_scale", 1.0)
        if advantages.ndim == 2:
            advantages = F.pad(advantages, (0, added["completion_ids"].size(1) - advantages.size(1)))
        added["advantages"] = advantages
        append_batch(batch, added, self._tokenizer.pad_token_id)
        # The losses that divide by all tokens of the batch (dapo, cispo, vespo) must count the added ones.
        batch["num_items_in_batch"] = batch["num_items_in_batch"] + added["num_items_in_batch"]

    def _append_chunks(self, batch: dict[str, Any]) -> None:
        """Append the earlier chunks of completions that were generated in several. Every process calls this."""
        own = self._batch
        assert own is not None
        if not own.is_chunked:
            return
        rows, origin = chunk_rows(own, batch)
        if (count := self._shared_count(rows)) == 0:
            return
        first = len(batch["completion_ids"])
        rows = rows.padded(count, self._tokenizer.eos_token_id)
        # No earlier chunk ends its completion; `chunk_rows` has left out those of truncated ones if they are to be.
        added = self._score_rows(rows, mask_truncated_completions=False)
        added["advantages"] = rows.advantages
        append_batch(batch, added, self._tokenizer.pad_token_id)
        weigh_completions(batch, origin, first)

    def _score_rows(self, rows: Rows, **settings: Any) -> dict[str, Any]:
        """Return TRL's tensors of rows. `settings` are attributes of the trainer that differ from those for the batch."""
        unlogged = {
            "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
            "_logs": copy.deepcopy(self._logs),
            "_pending_metrics": defaultdict(list),
            "_pending_extra_logs": defaultdict(list),
        }
        # Groups of one: TRL's own advantages are not used.
        with changed([(self.__dict__, {**unlogged, "num_generations": 1, "_rows_to_score": rows, **settings})]):
            return super()._generate_and_score_completions([{"prompt": ""} for _ in range(len(rows))])

    def _generate(self, prompts):
        if self._rows_to_score is None:
            return super()._generate(prompts)
        rows, logps = self._rows_to_score, None
        if self.use_vllm:  # TRL takes NaN as "unknown": a ratio of 1
            logps = rows.logps or [[math.nan] * len(ids) for ids in rows.completion_ids]
        completions = [""] * len(rows)
        return rows.prompt_ids, rows.completion_ids, rows.loss_mask, completions, logps, {}, None, None

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self._rows_to_score is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        total = len(prompts) * self.accelerator.num_processes
        return torch.zeros(total, len(self.reward_funcs), device=self.accelerator.device)
