# SPDX-License-Identifier: Apache-2.0
"""Rows for the cold start of both policies, from a long trace that is divided into blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...verification.extraction import last_boxed
from .turns import is_well_formed


DECAY = 0.1  # weight of the length of a block in its score


def split_steps(text: str) -> list[str]:
    r"""
    Split a trace at blank lines.

    Examples:
        >>> split_steps("3+4=7\n\n7*2=14\n\n\nDone.")
        ['3+4=7', '7*2=14', 'Done.']
    """
    return [step.strip() for step in re.split(r"\n\s*\n", text) if step.strip()]


def check_blocks(blocks: Sequence[Mapping[str, Any]], steps: int) -> None:
    """
    Check that blocks cover the steps of a trace, in order and without gaps.

    Args:
        blocks (`Sequence[Mapping]`): `start` and `end` of each block, the first and the last of its steps, counted from 1.
        steps (`int`): Steps of the trace.

    Raises:
        `ValueError`: If they do not.
    """
    expected = 1
    for number, block in enumerate(blocks, 1):
        start, end = block["start"], block["end"]
        if start != expected or end < start:
            raise ValueError(
                f"Block {number} has the steps {start} to {end}, but it must begin at step {expected} and have at least one step. Blocks "
                "cover the steps in order, without gaps."
            )
        expected = end + 1
    if expected != steps + 1:
        raise ValueError(
            f"The blocks end at step {expected - 1} of {steps}. The last block must end at the last step."
        )


def block_scores(accuracies: Sequence[float], lengths: Sequence[int], decay: float = DECAY) -> list[float]:
    r"""
    Score the blocks of a trace: what each adds to the accuracy of a direct answer after it, less a share of its length.

    $$ s_i = e_i - e_{i-1} - \lambda \frac{\ell_i}{\sum_j \ell_j} $$

    Args:
        accuracies (`Sequence[float]`): $e_0, \dots, e_n$: share of direct answers that are correct before the first block, and after each of
            the n blocks.
        lengths (`Sequence[int]`): $\ell_i$, n lengths, in tokens or characters.
        decay (`float`, *optional*, defaults to `0.1`): $\lambda$.

    Returns:
        `list[float]`: n scores. A block with a positive score is important.

    Raises:
        `ValueError`: If the numbers of accuracies and lengths do not match.

    Examples:
        >>> [round(score, 2) for score in block_scores([0.25, 0.5, 0.75, 0.75], [40, 40, 120])]
        [0.23, 0.23, -0.06]
    """
    if len(accuracies) != len(lengths) + 1 or sum(lengths) <= 0:
        raise ValueError(
            f"{len(lengths)} blocks of {sum(lengths)} tokens need {len(lengths) + 1} accuracies and at least one token, got {len(accuracies)} "
            "accuracies. Give one accuracy before the first block, and one after each."
        )
    whole = sum(lengths)
    pairs = zip(accuracies, accuracies[1:], strict=False)
    return [after - before - decay * length / whole for (before, after), length in zip(pairs, lengths, strict=True)]


def chunk_trace(
    text: str,
    blocks: Sequence[Mapping[str, Any]],
    scores: Sequence[float],
    prompt: str,
    short_prompt: str | None = None,
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    r"""
    Build the rows that teach the two policies their turns from a trace, for TRL's `SFTTrainer`.

    Consecutive blocks with a positive score become one long turn, and the others between them one short turn. The dialogue begins with a
    long turn, so the first block is always part of one. The last short turn has the last box of the trace.

    Args:
        text (`str`): The trace, with a box. Its steps are divided by blank lines.
        blocks (`Sequence[Mapping]`): `start` and `end` of each block (see [`check_blocks`]). Other keys, such as `type`, are not used.
        scores (`Sequence[float]`): One per block (see [`block_scores`]).
        prompt (`str`): The problem, rendered by the chat template with the system prompt of the long policy and the generation prompt.
        short_prompt (`str`, *optional*): The same for the short policy. Default: `prompt`.

    Returns:
        `tuple[list[dict], list[dict]]`: Rows of the long and of the short policy, one per turn, with `prompt` and `completion`.

    Raises:
        `ValueError`: If the blocks do not cover the trace, there is not one score per block, the trace has no box, or a turn would contain a tag.

    Examples:
        >>> blocks = [{"start": 1, "end": 1}, {"start": 2, "end": 3}]
        >>> long, short = chunk_trace("3+4=7\n\nSo it is 7.\n\n\\boxed{7}", blocks, [0.5, -0.1], "What is 3 + 4? ")
        >>> long
        [{'prompt': 'What is 3 + 4? ', 'completion': '<think>3+4=7</think>'}]
        >>> short[0]["completion"]
        '<answer>So it is 7.\n\n\\boxed{7}</answer>'
    """
    steps = split_steps(text)
    check_blocks(blocks, len(steps))
    if not blocks or len(scores) != len(blocks):
        raise ValueError(
            f"Each of at least one block needs a score, got {len(scores)} scores for {len(blocks)} blocks."
        )
    answer = last_boxed(text)
    if answer is None:
        raise ValueError("The trace has no \\boxed{} answer, which the last short turn needs. Leave it out.")
    runs: list[tuple[str, list[str]]] = []  # of blocks of one kind
    for i, (block, score) in enumerate(zip(blocks, scores, strict=True)):
        role = "long" if score > 0 or i == 0 else "short"
        if not runs or runs[-1][0] != role:
            runs.append((role, []))
        runs[-1][1].extend(steps[block["start"] - 1 : block["end"]])
    if runs[-1][0] == "long":
        runs.append(("short", [f"\\boxed{{{answer}}}"]))
    elif last_boxed("\n\n".join(runs[-1][1])) is None:
        runs[-1][1].append(f"\\boxed{{{answer}}}")
    prompts = {"long": prompt, "short": short_prompt if short_prompt is not None else prompt}
    rows: dict[str, list[dict[str, str]]] = {"long": [], "short": []}
    history = ""
    for place, (role, parts) in enumerate(runs, 1):
        content = "\n\n".join(parts)
        is_last = place == len(runs)
        turn = (
            f"<think>{content}</think>"
            if role == "long"
            else f"<answer>{content}</{'answer' if is_last else 'rethink'}>"
        )
        if not is_well_formed(turn, role):
            raise ValueError(f"Turn {place} of the trace contains '<', with which tags begin. Leave the trace out.")
        rows[role].append({"prompt": prompts[role] + history, "completion": turn})
        history += turn
    return rows["long"], rows["short"]
