# SPDX-License-Identifier: Apache-2.0
"""Verdicts on final answers, and the reward function made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .extraction import Answer, final_answer, gold_answer


def verify_answers(golds: Sequence[str], completions: Sequence[str], *, timeout: float = 5.0) -> list[bool | None]:
    """Say of each completion whether its final answer equals the gold answer; `None` where the gold is unreadable."""
    import threading

    from math_verify import parse, verify

    seconds = max(1, round(timeout)) if threading.current_thread() is threading.main_thread() else None

    def read(answer: Answer) -> list:
        text = f"\\boxed{{{answer.text}}}" if answer.is_bare else answer.text
        return parse(text, parsing_timeout=seconds) if answer.text else []

    verdicts: list[bool | None] = []
    for gold, completion in zip(golds, completions, strict=True):
        parsed = read(gold_answer(gold))
        verdict = verify(parsed, read(final_answer(completion)), timeout_seconds=seconds) if parsed else None
        verdicts.append(verdict)
    return verdicts


def math_accuracy_reward(
    completions: list[Any], solution: list[Any] | None = None, answer: list[Any] | None = None, **kwargs: Any
) -> list[float | None]:
    """Reward 1 for a right final answer, 0 for a wrong one, `None` where the gold answer is unreadable."""
    golds = [str(gold) for gold in (solution if answer is None else answer)]
    texts = [item if isinstance(item, str) else item[-1]["content"] for item in completions]
    return [None if verdict is None else float(verdict) for verdict in verify_answers(golds, texts)]
