# SPDX-License-Identifier: Apache-2.0
"""Read completions from a file, truncate them at a budget, judge them, and summarize the results."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..verification import verify_answers
from ..verification.extraction import AnswerFormat, without_reasoning
from ..verification.finished import MARKERS, ThinkingMarkers, is_finished
from ..verification.verify import verify_and_count
from .metrics import accuracy_interval, bootstrap_interval, pass_at_k
from .summaries import public_name


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def has_no_answer(text: str, markers: ThinkingMarkers = MARKERS) -> bool:
    r"""
    Return whether a completion is empty: only white space follows its reasoning.

    The text after the last `</think>` (the end marker) is checked, or the whole text without one; special tokens are ignored. A
    completion that ends within its reasoning counts as truncated, not as empty.

    Examples:
        >>> has_no_answer("<think>6 * 7 = 42</think>\n")
        True
        >>> has_no_answer("42")
        False
    """
    return not text.rpartition(markers.end)[2].strip()


@dataclass(frozen=True)
class Completion:
    """
    One completion of one problem, with its verdict: a line of `completions.jsonl`.

    Attributes:
        dataset (`str`): Name of the problem set.
        problem (`int`): Row in the problem set.
        completion (`int`): Which of the problem's completions, from 0.
        gold (`str`): The reference answer.
        text (`str`): The completion without special tokens.
        completion_ids (`list[int]`): Its token ids, end-of-turn token included.
        truncated (`bool`): Whether it reached the limit before the model ended it.
        correct (`bool`, *optional*): Whether its final answer is correct; `None` if the reference answer is unreadable.
        prompt_sha256 (`str`, *optional*): Digest of the prompt (see `digest_prompt`); `None` in older files.
        batch_size (`int`, *optional*): Number of completions that were drawn and written together, including this one;
            `None` in older files.
        thought (`bool`, *optional*): Whether it thought before its answer (see [`has_thought`]); `None` if that is unknown.
            Truncation at a budget does not change it.
        finished (`bool`, *optional*): Whether it reached its answer (see [`is_finished`]); `None` in older files. An unfinished
            completion is wrong.
    """

    dataset: str
    problem: int
    completion: int
    gold: str
    text: str
    completion_ids: list[int]
    truncated: bool
    correct: bool | None = None
    prompt_sha256: str | None = None
    batch_size: int | None = None
    thought: bool | None = None
    finished: bool | None = None

    @property
    def tokens(self) -> int:
        """Length in tokens, end-of-turn token included, as TRL counts it."""
        return len(self.completion_ids)

    def line(self) -> str:
        """The completion as a line of JSON."""
        return json.dumps(asdict(self) | {"tokens": self.tokens}, ensure_ascii=False) + "\n"


def unreadable_reference_answers(golds: Sequence[str]) -> set[int]:
    """
    Return the rows of the reference answers that cannot be read.

    Verdicts on completions do not show this: a completion without an answer is wrong, and one with exactly the text of the
    reference answer is correct, without reading it.
    """
    verdicts = verify_answers(golds, [r"\boxed{0}"] * len(golds))
    return {row for row, verdict in enumerate(verdicts) if verdict is None}


def judge(
    completions: Sequence[Completion],
    unreadable: Collection[int] = (),
    reasoning_opened: Collection[int] = (),
    *,
    answer_format: AnswerFormat = "auto",
    final_form: bool = True,
    markers: ThinkingMarkers = MARKERS,
) -> list[Completion]:
    """
    Check the final answers as [`math_accuracy_reward`] does: finished completions (see [`is_finished`]) only.

    Args:
        completions (`Sequence[Completion]`): Completions.
        unreadable (`Collection[int]`, *optional*): Problems whose reference answer is unreadable; they are not judged.
        reasoning_opened (`Collection[int]`, *optional*): Problems whose prompt ends with `<think>`.
        answer_format, final_form: As `format` and `final_form` of [`math_accuracy_reward`].
        markers ([`ThinkingMarkers`], *optional*): The texts around the reasoning.

    Returns:
        `list[Completion]`: In the same order, with `correct` and `finished` set.
    """
    finished = [
        is_finished(
            item.text,
            truncated=item.truncated,
            reasoning_opened=item.problem in reasoning_opened,
            markers=markers,
        )
        for item in completions
    ]
    texts = [item.text for item in completions]
    if markers.end != MARKERS.end:  # which the verification knows
        texts = [without_reasoning(text, markers.end) for text in texts]
    verdicts, _ = verify_and_count(
        [item.gold for item in completions],
        texts,
        finished=finished,
        format=answer_format,
        final_form=final_form,
    )
    return [
        replace(item, correct=None if item.problem in unreadable else verdict, finished=is_done)
        for item, verdict, is_done in zip(completions, verdicts, finished, strict=True)
    ]


def truncate_at(
    completions: Sequence[Completion], budget: int, tokenizer: PreTrainedTokenizerBase
) -> list[Completion]:
    """
    Truncate completions after `budget` tokens, and judge the result. Shorter ones do not change.

    A completion that is longer than the budget is not finished within it, and is wrong (see [`is_finished`]): what its
    reasoning restates and computes (`12 + 7 = `) would otherwise pass for an answer.

    Args:
        completions (`Sequence[Completion]`): Judged completions.
        budget (`int`): In tokens, at least 1.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Turns the remaining tokens into text.

    Returns:
        `list[Completion]`: In the same order.
    """
    cut = [item for item in completions if item.tokens > budget]
    kept = [item.completion_ids[:budget] for item in cut]
    texts = tokenizer.batch_decode(kept, skip_special_tokens=True) if cut else []
    judged = iter(
        judge(
            [
                replace(item, completion_ids=ids, text=text, truncated=True)
                for item, ids, text in zip(cut, kept, texts, strict=True)
            ],
            unreadable={item.problem for item in cut if item.correct is None},
        )
    )
    return [next(judged) if item.tokens > budget else item for item in completions]


def read_completions(path: str | Path) -> list[Completion]:
    """
    Read `completions.jsonl`.

    An incomplete last line is left out.

    Raises:
        `ValueError`: If another line is not a completion.
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")[:-1]
    completions = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record.pop("tokens")
            completions.append(Completion(**{**record, "dataset": public_name(record["dataset"])}))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}, is not a completion of an evaluation ({error}).") from error
    return completions


