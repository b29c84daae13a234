# SPDX-License-Identifier: Apache-2.0
"""Check whether a final answer equals the reference answer."""

from __future__ import annotations

from .reward import math_accuracy_reward
from .verify import verify_answers


__all__ = ["math_accuracy_reward", "verify_answers"]
