# SPDX-License-Identifier: Apache-2.0
"""Ask a teacher, and keep every reply in a file, so that a run that is started again asks for nothing twice."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import track

from ..state.checkpoint import write_atomically
from .teachers import Conversation, Reply, Teacher


logger = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 20  # then the teacher is taken to be out of order


@dataclass
class Requests:
    """
    What asking a teacher took.

    Attributes:
        requests, resumed (`int`): Requests made in this run, and replies found in the file of an earlier one.
        retries (`int`): How often requests were repeated before they were answered.
        errors (`dict[str, int]`): Messages of the requests that failed for good.
        input_tokens, output_tokens (`int`): Tokens of all replies, those of earlier runs included.
    """

    requests: int = 0
    resumed: int = 0
    retries: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0


def collect_replies(
    conversations: Sequence[Conversation],
    keys: Sequence[str],
    teacher: Teacher,
    path: Path,
    title: str,
    progress: bool = True,
) -> tuple[list[Reply], Requests]:
    """
    Return a reply to each conversation, from the file where it holds one, and append the others to it.

    Args:
        conversations (`Sequence`): What the teacher is asked.
        keys (`Sequence[str]`): The key of each conversation, under which its reply is kept (see [`request_key`]).
        teacher ([`Teacher`]): Who is asked.
        path (`Path`): JSON Lines file of the replies.
        title (`str`): Title of the progress bar.
        progress (`bool`, *optional*, defaults to `True`): Whether to show it.

    Raises:
        `ValueError`: If the file holds something else.
        `ConnectionError`: If 20 requests in a row fail for good. What came before is in the file.
    """
    known = _read_replies(path)
    replies = {index: known[key] for index, key in enumerate(keys) if key in known}
    open_indices = [index for index in range(len(keys)) if index not in replies]
    report = Requests(requests=len(open_indices), resumed=len(replies))
    path.parent.mkdir(parents=True, exist_ok=True)
    failures_in_a_row = 0
    answers = _closable(teacher.replies([conversations[index] for index in open_indices]))
    # The answers are closed whatever happens, so that a run that stops makes no further requests.
    with closing(answers), open(path, "a", encoding="utf-8") as file:
        for position, reply in track(answers, title, total=len(open_indices), disable=not progress):
            index = open_indices[position]
            replies[index] = reply
            report.retries += reply.retries
            if reply.error is None:
                failures_in_a_row = 0
                file.write(json.dumps({"key": keys[index], "teacher": teacher.name} | _as_record(reply)) + "\n")
                file.flush()  # a crash loses nothing that was paid for
                continue
            report.errors[reply.error] = report.errors.get(reply.error, 0) + 1
            failures_in_a_row += 1
            if failures_in_a_row == MAX_FAILURES_IN_A_ROW:
                raise ConnectionError(
                    f"{MAX_FAILURES_IN_A_ROW} requests to {teacher.name} failed in a row, the last one with: {reply.error}. "
                    f"The replies so far are in {path}; start again to ask for the rest."
                )
    report.input_tokens = sum(reply.input_tokens for reply in replies.values())
    report.output_tokens = sum(reply.output_tokens for reply in replies.values())
    return [replies[index] for index in range(len(keys))], report


def request_key(conversation: Conversation, teacher: Teacher, sample: int | None = None) -> str:
    """Return a digest of all that the reply depends on; `sample` numbers the replies to the same conversation."""
    parts = [teacher.name, teacher.config(), conversation, *([sample] if sample is not None else [])]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def describe_requests(report: Any) -> list[str]:
    """Return lines with the requests, tokens, price and errors of a report that has the fields of [`Requests`], `cost` and `seconds`."""
    return [
        f"{report.requests} requests, {report.retries} retries, {report.resumed} replies of earlier runs, {report.seconds:.0f} s",
        f"{report.input_tokens:,} input and {report.output_tokens:,} output tokens"
        + (f", price {report.cost:.4f}" if report.cost is not None else ""),
        *(f"failed {count} times: {error}" for error, count in report.errors.items()),
    ]


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return counts as text, for example `3 truncated, 1 empty`."""
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "none"


def _closable(answers: Iterable[tuple[int, Reply]]) -> Generator[tuple[int, Reply], None, None]:
    """The same answers; `close` is handed on where they have it, which a teacher's need not."""
    yield from answers


def _as_record(reply: Reply) -> dict[str, Any]:
    left_out = ("retries", "error", *([] if reply.reasoning else ["reasoning"]))
    return {name: value for name, value in asdict(reply).items() if name not in left_out}


def _read_replies(path: Path) -> dict[str, Reply]:
    """Read the file of an earlier run, and cut off a last line that it did not come to finish."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        logger.warning("%s: the last line is incomplete and is asked for again.", path)
        write_atomically(path, whole)
    replies = {}
    for number, line in enumerate(whole.decode("utf-8").split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
            key, _ = record.pop("key"), record.pop("teacher")
            replies[key] = Reply(**record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}, line {number}, is not a reply of an earlier run ({error}). Name another file."
            ) from error
    return replies
