# SPDX-License-Identifier: Apache-2.0
"""How much memory a run takes on a GPU, before it is started."""

from __future__ import annotations

from .advice import largest, suggest
from .formulas import Architecture
from .plan import MemoryPlan, plan
from .settings import PlanSettings


__all__ = ["Architecture", "MemoryPlan", "PlanSettings", "largest", "plan", "suggest"]
