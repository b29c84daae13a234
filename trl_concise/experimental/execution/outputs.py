# SPDX-License-Identifier: Apache-2.0
"""Comparison of what programs print."""

from __future__ import annotations

import math


def normalize_output(text: str) -> str:
    r"""
    Remove white space at the end of each line, and empty lines at the end.

    Examples:
        >>> normalize_output("1 2\n3 \n\n")
        '1 2\n3'
    """
    return "\n".join(line.rstrip() for line in text.split("\n")).rstrip("\n")


def same_output(one: str, other: str, float_tolerance: float | None = None) -> bool:
    """
    Compare two outputs after [`normalize_output`].

    Args:
        one, other (`str`): Outputs.
        float_tolerance (`float`, *optional*): Largest absolute or relative difference of two tokens that are both numbers. Default: texts
            must be equal.

    Examples:
        >>> same_output("1.0", "1.00"), same_output("1.0", "1.00", 1e-6)
        (False, True)
    """
    one, other = normalize_output(one), normalize_output(other)
    if one == other or float_tolerance is None:
        return one == other
    pairs = [tuple(line.split() for line in lines) for lines in zip(one.split("\n"), other.split("\n"), strict=False)]
    return one.count("\n") == other.count("\n") and all(
        len(left) == len(right) and all(_close(a, b, float_tolerance) for a, b in zip(left, right, strict=True))
        for left, right in pairs
    )


def _close(one: str, other: str, tolerance: float) -> bool:
    if one == other:
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False
