# SPDX-License-Identifier: Apache-2.0
"""What methods that learn when to think measure: whether a completion thought, and accuracy and tokens with and without thinking."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..batch.rollouts import LocalRollouts, Rollouts
from ..verification.finished import MARKERS, ThinkingMarkers, has_thought, prompt_opens_reasoning


def read_thoughts(
    local: LocalRollouts, tokenizer: PreTrainedTokenizerBase, markers: ThinkingMarkers = MARKERS
) -> tuple[list[str], list[bool | None]]:
    """
    Return the texts of this process's completions, with special tokens, and whether each thought.

    Args:
        local ([`LocalRollouts`]): This process's rows.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The policy's.
        markers ([`ThinkingMarkers`], *optional*): The texts around the reasoning.

    Returns:
        `tuple[list[str], list[bool | None]]`: See [`has_thought`].
    """
    texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in local.completion_ids]
    opened = [prompt_opens_reasoning(tokenizer, ids, markers=markers) for ids in local.prompt_ids]
    thoughts = [
        has_thought(text, reasoning_opened=is_open, markers=markers)
        for text, is_open in zip(texts, opened, strict=True)
    ]
    return texts, thoughts


def mode_metrics(rollouts: Rollouts, is_direct: Tensor) -> dict[str, float]:
    """Return mean accuracy and tokens of direct answers and of completions that thought, NaN for a mode without completions."""
    metrics = {}
    for mode, is_own in (("direct", is_direct), ("thinking", ~is_direct)):
        metrics[f"{mode}_accuracy"] = rollouts.correct[is_own].nanmean().item()
        metrics[f"{mode}_tokens"] = rollouts.lengths[is_own].float().mean().item()
    return metrics
