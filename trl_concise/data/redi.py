# SPDX-License-Identifier: Apache-2.0
"""
Correct and incorrect traces for the two stages of REDI (https://huggingface.co/papers/2505.24850).

The rules and their order are those of the authors' scripts (Tim-Siu/reinforcement-distillation @ dda07d2,
experiments_trl/data_preprocess). Three things are different here: rows without verdicts are verified, problems with
traces of one kind only give single traces, and the length of a trace is that of its text, without a chat template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..verification import verify_answers
from .problems import as_messages
from .rows import read_column, read_generations


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OUTPUTS = ("pairs", "positives", "single")
OPENR1_VERDICTS = ("correctness.llama_verification", "correctness.math_verify_reparsed_answer")
ROWS_AT_ONCE = 64  # verified together; the most that is held in memory


@dataclass
class REDIReport:
    """
    Counts of the rows read so far, written and dropped.

    Args:
        rows (`int`): Rows read.
        written (`int`): Examples written.
        dropped (`Counter[str]`): How many rows each rule dropped. A row is dropped by the first rule that applies; with
            `output="single"`, each of its two traces may be too long by itself.
    """

    rows: int = 0
    written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        dropped = [(f"dropped: {rule}", count) for rule, count in self.dropped.most_common()]
        lines = [("rows read", self.rows), *dropped, ("examples written", self.written)]
        return "\n".join(f"{name:<52}{count:>12,}" for name, count in lines)


@dataclass
class REDIPairs:
    """
    Examples built while one iterates, in the order of the rows; see [`build_redi_pairs`].

    Attributes:
        report ([`REDIReport`]): What became of the rows that this iteration has read so far.
    """

    rows: Iterable[dict[str, Any]]
    output: str
    tokenizer: PreTrainedTokenizerBase | None
    max_prompt_length: int
    max_completion_length: int
    exclude_sources: Sequence[str]
    problem_column: str
    answer_column: str
    generations_column: str
    verdict_columns: tuple[str, ...]
    system_prompt: str | None
    timeout: float
    report: REDIReport = field(default_factory=REDIReport, init=False)

    def __post_init__(self):
        self._verdict_names = [column.partition(".")[0] for column in self.verdict_columns]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.report = report = REDIReport()
        rows = iter(self.rows)
        while chunk := list(islice(rows, ROWS_AT_ONCE)):
            report.rows += len(chunk)
            usable = []
            for row in chunk:
                found = self._read(row)
                if isinstance(found, str):
                    report.dropped[found] += 1
                else:
                    usable.append((row, *found))
            for (row, generations, _), verdicts in zip(usable, self._verdicts(usable), strict=True):
                for example in self._examples(row, generations, verdicts):
                    report.written += 1
                    yield example

    def _read(self, row: dict[str, Any]) -> str | tuple[list[str], list[bool] | None]:
        """
        The generations of a row, without missing ones, and whether each is correct, if the row says so; or the rule that drops
        the row before verification.
        """
        if "problem_is_valid" in row and str(row["problem_is_valid"]).strip().lower() != "yes":
            return "the problem is not valid"
        if row.get("source") in self.exclude_sources:
            return f"the source is {row['source']}"
        generations = read_generations(row, self.generations_column)
        there = [index for index, text in enumerate(generations) if text is not None]
        if not there or not read_column(row, self.problem_column):
            return "no problem or no generations"
        correct = None
        if self._has_verdicts(row):
            read = [_read_verdicts(row, column) for column in self.verdict_columns]
            columns = [verdicts for verdicts in read if verdicts is not None and len(verdicts) == len(generations)]
            if len(columns) < len(read):
                return "not one verdict per generation"
            correct = [all(votes) for votes in zip(*columns, strict=True)]  # an unknown verdict counts as incorrect
            correct = [correct[index] for index in there]
        elif read_column(row, self.answer_column) in (None, ""):
            return "neither verdicts nor an answer"
        return [text for text in generations if text is not None], correct

    def _has_verdicts(self, row: dict[str, Any]) -> bool:
        missing = [name for name in self._verdict_names if name not in row]
        if missing and self.verdict_columns != OPENR1_VERDICTS:
            raise ValueError(
                f"A row has no column {missing[0]!r} for verdict_columns={list(self.verdict_columns)}. Its columns: "
                f"{', '.join(row)}. Name one of them, or set it to None in rows that are to be verified."
            )
        return any(read_column(row, name) is not None for name in self._verdict_names)

    def _verdicts(self, usable: list[tuple[dict[str, Any], list[str], list[bool] | None]]) -> list[list[bool | None]]:
        """Whether each generation of each row is correct. `None` everywhere: the reference answer is unreadable."""
        golds: list[str] = []
        completions: list[str] = []
        for row, generations, correct in usable:
            if correct is None:
                golds += [str(read_column(row, self.answer_column))] * len(generations)
                completions += generations
        verified = iter(verify_answers(golds, completions, timeout=self.timeout))
        return [
            [*correct] if correct is not None else list(islice(verified, len(generations)))
            for _, generations, correct in usable
        ]

    def _examples(
        self, row: dict[str, Any], generations: list[str], verdicts: list[bool | None]
    ) -> Iterator[dict[str, Any]]:
        drop = self.report.dropped
        if None in verdicts:
            drop["the reference answer is unreadable"] += 1
            return
        correct = generations[verdicts.index(True)] if True in verdicts else None
        incorrect = generations[verdicts.index(False)] if False in verdicts else None
        if self.output != "single" and correct is None:
            drop["no correct trace"] += 1
            return
        if self.output == "pairs" and incorrect is None:
            drop["no incorrect trace"] += 1
            return
        if self.output == "positives":
            incorrect = None

        prompt = as_messages(read_column(row, self.problem_column), self.system_prompt)
        if self._prompt_is_too_long(prompt):
            drop["the prompt is too long"] += 1
            return
        traces = {"correct": correct, "incorrect": incorrect}
        replies = {}
        for kind, text in traces.items():
            if text is None:
                continue
            if self._trace_is_too_long(text):
                drop[f"the {kind} trace is too long"] += 1
                if self.output != "single":
                    return
                continue
            replies[kind] = [{"role": "assistant", "content": text}]
        if self.output == "pairs":
            yield {"prompt": prompt, "chosen": replies["correct"], "rejected": replies["incorrect"]}
        elif self.output == "positives":
            yield {"prompt": prompt, "completion": replies["correct"]}
        else:
            for kind, reply in replies.items():
                yield {"prompt": prompt, "completion": reply, "label": kind == "correct"}

    def _prompt_is_too_long(self, prompt: list[dict[str, str]]) -> bool:
        if self.tokenizer is None:
            return False
        text = self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        return self._count_tokens(text) > self.max_prompt_length

    def _trace_is_too_long(self, text: str) -> bool:
        # Not through the chat template: those of reasoning models strip the reasoning, others want the prompt before it.
        return self.tokenizer is not None and self._count_tokens(text) + 1 > self.max_completion_length  # + 1: its end

    def _count_tokens(self, text: str) -> int:
        assert self.tokenizer is not None  # tokenized only if there is one
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)


def build_redi_pairs(
    rows: Iterable[dict[str, Any]],
    *,
    output: str = "pairs",
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_prompt_length: int = 800,
    max_completion_length: int = 19_000,
    exclude_sources: Sequence[str] = ("cn_k12",),
    problem_column: str = "problem",
    answer_column: str = "answer",
    generations_column: str = "generations",
    verdict_columns: Sequence[str] = OPENR1_VERDICTS,
    system_prompt: str | None = None,
    timeout: float = 5.0,
) -> REDIPairs:
    r"""
    Take the first correct and the first incorrect generation of each problem.

    Rows have a problem, several generations, and either a verdict on each of them, as
    [OpenR1-Math-Raw](https://huggingface.co/datasets/open-r1/OpenR1-Math-Raw) has, or a reference answer, against which
    [`verify_answers`] judges them. A generation is correct if all verdicts on it say so. Nothing is random: the authors
    shuffle their dataset with seed 42 before this step.

    Args:
        rows (`Iterable[dict]`):
            A [`~datasets.Dataset`], an [`~datasets.IterableDataset`] or any other iterable. It is read once per iteration
            over the result, a few rows at a time.
        output (`str`, *optional*, defaults to `"pairs"`):
            `"pairs"` for [`REDITrainer`] (`prompt`, `chosen`, `rejected`), `"positives"` for the first stage (`prompt`,
            `completion`), or `"single"`, which also uses problems with traces of one kind (`prompt`, `completion`, `label`).
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Counts tokens. Without one, no example is dropped for its length.
        max_prompt_length (`int`, *optional*, defaults to `800`):
            Most tokens of a prompt, its chat template and the generation prompt included; the authors' limit.
        max_completion_length (`int`, *optional*, defaults to `19_000`):
            Most tokens of a trace's text, and one for its end. The authors' limit, but they count the chat template around
            the trace as well; templates of reasoning models strip the reasoning.
        exclude_sources (`Sequence[str]`, *optional*, defaults to `("cn_k12",)`):
            Values of the column `source` whose rows are dropped; the authors' choice.
        problem_column, answer_column, generations_column (`str`, *optional*):
            Columns of the problem, its reference answer and the generations. A dot steps into nested columns, and into the
            dictionaries of a list: `"completions.text"`. A generation that is `None` is skipped, with its verdicts.
        verdict_columns (`Sequence[str]`, *optional*):
            Columns with one verdict per generation: booleans, numbers or `None`, which counts as incorrect. Defaults to the two
            of OpenR1-Math-Raw that the authors use, which may be absent. Rows in which all of them are `None` are verified.
        system_prompt (`str`, *optional*):
            System message before every problem.
        timeout (`float`, *optional*, defaults to `5.0`):
            Seconds that the verification of one generation may take.

    Returns:
        `REDIPairs`: An iterable of examples, whose `report` counts what each rule dropped.

    Raises:
        `ValueError`: If `output` is unknown, or an argument takes several names and was given one. While one iterates: if
            a row lacks a column named in `verdict_columns`, generations are not a list of texts, or a verdict is a text.

    Examples:
        >>> generations = [r"\boxed{3}", r"\boxed{2}", r"\boxed{4}"]
        >>> rows = [{"problem": "1 + 1?", "answer": "2", "generations": generations}]
        >>> pairs = build_redi_pairs(rows)
        >>> [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs]
        [('\\boxed{2}', '\\boxed{3}')]
        >>> pairs.report.written
        1
    """
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {OUTPUTS}, got {output!r}.")
    for name, value in [("verdict_columns", verdict_columns), ("exclude_sources", exclude_sources)]:
        if isinstance(value, str):
            raise ValueError(f"{name} must be a list of names, got {value!r}. Write [{value!r}].")
    return REDIPairs(
        rows=rows,
        output=output,
        tokenizer=tokenizer,
        max_prompt_length=max_prompt_length,
        max_completion_length=max_completion_length,
        exclude_sources=exclude_sources,
        problem_column=problem_column,
        answer_column=answer_column,
        generations_column=generations_column,
        verdict_columns=tuple(verdict_columns),
        system_prompt=system_prompt,
        timeout=timeout,
    )


def _read_verdicts(row: dict[str, Any], column: str) -> list[bool | float | None] | None:
    """Return the verdicts on a row's generations; `None` if the row has no list of verdicts."""
    verdicts = read_column(row, column)
    if not isinstance(verdicts, list):
        return None
    for verdict in verdicts:
        if verdict is not None and not isinstance(verdict, (int, float)):  # a text would count as true, "No" as well
            raise ValueError(
                f"The verdicts in column {column!r} must be true or false, numbers or None, got {verdict!r}. Turn them "
                "into booleans first."
            )
    return [
        verdict == verdict and verdict for verdict in verdicts
    ]  # NaN counts as incorrect, although bool(NaN) is true
