# SPDX-License-Identifier: Apache-2.0
"""Judges of R2R's labels: whether a token of the small model changes what the text says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...evaluation.sampling import SamplingSettings, tokenize_prompts


if TYPE_CHECKING:
    from ...evaluation.sampling import Sampler

SENTENCE_END = r"\n|[.!?](?=\s|$)"
LINE_END = r"\n"
NEW_TOKENS = 16  # of a verdict
_EQUATION = re.compile(r"(\d+) ?([+*-]) ?(\d+) ?= ?(-?\d+)")
_BOXED = re.compile(r"\\boxed\{(-?\d+)\}")
_BARE = re.compile(r"\s*([01])\s*")
_OUTPUT = re.compile(r"Output: ?(\d+)\b")

TASK = """\
Two texts continue the same solution of a problem. They differ in one token, which is marked as <<token>>.
Compare them. Answer 1 if their meaning, their reasoning or their conclusion differs. Answer 0 if they differ in wording only.

Problem:
{prompt}

Solution so far:
{context}

First text:
{original}

Second text:
{alternative}

Answer with "Output: 0" or "Output: 1" and nothing else."""


@dataclass(frozen=True)
class Comparison:
    """
    Two continuations of one text, which differ in their first token.

    Attributes:
        prompt (`str`): The prompt.
        context (`str`): The beginning of the completion that both share.
        original (`tuple[str, str]`): The token of the large model, and the text after it up to the end of the sentence.
        alternative (`tuple[str, str]`): The token of the small model, and how the large model continues after it.
    """

    prompt: str
    context: str
    original: tuple[str, str]
    alternative: tuple[str, str]


class Judge(Protocol):
    """
    Decides whether continuations diverge.

    Attributes:
        sentence_end (`str`): Regular expression of the end of a continuation.
    """

    sentence_end: str

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[bool | None]:
        """Return, for each comparison, whether meaning, reasoning or conclusion differ; `None` if the judge does not say so clearly."""


class ArithmeticJudge:
    r"""
    A program that judges completions of the embedded model, in the place of a language model.

    Continuations diverge if the lines that they complete both have an equation or a boxed answer, and these differ. How an equation is written does not
    matter. (A reconstruction, for problems of the demo.)
    """

    sentence_end = LINE_END

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[bool | None]:
        """See [`Judge`]."""
        return [self._diverge(item) for item in comparisons]

    def _diverge(self, item: Comparison) -> bool:
        line = item.context.rpartition("\n")[2]
        first, second = (_assertion(line + "".join(text)) for text in (item.original, item.alternative))
        return None not in (first, second) and first != second


class ModelJudge:
    """
    A language model as the judge. It is asked for `Output: 0` or `Output: 1`.

    Args:
        sampler ([`~trl_concise.evaluation.sampling.Sampler`]): The model. It decodes greedily, at most 16 tokens.
        batch_size (`int`, *optional*, defaults to `64`): Comparisons per batch.

    Raises:
        `ValueError`: If `batch_size` is less than 1.
    """

    sentence_end = SENTENCE_END

    def __init__(self, sampler: Sampler, batch_size: int = 64):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.sampler = sampler
        self.batch_size = batch_size

    def verdicts(self, comparisons: Sequence[Comparison]) -> list[bool | None]:
        """See [`Judge`]."""
        prompts = tokenize_prompts(
            self.sampler.tokenizer, [[{"role": "user", "content": judge_request(item)}] for item in comparisons]
        )
        found: list[bool | None] = []
        for first in range(0, len(prompts), self.batch_size):
            drawn = self.sampler.sample(
                prompts[first : first + self.batch_size], SamplingSettings(NEW_TOKENS, temperature=0.0)
            )
            found += map(parse_verdict, self.sampler.tokenizer.batch_decode(drawn, skip_special_tokens=True))
        return found


def judge_request(item: Comparison) -> str:
    """Return the request to a model that judges, with the differing tokens marked as `<<token>>`."""
    marked = {name: "<<{}>>{}".format(*getattr(item, name)) for name in ("original", "alternative")}
    return TASK.format(prompt=item.prompt, context=item.context, **marked)


def parse_verdict(text: str) -> bool | None:
    """
    Read a verdict: `Output: 0`, `Output: 1` or a bare digit. Anything else, and contradictory verdicts, are unreadable.

    Examples:
        >>> [parse_verdict(text) for text in ("Output: 1", " 0\\n", "Output: 10", "There is 1 difference.")]
        [True, False, None, None]
    """
    if (bare := _BARE.fullmatch(text)) is not None:
        return bare[1] == "1"
    digits = set(_OUTPUT.findall(text))
    return None if len(digits) != 1 or not digits <= {"0", "1"} else digits == {"1"}


def _assertion(line: str) -> tuple[str, ...] | None:
    found = _EQUATION.search(line) or _BOXED.search(line)
    return found.groups() if found is not None else None
