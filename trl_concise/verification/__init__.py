# SPDX-License-Identifier: Apache-2.0
"""Is this final answer equal to the gold one?"""

from __future__ import annotations

from .reward import math_accuracy_reward
from .verify import verify_answers


__all__ = ["math_accuracy_reward", "verify_answers"]
