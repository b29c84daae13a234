# SPDX-License-Identifier: Apache-2.0
"""[`GeneratesBatch`], the mixin of the GRPO trainers for the completions of a batch: their budget, rollout and token selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from trl.trainer.utils import pad

from .chunks import log_whole_lengths
from .generated import generate
from .limits import changed, generation_limit
from .token_credit import KeptTokens, select_tokens


if TYPE_CHECKING:
    from trl import GRPOTrainer as _Mixed  # attributes of the class that this mixin is used with

    from ..components import BudgetSchedule, Rollout, TokenCredit
    from .batch import GenerationBatch
    from .warnings import BatchWarnings
else:
    _Mixed = object


class GeneratesBatch(_Mixed):
    """
    Mixin for [`~trl.GRPOTrainer`]: generates the completions of a batch as the components say. Comes before the trainer among the
    bases.
    """

    budget_schedule: BudgetSchedule | None
    rollout: Rollout | None
    token_credits: Sequence[TokenCredit]
    _batch: GenerationBatch | None
    _warnings: BatchWarnings
    _kept: KeptTokens | None
    _keep_only: Callable[[torch.Tensor], KeptTokens]

    @contextmanager
    def _training_budget(self):
        """Set the generation limit for one training batch."""
        if not self.model.training or self.budget_schedule is None:
            yield
            return
        budget = self.budget_schedule.max_completion_length(self.state.global_step)
        if budget < 1:
            raise ValueError(
                f"{type(self.budget_schedule).__name__} allows {budget} tokens at step {self.state.global_step}; a "
                "budget is at least 1."
            )
        with generation_limit(self, budget):
            yield

    def _rollout_in_use(self) -> Rollout | None:
        """Return the component that generates, or `None` if TRL does."""
        if self.rollout is None:
            return None
        is_used = self.rollout.in_training if self.model.training else self.rollout.in_evaluation
        return self.rollout if is_used else None

    def _generate_as_slotted(self, prompts: list) -> tuple:
        """Return what TRL's `_generate` returns, for completions of the component in the slot `rollout` if there is one."""
        batch = self._batch
        assert batch is not None  # set by `_generate_and_score_completions`
        own = {}
        if (rollout := self._rollout_in_use()) is not None:
            own["rollout_func"] = lambda prompts, trainer: generate(trainer, rollout, batch, prompts)
        with changed([(self.__dict__, own)]):
            return super()._generate(prompts)

    def _generate(self, prompts):
        batch = self._batch
        assert batch is not None
        output = self._generate_as_slotted(prompts)
        prompt_ids, completion_ids, tool_mask = output[:3]
        batch.add_completions(prompt_ids, completion_ids, tool_mask, self._tokenizer)
        if batch.is_chunked:
            log_whole_lengths(self._metrics["train" if batch.training else "eval"], batch)
        else:
            context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
            self._warnings.check_context(prompt_ids, self.max_completion_length, context)
        if not (self.token_credits and batch.training):
            return output
        needs_groups = any(credit.needs_groups for credit in self.token_credits)
        tokens = batch.add_tokens(needs_groups)
        if (
            self.use_vllm
            and self.vllm_importance_sampling_correction
            and "sequence" in self.vllm_importance_sampling_mode
        ):
            return output  # the correction of a sequence needs the log-probabilities of all its tokens
        # From here on TRL takes the selection for a tool mask: ratios and metrics are those of the selected tokens.
        selected, batch.selections = select_tokens(self.token_credits, tokens)
        self._kept = self._keep_only(pad([torch.tensor(row, device=self.accelerator.device) for row in selected]))
        return (prompt_ids, completion_ids, selected, *output[3:])
