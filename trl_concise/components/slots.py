# SPDX-License-Identifier: Apache-2.0
"""The table of the slots of [`ConciseGRPOTrainer`]."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .base import Component
from .kinds import Advantage, BudgetSchedule, GroupFilter, PromptSelector, Rollout, TokenCredit


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_RESERVED = {"prompt_order", "prompt_queue"}  # entries in `state.json` for the prompts that were taken


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
    "rollout": Slot(Rollout),
    "group_filter": Slot(GroupFilter),
    "advantage": Slot(Advantage, several=True),
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
    given = _move_advantages(given)
    for slot, component in own.items():
        if given[slot] is not None:
            raise ValueError(
                f"{trainer} fills {slot}= with a {type(component).__name__} of its own. To use yours, or both, pass the "
                "components to a ConciseGRPOTrainer."
            )
    return {name: _components(name, slot, {**given, **own}[name]) for name, slot in SLOTS.items()}


def _move_advantages(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Move components that were token credits in version 0.1.0 to the slot `advantage`."""
    credits = given["token_credit"]
    credits = credits if isinstance(credits, list) else [credits]
    moved = [credit for credit in credits if isinstance(credit, Advantage)]
    if not moved:
        return given
    names = ", ".join(type(component).__name__ for component in moved)
    warnings.warn(f"Pass {names} as advantage=, not as token_credit=.", FutureWarning, stacklevel=4)
    before = given["advantage"] or []
    return {
        **given,
        "advantage": [*(before if isinstance(before, list) else [before]), *moved],
        "token_credit": [credit for credit in credits if credit not in moved],
    }


def _components(name: str, slot: Slot, value: Any) -> list[Component]:
    components = value if slot.several and isinstance(value, list) else [value] if value is not None else []
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
