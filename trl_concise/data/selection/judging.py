# SPDX-License-Identifier: Apache-2.0
"""Judges of questions and traces: difficulty with a file of earlier judgments, and a teacher that accepts or rejects traces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from .texts import digest


if TYPE_CHECKING:
    from ..teachers import Teacher

QUESTIONS_AT_ONCE = 256
ACCEPT_PROMPT = (  # ours
    "Problem:\n{question}\n\nSolution:\n{trace}\n\nIs this solution correct and complete? Check each step, then answer in the last line "
    "with Yes or No only."
)


def judge_difficulty(
    judge: Callable[[Sequence[str]], Sequence[float]], name: str, questions: Iterable[str], path: Path
) -> Iterator[float]:
    """
    Yield the difficulty of each question: from a file of earlier judgments, or from the judge, whose judgments are added to it.

    Args:
        judge (`Callable`): Returns the difficulties of questions, for example a [`DifficultyJudge`].
        name (`str`): Name of the judge; judgments of another one are not used.
        questions (`Iterable[str]`): The questions, read 256 at a time.
        path (`Path`): JSON Lines file. A run that was interrupted continues with it.
    """
    known = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                known[str(row["key"])] = float(row["difficulty"])
            except (ValueError, KeyError, TypeError):
                continue  # the last line of an interrupted run
    path.parent.mkdir(parents=True, exist_ok=True)
    iterator = iter(questions)
    with path.open("a", encoding="utf-8") as file:
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            file.write("\n")
        while chunk := list(islice(iterator, QUESTIONS_AT_ONCE)):
            keys = [digest(name, question) for question in chunk]
            missing = {key: question for key, question in zip(keys, chunk, strict=True) if key not in known}
            for key, difficulty in zip(missing, judge(list(missing.values())), strict=True):
                known[key] = difficulty
                file.write(json.dumps({"key": key, "difficulty": difficulty}) + "\n")
            file.flush()
            yield from (known[key] for key in keys)


def accept_traces(teacher: Teacher, pairs: Sequence[tuple[str, str]], path: Path) -> list[bool | None]:
    """
    Ask a teacher whether solutions are correct. Replies are kept in a file, and what is there is not asked for again.

    Args:
        teacher ([`Teacher`]): The judge, for example an [`APITeacher`].
        pairs (`Sequence[tuple[str, str]]`): Question and trace.
        path (`Path`): JSON Lines file of the replies. A run that was interrupted continues with it.

    Returns:
        `list[bool | None]`: Whether the last Yes or No of the reply is Yes; `None` where the request failed for good.

    Raises:
        `ConnectionError`: If every request fails, or 20 in a row.
        `ValueError`: If the file holds something else, or the endpoint refuses every request.
    """
    from ..replies import collect_replies, request_key

    conversations = [
        [{"role": "user", "content": ACCEPT_PROMPT.format(question=question, trace=trace)}]
        for question, trace in pairs
    ]
    keys = [request_key(conversation, teacher) for conversation in conversations]
    replies, requests = collect_replies(conversations, keys, teacher, path, "Judgments", progress=False)
    accepted: list[bool | None] = []
    for reply in replies:
        words = re.findall(r"\b(yes|no)\b", reply.text.lower())
        verdict = bool(words) and words[-1] == "yes" and reply.complete
        accepted.append(None if reply.error is not None else verdict)
    if requests.errors and set(accepted) == {None}:
        raise ConnectionError(
            f"The judge {teacher.name!r} answered no request. The first error: {next(iter(requests.errors))}."
        )
    return accepted
