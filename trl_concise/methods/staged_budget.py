# SPDX-License-Identifier: Apache-2.0
"""[`StagedBudget`]: a generation limit that changes in stages, as in CAMPO, AutoThink and VibeThinker."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from ..batch.rollouts import Rollouts
from ..components import BudgetSchedule


class StagedBudget(BudgetSchedule):
    """
    A generation limit for each stage of the training. It may grow or shrink from stage to stage.

    The component has no state: the stage is computed from the step, so a resumed run continues in the right one.

    Args:
        limits (`Sequence[int]`):
            Limit of each stage, in tokens.
        steps (`Sequence[int]`):
            Optimizer steps of each stage but the last, which lasts until the end of the run.

    Raises:
        `ValueError`: If there is not one limit more than steps, or a number is below 1.

    Examples:
        >>> budget = StagedBudget(limits=[16384, 32768, 49152], steps=[1200, 400])
        >>> [budget.max_completion_length(step) for step in (0, 1199, 1200, 1600, 9999)]
        [16384, 16384, 32768, 49152, 49152]
    """

    name = "staged_budget"
    needs_correctness = False
    longest: int

    def __init__(self, limits: Sequence[int], steps: Sequence[int]):
        self.limits, self.steps = list(limits), list(steps)
        if len(self.limits) != len(self.steps) + 1:
            raise ValueError(
                f"limits must have one more value than steps, got {self.limits} and {self.steps}: the last stage lasts until the end."
            )
        if min(self.limits + self.steps) < 1:
            raise ValueError(
                f"limits must be at least 1 token and steps at least 1 step, got {self.limits} and {self.steps}. Remove stages "
                "without steps."
            )
        self.longest = max(self.limits)

    def config(self) -> dict[str, Any]:
        return {"limits": self.limits, "steps": self.steps}

    def stage(self, step: int) -> int:
        """Return the stage, from 0, after this many optimizer steps."""
        return sum(step >= end for end in accumulate(self.steps))

    def max_completion_length(self, step: int) -> int:
        return self.limits[self.stage(step)]

    def observe(self, rollouts: Rollouts) -> None:
        self._metrics = {
            "stage": self.stage(rollouts.step),
            "budget": self.max_completion_length(rollouts.step),
            "truncated_fraction": rollouts.truncated.float().mean().item(),
        }
