# SPDX-License-Identifier: Apache-2.0
"""
AdaptMI: worked examples of the needed skill, only for difficult questions (2025, https://huggingface.co/papers/2505.00147).

See docs/experimental/adapt_mi.md.
"""

from __future__ import annotations

from .bank import Example, SkillBank, adaptive_examples, select_examples
from .difficulty import classify_difficulty, find_rule
from .self_score import SelfScorer
from .stages import adapt


__all__ = [
    "Example",
    "SelfScorer",
    "SkillBank",
    "adapt",
    "adaptive_examples",
    "classify_difficulty",
    "find_rule",
    "select_examples",
]
