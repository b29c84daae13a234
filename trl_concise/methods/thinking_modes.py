# SPDX-License-Identifier: Apache-2.0
"""What methods that learn when to think share: whether a completion thought, figures of both modes, and the prompt with an ellipsis."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..batch.rollouts import LocalRollouts, Rollouts
from ..verification.finished import MARKERS, ThinkingMarkers, has_thought, opens_reasoning, prompt_opens_reasoning


ELLIPSIS = "...\n"


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


def add_ellipsis(tokenizer: PreTrainedTokenizerBase, markers: ThinkingMarkers = MARKERS) -> None:
    r"""
    Let the chat template's generation prompt end with `<think>\n...\n`, in place. A template that does so already is not changed.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): One whose chat template opens the thinking.
        markers ([`ThinkingMarkers`], *optional*): The texts around the thinking.

    Raises:
        `ValueError`: If it has no chat template, or one that does not.
    """
    probe = [{"role": "user", "content": "6 * 7?"}]
    template, prompt = tokenizer.chat_template or "", ""
    if template:
        prompt = str(tokenizer.apply_chat_template(probe, add_generation_prompt=True, tokenize=False))
    if not opens_reasoning(prompt, markers=markers):
        given = (
            f"The chat template ends a prompt with {prompt[-40:]!r}"
            if template
            else "The tokenizer has no chat template"
        )
        raise ValueError(
            f"{given}, so no prompt ends with {markers.start!r}. AutoThink needs a model whose template opens the thinking, such as "
            "DeepSeek-R1's: use another model, or set another chat template."
        )
    if not prompt.endswith(ELLIPSIS):
        tail = ELLIPSIS if prompt.endswith("\n") else "\n" + ELLIPSIS
        tokenizer.chat_template = template + "{% if add_generation_prompt %}{{ " + repr(tail) + " }}{% endif %}"
