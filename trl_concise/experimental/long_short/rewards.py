# SPDX-License-Identifier: Apache-2.0
"""The rewards of Long(x)Short: whether the dialogue is correct, whether the turn has its format, and how long it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...batch.rollouts import Rollouts
from ...components import TrainerView
from ...evaluation.completions import unreadable_reference_answers
from ...methods.kimi import KimiLengthReward, kimi_length_reward
from ...verification import math_accuracy_reward
from .rollout import LongShortRollout
from .turns import ROLES, final_turn, is_well_formed


if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

logger = logging.getLogger(__name__)
LENGTHS = {"own": "turn_tokens", "joint": "joint_tokens"}


def long_short_accuracy(
    completions: Sequence[Any],
    dialogue: Sequence[Sequence[str]] | None = None,
    solution: list[Any] | None = None,
    answer: list[Any] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    r"""
    Reward function that is 1 if the dialogue reaches the reference answer: the last box of its last short turn is compared with it.

    A dialogue that has not ended with `</answer>` earns 0.

    Args:
        completions (`Sequence`): Completions, which are not read.
        dialogue (`Sequence[Sequence[str]]`): The turns of each dialogue, from [`LongShortRollout`].
        solution, answer, log_metric: As for [`math_accuracy_reward`].
        **kwargs: Other columns, which are not used.

    Returns:
        `list[float | None]`: `None` where the reference answer is unreadable.

    Raises:
        `ValueError`: Without dialogues, or without a column of reference answers.

    Examples:
        >>> turns = ["<think>3+4=7</think>", r"<answer>\boxed{7}</answer>"]
        >>> long_short_accuracy(["", ""], dialogue=[turns, turns[:1]], solution=["7", "7"])
        [1.0, 0.0]
    """
    finals = [final_turn(texts) for texts in _given(dialogue, "long_short_accuracy")]
    return math_accuracy_reward(
        [text.partition("<answer>")[2].removesuffix("</answer>") if text else "" for text in finals],
        solution=solution,
        answer=answer,
        log_metric=log_metric,
        completion_finished=[text is not None for text in finals],
        format="boxed",
    )


setattr(long_short_accuracy, "needs_one_of", ("solution", "answer"))  # noqa: B010


def long_short_format(
    completions: Sequence[Any],
    dialogue: Sequence[Sequence[str]] | None = None,
    role: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[float]:
    """
    Reward function that is 1 if the turn that is trained has the format of its role (see [`is_well_formed`]), 0 otherwise.

    Args:
        completions (`Sequence`): Completions, which are not read: a chat template may parse the tags out of them.
        dialogue (`Sequence[Sequence[str]]`): The turns of each dialogue, from [`LongShortRollout`].
        role (`Sequence[str]`): The role that is trained, from [`LongShortRollout`].
        **kwargs: Other columns, which are not used.

    Raises:
        `ValueError`: Without dialogues or roles.
    """
    dialogues = _given(dialogue, "long_short_format")
    roles = _given(role, "long_short_format")
    return [float(is_well_formed(texts[ROLES.index(own)], own)) for texts, own in zip(dialogues, roles, strict=True)]


def _given(column: Sequence[Any] | None, name: str) -> Sequence[Any]:
    if column is None:
        raise ValueError(
            f"{name} reads the columns `dialogue` and `role`, and the completions have none. Pass rollout=LongShortRollout(...), and no "
            "component that generates completions of its own."
        )
    return column


class LongShortLengthReward(KimiLengthReward):
    """
    The length reward of Kimi k1.5 ([`kimi_length_reward`]) for a turn of [`LongShortRollout`].

    Args:
        length (`str`, *optional*, defaults to `"own"`): What is compared within a group: `"own"`, the tokens of the turn that is trained, or
            `"joint"`, those of the whole dialogue, so that nothing is gained by moving text to the partner.
        warmup_steps (`int`, *optional*, defaults to `0`): Optimizer steps at the beginning during which the reward is 0.

    Raises:
        `ValueError`: If a setting is out of range. When a trainer is built: if its rollout is not a [`LongShortRollout`], which counts the
            tokens.
    """

    name = "long_short_length"
    paper = LongShortRollout.paper

    def __init__(self, length: str = "own", warmup_steps: int = 0):
        if length not in LENGTHS:
            raise ValueError(f"length must be 'own' or 'joint', got {length!r}.")
        super().__init__(warmup_steps)
        self.length = length

    def attach(self, trainer: TrainerView) -> None:
        if not any(isinstance(component, LongShortRollout) for component in trainer.components):
            raise ValueError(
                f"LongShortLengthReward(length={self.length!r}) needs the tokens of the policy and of its partner, and nothing counts them. "
                "Pass rollout=LongShortRollout(...), or use KimiLengthReward."
            )

    def score(self, rollouts: Rollouts) -> Tensor:
        tokens = rollouts.measured[LongShortRollout.name][LENGTHS[self.length]]
        reward = kimi_length_reward(rollouts.by_group(tokens), rollouts.by_group(rollouts.correct)).flatten()
        return reward if rollouts.step >= self.warmup_steps else reward * 0


def with_readable_answers(dataset: Dataset, column: str = "solution") -> Dataset:
    """
    Leave out the rows whose reference answer cannot be read, and log how many there are.

    Args:
        dataset (`Dataset`): Problems.
        column (`str`, *optional*, defaults to `"solution"`): Column of the reference answers.

    Raises:
        `ValueError`: If no row is left.

    Examples:
        >>> from datasets import Dataset
        >>> dataset = Dataset.from_dict({"prompt": ["1 + 1?", "?"], "solution": ["2", ""]})
        >>> with_readable_answers(dataset)[:]["prompt"]
        ['1 + 1?']
    """
    unreadable = unreadable_reference_answers([str(gold) if gold is not None else "" for gold in dataset[column]])
    if len(unreadable) == len(dataset):
        raise ValueError(
            f"None of the {len(dataset)} rows has a reference answer in the column {column!r} that can be read. Name the column with the "
            "answers, or use other problems."
        )
    if unreadable:
        logger.warning(
            "%d of %d rows have no reference answer that can be read, and are left out.", len(unreadable), len(dataset)
        )
    return dataset.select([row for row in range(len(dataset)) if row not in unreadable])
