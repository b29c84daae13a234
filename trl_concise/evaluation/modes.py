# SPDX-License-Identifier: Apache-2.0
"""Accuracy and tokens of the completions that thought before their answer, next to those that answered directly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def has_modes(record: Mapping[str, Any]) -> bool:
    """Return whether it is known how many completions thought."""
    return record.get("thinking_fraction") is not None


def shows_modes(records: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether some completion of a known mode answered directly: where all thought, the modes say nothing new."""
    return any(has_modes(record) and record["thinking_fraction"] < 1 for record in records)


def describe_modes(record: Mapping[str, Any]) -> str:
    """
    Return the share of completions that thought, and accuracy and tokens of both modes in short.

    Examples:
        >>> figures = {"thinking_fraction": 0.25, "thinking_accuracy": 0.9, "thinking_tokens_mean": 80.0}
        >>> describe_modes({**figures, "direct_accuracy": 0.8, "direct_tokens_mean": 25.04})
        '25.0% (90.0%, 80.0 | 80.0%, 25.0)'
        >>> describe_modes({**figures, "thinking_fraction": 1.0, "direct_accuracy": None, "direct_tokens_mean": None})
        '100.0% (90.0%, 80.0 | -)'
    """
    if not has_modes(record):
        return "-"
    modes = []
    for mode in ("thinking", "direct"):
        accuracy, tokens = record.get(f"{mode}_accuracy"), record.get(f"{mode}_tokens_mean")
        modes.append(f"{accuracy:.1%}, {tokens:,.1f}" if accuracy is not None and tokens is not None else "-")
    return f"{record['thinking_fraction']:.1%} ({' | '.join(modes)})"
