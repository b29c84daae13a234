# SPDX-License-Identifier: Apache-2.0
"""Step-labeled data from rollouts, for process reward models: steps, their rewards, and whether the completion is correct."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..evaluation.folder import read_sets


logger = logging.getLogger(__name__)

SEPARATOR = "\n\n"  # of steps, as in the authors' code of TDRM


def split_steps(text: str, separator: str = SEPARATOR) -> list[str]:
    r"""
    Split a completion into steps. Each step keeps the separators that follow it, so the steps together are the text.

    Args:
        text (`str`): The completion.
        separator (`str`, *optional*, defaults to an empty line): Text between steps.

    Returns:
        `list[str]`: At least one step; none is blank, unless the text is.

    Raises:
        `ValueError`: If the separator is empty.

    Examples:
        >>> split_steps("6 * 7 = 42\n\n\n\nSo it is 42.")
        ['6 * 7 = 42\n\n\n\n', 'So it is 42.']
    """
    if not separator:
        raise ValueError("The separator of steps is an empty text. Give the text between two steps, such as '\\n\\n'.")
    *closed, last = text.split(separator)
    steps: list[str] = []
    for piece in [*(piece + separator for piece in closed), last]:
        if steps and (not piece.strip() or not steps[-1].strip()):
            steps[-1] += piece
        elif piece or not steps:
            steps.append(piece)
    return steps


def cosine_step_reward(t: float, last: float, *, start: float, end: float) -> float:
    r"""
    Reward of step t, which falls or rises along half a cosine.

    $$ r = e + \frac{s - e}{2} \left(1 + \cos\frac{\pi t}{T}\right) $$

    The paper of TDRM names a cosine shaping; this formula is a reconstruction, after the length reward of open-r1.

    Args:
        t (`float`): Step, from 0.
        last (`float`): $T$, the last step. A single step has the reward of the start.
        start, end (`float`): $s$ and $e$, the rewards at 0 and at $T$.

    Examples:
        >>> [cosine_step_reward(t, 2, start=1.0, end=0.5) for t in (0, 1, 2)]
        [1.0, 0.75, 0.5]
    """
    return end + (start - end) / 2 * (1 + math.cos(math.pi * t / last)) if last else start


def build_steps(
    evaluation: str | Path,
    datasets: Mapping[str, Dataset],
    *,
    separator: str = SEPARATOR,
    correct_rewards: tuple[float, float] = (1.0, 0.5),
    wrong_rewards: tuple[float, float] = (0.0, 0.0),
) -> Dataset:
    """
    Build step-labeled data from the completions of an evaluation.

    [`~trl_concise.evaluation.evaluate`] samples and judges the completions, and continues an interrupted run; what is built from its
    folder depends on nothing else. Completions without a verdict are left out. A truncated completion is wrong.

    Args:
        evaluation (`str` or `Path`):
            Output folder of `evaluate`, or of `trl-concise eval`.
        datasets (`Mapping[str, Dataset]`):
            The problem sets that it was given, by name, with the columns `prompt` and `solution`. Other sets of the folder are
            left out.
        separator (`str`, *optional*, defaults to an empty line):
            Text between steps (see [`split_steps`]).
        correct_rewards, wrong_rewards (`tuple[float, float]`, *optional*, defaults to `(1.0, 0.5)` and `(0.0, 0.0)`):
            Rewards of the first and the last step of correct and of wrong completions; those between them follow
            [`cosine_step_reward`]. The targets of TDRM are clamped to [0, 1], so negative rewards lose their size.

    Returns:
        `Dataset`: One row per completion: `prompt`, `completions` (the steps), `rewards` (one per step) and `label` (whether the final
        answer is correct). The first two are TRL's stepwise format.

    Raises:
        `FileNotFoundError`: If the folder has no completions.
        `ValueError`: If a set is missing or has other problems, if a reward is not finite, or if all completions are correct, or all wrong.

    Example:

    ```python
    >>> problems = {"train": load_problems("openai/gsm8k", config_name="main", split="train")}
    >>> evaluate("Qwen/Qwen2.5-1.5B-Instruct", problems, "rollouts", num_completions=8, temperature=1.0)
    >>> steps = build_steps("rollouts", problems)
    ```
    """
    if not all(map(math.isfinite, (*correct_rewards, *wrong_rewards))):
        raise ValueError(f"Rewards must be finite; got {correct_rewards} and {wrong_rewards}.")
    rows: list[dict[str, Any]] = []
    for name, items in read_sets(evaluation, datasets).items():
        prompts = list(datasets[name]["prompt"])
        for item in items:
            if item.correct is None:
                continue
            steps = split_steps(item.text, separator)
            start, end = correct_rewards if item.correct else wrong_rewards
            rewards = [cosine_step_reward(t, len(steps) - 1, start=start, end=end) for t in range(len(steps))]
            rows.append(
                {
                    "prompt": prompts[item.problem],
                    "completions": steps,
                    "rewards": rewards,
                    "label": bool(item.correct),
                }
            )
    correct = sum(row["label"] for row in rows)
    if correct in (0, len(rows)):
        raise ValueError(
            f"Of {len(rows)} completions in {evaluation}, {correct} are correct, but correct and wrong ones are needed. Choose "
            "harder or easier problems, a higher temperature, or more completions."
        )
    logger.info(
        "%d completions, %d of them correct, %d steps.",
        len(rows),
        correct,
        sum(len(row["completions"]) for row in rows),
    )
    return Dataset.from_list(rows)
