# SPDX-License-Identifier: Apache-2.0
"""CoTnPoT: a solution in words is translated into a program, and is consistent if both give the same answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from ...evaluation.completions import Completion
from ...verification import verify_answers
from ...verification.extraction import AnswerFormat, final_answer
from ..tattoo.claims import find_claims


LARGEST = 10**300  # of a number in a program
_OPERATION = re.compile(r"(-?\d+)([-+*])\(?(-?\d+)\)?")

Program = list[tuple[str, int]]  # ("=", first operand), then an operator and an operand each


def find_passes(text: str) -> list[Program]:
    """
    Find the calculations of a solution, pass by pass.

    Equations `a op b = c` of whole numbers are read, with the operators +, - and *. A new pass begins where the left operand is not the result that was
    stated last.

    Args:
        text (`str`): The solution.

    Returns:
        `list`: For each pass `("=", a)`, then an operator and an operand each.
    """
    passes: list[Program] = []
    stated: int | None = None
    for claim in find_claims(text):
        operation, result = _OPERATION.fullmatch(claim.left), re.fullmatch(r"-?\d+", claim.right)
        if not operation or not result:
            continue
        if int(operation[1]) != stated:
            passes.append([("=", int(operation[1]))])
        passes[-1].append((operation[2], int(operation[3])))
        stated = int(result[0])
    return passes


def arithmetic_program(text: str) -> Program | None:
    r"""
    Translate a solution into the calculation of its last pass: its operations in order, without the results that it states.

    Only the solution is read (see [`find_passes`]), never the problem or the reference answer. A reconstruction, for solutions such as those of the
    embedded model; with a real model, a language model translates.

    Args:
        text (`str`): The solution.

    Returns:
        `list[tuple[str, int]]`, *optional*: `("=", a)`, then an operator and an operand each; `None` without an equation.

    Examples:
        >>> arithmetic_program("27+8=35\n35*2=70\n70-6=65")
        [('=', 27), ('+', 8), ('*', 2), ('-', 6)]
        >>> arithmetic_program("The answer is 64.") is None
        True
    """
    passes = find_passes(text)
    return passes[-1] if passes else None


def run_arithmetic(program: Program) -> str | None:
    """
    Run a program of [`arithmetic_program`].

    Args:
        program (`list[tuple[str, int]]`): The program.

    Returns:
        `str`, *optional*: The result, in digits; `None` if a number has more than 300 digits.

    Examples:
        >>> run_arithmetic([("=", 27), ("+", 8), ("*", 2), ("-", 6)])
        '64'
    """
    (_, value), *steps = program
    for sign, operand in steps:
        value = value + operand if sign == "+" else value - operand if sign == "-" else value * operand
        if abs(value) > LARGEST:
            return None
    return str(value)


def check_consistency(
    completions: Sequence[Completion],
    translate: Callable[[str], Any | None] = arithmetic_program,
    run: Callable[[Any], str | None] = run_arithmetic,
    *,
    answer_format: AnswerFormat = "auto",
) -> list[bool | None]:
    """
    Compare the answer of each solution with that of a program made from it.

    Consistency is a filter, not a proof: a solution that misreads the problem is consistent with its own program.

    Args:
        completions (`Sequence[Completion]`): Solutions.
        translate (`Callable`, *optional*): Makes a program from the text of a solution, or `None`. Default: [`arithmetic_program`].
        run (`Callable`, *optional*): Returns what a program prints, or `None` if it fails. Run programs of a language model in another process,
            never in this one. Default: [`run_arithmetic`].
        answer_format (`str`, *optional*, defaults to `"auto"`): Where the answers of the solutions are.

    Returns:
        `list[bool | None]`: Whether both answers exist and are equal, as the verifier of answers judges; `None` without a program, which is not
        consistent either.

    Raises:
        `TypeError`: If `run` returns something that is not text.
    """
    found: list[bool | None] = []
    for item in completions:
        program = translate(item.text)
        if program is None:
            found.append(None)
            continue
        result = run(program)
        if result is not None and not isinstance(result, str):
            raise TypeError(
                f"A program must give text or None, got {type(result).__name__}. Let `run` return what it prints."
            )
        answer = "" if item.truncated else final_answer(item.text, answer_format).text
        is_equal = bool(result and answer) and verify_answers([str(result)], [rf"\boxed{{{answer}}}"])[0]
        found.append(bool(is_equal))
    return found
