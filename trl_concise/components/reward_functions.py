# SPDX-License-Identifier: Apache-2.0
"""The reward functions of [`ConciseGRPOTrainer`]: group rewards among them, and which one says what is correct."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import Component, TrainerView
from .kinds import GroupReward


if TYPE_CHECKING:
    from torch import Tensor


logger = logging.getLogger(__name__)


def add_own_rewards(given: dict[str, Any], own: Sequence[tuple[GroupReward, float]], trainer: str) -> list[Callable]:
    """
    Return the reward functions, with those of a drop-in trainer after the user's, and set their weights in `given["args"]`.

    Args:
        given (`dict[str, Any]`): Arguments of the trainer, changed in place. The user's weights and processing classes stay.
        own (`Sequence[tuple[GroupReward, float]]`): Group rewards of the drop-in trainer, and their weights.
        trainer (`str`): Name of the trainer's class.

    Raises:
        `ValueError`: If the weights do not match the reward functions.
        `TypeError`: If a class is given instead of an instance.
    """
    reward_funcs = given["reward_funcs"] if isinstance(given["reward_funcs"], list) else [given["reward_funcs"]]
    reward_funcs = [func for func in reward_funcs if func is not None]
    for func in reward_funcs:
        if isinstance(func, type):
            raise TypeError(f"reward_funcs= takes functions and instances: {func.__name__}(), not the class.")
    if not own:
        return reward_funcs
    args = given["args"]
    weights = args.reward_weights if args.reward_weights is not None else [1.0] * len(reward_funcs)
    if len(weights) != len(reward_funcs):
        raise ValueError(
            f"reward_weights covers your reward functions only: got {len(weights)} weights for {len(reward_funcs)} "
            f"functions. {trainer} adds its own column and weight."
        )
    args.reward_weights = [*weights, *(weight for _, weight in own)]
    if (classes := given.get("reward_processing_classes")) is not None:
        classes = classes if isinstance(classes, list) else [classes]
        given["reward_processing_classes"] = [*classes, *[None] * len(own)]
    return [*reward_funcs, *(component for component, _ in own)]


def hold_column(name: str, *, is_alone: bool) -> Callable[..., list[float | None]]:
    """
    Return a reward function of this name that holds the column of a group reward, so that TRL's weights, metrics and completions
    table know it.

    It abstains. If the trainer has no other reward functions it returns 0, because TRL warns of a batch without any reward.
    """

    def hold(completions, **kwargs):
        return [0.0 if is_alone else None] * len(completions)

    hold.__name__ = name
    return hold


def needs_correctness(components: Sequence[Component]) -> bool:
    """Return whether a component reads which completions are correct."""
    return any(component.needs_correctness for component in components)


def check_reward_weights(weights: Tensor) -> None:
    """
    Check that a reward counts, for a trainer whose advantages depend on the rewards alone.

    Raises:
        `ValueError`: If all weights are 0.
    """
    if not weights.any():
        raise ValueError(
            f"reward_weights are all 0: {weights.tolist()}. Every advantage would be 0, so nothing would be learned. Give a "
            "reward function a weight other than 0."
        )


def check_rewards_are_summed(component: Component, trainer: TrainerView) -> None:
    """
    Check that TRL adds the rewards before it normalizes them, for a component that uses their sum.

    Raises:
        `ValueError`: If it normalizes each reward.
    """
    if trainer.multi_objective_aggregation != "sum_then_normalize":
        raise ValueError(
            f"{type(component).__name__} uses the sum of the rewards, but multi_objective_aggregation="
            f"{trainer.multi_objective_aggregation!r} normalizes each reward. Set it to 'sum_then_normalize'."
        )


def find_correctness(
    name: str | None,
    reward_func_names: Sequence[str],
    group_rewards: Mapping[int, GroupReward],
    components: Sequence[Component],
) -> int | None:
    """
    Return the column of the reward function that says whether a completion is correct; `None` without one, if no component
    needs it.

    Args:
        name (`str`, *optional*): Its name; by default, the first function that is not a group reward.
        reward_func_names (`Sequence[str]`): Names of all reward functions.
        group_rewards (`Mapping[int, GroupReward]`): The group rewards, by column.
        components (`Sequence[Component]`): The trainer's components.

    Raises:
        `ValueError`: If the function does not exist, or two functions share a name that components need.
    """
    columns = {i: own for i, own in enumerate(reward_func_names) if i not in group_rewards}
    names = list(columns.values())
    if components and len(set(names)) < len(names):
        raise ValueError(
            f"The reward functions are called {names}, but components and metrics need different names. Define each "
            "with its own `def`; a `functools.partial` has the name of the function that it wraps."
        )
    if name is not None and name not in names:
        raise ValueError(
            f"correctness={name!r} is not a reward function. The functions are {names}. Use one of these names."
        )
    if not columns and not needs_correctness(components):
        return None
    if not columns:
        needing = [type(component).__name__ for component in components if component.needs_correctness]
        raise ValueError(
            f"{needing} build on correctness: put a reward "
            "function that says whether a completion is correct into `reward_funcs`, e.g. math_accuracy_reward."
        )
    if len(names) > 1 and needs_correctness(components) and name is None:
        logger.warning(
            "The first of the reward functions %s, %r, says what is correct. Set correctness= to name it, or another.",
            names,
            names[0],
        )
    return next(column for column, own in columns.items() if name in (None, own))
