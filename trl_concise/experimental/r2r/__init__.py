# SPDX-License-Identifier: Apache-2.0
"""
R2R: a small model writes, and a router decides which of its tokens a large model writes instead.

From "R2R: Efficiently Navigating Divergent Reasoning Paths with Small-Large Model Token Routing" (2025,
https://huggingface.co/papers/2505.21600).
"""

from __future__ import annotations

from .labels import label_tokens
from .router import RouterConfig, TokenRouter
from .rules import EntropyRule, RandomRule, RouterRule
from .sampling import RoutedSampler, load_pair
from .training import RouterTraining, train_router


__all__ = [
    "EntropyRule",
    "RandomRule",
    "RoutedSampler",
    "RouterConfig",
    "RouterRule",
    "RouterTraining",
    "TokenRouter",
    "label_tokens",
    "load_pair",
    "train_router",
]
