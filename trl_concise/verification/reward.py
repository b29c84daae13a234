# SPDX-License-Identifier: Apache-2.0
"""Correctness as a TRL reward function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .extraction import last_boxed
from .verify import verify_and_count


def math_accuracy_reward(
    completions: list[Any],
    solution: list[Any] | None = None,
    answer: list[Any] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    r"""
    Reward function that is 1 for a right final answer and 0 for a wrong one.

    It stands where TRL's `accuracy_reward` stands, judges the same way ([`verify_answers`]) and cannot stall the run. It logs
    `verification/timeouts` and `verification/guarded` (completions per batch), `verification/fast_fraction` (share settled
    without math-verify) and `verification/seconds` (per batch).

    Args:
        completions (`list`):
            Completions as text, or as lists of messages, of which the last is read.
        solution (`list[str]`, *optional*):
            Gold answers: the dataset's `solution` column.
        answer (`list[str]`, *optional*):
            Gold answers: the dataset's `answer` column. Where a dataset has both columns, `solution` holds a worked
            solution, and `answer` is read.
        log_metric (`callable`, *optional*):
            Logs a number under a name; the trainer provides it.
        **kwargs:
            The dataset's other columns, which are not used.

    Returns:
        `list[float | None]`: 1.0, 0.0, or `None` where the gold answer is unreadable, which leaves the completion out of the
        correctness of its group.

    Raises:
        `ValueError`: If the dataset has neither column.

    Examples:
        >>> math_accuracy_reward([r"It is \boxed{\frac{2}{4}}", "3"], solution=["0.5", "4"])
        [1.0, 0.0]
    """
    golds = solution if answer is None else answer
    if golds is None:
        raise ValueError(
            "math_accuracy_reward compares with the gold answers in the dataset's column 'solution' or 'answer', and it has "
            "neither. trl_concise.load_problems makes a dataset that has one."
        )
    verdicts, tally = verify_and_count(
        ["" if gold is None or gold != gold else str(gold) for gold in golds],  # NaN is a table's way to say None
        [completion_text(completion) for completion in completions],
    )
    if log_metric is not None:
        for name, value in tally.metrics().items():
            log_metric(name, value)
    return [None if verdict is None else float(verdict) for verdict in verdicts]


# Looked for when a trainer is built, before anything is generated
math_accuracy_reward.needs_one_of = ("solution", "answer")


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """Return the text of a completion as TRL hands it to reward functions: a string, or messages."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None  # the last message; earlier ones call tools
    if isinstance(content, list):  # parts of a multimodal message
        return "".join(part.get("text", "") for part in content)
    return content or ""


def has_boxed_answer(completion: str | list[dict[str, Any]]) -> bool:
    r"""Whether a completion holds a closed `\boxed{}`, behind the last `</think>` where it has one."""
    return last_boxed(completion_text(completion).rpartition("</think>")[2]) is not None
