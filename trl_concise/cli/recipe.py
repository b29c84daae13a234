# SPDX-License-Identifier: Apache-2.0
"""TRL's command line with a recipe: a YAML file of options."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import yaml
from transformers.hf_argparser import string_to_bool
from trl import TrlParser

from ..errors import Parser, command_name


# Lowest value, or interval, of options that would otherwise fail late or train without a message.
_MINIMUM = {
    "beta": 0,
    "dataloader_num_workers": 0,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "max_completion_length": 1,
    "neftune_noise_alpha": 0,
    "num_generations": 1,
    "num_iterations": 1,
    "per_device_eval_batch_size": 1,
    "per_device_train_batch_size": 1,
    "report_problems": 0,
    "seed": 0,
    "sft_gradient_accumulation_steps": 1,
    "sft_learning_rate": 0,
    "sft_per_device_train_batch_size": 1,
    "show": 0,
    "steps_per_generation": 1,
    "top_k": 0,
    "weight_decay": 0,
}
_INTERVALS = {
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "min_p": "[0, 1]",
    "repetition_penalty": "(0, inf)",
    "temperature": "(0, inf)",
    "top_p": "(0, 1]",
}


class RecipeParser(Parser, TrlParser):
    """
    [`~trl.TrlParser`] whose `--config` is listed among the options, and may be written `--config=FILE`. Options are written
    in full. The values of the file are checked as those of the command line are, and an error is one line.

    Args:
        dataclass_types (`Sequence[type]`): Dataclasses whose fields are the options.
        **kwargs: Arguments of [`argparse.ArgumentParser`].

    Attributes:
        recipe (`str`, *optional*): The file that `--config` has named.
    """

    def __init__(self, dataclass_types: Sequence[type], **kwargs: Any):
        kwargs.setdefault("prog", command_name())
        # mypy does not read TRL, so it takes the arguments of TrlParser for those of ArgumentParser.
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)  # type: ignore[arg-type]
        self.recipe: str | None = None
        help = "YAML file of options, such as those of examples/configs; options on the command line take precedence."
        self.add_argument("--config", metavar="RECIPE", default=argparse.SUPPRESS, help=help)
        for option in self._actions:
            if option.dest in _MINIMUM:
                option.type = _at_least(_MINIMUM[option.dest], _converter(option))
            elif option.dest in _INTERVALS:
                option.type = _within(_INTERVALS[option.dest], _converter(option))
            elif option.dest.endswith("_kwargs"):
                option.type = _json_object

    def group_options(self, title: str, names: Sequence[str], title_of_others: str) -> None:
        """
        List some options first in the help.

        Args:
            title (`str`): Heading of these options.
            names (`Sequence[str]`): Their names, in the order in which they are listed.
            title_of_others (`str`): Heading of all others, except `--help` and `--config`.
        """
        first, others = self.add_argument_group(title), self.add_argument_group(title_of_others)
        listed: dict[str, list[argparse.Action]] = {action.dest: [] for action in self._optionals._group_actions}
        for action in self._optionals._group_actions:
            listed[action.dest].append(action)  # a switch that is on by default has two: --name and --no_name
        first._group_actions = [action for name in names for action in listed.pop(name)]
        self._optionals._group_actions = listed.pop("help") + listed.pop("config")
        others._group_actions = [action for actions in listed.values() for action in actions]

    def parse_args_and_config(self, args: Sequence[str] | None = None, **kwargs: Any) -> tuple[Any, ...]:
        args = args if args is not None else sys.argv[1:]
        words = [part for word in args for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
        if words.count("--config") > 1:
            self.error("argument --config: given more than once, but a run has one recipe; merge the files into one")
        self.recipe = getattr(self.parse_known_args(words)[0], "config", None)
        if self.recipe is not None:
            self._check_recipe(self.recipe)
        return super().parse_args_and_config(words, **kwargs)

    def _check_recipe(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8") as file:
                recipe = yaml.safe_load(file)
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not a text file. --config takes a YAML file of options.") from None
        if not isinstance(recipe, dict):
            raise ValueError(f"{path} must contain a YAML mapping: one `option: value` per line.")
        options = {action.dest: action for action in self._actions if action.type is not None}  # without `--no_...`
        for name, value in recipe.items():
            option = options.get(name)
            if option is None or value is None:
                continue
            for item in value if isinstance(value, list) and option.nargs in ("+", "*") else [value]:
                if option.choices is not None and item not in option.choices:
                    if item is False and "no" in option.choices:
                        self.error(f"{name} in {path}: YAML reads an unquoted no as false. Write {name}: 'no'.")
                    allowed = ", ".join(map(repr, option.choices))
                    self.error(f"{name} in {path} must be one of {allowed}, got {item!r}.")
                is_checked = option.type in (int, float, string_to_bool, _json_object) or name in {
                    **_MINIMUM,
                    **_INTERVALS,
                }
                if is_checked and not isinstance(item, dict):
                    try:
                        _converter(option)(str(item))
                    except (ValueError, argparse.ArgumentTypeError) as error:
                        kinds: dict[Any, str] = {int: "an integer", float: "a number", string_to_bool: "true or false"}
                        kind = f"must be {kinds[option.type]}, got {item!r}" if option.type in kinds else error
                        self.error(f"{name} in {path}: {kind}")


def given_options(arguments: Sequence[str]) -> set[str]:
    """Return the names of the options on a command line, `dry_run` of `--dry-run=True` as of `--dry_run`."""
    words = (word.partition("=")[0] for word in arguments if word.startswith("-"))
    return {word.lstrip("-").replace("-", "_") for word in words}


def _converter(option: argparse.Action) -> Callable[[str], Any]:
    # argparse also allows the name of a registered type, which transformers' parser never uses.
    return cast(Callable[[str], Any], option.type)


def _at_least(minimum: int, kind: Callable[[str], float]) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = kind(text)
        if not value >= minimum:  # NaN too
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {text}")
        return value

    read.__name__ = kind.__name__  # in argparse's own message
    return read


def _within(interval: str, kind: Callable[[str], float]) -> Callable[[str], float]:
    low, high = map(float, interval[1:-1].split(","))

    def read(text: str) -> float:
        value = kind(text)
        if (
            not low <= value <= high
            or (value == low and interval[0] == "(")
            or (value == high and interval[-1] == ")")
        ):
            rule = "must be above 0" if interval == "(0, inf)" else f"must lie in {interval}"
            raise argparse.ArgumentTypeError(f"{rule}, got {text}")
        return value

    read.__name__ = kind.__name__  # in argparse's own message
    return read


def _json_object(text: str) -> str:
    try:
        is_object = isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        is_object = False
    if not is_object:
        raise argparse.ArgumentTypeError(f"must be a JSON object, such as '{{\"name\": 1}}', got {text!r}")
    return text
