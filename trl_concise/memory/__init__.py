# SPDX-License-Identifier: Apache-2.0
"""Estimated GPU memory of a training run, computed before the run starts."""

from __future__ import annotations

from .advice import largest, suggest
from .formulas import Architecture
from .plan import MemoryPlan, expected, plan
from .settings import PlanSettings


__all__ = ["Architecture", "MemoryPlan", "PlanSettings", "expected", "largest", "plan", "suggest"]
