# SPDX-License-Identifier: Apache-2.0
"""Verdicts on completions: find the final answer, settle what is certain, and have math-verify judge the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from .certain import rewrite, settle
from .extraction import Answer, final_answer, gold_answer
from .guards import guard
from .judge import JUDGE


LONGEST_TIMEOUT = 86_400  # seconds; the operating system's own limits are not far beyond


@dataclass
class Tally:
    """What became of a batch of completions."""

    completions: int
    fast: int = 0  # settled without math-verify
    guarded: int = 0  # of them, stopped by a guard
    timeouts: int = 0  # missed the deadline, or ended their worker some other way
    seconds: float = 0.0

    def metrics(self) -> dict[str, float]:
        return {
            "verification/timeouts": float(self.timeouts),
            "verification/guarded": float(self.guarded),
            "verification/fast_fraction": self.fast / self.completions if self.completions else 1.0,
            "verification/seconds": self.seconds,
        }


def verify_answers(
    golds: Sequence[str], completions: Sequence[str], *, timeout: float = 5.0, guards: bool = True
) -> list[bool | None]:
    r"""
    Say of each completion whether its final answer equals the gold answer.

    The final answer stands after the last `</think>`, in the last `\boxed{}`; without a box, a completion that is nothing but
    an answer is taken whole, and prose is searched as math-verify does. Equality is math-verify's judgement, except for
    answers that are certain without it (the same text, or two plain numerals). math-verify runs in processes of its own,
    which start when first needed, so that nothing it is given can stall or crash this one. docs/verification.md tells the
    whole order.

    Args:
        golds (`Sequence[str]`):
            Gold answers: bare LaTeX or text, or a worked solution that marks its answer with `\boxed{}` or `####`.
        completions (`Sequence[str]`):
            Completions, one per gold answer.
        timeout (`float`, *optional*, defaults to `5.0`):
            Seconds that math-verify may take for one completion. One that takes longer counts as wrong.
        guards (`bool`, *optional*, defaults to `True`):
            Whether answers that are too long, too deeply nested or towers of powers count as wrong without being parsed.

    Returns:
        `list[bool | None]`: `True` if the answer is right, `False` if it is wrong or missing, `None` if the gold answer is
        unreadable.

    Raises:
        `ValueError`: If the lists differ in length, or the timeout is not positive or longer than a day.
        `RuntimeError`: If the processes cannot be started.

    Examples:
        >>> verify_answers(["1,000", r"\frac{1}{2}", "x + 1"], [r"It is \boxed{1000}.", "The answer is $0.5$", "1 + x"])
        [True, True, True]
    """
    verdicts, _ = verify_and_count(golds, completions, timeout=timeout, guards=guards)
    return verdicts


def verify_and_count(
    golds: Sequence[str], completions: Sequence[str], *, timeout: float = 5.0, guards: bool = True
) -> tuple[list[bool | None], Tally]:
    """[`verify_answers`], with the [`Tally`] of how the verdicts came about."""
    if len(golds) != len(completions):
        raise ValueError(
            f"Each completion needs its gold answer; got {len(golds)} golds, {len(completions)} completions."
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

    for index, (gold_text, completion) in enumerate(zip(golds, completions, strict=True)):
        gold, answer = _read_gold(gold_text), final_answer(completion)
        if not gold.text:
            continue  # unreadable
        verdict = _settle(gold, answer)
        if verdict is not None:
            verdicts[index] = verdict
        elif guards and answer.is_bare and guard(answer.text):
            verdicts[index] = False
            tally.guarded += 1
        elif guards and gold.is_bare and guard(gold.text):
            tally.guarded += 1
        else:
            undecided.setdefault((gold, answer), []).append(index)

    tally.fast = len(completions) - sum(map(len, undecided.values()))
    if undecided:
        pairs = [(_rewritten(gold), _rewritten(answer)) for gold, answer in undecided]
        for indices, judgement in zip(undecided.values(), JUDGE.judge(pairs, timeout), strict=True):
            for index in indices:
                verdicts[index] = judgement.verdict
            if judgement.end != "judged":
                tally.timeouts += len(indices)
    tally.seconds = time.perf_counter() - start
    return verdicts, tally


def _settle(gold: Answer, answer: Answer) -> bool | None:
    if not answer.text:
        return False
    if gold.is_bare and answer.is_bare:
        return settle(gold.text, answer.text)
    return True if gold.text == answer.text else None


def _rewritten(answer: Answer) -> Answer:
    return Answer(rewrite(answer.text), True) if answer.is_bare else answer


_read_gold = lru_cache(maxsize=16_384)(gold_answer)  # every completion of a group asks for the same one
