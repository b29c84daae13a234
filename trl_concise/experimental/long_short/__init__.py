# SPDX-License-Identifier: Apache-2.0
"""
Long(x)Short: a long policy thinks about the important steps, a short policy completes the rest or returns the problem
(Ning et al., 2025, https://huggingface.co/papers/2505.11827).

Each policy is fine-tuned on its own style, then trained with GRPO while the other one is frozen. Compared with the authors' code
(https://github.com/usail-hkust/LongShort @ 4101257), whose training code does not run; docs/experimental/long_short.md numbers the differences and
what is reconstructed.
"""

from __future__ import annotations

from .evaluation import DialogueSettings, evaluate_dialogues
from .rewards import LongShortLengthReward, long_short_accuracy, long_short_format, with_readable_answers
from .rollout import LongShortRollout
from .traces import block_scores, check_blocks, chunk_trace, split_steps
from .turns import Dialogue, Turn, is_well_formed, play_dialogue


__all__ = [
    "Dialogue",
    "DialogueSettings",
    "LongShortLengthReward",
    "LongShortRollout",
    "Turn",
    "block_scores",
    "check_blocks",
    "chunk_trace",
    "evaluate_dialogues",
    "is_well_formed",
    "long_short_accuracy",
    "long_short_format",
    "play_dialogue",
    "split_steps",
    "with_readable_answers",
]
