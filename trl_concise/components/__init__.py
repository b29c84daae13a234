# SPDX-License-Identifier: Apache-2.0
"""The interfaces of components, and the trainer's slots for them."""

from __future__ import annotations

from .base import Component, Paper, Stateful, TrainerView
from .kinds import DIVISORS, Advantage, BudgetSchedule, GroupFilter, GroupReward, PromptSelector, Rollout, TokenCredit


__all__ = [
    "DIVISORS",
    "Advantage",
    "BudgetSchedule",
    "Component",
    "GroupFilter",
    "GroupReward",
    "Paper",
    "PromptSelector",
    "Rollout",
    "Stateful",
    "TokenCredit",
    "TrainerView",
]
