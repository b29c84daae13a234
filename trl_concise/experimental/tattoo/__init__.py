# SPDX-License-Identifier: Apache-2.0
"""
TaTToo, scope A: the claims in the steps of a solution, checked by tools, as a reward and as a score (2025,
https://huggingface.co/papers/2510.06217).

The labels of steps come from tools alone, and no verifier is trained. Which claims are read, how they become labels, and the score are
RECONSTRUCTIONS; [`tool_grounded_step_rewards`] is the reward with which the paper trains a verifier.
"""

from __future__ import annotations

from .claims import Claim, check_claim, find_claims
from .labels import Step, label_steps, mean_label, step_tool_reward, tool_grounded_step_rewards, tool_support
from .table import Table
from .verify import verify_steps


__all__ = [
    "Claim",
    "Step",
    "Table",
    "check_claim",
    "find_claims",
    "label_steps",
    "mean_label",
    "step_tool_reward",
    "tool_grounded_step_rewards",
    "tool_support",
    "verify_steps",
]
