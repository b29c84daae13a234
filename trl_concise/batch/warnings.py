# SPDX-License-Identifier: Apache-2.0
"""Warnings about generation batches that carry no signal."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from .rollouts import Rollouts


logger = logging.getLogger(__name__)

_WARN_AFTER = 20  # generation batches in a row


class BatchWarnings:
    """
    Warns, once per streak, when many batches in a row give no signal: no verdicts, all wrong, all correct, all truncated.
    """

    def __init__(self):
        self._in_a_row: dict[str, int] = {}  # warning -> batches in a row
        self._has_warned_of_length = self._has_warned_of_grades = False

    def check_verdicts(self, rewards: torch.Tensor, name: str) -> None:
        """
        Warn, once, if the function that says what is correct returns a value strictly between 0 and 1.

        Args:
            rewards (`torch.Tensor`): `(B,)`, its rewards; NaN where it abstained.
            name (`str`): Its name.
        """
        graded = rewards[(rewards > 0) & (rewards < 1)]
        if len(graded) and not self._has_warned_of_grades:
            self._has_warned_of_grades = True
            logger.warning(
                "The reward function %r returned %.3g, but it says what is correct: 0.5 and more count as correct, less as "
                "wrong. With such grades a wrong completion can earn more than a correct one, for example in HAPO. Return 0 "
                "or 1, or name another function with correctness=.",
                name,
                graded[0].item(),
            )

    def check_context(
        self, prompt_ids: Sequence[Sequence[int]], max_completion_length: int | None, context: int | None
    ):
        """
        Compare prompts with the model's context.

        Args:
            prompt_ids (`Sequence[Sequence[int]]`): Token ids per prompt.
            max_completion_length (`int`, *optional*): Tokens that may follow.
            context (`int`, *optional*): The positions that the model was trained on.
        """
        if context is None or max_completion_length is None:
            return
        longest = max(map(len, prompt_ids), default=0)
        if longest + max_completion_length > context and not self._has_warned_of_length:
            self._has_warned_of_length = True
            logger.warning(
                "A prompt of %d tokens and max_completion_length=%d exceed the model's context of %d tokens. Filter long "
                "prompts out, or lower max_completion_length.",
                longest,
                max_completion_length,
                context,
            )

    def observe(self, rollouts: Rollouts, needs_correctness: bool = True) -> None:
        """
        Count one more training batch.

        Args:
            rollouts ([`Rollouts`]): The gathered batch.
            needs_correctness (`bool`, *optional*, defaults to `True`): Whether a component reads what is correct.
        """
        correct = rollouts.correct if needs_correctness else torch.full((1,), 0.5)  # none of the states below
        states = {
            "no completion has a verdict: the correctness reward abstains (None) from all of them. Length rewards and "
            "histories have no effect. Check the reference answers": correct.isnan().all(),
            "every completion is wrong, so length rewards have no correct length to compare with. Use easier prompts or a stronger "
            "model, and check that the correctness reward can read the answers": (correct == 0).all(),
            "every completion is correct: they differ only in length. Use harder prompts if accuracy should rise": (
                correct == 1
            ).all(),
            "every completion is truncated: all have the same length, so length rewards carry no signal. Raise "
            "max_completion_length, and check that the tokenizer's EOS token is the one the model writes": (
                rollouts.truncated.all()
            ),
        }
        for text, holds in states.items():
            self._in_a_row[text] = self._in_a_row.get(text, 0) + 1 if holds else 0
            if self._in_a_row[text] == _WARN_AFTER:
                logger.warning("For %d batches in a row, %s.", _WARN_AFTER, text)
