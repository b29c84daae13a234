# SPDX-License-Identifier: Apache-2.0
"""Build critiques from candidate solutions and reference answers, and keep those that are true."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value

from ..verification import verify_answers
from ..verification.extraction import last_boxed
from .critiques import TEACHER_PROMPTS, TeacherPrompt, critique_verdict
from .replies import collect_replies, describe_counts, describe_requests, request_key
from .rows import read_column, read_generations
from .teachers import Reply, Teacher


_FEATURES = Features(
    {name: Value("string") for name in ("question", "solution", "critique")}
    | {"verdict": Value("bool"), "teacher": Value("string")}
)


@dataclass(frozen=True)
class _Candidate:
    question: str
    solution: str
    answer: str | None  # gold
    correct: bool | None = None


@dataclass
class CritiqueReport:
    """
    What became of the candidates.

    Args:
        candidates (`int`): Distinct candidate solutions.
        kept (`dict[str, int]`): Critiques kept, by the verdict: `"right"`, `"wrong"`, `"none"`.
        dropped (`dict[str, int]`): Candidates without a critique in the end, by the reason: `"empty_solution"`,
            `"unreadable_gold"`, `"failed"`, `"truncated"`, `"empty"`, `"no_verdict"`, `"verdict_disagrees"`, `"no_corrected_answer"`,
            `"corrected_answer_disagrees"`.
        requests, resumed (`int`): Requests made in this run, and replies found in the file of an earlier one.
        retries (`int`): How often requests were repeated before they were answered.
        errors (`dict[str, int]`): Messages of the requests that failed for good.
        input_tokens, output_tokens (`int`): Tokens of all replies, those of earlier runs included.
        cost (`float`, *optional*): Their price, if the teacher knows it.
        seconds (`float`): Time this run took.
    """

    candidates: int
    kept: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    resumed: int = 0
    retries: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [
            f"{sum(self.kept.values())} critiques kept of {self.candidates} candidates ({describe_counts(self.kept)})",
            f"dropped: {describe_counts(self.dropped)}",
            *describe_requests(self),
        ]
        return "\n".join(lines)


def build_critiques(
    rows: Iterable[Mapping[str, Any]],
    teacher: Teacher,
    path: str | Path,
    *,
    prompt: str | TeacherPrompt = "one_shot",
    verified_only: bool = True,
    progress: bool = True,
) -> tuple[Dataset, CritiqueReport]:
    r"""
    Ask a teacher for critiques of candidate solutions, and keep those whose verdict is true.

    A critique is kept if its verdict agrees with whether the solution's final answer equals the gold one, and if the answer
    that it boxes for a wrong solution, where the prompt asks for one, equals it too. That is a reconstruction of the filter
    of the one-problem paper (https://huggingface.co/papers/2506.03295), which is not public; 2501.17703 filters nothing:
    `verified_only=False`. A critique that was cut is never kept.

    Every reply is appended to `path` as it comes. A run that is started again with the same arguments asks only for what is
    missing, requests that failed included.

    Args:
        rows (`Iterable[Mapping[str, Any]]`):
            Candidates: `question` (or `problem`), `answer` (the gold answer; not needed with `verified_only=False`), and
            `generations` (a list of texts) or `solution` (one text). Where both are there, as in OpenR1-Math, the solution
            is the reference, and is not asked about. A candidate that comes twice for one question is asked about once.
        teacher ([`APITeacher`], [`LocalTeacher`] or another [`Teacher`]):
            Who writes the critiques. Call this function once per teacher, with a file for each.
        path (`str` or `Path`):
            JSON Lines file of the replies.
        prompt (`str` or [`TeacherPrompt`], *optional*, defaults to `"one_shot"`):
            What the teacher is asked: `"one_shot"`, `"one_shot_logic"` and `"cft"` are the authors' words.
        verified_only (`bool`, *optional*, defaults to `True`):
            Whether critiques are filtered.
        progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `tuple[Dataset, CritiqueReport]`: The critiques kept, in the order of `rows`, with the columns `question`,
        `solution`, `critique`, `verdict` and `teacher`; and what became of the rest.

    Raises:
        `ValueError`: If a row lacks a column, its `generations` are not a list of texts, the prompt is unknown, or the file
            holds something else.
        `ConnectionError`: If 20 requests in a row fail for good. What came before is in the file.

    Example:

    ```python
    >>> rows = [{"question": "1+1=?", "answer": "2", "generations": [r"\boxed{2}", r"\boxed{3}"]}]
    >>> critiques, report = build_critiques(rows, APITeacher("gpt-4.1-mini"), "critiques.jsonl")
    >>> print(report)
    ```
    """
    started = time.perf_counter()
    if isinstance(prompt, str):
        if prompt not in TEACHER_PROMPTS:
            raise ValueError(f"prompt must be a TeacherPrompt or one of {list(TEACHER_PROMPTS)}, got {prompt!r}.")
        prompt = TEACHER_PROMPTS[prompt]
    candidates = _read_candidates(rows, verified_only)
    report = CritiqueReport(len(candidates))
    dropped = Counter(empty_solution=sum(not candidate.solution.strip() for candidate in candidates))
    candidates = [candidate for candidate in candidates if candidate.solution.strip()]
    if verified_only:
        verdicts = verify_answers([c.answer or "" for c in candidates], [c.solution for c in candidates])
        dropped["unreadable_gold"] = verdicts.count(None)
        judged = zip(candidates, verdicts, strict=True)
        candidates = [replace(candidate, correct=verdict) for candidate, verdict in judged if verdict is not None]

    conversations = [prompt.messages(candidate.question, candidate.solution) for candidate in candidates]
    keys = [request_key(conversation, teacher) for conversation in conversations]
    replies, requests = collect_replies(conversations, keys, teacher, Path(path), "Critiques", progress)
    faults = (
        _find_faults(candidates, replies, prompt.asks_for_answer) if verified_only else map(_describe_fault, replies)
    )
    kept = []
    for candidate, reply, fault in zip(candidates, replies, faults, strict=True):
        if fault is not None:
            dropped[fault] += 1
            continue
        row: dict[str, Any] = {"question": candidate.question, "solution": candidate.solution, "critique": reply.text}
        kept.append(row | {"verdict": critique_verdict(reply.text), "teacher": teacher.name})
    names = {True: "right", False: "wrong", None: "none"}
    report.kept = dict(Counter(names[row["verdict"]] for row in kept))
    report.dropped = {reason: count for reason, count in dropped.items() if count}
    for name, value in asdict(requests).items():
        setattr(report, name, value)
    report.cost = teacher.cost(report.input_tokens, report.output_tokens)
    report.seconds = time.perf_counter() - started
    return Dataset.from_dict({name: [row[name] for row in kept] for name in _FEATURES}, features=_FEATURES), report


def _read_candidates(rows: Iterable[Mapping[str, Any]], verified_only: bool) -> list[_Candidate]:
    """Return the distinct candidates, in order."""
    candidates: dict[_Candidate, None] = {}
    for index, row in enumerate(rows):
        question, answer, solution = (read_column(row, name) for name in ("question", "answer", "solution"))
        question = question if question is not None else read_column(row, "problem")
        solutions = [solution] if solution is not None else None
        if read_column(row, "generations") is not None:  # a solution next to them is the reference
            solutions = [text for text in read_generations(row, "generations") if text is not None]
        needed = {"question": question, "solution": solutions} | ({"answer": answer} if verified_only else {})
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            raise ValueError(
                f"Row {index} has no {missing}. A candidate needs `question` (or `problem`), `generations` (or `solution`) "
                f"and, to be verified, `answer`; the row has {list(row)}."
            )
        for solution in solutions or ():
            candidates[_Candidate(question, solution, str(answer) if answer is not None else None)] = None
    return list(candidates)


def _describe_fault(reply: Reply) -> str | None:
    """Return why a reply is of no use, whatever it says."""
    if reply.error is not None:
        return "failed"
    if not reply.complete:
        return "truncated"
    return None if reply.text.strip() else "empty"


def _find_faults(candidates: list[_Candidate], replies: list[Reply], asks_for_answer: bool) -> list[str | None]:
    """Return why each critique is dropped, `None` for those that are kept."""
    faults = [_describe_fault(reply) for reply in replies]
    corrections: list[int] = []  # critiques whose own answer remains to be checked
    for index, (candidate, reply) in enumerate(zip(candidates, replies, strict=True)):
        if faults[index] is not None:
            continue
        verdict = critique_verdict(reply.text)
        if verdict is None:
            faults[index] = "no_verdict"
        elif verdict != candidate.correct:
            faults[index] = "verdict_disagrees"
        elif asks_for_answer and not verdict:
            if last_boxed(reply.text):
                corrections.append(index)
            else:
                faults[index] = "no_corrected_answer"
    golds, answers = [candidates[i].answer or "" for i in corrections], [replies[i].text for i in corrections]
    for index, right in zip(corrections, verify_answers(golds, answers), strict=True):
        if not right:
            faults[index] = "corrected_answer_disagrees"
    return faults
