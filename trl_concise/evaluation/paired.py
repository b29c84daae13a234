# SPDX-License-Identifier: Apache-2.0
"""Figures of two models on the same problems, with intervals from a bootstrap that draws the same problems of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


RESAMPLES = 10_000


def paired_figures(
    accuracy: Sequence[float],
    other_accuracy: Sequence[float],
    tokens: Sequence[float],
    other_tokens: Sequence[float],
) -> dict[str, Any]:
    """
    Compare accuracy and tokens of the same problems under two models.

    Args:
        accuracy, other_accuracy (`Sequence[float]`): Share of correct completions of each problem, in [0, 1].
        tokens, other_tokens (`Sequence[float]`): Mean tokens of each problem.

    Returns:
        `dict[str, Any]`: `problems`, `accuracy` and `tokens` (means of both), `accuracy_difference`, `token_difference` (second minus
        first) and `token_ratio`, each with `_interval` (95 %, one paired bootstrap over problems with 10,000 draws), and `loss_class`:
        `"lossless"` for a loss of at most 1 point, `"fair"` below 3, otherwise `"risky"`.

    Examples:
        >>> found = paired_figures([1, 1, 0.5, 0], [1, 0.5, 0.5, 0], [100, 120, 200, 400], [110, 150, 210, 380])
        >>> found["accuracy_difference"], found["token_difference"], found["loss_class"]
        (-0.125, 7.5, 'risky')
    """
    values = np.array([accuracy, other_accuracy, tokens, other_tokens], dtype=float)  # (4, P)
    count = values.shape[1]
    if not count:
        raise ValueError("A comparison needs at least one problem.")
    random = np.random.default_rng(0)
    means = np.empty((RESAMPLES, 4))
    for start in range(0, RESAMPLES, 1000):  # 1,000 draws at a time: little memory for thousands of problems
        draws = random.integers(count, size=(1000, count))
        means[start : start + 1000] = values[:, draws].mean(axis=2).T
    a, b, t, u = values.mean(axis=1)
    drawn = {
        "accuracy_difference": means[:, 1] - means[:, 0],
        "token_difference": means[:, 3] - means[:, 2],
        "token_ratio": means[:, 3] / means[:, 2],
    }
    intervals = {f"{name}_interval": np.quantile(found, [0.025, 0.975]).tolist() for name, found in drawn.items()}
    return {
        "problems": count,
        "accuracy": [float(a), float(b)],
        "tokens": [float(t), float(u)],
        "accuracy_difference": float(b - a),
        "token_difference": float(u - t),
        "token_ratio": float(u / t),
        **intervals,
        "loss_class": loss_class(100 * float(a - b)),
    }


def loss_class(points: float) -> str:
    """
    Return the class of a loss of accuracy in points.

    Examples:
        >>> [loss_class(points) for points in (-0.2, 0.9, 1.0, 2.4, 3.0)]
        ['lossless', 'lossless', 'lossless', 'fair', 'risky']
    """
    points = round(points, 9)  # 1 point from two means is 1
    return "lossless" if points <= 1 else "fair" if points < 3 else "risky"
