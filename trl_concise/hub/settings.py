# SPDX-License-Identifier: Apache-2.0
"""
Decides which settings of a run are published: in the model card, in `run.json`, and in `training_args.bin`.

Published are numbers, switches and choices of fields that TRL, transformers and this package define. A config or a component
of the user's own names in `card_settings` what else to publish.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from types import NoneType
from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from transformers import TrainingArguments

_PUBLISHERS = {"transformers", "trl", "trl_concise"}  # packages whose config fields are published
# Switches and numbers that have no effect on what the model learns.
_WITHOUT_EFFECT = re.compile(
    r"^(ddp|dataloader|disable_tqdm|hub|ignore|load_best|log|push|save|skip|use_cpu|vllm_group|vllm_server)"
    r"|checkpointing|eval|print|remove"
)
# Derived from other settings by their config when they are not given.
_DERIVED = {"steps_per_generation", "generation_batch_size", "num_generations_eval", "bf16", "warmup_steps"}
# The only fields whose value may be text, besides those that declare their `choices` and those that hold an enumeration:
# TRL and this package accept one of a few words here.
_WORDS = {
    *("correctness", "f_divergence_type", "importance_sampling_level", "loss_type", "lr_scheduler_type"),
    *("multi_objective_aggregation", "optim", "packing_strategy", "scale_rewards", "truncation_mode"),
    *("vllm_importance_sampling_mode", "vllm_mode"),
}


def changed_settings(args: TrainingArguments) -> dict[str, Any]:
    """
    Return the settings of a config that may be published and differ from their defaults, the method's own first.

    A setting may be published if TRL, transformers or this package defines its field, and its value is a number, a switch,
    one of the field's choices, or a list of these. Fields that a subclass adds are published if its attribute
    `card_settings` names them.

    Args:
        args ([`~transformers.TrainingArguments`]): Any config.

    Returns:
        `dict[str, Any]`: JSON values.
    """
    changed = {}
    kinds = list(type(args).__mro__)
    owner = {name: kind for kind in reversed(kinds) for name in getattr(kind, "__annotations__", {})}
    known = own_fields(type(args))
    for item in sorted(dataclasses.fields(args), key=lambda item: kinds.index(owner.get(item.name, kinds[-1]))):
        value = getattr(args, item.name)
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        if value in (None, default):
            continue
        if item.name not in known:
            if item.name in getattr(args, "card_settings", ()):
                changed[item.name] = as_text(value)
            continue
        if _WITHOUT_EFFECT.search(item.name) or item.name in _DERIVED:
            continue
        if item.name == "reward_weights" and set(value) == {1.0}:
            continue  # TRL's default
        if isinstance(value, Enum):
            value = value.value
            if value != default and is_word(value):
                changed[item.name] = value
            continue
        values = value if isinstance(value, list) else [value]
        if values and all(is_number(one) or _is_choice(one, item) for one in values):
            changed[item.name] = as_text(value)
    return changed


def own_fields(config_class: type) -> set[str]:
    """Return the fields of a config that TRL, transformers or this package defines."""
    return {
        name
        for kind in config_class.__mro__
        if kind.__module__.split(".")[0] in _PUBLISHERS
        for name in getattr(kind, "__dataclass_fields__", ())
    }


def as_text(value: Any) -> Any:
    """
    Return a value as JSON that is safe to publish: of an object only its kind, of a function only its name.

    Args:
        value (`Any`): A value that the user chose to publish, or a number.

    Returns:
        `Any`: Numbers, switches and text as they are; lists, tuples, sets and dicts as JSON; infinite numbers and everything
        else as text, without addresses and folders. Dataclasses of this package, such as the limits of `CostConstraints`, with their
        fields.
    """
    if isinstance(value, (bool, int, str, NoneType)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Enum):
        return as_text(value.value)
    if isinstance(value, Mapping):
        return {str(name): as_text(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((as_text(item) for item in value), key=str)
    if dataclasses.is_dataclass(type(value)) and type(value).__module__.split(".")[0] == "trl_concise":
        return {
            type(value).__name__: as_text({item.name: getattr(value, item.name) for item in dataclasses.fields(value)})
        }
    if isinstance(value, torch.Tensor):
        return f"tensor of shape {tuple(value.shape)}"
    if isinstance(value, PurePath):
        return value.name
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    return type(value).__qualname__


def is_number(value: Any) -> bool:
    """Whether a value is a number or a switch."""
    return isinstance(value, (bool, int, float))


def _is_choice(value: Any, item: dataclasses.Field) -> bool:
    if not isinstance(value, str):
        return False
    choices = item.metadata.get("choices")
    return value in choices if choices else item.name in _WORDS and is_word(value)


def is_word(text: str) -> bool:
    """Whether a text is a single word, which cannot be a path or an address."""
    return re.fullmatch(r"[\w.+-]{1,60}", text) is not None
