# SPDX-License-Identifier: Apache-2.0
"""Verdicts on completions: find the final answer, settle what is certain, and have math-verify judge the rest."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from .certain import compare, spell
from .extraction import Answer, AnswerFormat, final_answer, gold_answer
from .final_form import is_number, leaves_arithmetic, result_of, stated_work
from .finished import is_finished
from .guards import guard
from .judge import JUDGE, Judgment
from .languages import with_decimal_points
from .normalization import normalize_prose


logger = logging.getLogger(__name__)
LONGEST_TIMEOUT = 86_400  # seconds; the operating system's own limits are not far beyond
REMEMBERED = 65_536  # judged pairs

_JUDGED: dict[tuple[Answer, Answer], bool | None] = {}
_UNREADABLE: set[Answer] = set()


@dataclass
class Tally:
    """Counts of the verdicts on a batch of completions."""

    completions: int
    fast: int = 0  # settled without math-verify
    guarded: int = 0  # of them, stopped by a guard
    timeouts: int = 0  # missed the deadline, or ended their worker some other way
    unfinished: int = 0  # truncated, or without the end of the reasoning or of the box
    unfinished_form: int = 0  # left arithmetic to be done
    without_answer: list[int] = field(default_factory=list)  # positions of completions with nothing to compare
    seconds: float = 0.0

    def metrics(self) -> dict[str, float]:
        return {
            "verification/timeouts": float(self.timeouts),
            "verification/guarded": float(self.guarded),
            "verification/unfinished": float(self.unfinished),
            "verification/unfinished_form": float(self.unfinished_form),
            "verification/no_answer": float(len(self.without_answer)),
            "verification/fast_fraction": self.fast / self.completions if self.completions else 1.0,
            "verification/seconds": self.seconds,
        }


def verify_answers(
    golds: Sequence[str],
    completions: Sequence[str],
    *,
    timeout: float = 5.0,
    guards: bool = True,
    format: AnswerFormat = "auto",
    final_form: bool = False,
) -> list[bool | None]:
    r"""
    Check, for each completion, whether its final answer equals the reference answer.

    The final answer is in the last `\boxed{}` after the last `</think>`. Without a box, a completion that is nothing but
    an answer is taken whole, as is the answer that the last sentence states. Other prose is searched as math-verify does. Equality is math-verify's judgment, except for
    answers that are certain without it (the same text, two plain numerals, or different brackets). math-verify runs in separate processes,
    which start when first needed, so that nothing it is given can stall or crash this one. docs/verification.md describes all
    steps.

    Args:
        golds (`Sequence[str]`):
            Reference answers: bare LaTeX or text, or a worked solution that marks its answer with `\boxed{}` or `####`.
        completions (`Sequence[str]`):
            Completions, one per reference answer.
        timeout (`float`, *optional*, defaults to `5.0`):
            Seconds that math-verify may take for one completion. One that takes longer counts as wrong.
        guards (`bool`, *optional*, defaults to `True`):
            Whether answers that are too long, too deeply nested or towers of powers count as wrong without being parsed.
        format (`str`, *optional*, defaults to `"auto"`):
            Where the final answer is: `"auto"`, `"boxed"`, `"answer_tag"` or `"last_number"` (see docs/verification.md).
        final_form (`bool`, *optional*, defaults to `False`):
            Whether an answer that leaves arithmetic to be done, such as `6 \times 7` for 42, counts as wrong. By default this
            function says whether two answers are equal. [`math_accuracy_reward`] and [`evaluate`] set it to `True`.

    Returns:
        `list[bool | None]`: `True` if the answer is correct, `False` if it is wrong or missing, `None` if the reference answer is
        unreadable.

    Raises:
        `ValueError`: If the lists differ in length, or the timeout is not positive or longer than a day.
        `RuntimeError`: If the processes cannot be started.

    Examples:
        >>> completions = [r"It is \boxed{1000}.", "The answer is $0.5$", "1 + x"]
        >>> verify_answers(["1,000", r"\frac{1}{2}", "x + 1"], completions)
        [True, True, True]
    """
    verdicts, _ = verify_and_count(
        golds, completions, timeout=timeout, guards=guards, format=format, final_form=final_form
    )
    return verdicts


def verify_and_count(
    golds: Sequence[str],
    completions: Sequence[str],
    *,
    timeout: float = 5.0,
    guards: bool = True,
    format: AnswerFormat = "auto",
    final_form: bool = False,
    finished: Sequence[bool] | None = None,
) -> tuple[list[bool | None], Tally]:
    """
    [`verify_answers`], with the [`Tally`] of the verdicts.

    `finished` holds what [`is_finished`] says of each completion. By default it is asked about the text alone.
    """
    if len(golds) != len(completions):
        raise ValueError(
            f"Each completion needs a reference answer; got {len(golds)} reference answers, {len(completions)} completions."
        )
    timeout = float(timeout)
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise ValueError(
            f"timeout is in seconds and must be positive, at most {LONGEST_TIMEOUT:,} (a day); got {timeout}."
        )
    start = time.perf_counter()
    tally = Tally(len(completions))
    verdicts: list[bool | None] = [None] * len(completions)
    undecided: dict[tuple[Answer, Answer], list[int]] = {}  # equal pairs are judged once
    _warn_of_other_types(golds, completions)

    for index, (gold_text, completion) in enumerate(zip(golds, completions, strict=True)):
        gold = _read_gold(gold_text) if isinstance(gold_text, str) else None
        if gold is None or not gold.text:
            continue  # unreadable
        if not isinstance(completion, str):
            completion = ""
        if not (finished[index] if finished is not None else is_finished(completion)):
            tally.unfinished += 1
            tally.without_answer.append(index)
            verdicts[index] = False
            continue
        answer = _as_written_for(gold, final_answer(completion, format))
        if not _has_content(answer):
            tally.without_answer.append(index)
        if final_form and gold.is_bare and is_number(gold.text):
            answer, is_final = _check_form(answer)
            if not is_final:
                tally.unfinished_form += 1
                verdicts[index] = False
                continue
        verdict, pair = _compare(gold, answer)
        if verdict is not None:
            verdicts[index] = verdict
        elif guards and answer.is_bare and guard(answer.text):
            verdicts[index] = False
            tally.guarded += 1
        elif guards and gold.is_bare and guard(gold.text):
            tally.guarded += 1
        else:
            undecided.setdefault(pair, []).append(index)

    tally.fast = len(completions) - sum(map(len, undecided.values()))
    new = [pair for pair in undecided if pair not in _JUDGED]
    judged = dict(zip(new, JUDGE.judge(new, timeout), strict=True)) if new else {}
    for pair, indices in undecided.items():
        judgment = judged.get(pair) or Judgment(_JUDGED[pair], "judged")
        for index in indices:
            verdicts[index] = judgment.verdict
        if judgment.end == "judged":
            _remember(pair, judgment.verdict)
        else:
            tally.timeouts += len(indices)
            if judgment.end == "unreadable":
                _warn_of_unreadable(pair[0])
    tally.seconds = time.perf_counter() - start
    return verdicts, tally


def _as_written_for(gold: Answer, answer: Answer) -> Answer:
    """The answer with decimal points for decimal commas, where the reference answer is one number without a comma."""
    if "," in gold.text or "," not in answer.text or not (gold.is_bare and is_number(gold.text)):
        return answer
    return answer._replace(text=with_decimal_points(answer.text))


def _has_content(answer: Answer) -> bool:
    """Whether a text may contain an answer: a number, a formula, or a bare answer."""
    return answer.text != "" if answer.is_bare else re.search(r"\d|[$\\]", answer.text) is not None


def _check_form(answer: Answer) -> tuple[Answer, bool]:
    """The answer, or the result of the equation that it is, and whether that is in final form."""
    if not answer.is_bare:
        work = stated_work(answer.text)
        return answer, work is None or not leaves_arithmetic(work)
    result = result_of(answer.text)
    return answer._replace(text=result), not leaves_arithmetic(result)


def _compare(reference: Answer, answer: Answer) -> tuple[bool | None, tuple[Answer, Answer]]:
    """A verdict that is certain, or the pair that math-verify has to judge."""
    if not answer.text:
        return False, (reference, answer)
    if reference.is_bare and answer.is_bare:
        verdict, *latex = compare(reference.text, answer.text)
        return verdict, (Answer(latex[0], True), Answer(latex[1], True))
    return (True if reference.text == answer.text else None), (_for_judge(reference), _for_judge(answer))


def _for_judge(answer: Answer) -> Answer:
    if answer.is_bare:
        return Answer(spell(answer.text), True)
    return Answer(normalize_prose(answer.text), False)


def _remember(pair: tuple[Answer, Answer], verdict: bool | None) -> None:
    """Epochs repeat problems, and their usual answers with them."""
    if len(_JUDGED) >= REMEMBERED:
        _JUDGED.clear()
    _JUDGED[pair] = verdict


def _warn_of_unreadable(reference: Answer) -> None:
    if reference not in _UNREADABLE:
        _UNREADABLE.add(reference)
        logger.warning(
            "The reference answer %r cannot be read before the deadline. Its completions count as unverifiable from now on; remove "
            "the problem or write its answer in another way.",
            reference.text[:200],
        )


def _warn_of_other_types(references: Sequence[object], completions: Sequence[object]) -> None:
    others = sorted({type(text).__name__ for text in (*references, *completions) if not isinstance(text, str)})
    if others:
        logger.warning(
            "Reference answers and completions must be strings; got %s among them. Such a reference answer counts as unreadable, and "
            "such a completion as wrong; convert them with str().",
            ", ".join(others),
        )


_read_gold = lru_cache(maxsize=16_384)(gold_answer)  # every completion of a group asks for the same one
