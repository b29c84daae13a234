# SPDX-License-Identifier: Apache-2.0
"""The slots of [`ConciseGRPOTrainer`], and what its constructor reads from its arguments."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .components import BudgetSchedule, Component, GroupReward, PromptSelector, TokenCredit


logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_RESERVED = {"prompt_order"}  # the entry in `state.json` for the prompts that a selector has chosen


@dataclass(frozen=True)
class Slot:
    """
    One slot of the trainer.

    Attributes:
        kind (`type[Component]`): The components that it takes.
        several (`bool`): Whether it takes a list, applied in order.
    """

    kind: type[Component]
    several: bool = False


# By argument of the trainer, in the order in which their components observe, after the group rewards.
SLOTS: dict[str, Slot] = {
    "prompt_selector": Slot(PromptSelector),
    "token_credit": Slot(TokenCredit, several=True),
    "budget_schedule": Slot(BudgetSchedule),
}


def fill_slots(given: Mapping[str, Any], own: Mapping[str, Any], trainer: str) -> dict[str, list[Component]]:
    """
    Return the components of each slot.

    Args:
        given (`Mapping[str, Any]`): A component, a list of them or `None`, by slot, from the user.
        own (`Mapping[str, Any]`): The same from a drop-in trainer, for the slots that it fills itself.
        trainer (`str`): Name of the trainer's class.

    Returns:
        `dict[str, list[Component]]`: A list for every slot, in the order of [`SLOTS`].

    Raises:
        `ValueError`: If the user and the drop-in trainer fill the same slot.
        `TypeError`: If a slot does not take the component.
    """
    for slot, component in own.items():
        if given[slot] is not None:
            raise ValueError(
                f"{trainer} fills {slot}= with a {type(component).__name__} of its own. To use yours, or both, pass the "
                "components to a ConciseGRPOTrainer."
            )
    return {name: _components(name, slot, {**given, **own}[name]) for name, slot in SLOTS.items()}


def _components(name: str, slot: Slot, value: Any) -> list[Component]:
    components = value if slot.several and isinstance(value, list) else [] if value is None else [value]
    for component in components:
        if isinstance(component, type):
            raise TypeError(
                f"{name}= takes an instance of a {slot.kind.__name__}: {component.__name__}(), not the class."
            )
        if not isinstance(component, slot.kind):
            raise TypeError(f"{name}= takes a {slot.kind.__name__}, got a {type(component).__name__}.")
    return components


def check_names(components: Sequence[Component]) -> None:
    """
    Check that each component has a name under which its state can be saved.

    Args:
        components (`Sequence[Component]`): The components of one trainer.

    Raises:
        `ValueError`: If a name is missing, invalid, reserved or used twice.
    """
    seen: dict[str, str] = {}  # in lower case: some file systems ignore it
    for component in components:
        kind, name = type(component).__name__, getattr(component, "name", None)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"The name of {kind} is {name!r}. A component's name has 1 to 64 ASCII letters, digits, `_` and `-`, and "
                "begins with a letter or a digit: it names a file in each checkpoint. Set `name` in the class."
            )
        if name.lower() in _RESERVED:
            raise ValueError(
                f"The name of {kind} is {name!r}, under which checkpoints store the order of prompts. Set another `name` "
                "in the class."
            )
        if name.lower() in seen:
            raise ValueError(
                f"{seen[name.lower()]} and {kind} have the same name, {name!r}; upper and lower case do not distinguish "
                "names. Remove one, or set another `name` in a subclass."
            )
        seen[name.lower()] = kind


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


def abstain_as(name: str) -> Callable[..., list[None]]:
    """
    Return a reward function of this name that abstains from every completion.

    It holds the column of a group reward, so that TRL's weights, metrics and completions table know it.
    """

    def abstain(completions, **kwargs):
        return [None] * len(completions)

    abstain.__name__ = name
    return abstain


def find_correctness(
    name: str | None, reward_func_names: Sequence[str], group_rewards: Mapping[int, GroupReward], components: Sequence
) -> int:
    """
    Return the column of the reward function that says whether a completion is correct.

    Args:
        name (`str`, *optional*): Its name; by default, the first function that is not a group reward.
        reward_func_names (`Sequence[str]`): Names of all reward functions.
        group_rewards (`Mapping[int, GroupReward]`): The group rewards, by column.
        components (`Sequence[Component]`): The trainer's components.

    Raises:
        `ValueError`: If there is no such function, or components need names that two functions share.
    """
    columns = {i: own for i, own in enumerate(reward_func_names) if i not in group_rewards}
    names = list(columns.values())
    if components and len(set(names)) < len(names):
        raise ValueError(
            f"The reward functions are called {names}, but components and metrics need different names. Define each "
            "with its own `def`; a `functools.partial` has the name of the function that it wraps."
        )
    if name is not None and name not in names:
        raise ValueError(f"correctness={name!r} names none of the reward functions {names}.")
    if not columns:
        raise ValueError(
            f"{[type(component).__name__ for component in group_rewards.values()]} build on correctness: put a reward "
            "function that says whether a completion is correct into `reward_funcs`, e.g. math_accuracy_reward."
        )
    if name is None and len(names) > 1 and components:
        logger.warning(
            "The first of the reward functions %s, %r, says what is correct. Set correctness= to name it, or another.",
            names,
            names[0],
        )
    return next(column for column, own in columns.items() if name in (None, own))