def count_complete(completions: Sequence[Completion]) -> int:
    """Count the completions of a file up to its last complete batch."""
    end = 0
    while end < len(completions):
        size = completions[end].batch_size or 1
        if end + size > len(completions):
            break
        end += size
    return end


def summarize(completions: Iterable[Completion], markers: ThinkingMarkers = MARKERS) -> dict[str, Any]:
    """
    Summarize the completions of one problem set.

    Problems whose completions were not judged, because the reference answer is unreadable, are left out.

    Args:
        completions (`Iterable[Completion]`): Judged completions, the same number for each problem.
        markers ([`ThinkingMarkers`], *optional*): The texts around the reasoning.

    Returns:
        `dict[str, Any]`: `problems`, `completions_per_problem`, `accuracy` (mean over all completions: pass@1),
        `accuracy_interval` and `tokens_interval` (95 %, see [`bootstrap_interval`]), `pass_at_k` (by k, as text: the powers
        of two up to the completions per problem, and that number), `tokens_mean`, `tokens_correct_mean` and
        `tokens_wrong_mean` (`None` without such completions), `truncated_fraction`, `empty_fraction` (see
        [`has_no_answer`]), and the figures of [`summarize_modes`].

    Raises:
        `ValueError`: If no completion has a readable reference answer.
    """
    problems: dict[int, list[Completion]] = defaultdict(list)
    for item in completions:
        problems[item.problem].append(item)
    groups = [group for group in problems.values() if all(item.correct is not None for item in group)]
    known = [item for group in groups for item in group]
    if not known:
        raise ValueError("No completion has a readable reference answer, so nothing can be summarized.")
    n = min(map(len, groups))
    right = [sum(bool(item.correct) for item in group) for group in groups]
    return {
        "problems": len(groups),
        "completions_per_problem": n,
        "accuracy": fmean(bool(item.correct) for item in known),
        "accuracy_interval": list(
            accuracy_interval([[float(bool(item.correct)) for item in group] for group in groups])
        ),
        "pass_at_k": {
            str(k): fmean(pass_at_k(len(group), c, k) for group, c in zip(groups, right, strict=True))
            for k in sorted({n, *(2**power for power in range(n.bit_length()))})
        },
        "tokens_mean": fmean(item.tokens for item in known),
        "tokens_interval": list(bootstrap_interval([[item.tokens for item in group] for group in groups])),
        "tokens_correct_mean": mean_or_none(item.tokens for item in known if item.correct),
        "tokens_wrong_mean": mean_or_none(item.tokens for item in known if not item.correct),
        "truncated_fraction": fmean(item.truncated for item in known),
        "empty_fraction": fmean(has_no_answer(item.text, markers) for item in known),
        **summarize_modes(known),
    }


def summarize_modes(completions: Sequence[Completion]) -> dict[str, float | None]:
    """
    Summarize the completions that thought before their answer, and apart from them those that answered directly.

    Args:
        completions (`Sequence[Completion]`): Judged completions of one problem set. Where one has thinking markers, one without
            them answered directly.

    Returns:
        `dict[str, float | None]`: `thinking_fraction`, `thinking_accuracy`, `thinking_tokens_mean`, `direct_accuracy` and
        `direct_tokens_mean`. `None` for a mode without completions, and all `None` if no completion has thinking markers.
    """
    is_known = any(item.thought is not None for item in completions)
    figures: dict[str, float | None] = {
        "thinking_fraction": fmean(bool(item.thought) for item in completions) if is_known else None
    }
    for mode, thought in (("thinking", True), ("direct", False)):
        own = [item for item in completions if is_known and bool(item.thought) is thought]
        figures[f"{mode}_accuracy"] = mean_or_none(bool(item.correct) for item in own)
        figures[f"{mode}_tokens_mean"] = mean_or_none(item.tokens for item in own)
    return figures


def mean_or_none(values: Iterable[float]) -> float | None:
    """Return the mean, or `None` without values."""
    values = list(values)
    return fmean(values) if values else None
