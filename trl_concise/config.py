# SPDX-License-Identifier: Apache-2.0
"""[`ConciseGRPOConfig`], and how every drop-in trainer handles the `args` it is given."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from transformers import TrainingArguments
from trl import GRPOConfig


if TYPE_CHECKING:
    from transformers import (
        TrainingArguments as _Mixed,
    )  # what the methods below find in the classes that they are mixed into
else:
    _Mixed = object

Config = TypeVar("Config", bound=TrainingArguments)


class ConfigMixin(_Mixed):
    """
    Mixin for a config of this package. It suggests the closest field name for an unknown keyword, and keeps the fields that
    a subclass adds out of what is published.

    Attributes:
        card_settings (`tuple[str, ...]`):
            Fields of a subclass of your own whose values the model card and `run.json` publish. Default: none.
    """

    card_settings: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *args: Any, **kwargs: Any):
        fields = [item.name for item in dataclasses.fields(cls) if item.init]
        for name in kwargs:
            if name not in fields:
                close = difflib.get_close_matches(name, fields, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else "."
                raise TypeError(f"{cls.__name__} has no field {name!r}{hint}")
        return super().__new__(cls)

    def to_dict(self) -> dict[str, Any]:
        """
        Return the fields for trackers. As transformers does with tokens, text in fields that a subclass adds is replaced by
        the field's name, unless `card_settings` names it: TensorBoard's files are part of the output folder.
        """
        from .hub.settings import own_fields

        known = own_fields(type(self)) | set(self.card_settings)
        return {
            name: value if name in known or isinstance(value, (bool, int, float, type(None))) else f"<{name.upper()}>"
            for name, value in super().to_dict().items()
        }

    def __reduce_ex__(self, protocol):
        if vars(self).get(_PUBLISHED):
            from .hub.settings import changed_settings

            return OrderedDict, (changed_settings(self),)  # torch.load(weights_only=True) reads it
        return super().__reduce_ex__(protocol)


_PUBLISHED = "_is_published"


@contextmanager
def pickled_as_settings(args: TrainingArguments) -> Iterator[None]:
    """Pickle a config as a dict of the settings that may be published: transformers uploads `training_args.bin`."""
    setattr(args, _PUBLISHED, True)
    try:
        yield
    finally:
        vars(args).pop(_PUBLISHED, None)


@dataclass
class ConciseGRPOConfig(ConfigMixin, GRPOConfig):
    r"""
    Configuration of [`ConciseGRPOTrainer`]: [`~trl.GRPOConfig`] and the reward function that decides whether a completion is correct.

    `reward_weights` has one entry per entry of `reward_funcs`, as in TRL. A drop-in trainer adds the column of its
    method, and the weight of that column, automatically.

    > Parameters of this class, in addition to those of [`~trl.GRPOConfig`]

    Args:
        correctness (`str`, *optional*):
            Name of the reward function that says whether a completion is correct: at least 0.5 means correct, `None`
            (NaN) unknown. Defaults to the first reward function that is not a [`GroupReward`].
        watch_every (`int`, *optional*, defaults to `50`):
            Optimizer steps from one measurement of the trainer's `watch_dataset` to the next (see [`WatchSet`]). Without a
            `watch_dataset`, this and the following settings have no effect.
        max_accuracy_loss (`float`, *optional*, defaults to `0.02`):
            Largest loss of accuracy on the `watch_dataset` that is accepted, as a fraction in `[0, 1)`.
        on_loss (`"warn"`, `"stop"` or `"best"`, *optional*, defaults to `"warn"`):
            What happens when accuracy on the `watch_dataset` is below the accuracy at the start by more than
            `max_accuracy_loss`, with 95 % confidence: warn; warn and stop; or warn and keep the model with the fewest tokens
            among those that passed, in `_watch_best` of the output folder.
        merge_adapter_for_generation (`bool`, *optional*, defaults to `False`):
            Whether transformers generates with the adapter merged into copies of the base weights, which is faster. The original
            weights are used again afterwards, unchanged. Needs memory for a copy of each adapted weight, which 4-bit weights
            need in 16 bits. No effect with `use_vllm`, for which TRL merges anyway, and without an adapter.
    """

    correctness: str | None = field(
        default=None,
        metadata={
            "help": "Name of the reward function that says whether a completion is correct (at least 0.5: correct; "
            "None: unknown). Defaults to the first reward function that is not a group reward."
        },
    )
    watch_every: int = field(
        default=50, metadata={"help": "Optimizer steps from one measurement of the watch dataset to the next."}
    )
    max_accuracy_loss: float = field(
        default=0.02,
        metadata={
            "help": "Largest loss of accuracy on the watch dataset that is accepted, as a fraction: 0.02 is 2 points."
        },
    )
    on_loss: str = field(
        default="warn",
        metadata={
            "help": "What happens when accuracy on the watch dataset falls by more than that, with 95 percent confidence: warn; stop "
            "the training too; or keep the model with the fewest tokens among those that passed.",
            "choices": ["warn", "stop", "best"],
        },
    )
    merge_adapter_for_generation: bool = field(
        default=False,
        metadata={
            "help": "Generate with the adapter merged into copies of the base weights: faster with transformers, for the memory of "
            "the copies. No effect with use_vllm, and without an adapter."
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
            The drop-in trainer. Its name ends the default output directory.
        parent (`type`):
            Config of the TRL trainer that the drop-in trainer extends.
        model (`str` or [`~transformers.PreTrainedModel`]):
            Model to train. Its name begins the default output directory.

    Returns:
        `config_class`: A config that may be changed.

    Raises:
        `TypeError`: If `args` is not a `parent`, or belongs to another method's trainer.
    """
    if args is None:
        return config_class(
            default_output_dir(model if isinstance(model, str) else model.config._name_or_path, trainer)
        )
    if not isinstance(args, parent):
        raise TypeError(
            f"{trainer.__name__} takes a {config_class.__name__} or a {parent.__name__}, got a {type(args).__name__}."
        )
    if isinstance(args, ConciseGRPOConfig) and not isinstance(args, config_class):
        if not issubclass(config_class, type(args)):
            raise TypeError(
                f"{trainer.__name__} takes a {config_class.__name__} or a {parent.__name__}; the settings of a "
                f"{type(args).__name__} would have no effect."
            )
    if isinstance(args, config_class):
        own = copy.copy(args)
    else:  # a plain config: already resolved, so only the missing fields take their defaults
        own = object.__new__(config_class)
        for item in dataclasses.fields(config_class):
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            setattr(own, item.name, default)
        unsuitable = getattr(config_class, "unsuitable_defaults", ())  # of the plain config, for this method
        vars(own).update({name: value for name, value in vars(args).items() if (name, value) not in unsuitable})
    for name, value in vars(own).items():
        if isinstance(value, (dict, list)) or name == "accelerator_config":
            setattr(own, name, copy.deepcopy(value))
    return own


def default_output_dir(model_name: str, trainer: type) -> str:
    """
    Return the default output directory, which is also the default name of the repository on the Hub: the last part of the
    model's name and the method, such as `"Qwen2.5-1.5B-Instruct-SGRPO"`.

    Args:
        model_name (`str`): Name or folder of the model.
        trainer (`type`): The drop-in trainer.

    Returns:
        `str`: A valid name on the Hub: at most 96 ASCII letters, digits, `-`, `_` and `.`.
    """
    if os.path.isdir(model_name):
        model_name = os.path.abspath(model_name)  # of "." the folder's name
    last = re.split(r"[/\\]", model_name.rstrip("/\\"))[-1]
    method = trainer.__name__.removesuffix("Trainer")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", last)
    name = re.sub(r"([.-])[.-]+", r"\1", name).strip("-.")[: 95 - len(method)].rstrip("-.")
    return f"{name or 'model'}-{method}"
