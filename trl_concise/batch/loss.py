# SPDX-License-Identifier: Apache-2.0
"""[`ComputesLoss`], the mixin of the GRPO trainers for the loss of the tokens and completions that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from .generated import replace_forced
from .limits import changed
from .token_credit import KeptTokens, order_by_kept_length


if TYPE_CHECKING:
    from trl import GRPOTrainer as _Mixed  # attributes of the class that this mixin is used with

    from ..components import Rollout, TokenCredit
else:
    _Mixed = object


class ComputesLoss(_Mixed):
    """
    Mixin for [`~trl.GRPOTrainer`]: scores the kept tokens of a batch only. Comes before the trainer among the bases.
    """

    token_credits: Sequence[TokenCredit]
    rollout: Rollout | None
    _rollout_in_use: Callable[[], Rollout | None]
    _kept: KeptTokens | None = None  # what is to be scored; None: everything
    _forced: dict[str, Any] | None = None  # the micro-batch whose loss is computed, if tokens of it were forced
    _scored: dict[str, Any] | None = None  # the micro-batch whose loss is computed, if a component has generated it
    _is_ordered = True  # whether the buffered micro-batches are in their final order
    _buffered_inputs: list[dict[str, Any]]  # of GRPOTrainer; None until it has generated

    def _prepare_inputs(self, generation_batch):
        inputs = super()._prepare_inputs(generation_batch)
        if self._is_ordered:
            return inputs
        self._is_ordered = True  # once per generation batch: TRL has just shuffled and split it
        self._buffered_inputs = order_by_kept_length(self._buffered_inputs, self.args)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _compute_loss(self, model, inputs):
        if "row_weights" in inputs:
            inputs = {**inputs, "tool_mask": inputs["tool_mask"] * inputs["row_weights"][:, None]}
        if "is_forced" in inputs:
            inputs = self._forced = dict(inputs)  # the scoring inside adds the scores of the old policy
        if self.model.training and self._rollout_in_use() is not None:
            self._scored = inputs
        try:
            return self._compute_scaled_loss(model, inputs)
        finally:
            self._forced = self._scored = None

    def _compute_scaled_loss(self, model, inputs):
        settings: dict[str, Any] = {}
        if "loss_scale" in inputs:
            # Completions are dropped and not counted: their share scales the KL term as it scales the advantages.
            settings["beta"] = self.beta * inputs["loss_scale"].item()
        if "row_weights" in inputs:
            # The same loss per token as `grpo`, summed with the weights of `weigh_completions` and divided by all tokens.
            settings["loss_type"] = "dapo"
        with changed([(self.__dict__, settings)]):
            return self._compute_loss_of_kept(model, inputs)

    def _compute_loss_of_kept(self, model, inputs):
        if not (self.token_credits and self.model.training):
            return super()._compute_loss(model, inputs)
        with self._keeping(self._keep_only(inputs["completion_mask"] * inputs["tool_mask"])) as kept:
            loss = super()._compute_loss(model, inputs)
        cropped = torch.tensor(kept.cropped_fraction, device=self.accelerator.device)
        self._metrics["train"]["token_credit/cropped_fraction"].append(self.accelerator.gather(cropped).mean().item())
        return loss

    def _keep_only(self, keep: torch.Tensor) -> KeptTokens:
        # A load-balancing loss counts every token, and a tool's images are tokens of the completion.
        crop = not self.aux_loss_enabled and not (self._is_vlm and self.tools)
        return KeptTokens(keep.bool(), crop=crop, multiple_of=self.pad_to_multiple_of)

    @contextmanager
    def _keeping(self, kept: KeptTokens | None):
        """Score these tokens only, or all."""
        before, self._kept = self._kept, kept
        try:
            yield kept
        finally:
            self._kept = before

    def _scores_all_tokens(self):
        return self._keeping(None)

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        score = super()._get_per_token_logps_and_entropies
        if self._kept is not None:
            score = partial(self._kept.score, score)
        if self._scored is None:
            scores = score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        else:
            assert self.rollout is not None  # see `_compute_loss`
            with self.rollout.scoring(self.accelerator.unwrap_model(model), self._scored) as replace:
                logps, *others = score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
                scores = (replace(logps), *others)
        if self._forced is not None and self._forced.get("old_per_token_logps") is None:
            # TRL reads this after the scoring. Without it, the old policy is the current one, for forced tokens too.
            self._forced["old_per_token_logps"] = replace_forced(self._forced, scores[0].detach())
        return scores
