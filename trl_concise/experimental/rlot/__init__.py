# SPDX-License-Identifier: Apache-2.0
"""
RLoT: a small network, the navigator, chooses the next block of reasoning of a frozen model (2025, https://huggingface.co/papers/2505.14140).

See docs/experimental/rlot.md.
"""

from __future__ import annotations

from .calls import FrozenModel
from .environment import Blocks, ReasoningEnvironment, StateReader
from .navigator import Navigator, NavigatorConfig
from .training import make_policy, run_policy, train_navigator


__all__ = [
    "Blocks",
    "FrozenModel",
    "Navigator",
    "NavigatorConfig",
    "ReasoningEnvironment",
    "StateReader",
    "make_policy",
    "run_policy",
    "train_navigator",
]
