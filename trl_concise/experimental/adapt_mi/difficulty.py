# SPDX-License-Identifier: Apache-2.0
"""The first stage of AdaptMI: scores of the steps of a completion, and whether its question is difficult."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ...data.steps import split_steps
from ...verification.extraction import AnswerFormat, final_answer
from ..step_scores import StepScorer, score_steps
from ..templates import fill_template


TAU = (0.85, 0.7)  # the paper's; the authors' scripts have (0.9, 0.7)
ANSWER_STEP = "The answer is {answer}"
RULES = ("answer", "mean", "step")  # in this order


def check_tau(tau: Sequence[float]) -> tuple[float, float]:
    """
    Check thresholds.

    Args:
        tau (`Sequence[float]`): Both thresholds, in `[0, 1]`. Both below 0: every question is easy.

    Returns:
        `tuple[float, float]`: The thresholds.

    Raises:
        `ValueError`: If there are not two of them, or they are out of range.
    """
    if len(tau) != 2 or not (all(0 <= value <= 1 for value in tau) or all(value < 0 for value in tau)):
        raise ValueError(
            f"tau needs two thresholds between 0 and 1, got {list(tau)}. Give both below 0 to call every question easy."
        )
    return tau[0], tau[1]


def find_rule(scores: Sequence[float], tau: Sequence[float] = TAU) -> str | None:
    r"""
    Return the first rule by which a question is difficult, `None` if it is easy.

    | Rule | Condition |
    |---|---|
    | `"answer"` | $r_T \le \tau_1$ |
    | `"mean"` | $\text{mean}_j r_j \le \tau_1$ |
    | `"step"` | $r_j \le \tau_2$ for some $j \ge 1$: the first step is exempt |

    Args:
        scores (`Sequence[float]`): $r_0, \dots, r_T$ in `[0, 1]`; the last one is that of the answer.
        tau (`Sequence[float]`, *optional*, defaults to `(0.85, 0.7)`): $\tau_1$ and $\tau_2$.

    Raises:
        `ValueError`: If a score is missing, NaN or outside `[0, 1]`, or the thresholds are out of range.

    Examples:
        >>> find_rule([0.95, 0.92, 0.90]), find_rule([0.95, 0.92, 0.90], (0.9, 0.7))
        (None, 'answer')
    """
    first, second = check_tau(tau)
    if not scores or not all(0 <= score <= 1 for score in scores):
        raise ValueError(f"A decision needs scores between 0 and 1, got {list(scores)}.")
    if scores[-1] <= first:
        return "answer"
    if fmean(scores) <= first:
        return "mean"
    return "step" if any(score <= second for score in scores[1:]) else None


def classify_difficulty(scores: Sequence[float], tau: Sequence[float] = TAU) -> bool:
    """Return whether a question is difficult (see [`find_rule`])."""
    return find_rule(scores, tau) is not None


def self_scores(logprobs: Sequence[Sequence[float]]) -> list[float]:
    """
    Return the scores of steps from the log-probabilities of their tokens, the exponential of their mean.

    Examples:
        >>> [round(score, 8) for score in self_scores([[-0.01, -0.02], [-0.5, -0.1, -0.3], [-0.001]])]
        [0.98511194, 0.74081822, 0.9990005]
    """
    return [math.exp(fmean(values)) if values else 1.0 for values in logprobs]


def steps_of(
    completion: str,
    *,
    separator: str = "\n\n",
    answer_step: str = ANSWER_STEP,
    answer_format: AnswerFormat = "auto",
) -> list[str] | None:
    r"""
    Split a completion into steps, of which the last one states the extracted answer.

    Args:
        completion (`str`): Text of the completion.
        separator (`str`, *optional*, defaults to an empty line): Text between steps.
        answer_step (`str`, *optional*): Text of the last step; `{answer}` is replaced. It is not added if the completion ends with it.
        answer_format (`str`, *optional*, defaults to `"auto"`): Where the answer is.

    Returns:
        `list[str]`, *optional*: The steps; `None` for a completion without an answer.

    Examples:
        >>> steps_of("2 + 2 = 4\n\n4 * 2 = 8\n\nSo it is \\boxed{8}.")[1:]
        ['4 * 2 = 8\n\n', 'So it is \\boxed{8}.', 'The answer is 8']
    """
    answer = final_answer(completion, answer_format).text
    if not answer:
        return None
    steps = split_steps(completion, separator)
    stated = fill_template(answer_step, answer=answer)
    return steps if steps[-1].strip() == stated.strip() else [*steps, stated]


@dataclass(frozen=True)
class Decision:
    """
    Whether a question is difficult: a line of `difficulty.jsonl`.

    Attributes:
        dataset (`str`): Name of the problem set.
        problem (`int`): Row in it.
        completion (`int`): The completion that decides, the one with the highest mean score.
        steps (`list[str]`): Its steps, with that of the answer; empty without an answer.
        scores (`list[float]`): Their scores.
        difficult (`bool`): The decision.
        rule (`str`, *optional*): Why it is difficult: `"answer"`, `"mean"` or `"step"` (see [`find_rule`]), `"no answer"`, or `"oracle"`.
    """

    dataset: str
    problem: int
    completion: int
    steps: list[str]
    scores: list[float]
    difficult: bool
    rule: str | None


def decide(
    dataset: str,
    problem: int,
    text: str,
    completions: Sequence[str],
    scorer: StepScorer,
    tau: Sequence[float] = TAU,
    **split_options: str,
) -> Decision:
    """
    Decide whether a question is difficult. The reference answer is not used.

    Args:
        dataset, problem: See [`Decision`].
        text (`str`): The question.
        completions (`Sequence[str]`): Its completions, at least one. Pass an empty text for a truncated one.
        scorer ([`StepScorer`]): Scores the steps. It is not called for a completion without an answer.
        tau (`Sequence[float]`, *optional*, defaults to `(0.85, 0.7)`): Thresholds.
        **split_options: Options of [`steps_of`].

    Returns:
        [`Decision`]: Difficult by the rule `"no answer"` if no completion has an answer, unless both thresholds are below 0.
    """
    is_neutral = max(check_tau(tau)) < 0
    best: tuple[float, int, list[str], list[float]] | None = None
    for number, completion in enumerate(completions):
        steps = steps_of(completion, **split_options)  # type: ignore[arg-type]
        if steps is None:
            continue
        scores = score_steps(scorer, text, steps)
        if not best or fmean(scores) > best[0]:
            best = fmean(scores), number, steps, scores
    if best is None:
        return Decision(dataset, problem, 0, [], [], not is_neutral, None if is_neutral else "no answer")
    _, number, steps, scores = best
    rule = find_rule(scores, tau)
    return Decision(dataset, problem, number, steps, scores, rule is not None, rule)
