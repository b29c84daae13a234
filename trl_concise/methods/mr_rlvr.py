# SPDX-License-Identifier: Apache-2.0
r"""
MR-RLVR: tasks about the process of a solution, before reinforcement learning on final answers (https://huggingface.co/papers/2511.17473).

Stage 1 trains with GRPO on tasks that are made from worked solutions ([`build_process_tasks`]): fill in missing pieces, or restore the order of
the steps. Stage 2 trains on final answers. The rewards of stage 1 measure agreement with the given solution, not truth:

$$ R_\text{fill} = \frac{1}{M} \sum_{m=1}^M \operatorname{match}(\hat c_m, c_m), \qquad
   R_\text{order} = \frac{1}{K} \sum_{k=1}^K \mathbb{1}[\hat\pi(k) = \pi(k)] $$

The paper's formulas and code are not public in what we read: both equations, and what is left blank, are a reconstruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from ..data.process_tasks import build_process_tasks
from ..verification import verify_answers
from ..verification.extraction import last_boxed, without_reasoning
from ..verification.final_form import leaves_arithmetic
from ..verification.finished import is_finished, opens_reasoning
from ..verification.reward import completion_text


__all__ = [
    "build_process_tasks",
    "fill_reward",
    "match_pieces",
    "order_reward",
    "read_blanks",
    "read_order",
    "score_order",
]

LONGER = 100  # characters that a piece may be longer than twice the reference
_MARK = re.compile(r"^[\s>*_`-]*\[blank\s*(\d{1,4})\][*_`]*[ \t]*[:=]?", re.IGNORECASE | re.MULTILINE)
_ORDER = re.compile(r"^[\s>*_`#-]*order\s*[*_`]*\s*:(.*)", re.IGNORECASE | re.MULTILINE)
_MATHS = re.compile(r"[\d=^_\\+*/<>]|^[A-Za-z]$")


def score_order(order: Sequence[int], given: Sequence[int] | None) -> float:
    r"""
    Return the share of the steps at their right place.

    $$ R_\text{order} = \frac{1}{K} \sum_{k=1}^K \mathbb{1}[\hat\pi(k) = \pi(k)] $$

    Args:
        order (`Sequence[int]`): $\pi$, a permutation of 1 to $K$.
        given (`Sequence[int]`, *optional*): $\hat\pi$, from the completion.

    Returns:
        `float`: In [0, 1]; 0 unless $\hat\pi$ is a permutation of 1 to $K$.

    Examples:
        >>> score_order([2, 1, 3, 4], [2, 1, 4, 3]), score_order([2, 1, 3, 4], [2, 1, 1, 4])
        (0.5, 0.0)
    """
    if not (order and given) or sorted(given) != list(range(1, len(order) + 1)):
        return 0.0
    return fmean(float(one == other) for one, other in zip(given, order, strict=True))


def match_pieces(references: Sequence[str], given: Sequence[str | None]) -> list[bool]:
    """
    Say which pieces of a completion match those of the solution.

    Formulas and numbers match if they are equal as [`verify_answers`] judges; of equations, each side. One with an operation to carry out,
    such as `27+8` or `27+8=35`, matches only with the same numbers: it asks for the operation, not for its value. A result such as `35` does not
    match an operation, which often is in the text before the blank. Other text matches if it is the same apart from case, articles, white space
    and punctuation.

    Args:
        references (`Sequence[str]`): Pieces of the solution.
        given (`Sequence[str]`, *optional*): Pieces of the completion; `None` where one is missing.

    Returns:
        `list[bool]`: One verdict per piece.

    Examples:
        >>> match_pieces(["3", "x+1", "7", "Pythagorean theorem"], ["3.0", "1+x", "8", "the Pythagorean Theorem."])
        [True, True, False, True]
        >>> match_pieces(["27+8=35"] * 3, ["8+27=35", "35", "35=35"])
        [True, False, False]
    """
    verdicts = [False] * len(references)
    sides: list[tuple[int, str, str]] = []  # of formulas, to be judged
    for place, (reference, piece) in enumerate(zip(references, given, strict=True)):
        if not piece or len(piece) > 2 * len(reference) + LONGER:
            continue
        reference, piece = _without_markup(reference), _without_markup(piece)
        if not piece:
            continue
        verdicts[place] = _plain(piece) == _plain(reference)
        if not verdicts[place] and _MATHS.search(reference) and _may_be_equal(reference, piece):
            verdicts[place] = True  # unless a side differs
            sides += [(place, *pair) for pair in zip(reference.split("="), piece.split("="), strict=True)]
    golds = [reference.strip() for _, reference, _ in sides]
    for (place, _, _), verdict in zip(
        sides, verify_answers(golds, [rf"\boxed{{{piece.strip()}}}" for _, _, piece in sides]), strict=True
    ):
        verdicts[place] = verdicts[place] and bool(verdict)
    return verdicts


def read_blanks(text: str) -> dict[int, str | None]:
    """
    Read the pieces after `[blank 1]`, `[blank 2]`, ... at the beginning of lines, after the reasoning.

    Returns:
        `dict[int, str | None]`: The first line of each piece, by its number; `None` where a number has two different pieces.

    Examples:
        >>> read_blanks("<think>27 + 8</think>[blank 1] 35\\n[blank 2]: 70\\n[blank 2]: 71")
        {1: '35', 2: None}
    """
    text = without_reasoning(text)
    marks = list(_MARK.finditer(text))
    pieces: dict[int, str | None] = {}
    for place, mark in enumerate(marks):
        end = marks[place + 1].start() if place + 1 < len(marks) else len(text)
        number, piece = int(mark[1]), text[mark.end() : end].strip().partition("\n")[0].strip()
        previous = pieces.setdefault(number, piece)
        if _plain(previous or "") != _plain(piece):
            pieces[number] = None
    return pieces


def read_order(text: str) -> list[int] | None:
    """
    Read the numbers of the last line that begins with `Order:`, after the reasoning.

    Returns:
        `list[int]` or `None`: The numbers; `None` without such a line.

    Examples:
        >>> read_order("Step 2 comes first.\\nOrder: 2, 1, 3")
        [2, 1, 3]
    """
    lines = _ORDER.findall(without_reasoning(text))
    return [int(number) for number in re.findall(r"(?<![\d.])\d{1,4}(?![\d.]*\d)", lines[-1])] if lines else None


def fill_reward(
    completions: list[Any],
    blanks: list[Sequence[str] | None],
    *,
    prompts: list[Any] | None = None,
    completion_finished: list[bool] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    r"""
    Reward function that is the share of the missing pieces that a completion fills as the solution does.

    $$ R_\text{fill} = \frac{1}{M} \sum_{m=1}^M \operatorname{match}(\hat c_m, c_m) $$

    A piece that is missing, or that is given twice in different ways, does not match ([`match_pieces`], [`read_blanks`]). A completion that is not
    finished (see docs/verification.md) earns 0. It logs `mr_rlvr/blanks_given`, the mean share of the blanks that were filled with anything.

    Args:
        completions (`list`): Completions as text, or as lists of messages, of which the last is read.
        blanks (`list[list[str]]`): The missing pieces, from [`build_process_tasks`]; `None` or empty for a row of another task.
        prompts (`list`, *optional*): Prompts; the trainer provides them. Where one ends with `<think>`, its completion has to close the reasoning.
        completion_finished (`list[bool]`, *optional*): Whether each completion is finished. [`ConciseGRPOTrainer`] provides it.
        log_metric (`callable`, *optional*): Logs a number under a name; the trainer provides it.
        **kwargs: The dataset's other columns, which are not used.

    Returns:
        `list[float | None]`: In [0, 1]; `None` for a row of another task.

    Examples:
        >>> fill_reward(["[blank 1] 3\n[blank 2] 1+x\n[blank 3] 8"], blanks=[["3", "x+1", "7"]])
        [0.6666666666666666]
    """
    texts = _finished_texts(completions, prompts, completion_finished)
    given: dict[int, list[str | None]] = {}
    for row, (text, pieces) in enumerate(zip(texts, blanks, strict=True)):
        if pieces:
            found = read_blanks(text) if text is not None else {}
            given[row] = [found.get(number) for number in range(1, len(pieces) + 1)]
    rows = [row for row in given for _ in given[row]]
    matches = match_pieces(
        [piece for row in given for piece in blanks[row] or ()], [p for own in given.values() for p in own]
    )
    if log_metric is not None and rows:
        log_metric("mr_rlvr/blanks_given", fmean(fmean(float(bool(piece)) for piece in own) for own in given.values()))
    rewards: list[float | None] = [None] * len(texts)
    for row in given:
        rewards[row] = fmean(float(match) for own, match in zip(rows, matches, strict=True) if own == row)
    return rewards


def order_reward(
    completions: list[Any],
    order: list[Sequence[int] | None],
    *,
    prompts: list[Any] | None = None,
    completion_finished: list[bool] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    r"""
    Reward function that is the share of the steps that a completion puts at their right place ([`score_order`]).

    It logs `mr_rlvr/orders_valid`, the share of the completions whose order is a permutation.

    Args:
        completions (`list`): Completions as text, or as lists of messages, of which the last is read.
        order (`list[list[int]]`): The right orders, from [`build_process_tasks`]; `None` or empty for a row of another task.
        prompts, completion_finished, log_metric, **kwargs: See [`fill_reward`].

    Returns:
        `list[float | None]`: In [0, 1], 0 unless the completion is finished and gives a permutation; `None` for a row of another task.

    Examples:
        >>> order_reward(["Order: 2, 1, 4, 3", "Order: 2, 1, 1, 4"], order=[[2, 1, 3, 4]] * 2)
        [0.5, 0.0]
    """
    texts = _finished_texts(completions, prompts, completion_finished)
    given = [read_order(text) if text is not None else None for text in texts]
    rewards = [score_order(own, numbers) if own else None for own, numbers in zip(order, given, strict=True)]
    if log_metric is not None and any(order):
        valid = [sorted(numbers or ()) == sorted(own) for own, numbers in zip(order, given, strict=True) if own]
        log_metric("mr_rlvr/orders_valid", fmean(map(float, valid)))
    return rewards


# Looked for when a trainer is built, before anything is generated
setattr(fill_reward, "needs_one_of", ("blanks",))  # noqa: B010 (a type checker knows no attributes of functions)
setattr(order_reward, "needs_one_of", ("order",))  # noqa: B010


def _finished_texts(
    completions: Iterable[Any], prompts: Sequence[Any] | None, finished: Sequence[bool] | None
) -> list[str | None]:
    """Return the texts of the completions, `None` for those that are not finished."""
    texts = [completion_text(completion) for completion in completions]
    if finished is None:
        opened = map(opens_reasoning, prompts) if prompts is not None else [False] * len(texts)
        finished = [is_finished(text, reasoning_opened=own) for text, own in zip(texts, opened, strict=True)]
    return [text if own else None for text, own in zip(texts, finished, strict=True)]


def _without_markup(piece: str) -> str:
    """Remove boxes, math delimiters, emphasis and a final full stop."""
    boxed = last_boxed(piece)
    piece = boxed if boxed is not None else piece
    piece = re.sub(r"^[*_`\s]+|[*_`\s]+$", "", re.sub(r"\*\*([^*]+)\*\*", r"\1", piece))
    piece = re.sub(r"^(?:\$\$?|\\\(|\\\[)(?!\d+$)(.*?)(?:\$\$?|\\\)|\\\])\.?$", r"\1", piece)
    return re.sub(r"(?<=[^.])\.$", "", piece).strip()


def _plain(text: str) -> str:
    """A text without what does not distinguish pieces: case and white space, in prose also articles and punctuation."""
    if _MATHS.search(text):
        return re.sub(r"\s|\.\s*$", "", text)
    words = re.sub(r"[^\w\s]|_|\b(?:the|an?)\b", " ", text.casefold()).split()
    return " ".join(words or text.split())


def _may_be_equal(reference: str, piece: str) -> bool:
    """
    Whether a piece has the form of the reference: balanced braces, as many equals signs, a calculation where the reference has one, with the
    same numbers, and no calculation where it has a result.
    """
    depth = 0
    for character in piece:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    if depth or piece.count("=") != reference.count("="):
        return False
    expected, found = (list(map(leaves_arithmetic, text.split("="))) for text in (reference, piece))
    return expected == found and (not any(expected) or _numbers(reference) == _numbers(piece))


def _numbers(text: str) -> list[str]:
    """The numbers of a calculation, in any order."""
    return sorted(re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", text)))
