# SPDX-License-Identifier: Apache-2.0
"""Prompts of the blocks and of the ratings for models that follow instructions. The texts are ours; replace any of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompts:
    """
    Texts of the calls. Each is a user message.

    Args:
        context (`str`): Beginning of every message; `{problem}` and `{reasoning}`, the text so far, are replaced.
        reason, decompose, solve, summarize, plan, debate, refine, answer (`str`):
            Instructions of the blocks. In `solve`, `{subtask}` is replaced, in `summarize` `{results}`, in `debate` `{plans}`.
        has_answer (`str`): Asks whether the reasoning contains a final answer.
        rate (`str`): Asks for the seven ratings.
    """

    context: str = "Problem:\n{problem}\n\nReasoning so far:\n{reasoning}\n\n"
    reason: str = "Write the next step of the reasoning, and only that step."
    decompose: str = (
        "List the subtasks that are left to solve the problem, one per line, each numbered. Do not solve them."
    )
    solve: str = "Solve this subtask, and nothing else: {subtask}"
    summarize: str = "The subtasks were solved as follows:\n{results}\n\nSummarize what they show about the problem."
    plan: str = "Write three different plans for the next step. Do not carry them out."
    debate: str = "These are three plans:\n{plans}\n\nCompare them, and state the best one."
    refine: str = "Check the last step of the reasoning. Write it again, corrected where necessary."
    answer: str = "Write the final answer to the problem in \\boxed{}."
    has_answer: str = (
        "Does the reasoning so far contain the final answer to the problem? Reply in the form "
        '"Is the answer correct (Yes/No)? X", where X is Yes if it contains one, and No if it does not.'
    )
    rate: str = """\
Rate the reasoning so far. Write one line per aspect, such as "A1: 2". Use 1 for false, 2 for unsure, 3 for true, and 0 if it does not apply.
A1: the problem is modeled correctly.
A2: the last step is clear.
A3: the calculations are correct.
B1: what is left is complex.
B2: there are alternative methods.
C1: the final answer is close.
C2: the last step is complete."""
