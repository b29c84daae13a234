# SPDX-License-Identifier: Apache-2.0
"""
A curriculum by accuracy: roll out the prompts that the policy solves sometimes.

This is not from a paper. Problems that are always or never solved give no gradient, and many filter them by hand; here the
set of problems in the band changes as the policy learns. Unlike GRESO, it uses neither streaks nor adjusted probabilities.
"""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

from ..batch.rollouts import Rollouts
from ..components import PromptSelector, TrainerView
from ..state.accuracies import AccuracyHistory


class AccuracyBand(PromptSelector):
    """
    Selects prompts whose accuracy lies in a band, and those that were never visited.

    A prompt outside the band is rolled out occasionally, so that it can return. If the prompts in the band do not fill a
    batch, those nearest to the band are added.

    With the band from 0 to 1 every prompt is rolled out, in TRL's order, and the accuracies are recorded, for example for
    [`rank_by_historical_variance`].

    Args:
        low (`float`, *optional*, defaults to `0.2`):
            Lowest accuracy of the band.
        high (`float`, *optional*, defaults to `0.8`):
            Highest accuracy of the band.
        visits (`int`, *optional*, defaults to `3`):
            The accuracy of a prompt is the mean over this many latest visits.
        exploration (`float`, *optional*, defaults to `0.1`):
            Probability with which a prompt outside the band is rolled out anyway.
        seed (`int`, *optional*):
            Seed of the choices. Defaults to the trainer's `seed`.

    Attributes:
        accuracies ([`AccuracyHistory`]): Accuracies of every prompt at its visits.
    """

    name = "curriculum"

    def __init__(
        self, low: float = 0.2, high: float = 0.8, visits: int = 3, exploration: float = 0.1, seed: int | None = None
    ):
        if not 0 <= low <= high <= 1:
            raise ValueError(f"The band must lie in [0, 1], got [{low}, {high}].")
        if visits < 1:
            raise ValueError(f"visits must be at least 1, got {visits}.")
        if not 0 <= exploration <= 1:
            raise ValueError(f"exploration must lie in [0, 1], got {exploration}.")
        self.low = low
        self.high = high
        self.visits = visits
        self.exploration = exploration
        self.seed = seed
        self.accuracies = AccuracyHistory()
        self.choices = 0  # made so far; the seed and this number determine the random numbers
        self._skipped_fraction = 0.0
        self._metrics: dict[str, float] = {}

    def attach(self, trainer: TrainerView) -> None:
        if self.seed is None:
            self.seed = trainer.args.seed

    def distance(self, key: str) -> float:
        """Return how far a prompt's accuracy lies outside the band; 0 inside, or if it was never visited."""
        if key not in self.accuracies:
            return 0.0
        accuracy = fmean(self.accuracies[key][-self.visits :])
        return max(self.low - accuracy, accuracy - self.high, 0.0)

    def choose(self, candidates: list[dict[str, Any]], count: int, step: int) -> list[int]:
        rng = random.Random(f"{self.seed or 0} {self.choices}")
        self.choices += 1
        distances = [
            0.0 if rng.random() < self.exploration else self.distance(row["prompt_key"]) for row in candidates
        ]
        # Stable sort: TRL's order within the band, and among prompts at the same distance.
        chosen = sorted(range(len(candidates)), key=distances.__getitem__)[:count]
        self._skipped_fraction = 1 - count / (max(chosen) + 1)
        return sorted(chosen)

    def observe(self, rollouts: Rollouts) -> None:
        self.accuracies.update(rollouts.prompt_keys, rollouts.correct, rollouts.step)
        groups = rollouts.correct.view(-1, rollouts.num_generations).nanmean(dim=1)
        groups = groups[~groups.isnan()]
        in_band = (groups >= self.low) & (groups <= self.high)
        self._metrics = {
            "skipped_fraction": self._skipped_fraction,
            "in_band_fraction": in_band.float().mean().item(),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.accuracies.state_dict(),
            "choices": self.choices,
            "skipped_fraction": self._skipped_fraction,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = dict(state)
        self.choices, self._skipped_fraction = state.pop("choices"), state.pop("skipped_fraction")
        self.accuracies.load_state_dict(state)
