# SPDX-License-Identifier: Apache-2.0
"""A part for each slot that remembers something, so that a resumed run shows whether it was restored."""

from __future__ import annotations

import random

from trl_concise import BudgetSchedule, DynamicSampling, PromptSelector, TokenCredit


class RandomSelector(PromptSelector):
    """Chooses at random, less often what came often before."""

    name = "selector"

    def __init__(self):
        self.random = random.Random(0)
        self.seen = {}

    def choose(self, candidates, count, step):
        return sorted(self.random.sample(range(len(candidates)), count))

    def observe(self, rollouts):
        for key in set(rollouts.prompt_keys):
            self.seen[key] = self.seen.get(key, 0) + 1

    def state_dict(self):
        version, internal, gauss = self.random.getstate()
        return {"seen": dict(sorted(self.seen.items())), "random": [version, list(internal), gauss]}

    def load_state_dict(self, state):
        self.seen = state["seen"]
        version, internal, gauss = state["random"]
        self.random.setstate((version, tuple(internal), gauss))


class HalfOfTheTokens(TokenCredit):
    """Keeps every other token."""

    name = "credit"

    def assign(self, rollouts, batch, advantages):
        keep = batch["completion_mask"].bool().clone()
        keep[:, 1::2] = False
        return advantages, keep


class Shrinking(BudgetSchedule):
    name = "budget"

    def max_completion_length(self, step):
        return max(3, 8 - step)


SLOTS = {
    "selector": ("prompt_selector", RandomSelector),
    "filter": ("group_filter", lambda: DynamicSampling(max_refills=2)),
    "credit": ("token_credit", HalfOfTheTokens),
    "budget": ("budget_schedule", Shrinking),
}
