# SPDX-License-Identifier: Apache-2.0
"""Blocks and ratings for models that follow instructions: every call is a prompt of its own, so any `Sampler` can answer it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...evaluation.sampling import tokenize_prompts
from ...verification.verdicts import read_verdict
from ..templates import fill_template
from .calls import Generate, Reply, Turn
from .environment import Context
from .navigator import ACTIONS, ASPECTS, LARGEST_RATING
from .prompts import Prompts


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_THINKING = "</think>"
_REACH = 24  # characters between the name of an aspect and its rating
_NUMBERED = re.compile(r"^\s*(?:\d+[.):]|[-*])\s*(\S.*)$", re.MULTILINE)


def parse_ratings(text: str, aspects: Sequence[str] = ASPECTS) -> tuple[list[int], int]:
    """
    Read ratings from a reply.

    A rating is the first number after the name of its aspect, on the same line and within 24 characters. It must be a whole number between 0
    and 3.

    Args:
        text (`str`): The reply.
        aspects (`Sequence[str]`, *optional*): Names of the aspects.

    Returns:
        `tuple[list[int], int]`: The ratings, 0 for those that could not be read, and how many these are.

    Examples:
        >>> parse_ratings("A1: **3**, A2 12", ["A1", "A2"])
        ([3, 0], 1)
    """
    ratings, unreadable = [], 0
    for aspect in aspects:
        found = re.search(rf"\b{re.escape(aspect)}\b[^\d\n]{{0,{_REACH}}}?(?<![\s:=(]-)(\d+(?:[.,]\d+)?)", text)
        rating = int(found[1]) if found is not None and found[1].isdecimal() else LARGEST_RATING + 1
        is_read = rating <= LARGEST_RATING
        ratings.append(rating if is_read else 0)
        unreadable += not is_read
    return ratings, unreadable


class InstructionCalls:
    """
    Base of blocks and readers that ask a model in a user message.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The model's tokenizer.
        prompts ([`Prompts`], *optional*): Texts of the calls.
        max_new_tokens (`int`, *optional*, defaults to `4096`): Tokens of a call.
        temperature (`float`, *optional*, defaults to `0.0`): `0.0` decodes greedily.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Prompts | None = None,
        *,
        max_new_tokens: int = 4096,
        temperature: float = 0.0,
    ):
        self.tokenizer, self.prompts = tokenizer, prompts or Prompts()
        self.max_new_tokens, self.temperature = max_new_tokens, temperature

    def ask(self, context: Context, instruction: str) -> Turn[Reply]:
        """Ask in the context of the problem and the reasoning so far."""
        begun = fill_template(self.prompts.context, problem=context.problem, reasoning=context.text or "(none)")
        before = [] if isinstance(context.prompt, str) else context.prompt[:-1]  # a system message, for example
        messages = [*before, {"role": "user", "content": begun + instruction}]
        (prompt,) = tokenize_prompts(self.tokenizer, [messages])
        (reply,) = yield [Generate(prompt, self.max_new_tokens, self.temperature)]
        return reply

    def tell(self, context: Context, instruction: str) -> Turn[str]:
        """Ask, and return the reply without its reasoning between thinking markers."""
        reply = yield from self.ask(context, instruction)
        return reply.text.rpartition(END_OF_THINKING)[2].strip()


class InstructionBlocks(InstructionCalls):
    """Blocks as prompts. With the check for an answer and the rating, R and Rf take 3 calls, Db 5, D with m subtasks m + 4, and Ga 1."""

    def run(self, action: int, context: Context) -> Turn[list[str]]:
        """See [`Blocks`]."""
        prompts, name = self.prompts, ACTIONS[action]
        if name == "D":
            listed = yield from self.tell(context, prompts.decompose)
            results = []
            for subtask in _NUMBERED.findall(listed):
                result = yield from self.tell(context, fill_template(prompts.solve, subtask=subtask))
                results.append(f"{subtask}\n{result}")
            solved = "\n\n".join(results)
            summary = yield from self.tell(context, fill_template(prompts.summarize, results=solved))
            return [f"{part}\n\n" for part in (*results, summary)]
        if name == "Db":
            plans = yield from self.tell(context, prompts.plan)
            best = yield from self.tell(context, fill_template(prompts.debate, plans=plans))
            planned = Context(context.prompt, [*context.steps, f"Plan: {best}\n\n"])
            step = yield from self.tell(planned, prompts.reason)
        elif name == "Ga":
            reply = yield from self.ask(context, prompts.answer)
            context.truncated = reply.truncated
            return [reply.text]
        else:
            step = yield from self.tell(context, prompts.refine if name == "Rf" else prompts.reason)
        return [f"{step}\n\n"]

    def has_answer(self, context: Context) -> Turn[bool]:
        """See [`Blocks`]. A reply without a verdict counts as No."""
        reply = yield from self.ask(context, self.prompts.has_answer)
        return read_verdict(reply.text, truncated=reply.truncated) is True


class RatingReader(InstructionCalls):
    """Reader that asks the model for the seven ratings, in one call."""

    def read(self, context: Context) -> Turn[tuple[list[int], int]]:
        """See [`StateReader`]."""
        reply = yield from self.tell(context, self.prompts.rate)
        return parse_ratings(reply)
