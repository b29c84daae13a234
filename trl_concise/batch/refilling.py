# SPDX-License-Identifier: Apache-2.0
"""[`RefillsGroups`], the mixin of the GRPO trainers for a [`GroupFilter`]: it draws further groups before TRL sees the batch."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast, gather_object, send_to_device
from datasets import IterableDataset

from ..checks import describe
from ..state.prompt_queue import PromptQueue, StreamQueue
from ..state.sampling import EpochRepeatSampler
from .limits import changed
from .refill import Completion, Draw, RefilledBatch, draw_batch, pad_measures, split_measures, whole_shares
from .scoring import ScoresRewards


if TYPE_CHECKING:
    from ..components import GroupFilter, PromptSelector, Rollout
    from .batch import GenerationBatch
    from .rollouts import Rollouts


class RefillsGroups(ScoresRewards):
    """
    Mixin for [`~trl.GRPOTrainer`] with a slot for a [`GroupFilter`]. Comes before the trainer among the bases.

    With a filter that refills, all completions are generated and scored before TRL's own method is called. That method then
    receives the final rows, their completions as if from a `rollout_func`, and their rewards. So everything that TRL computes and
    logs describes the batch that is trained on.
    """

    group_filter: GroupFilter | None
    prompt_selector: PromptSelector | None
    _generate_as_slotted: Callable[[list], tuple]
    _rollout_in_use: Callable[[], Rollout | None]
    _prompt_queue: PromptQueue | StreamQueue | None = None
    _refilled: RefilledBatch | None = None  # while TRL's method processes it
    # Attributes of GRPOTrainer that the methods below replace.
    _pending_extra_logs: dict[str, list[Any]]

    def get_train_dataloader(self):
        if self._refills:
            self._prompt_queue = self._make_queue()
        return super().get_train_dataloader()

    @property
    def _refills(self) -> bool:
        return self.group_filter is not None and self.group_filter.max_refills > 0

    def _make_queue(self) -> PromptQueue | StreamQueue:
        if isinstance(self.train_dataset, IterableDataset):
            stream = self.train_dataset
            return StreamQueue(stream.shuffle(seed=self.args.seed) if self.shuffle_dataset else stream)
        # TRL's sampler, of which only the order of the rows is used.
        sampler = EpochRepeatSampler(super()._get_train_sampler(), lambda: self.state.global_step)
        return PromptQueue(sampler, self.prompt_selector)

    def _generate_and_score_completions(self, inputs):
        batch = self._batch
        assert batch is not None  # set by the trainer
        is_added = batch.rollouts is not None  # rows that components add to a batch that is complete
        if not (self._refills and batch.training) or is_added:
            return super()._generate_and_score_completions(inputs)
        assert self.group_filter is not None  # see `_refills`
        num_groups = len(inputs) * self.accelerator.num_processes // batch.num_generations
        draws, places = draw_batch(partial(self._draw, batch), num_groups, self.group_filter.max_refills)
        refilled = RefilledBatch.of(draws, places, batch.local)
        for name, value in refilled.metrics.items():
            self._metrics["train"][name].append(value)
        batch.rows = [completion.row for completion in refilled.completions]
        if self._rollout_in_use() is not None:
            batch.generated = refilled.rollout_output(batch.device)
        self._batch, self._refilled = batch, refilled
        try:
            return super()._generate_and_score_completions(batch.rows)
        finally:
            self._refilled = None

    # One round of generation

    def _draw(self, base: GenerationBatch, num_groups: int, is_batch: bool) -> Draw:
        """Generate and score groups of the next prompts. Every process generates the same number of completions."""
        queue, accelerator, size = self._prompt_queue, self.accelerator, base.num_generations
        assert queue is not None  # made with the data loader
        rows = queue.take(num_groups, is_batch=is_batch)
        if any("image" in row or "images" in row for row in rows):
            raise ValueError(
                f"{type(self.group_filter).__name__} cannot replace groups of prompts with images. Set max_refills=0, or remove the "
                "columns `image` and `images`."
            )
        shared = whole_shares(num_groups, size, accelerator.num_processes)
        every = [row for row in rows + [rows[-1]] * (shared - num_groups) for _ in range(size)]
        share = len(every) // accelerator.num_processes
        start = accelerator.process_index * share
        own = [dict(row) for row in every[start : start + share]]
        self._batch = batch = dataclasses.replace(
            base, rows=send_to_device(own, accelerator.device), surplus=(shared - num_groups) * size
        )
        output = self._generate_without_metrics([row["prompt"] for row in own])
        prompt_ids, completion_ids, tool_mask, completions, logps, extra_fields, _, _ = output
        batch.add_completions(prompt_ids, completion_ids, tool_mask, self._tokenizer)
        for name, values in extra_fields.items():  # of a `rollout_func`; as TRL does before it calls reward functions
            for row, value in zip(batch.rows, values if isinstance(values, list) else [values] * share, strict=False):
                row[name] = value
        waiting, self._pending_extra_logs = self._pending_extra_logs, defaultdict(list)
        prompts = [row["prompt"] for row in batch.rows]
        rewards = self._score(batch.rows, prompts, completions, completion_ids)
        logged, self._pending_extra_logs = self._pending_extra_logs, waiting
        rollouts = batch.rollouts
        assert rollouts is not None
        used = rollouts.local.stop - rollouts.local.start  # without the surplus
        measures = split_measures(rollouts.measured_tokens, completion_ids[:used])
        made = batch.generated
        drawn = [
            Completion(
                row=batch.rows[i],
                prompt_ids=prompt_ids[i],
                completion_ids=completion_ids[i],
                tool_mask=tool_mask[i] if tool_mask is not None else None,
                logps=logps[i] if logps is not None else None,
                logged={column: values[i] for column, values in logged.items() if i < len(values)},
                measured=measures[i],
                old_logps=made.old_logps[i] if made is not None and made.old_logps is not None else None,
                tensors={name: values[i].cpu() for name, values in made.tensors.items()} if made is not None else {},
                chunks=made.chunks[i] if made is not None and made.chunks is not None else None,
            )
            for i in range(used)
        ]
        if not is_batch:  # a replacement may be needed by another process than the one that has generated it
            drawn, start = gather_object(drawn), 0
        return Draw(
            rollouts=rollouts,
            rewards=rewards,
            completions={start + i: completion for i, completion in enumerate(drawn)},
            surplus_tokens=batch.surplus_tokens,
        )

    def _generate_without_metrics(self, prompts: list) -> tuple:
        """Call TRL's generation and count its tokens, without its metrics: they describe one round."""
        metrics = self._metrics["train"]
        before = {name: list(values) for name, values in metrics.items()}
        output = self._generate_as_slotted(prompts)
        metrics.clear()
        metrics.update(before)
        return output

    # What TRL's method calls

    def _generate(self, prompts):
        if self._refilled is None:
            return super()._generate(prompts)
        tokens = self.state.num_input_tokens_seen
        output = self._refilled.generated()
        with changed([(self.__dict__, {"rollout_func": lambda prompts, trainer: output})]):
            result = super()._generate(prompts)
        # All rounds were counted when they were generated.
        self.state.num_input_tokens_seen = tokens
        self._metrics["train"]["num_tokens"] = [tokens]
        return result

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        refilled, batch = self._refilled, self._batch
        if refilled is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        assert batch is not None
        batch.rollouts = dataclasses.replace(
            refilled.rollouts,
            tokens=batch.tokens,
            measured_tokens=pad_measures([completion.measured for completion in refilled.completions], batch.device),
        )
        batch.local_rollouts(inputs, prompts, completions)  # remembered, for rows that components add
        columns = {column for completion in refilled.completions for column in completion.logged}
        for column in sorted(columns):
            self._log_completion_extra(column, [one.logged.get(column) for one in refilled.completions])
        self._finish_scoring(refilled.rollouts.correct, completions, refilled.observed(batch.rollouts))
        return refilled.rewards

    def _score(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._score(inputs, prompts, completions, completion_ids_list)
        batch = self._batch
        assert batch is not None
        if self.group_filter is not None and batch.training:
            assert batch.rollouts is not None
            batch.rollouts = dataclasses.replace(batch.rollouts, kept=ask_filter(self.group_filter, batch.rollouts))
        return rewards

    def _zero_unkept(self, output: dict[str, Any]) -> None:
        """Set the advantages of completions that the filter does not keep to 0. Does nothing in evaluation."""
        batch = self._batch
        assert batch is not None
        if not batch.training or self.group_filter is None:
            return
        assert batch.rollouts is not None and batch.rollouts.kept is not None
        if self.group_filter.divisor == "kept":
            batch.drop(~batch.rollouts.kept, "kept", by=type(self.group_filter).__name__)
        kept = batch.rollouts.kept[batch.local].to(output["advantages"].device)
        if output["advantages"].ndim == 2:
            kept = kept[:, None]
        output["advantages"] = output["advantages"].masked_fill(~kept, 0.0)


def ask_filter(group_filter: GroupFilter, rollouts: Rollouts) -> torch.Tensor:
    """
    Return which completions a filter keeps: `(B,)` bool, the verdict of the main process.

    Raises:
        `ValueError`: If the filter returned something else.
    """
    kept = group_filter.keep(rollouts)
    if not isinstance(kept, torch.Tensor) or kept.dtype != torch.bool or kept.shape != (len(rollouts),):
        raise ValueError(
            f"{type(group_filter).__name__}.keep returned {describe(kept)} for {len(rollouts)} completions. Return a tensor of "
            f"bools of the shape ({len(rollouts)},)."
        )
    return broadcast(kept.to(rollouts.lengths.device, torch.uint8)).bool()
