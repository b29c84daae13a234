# SPDX-License-Identifier: Apache-2.0
"""[`ConciseGRPOConfig`], and what every drop-in trainer does with the `args` it is given."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, TypeVar

from transformers import TrainingArguments
from trl import GRPOConfig


Config = TypeVar("Config", bound=TrainingArguments)


class NamesMistypedFields:
    """Mixin for a config: a keyword that is no field is answered with the nearest one that is."""

    def __new__(cls, *args: Any, **kwargs: Any):
        fields = [item.name for item in dataclasses.fields(cls) if item.init]
        for name in kwargs:
            if name not in fields:
                close = difflib.get_close_matches(name, fields, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else "."
                raise TypeError(f"{cls.__name__} has no field {name!r}{hint}")
        return super().__new__(cls)


@dataclass
class ConciseGRPOConfig(NamesMistypedFields, GRPOConfig):
    r"""
    Configuration of [`ConciseGRPOTrainer`]: [`~trl.GRPOConfig`] and what says whether a completion is correct.

    `reward_weights` has one entry per entry of `reward_funcs`, as in TRL. A drop-in trainer adds the column of its own
    method, and that column's weight, by itself.

    > Parameters of this class, beside those of [`~trl.GRPOConfig`]

    Args:
        correctness (`str`, *optional*):
            Name of the reward function that says whether a completion is correct: at least 0.5 means correct, `None`
            (NaN) unknown. Defaults to the first reward function that is not a [`GroupReward`].
    """

    correctness: str | None = field(
        default=None,
        metadata={
            "help": "Name of the reward function that says whether a completion is correct (at least 0.5: correct; "
            "None: unknown). Defaults to the first reward function that is not a group reward."
        },
    )


def own_config(
    config_class: type[Config], args: TrainingArguments | None, *, trainer: type, parent: type, model: Any
) -> Config:
    """
    Return a config of a drop-in trainer's own class that shares nothing mutable with the caller's.

    Args:
        config_class (`type`):
            Config of the drop-in trainer, a subclass of `parent`.
        args ([`~transformers.TrainingArguments`], *optional*):
            What the user gave: a `config_class`, a `parent` (the method's own fields then take their defaults), or
            `None`.
        trainer (`type`):
            The drop-in trainer. Its `_name` ends the default output directory.
        parent (`type`):
            Config of TRL's trainer that the drop-in extends.
        model (`str` or [`~transformers.PreTrainedModel`]):
            Model to train. Its name begins the default output directory.

    Returns:
        `config_class`: A config that may be changed.

    Raises:
        `TypeError`: If `args` is no `parent`.
    """
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        return config_class(f"{name.rstrip('/').split('/')[-1]}-{trainer._name}")
    if not isinstance(args, parent):
        raise TypeError(
            f"{trainer.__name__} takes a {config_class.__name__} or a {parent.__name__}, got a {type(args).__name__}."
        )
    if isinstance(args, config_class):
        own = copy.copy(args)
    else:  # a plain config: already resolved, so only the missing fields take their defaults
        own = object.__new__(config_class)
        for item in dataclasses.fields(config_class):
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            setattr(own, item.name, default)
        vars(own).update(vars(args))
    for name, value in vars(own).items():
        if isinstance(value, (dict, list)) or name == "accelerator_config":
            setattr(own, name, copy.deepcopy(value))
    return own
