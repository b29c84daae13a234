# SPDX-License-Identifier: Apache-2.0
"""
When reasoning may stop: its answer no longer changes.

Source: Lin et al., "TrimR" (arXiv 2505.17155), a reconstruction from public notes on the paper. Equality of the answers in place of a verifier model is this package's.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ..verification import verify_answers
from ..verification.extraction import final_answer
from ..verification.finished import MARKERS, ThinkingMarkers
from .completions import Completion
from .judges import JudgeFunction


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENERS = re.compile(r"\n+(?=(?:Wait|But|Alternatively|Let me check|Let me verify)\b)")


@dataclass(frozen=True)
class TrimRules:
    """
    When reasoning stops (TrimR).

    Args:
        agreements (`int`, *optional*, defaults to `2`): Times in a row that a segment's answer equals that of the segment with an answer before it.
        budget_share (`float`, *optional*, defaults to `0.5`): Share of the token limit after which reasoning without agreement stops.
        segments (`int`, *optional*, defaults to `20`): Segments after which it stops.
    """

    agreements: int = 2
    budget_share: float = 0.5
    segments: int = 20

    def __post_init__(self):
        if self.agreements < 1 or not 0 < self.budget_share <= 1 or self.segments < 1:
            raise ValueError(
                f"TrimR needs agreements >= 1, 0 < budget_share <= 1 and segments >= 1; got {self.agreements}, {self.budget_share} and "
                f"{self.segments}."
            )

    def stop(self, answers: Sequence[int | None], tokens: Sequence[int], budget: int) -> tuple[str, int] | None:
        """
        Return why and after which segment reasoning stops; `None` if it does not.

        Args:
            answers (`Sequence[int | None]`): Class of equal answers of each segment; `None` without an answer.
            tokens (`Sequence[int]`): Tokens of the reasoning at the end of each segment.
            budget (`int`): Token limit of the completion.

        Returns:
            `tuple[str, int]`, *optional*: `"agreement"` or `"no agreement"`, and the number of segments read.

        Examples:
            >>> TrimRules().stop([7, 7, 7], [100, 200, 300], 8000)
            ('agreement', 3)
        """
        last, equal = None, 0
        for read, (answer, used) in enumerate(zip(answers, tokens, strict=True), 1):
            if answer is not None:
                equal = equal + 1 if answer == last else 0
                last = answer
            if equal >= self.agreements:
                return "agreement", read
            if used > self.budget_share * budget or read >= self.segments:
                return "no agreement", read
        return None


def stop_early(
    item: Completion,
    tokenizer: PreTrainedTokenizerBase,
    rules: TrimRules,
    limit: int,
    judge: JudgeFunction = verify_answers,
    markers: ThinkingMarkers = MARKERS,
) -> tuple[str | None, bool, int]:
    """
    Stop the reasoning of one completion.

    The reasoning is divided before words of reflection at the beginning of a line ("Wait", "But", "Alternatively", "Let me check"). The answer of a segment is its last box, else its
    last number. What follows the reasoning is never cut.

    Returns:
        `tuple[str | None, bool, int]`: The reason (`None` if nothing was stopped), whether the answer is correct, and the tokens read.
    """
    reasoning = item.text.partition(markers.end)[0]
    ends = [*(found.end() for found in OPENERS.finditer(reasoning)), len(reasoning)]
    texts = [reasoning[start:end] for start, end in itertools.pairwise([0, *ends])]
    answers = [final_answer(text, "boxed").text or final_answer(text, "last_number").text for text in texts]
    classes: list[int | None] = []
    known: list[str] = []
    for answer in answers:
        same = next((i for i, other in enumerate(known) if _equal(other, answer)), len(known)) if answer else None
        if same == len(known):
            known.append(answer)
        classes.append(same)
    counts = [0] * len(texts)
    if item.tokens > rules.budget_share * limit:  # else no segment is beyond it
        counts = _tokens(texts, tokenizer)
    # The last segment ends by itself: stopping after it changes nothing
    stopped = rules.stop(classes[:-1], counts[:-1], limit)
    if stopped is None:
        return None, bool(item.correct), item.tokens
    reason, read = stopped
    last = next((answer for answer in reversed(answers[:read]) if answer), None)
    is_right = last is not None and judge([item.gold], [rf"\boxed{{{last}}}"])[0] is True
    return reason, is_right, min(_tokens(texts[:read], tokenizer)[-1], item.tokens)


def _tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens up to the end of each segment. Segments begin with a word at the beginning of a line, where no token spans both sides."""
    return list(itertools.accumulate(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])))


@lru_cache(maxsize=100_000)
def _equal(one: str, other: str) -> bool:
    return one == other or verify_answers([one], [rf"\boxed{{{other}}}"])[0] is True
