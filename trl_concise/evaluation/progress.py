# SPDX-License-Identifier: Apache-2.0
"""The progress bar of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from statistics import fmean

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .completions import Completion


def describe_status(completions: Iterable[Completion]) -> str:
    """Return accuracy and mean tokens of the completions so far; empty if none is judged."""
    judged = [item for item in completions if item.correct is not None]
    if not judged:
        return ""
    return f"accuracy {fmean(i.correct is True for i in judged):.1%}, {fmean(i.tokens for i in judged):,.0f} tokens"


@contextmanager
def progress_bar(show: bool) -> Iterator[Progress]:
    """Show a bar of the completions of each problem set."""
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    columns += [TimeRemainingColumn(), TextColumn("{task.fields[status]}")]
    with Progress(*columns, disable=not show) as bar:
        yield bar
