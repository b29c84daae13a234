# SPDX-License-Identifier: Apache-2.0
"""Whether traces are correct: by columns of verdicts, or against the reference answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...verification import verify_answers
from ...verification.extraction import final_answer
from ..columns import RowError
from ..rows import read_column


def read_verdicts(row: Mapping[str, Any], column: str, traces: int) -> list[bool] | None:
    """
    Verdicts of a column on the traces of a row; `None` if it has not one for each.

    Args:
        row (`Mapping[str, Any]`): The row.
        column (`str`): Column with one verdict, or a list of verdicts: booleans or numbers. `None` counts as incorrect.
        traces (`int`): Number of traces.

    Raises:
        `RowError`: If a verdict is something else.
    """
    value = read_column(row, column)
    verdicts = list(value) if isinstance(value, (list, tuple)) else [value]
    for verdict in verdicts:
        if verdict is not None and not isinstance(verdict, (int, float)):  # "No" would count as true
            raise RowError(column, f"holds the verdict {verdict!r:.40}, which is not a boolean or a number")
    return [verdict == verdict and bool(verdict) for verdict in verdicts] if len(verdicts) == traces else None


def verify_traces(
    references: Sequence[str], traces: Sequence[Sequence[str]], *, timeout: float = 5.0
) -> list[list[bool | None]]:
    """
    Verify several traces per reference answer.

    Args:
        references (`Sequence[str]`): One reference answer per problem.
        traces (`Sequence[Sequence[str]]`): Traces of each problem.
        timeout (`float`, *optional*, defaults to `5.0`): Seconds that the verification of one trace may take.

    Returns:
        `list[list[bool | None]]`: Whether each trace is correct; `None` if the reference answer cannot be read.
    """
    pairs = [(reference, trace) for reference, texts in zip(references, traces, strict=True) for trace in texts]
    verdicts = iter(verify_answers([gold for gold, _ in pairs], [trace for _, trace in pairs], timeout=timeout))
    return [[next(verdicts) for _ in texts] for texts in traces]


def has_final_answer(trace: str) -> bool:
    """Whether a trace states a final answer: not, for example, one that was truncated while it reasoned."""
    if "<think>" in trace and "</think>" not in trace:
        return False
    return bool(final_answer(trace).text)
