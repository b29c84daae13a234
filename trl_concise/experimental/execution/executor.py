# SPDX-License-Identifier: Apache-2.0
"""What an executor of code blocks is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple


OK = "ok"  # every other status is a failure
FAILED = "error"  # the code raised; a process can also end as "timeout", "killed" or "output"
LONGEST_OUTPUT = 800  # characters
KEPT_OUTPUT = 400  # of a longer output, at either end

# The earlier blocks of a completion that were executed without a failure, then the new one -> output and status of the new one.
Executor = Callable[[Sequence[str]], tuple[str, str]]


class Outcome(NamedTuple):
    """
    What became of a block.

    Attributes:
        output (`str`): What it printed, and the error if it failed.
        status (`str`): `"ok"`, or why it failed.
    """

    output: str
    status: str

    @property
    def failed(self) -> bool:
        """Whether the block failed."""
        return self.status != OK


def execute(executor: Executor, blocks: Sequence[str]) -> Outcome:
    """
    Execute the last of some blocks, after the earlier ones.

    Args:
        executor ([`Executor`]): Any callable of the blocks that returns output and status.
        blocks (`Sequence[str]`): At least one block of code.

    Raises:
        `TypeError`: If the executor returns something else than two texts.
    """
    returned = executor(list(blocks))
    if not (isinstance(returned, tuple) and len(returned) == 2 and all(isinstance(part, str) for part in returned)):
        raise TypeError(
            f"The executor {type(executor).__name__} returned {returned!r}. Return a tuple of two texts: the output, and the status, which "
            f'is "{OK}" unless the block failed.'
        )
    return Outcome(*returned)


def execute_all(executor: Executor, jobs: Sequence[Sequence[str]]) -> list[Outcome]:
    """
    Execute a block for each of several completions, in parallel if the executor has an attribute `workers` above 1.

    Args:
        executor ([`Executor`]): See [`execute`].
        jobs (`Sequence[Sequence[str]]`): Blocks of each completion.

    Returns:
        `list[Outcome]`: In the order of the jobs.
    """
    workers = min(getattr(executor, "workers", 1), len(jobs))
    if workers <= 1:
        return [execute(executor, blocks) for blocks in jobs]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda blocks: execute(executor, blocks), jobs))


def shorten(output: str) -> str:
    """
    Return the first and the last 400 characters of an output that has more than 800.

    Examples:
        >>> [len(shorten("x" * length)) for length in (800, 801, 1000)]
        [800, 803, 803]
    """
    if len(output) <= LONGEST_OUTPUT:
        return output
    return f"{output[:KEPT_OUTPUT]}...{output[-KEPT_OUTPUT:]}"
