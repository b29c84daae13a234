# SPDX-License-Identifier: Apache-2.0
"""A critic for the problems of the demo that needs no language model: it carries out the operations again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..data.teachers import Conversation, Reply
from .problems import apply


_EQUATION = re.compile(r"(\d+) ?([+*-]) ?(\d+) ?= ?(-?\d+)")
_BOXED = re.compile(r"\\boxed\{(-?\d+)\}")
_RESTATEMENT = re.compile(r"We need (.*)\.")


class ArithmeticCritic:
    """
    A program in the place of the language model that [`~trl_concise.methods.capo.CAPO`] asks, for examples and tests without a network.

    It reads a request of [`~trl_concise.methods.capo_critiques.critic_request`] about a problem of [`generate_problems`]. A step is
    wrong if its result is, if it is not the next operation of the problem, if it does not continue from the step before, if it restates
    another problem, or if the boxed answer is not the last result. It makes no mistakes, unlike a model.
    """

    name = "arithmetic"

    def config(self) -> dict[str, Any]:
        return {}

    def cost(self, input_tokens: int, output_tokens: int) -> None:
        return None

    def replies(
        self, conversations: Sequence[Conversation], timeout: float | None = None
    ) -> Iterator[tuple[int, Reply]]:
        for index, conversation in enumerate(conversations):
            wrong = find_wrong_steps(conversation[-1]["content"])
            yield index, Reply(f"Wrong steps: {', '.join(map(str, wrong)) or 'none'}")


def find_wrong_steps(request: str) -> list[int]:
    """Return the numbers of the wrong steps in a request."""
    question = re.search(r"What is (\S+ [+*-] .*)\?", request)
    if question is None:
        return []
    first, *rest = re.findall(r"\d+|[+*-]", question[1])
    start, operations = int(first), list(zip(rest[::2], map(int, rest[1::2]), strict=False))
    answer = start
    for operator, operand in operations:
        answer = apply(operator, answer, operand)

    wrong, value, done, stated = [], start, 0, answer  # `stated`: the last result, by which the boxed answer is judged
    _, *steps = re.split(r"^Step \d+: ", request, flags=re.MULTILINE)
    for number, step in enumerate(steps, start=1):
        if "check" in step or done == len(operations):
            value, done = start, 0
        if (found := _EQUATION.search(step)) is not None:
            left, operator, right, result = int(found[1]), found[2], int(found[3]), int(found[4])
            is_right = (
                left == value and (operator, right) == operations[done] and apply(operator, left, right) == result
            )
            value = stated = result
            done += 1
        elif (boxed := _BOXED.search(step)) is not None:
            is_right = int(boxed[1]) == stated
        else:
            restated = _RESTATEMENT.search(step)
            is_right = restated is None or restated[1] == question[1]
        if not is_right:
            wrong.append(number)
    return wrong
