# SPDX-License-Identifier: Apache-2.0
"""TRL's command line with a recipe: a YAML file of options."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast, get_type_hints

import yaml
from trl import TrlParser

from ..errors import Parser, command_name


# Allowed values of options that would otherwise fail late or train without a message. The same ones hold for `--sft_...`.
# Infinity is allowed where it means "no limit". Numbers that are not listed must be finite.
_RANGES = {
    "adam_beta1": "[0, 1)",
    "adam_beta2": "[0, 1)",
    "adam_epsilon": "[0, inf)",
    "advantage_boost": "[0, inf)",
    "beta": "[0, inf)",
    "branch_tokens": "[1, inf)",
    "card_gib": "(0, inf)",
    "concurrency": "[1, inf)",
    "cutoff": "[0, inf)",
    "data_seed": "[0, inf)",
    "dataloader_num_workers": "[0, inf)",
    "dataloader_prefetch_factor": "[1, inf)",
    "dataset_num_proc": "[1, inf)",
    "ddp_bucket_cap_mb": "[1, inf)",
    "ddp_timeout": "[1, inf)",
    "delta": "(0, inf]",
    "epsilon": "[0, inf]",
    "epsilon_high": "(0, inf]",
    "eval_accumulation_steps": "[1, inf)",
    "eval_delay": "[0, inf)",
    "eval_steps": "(0, inf)",
    "generation_batch_size": "[1, inf)",
    "gradient_accumulation_steps": "[1, inf)",
    "k": "[1, inf)",
    "label_smoothing": "[0, 1)",
    "label_smoothing_factor": "[0, 1]",
    "learning_rate": "[0, inf)",
    "length_penalty": "[0, inf)",
    "logging_steps": "(0, inf)",
    "lora_alpha": "(0, inf)",
    "lora_dropout": "[0, 1)",
    "lora_r": "[1, inf)",
    "max_accuracy_loss": "[0, 1)",
    "max_completion_length": "[1, inf)",
    "max_grad_norm": "[0, inf]",
    "max_length": "[1, inf)",
    "max_prompt_length": "[1, inf)",
    "max_refills": "[0, inf)",
    "max_steps": "[1, inf) or -1",  # -1: as many as num_train_epochs takes
    "max_tokens": "[1, inf)",
    "min_p": "[0, 1]",
    "neftune_noise_alpha": "[0, inf)",
    "num_generations": "[1, inf)",
    "num_generations_eval": "[1, inf)",
    "num_iterations": "[1, inf)",
    "num_train_epochs": "(0, inf)",
    "per_device_eval_batch_size": "[1, inf)",
    "per_device_train_batch_size": "[1, inf)",
    "precompute_ref_batch_size": "[1, inf)",
    "probability": "[0, 1]",
    "ref_model_mixup_alpha": "[0, 1]",
    "ref_model_sync_steps": "[1, inf)",
    "repetition_penalty": "(0, inf)",
    "report_problems": "[0, inf)",
    "router_aux_loss_coef": "[0, inf)",
    "sapo_temperature_neg": "(0, inf)",
    "sapo_temperature_pos": "(0, inf)",
    "save_steps": "(0, inf)",
    "seed": "[0, inf)",
    "show": "[0, inf)",
    "steps_per_generation": "[1, inf)",
    "temperature": "(0, inf)",
    "top_entropy_quantile": "[0, 1]",
    "top_k": "[0, inf)",
    "top_p": "(0, 1]",
    "torch_empty_cache_steps": "[1, inf)",
    "truncation_factor": "[0, 1]",
    "vllm_gpu_memory_utilization": "(0, 1]",
    "vllm_group_port": "[1, 65535]",
    "vllm_importance_sampling_clip_max": "(0, inf]",
    "vllm_importance_sampling_clip_min": "[0, inf)",
    "vllm_max_model_length": "[1, inf)",
    "vllm_server_port": "[1, 65535]",
    "vllm_server_timeout": "(0, inf)",
    "vllm_tensor_parallel_size": "[1, inf)",
    "warmup_steps": "[0, inf)",
    "watch_every": "[1, inf)",
    "watch_problems": "[1, inf)",
    "weight_decay": "[0, inf)",
}
# Options whose values TRL lists in their help, in quotes, and checks late, or not at all.
_LISTED_IN_HELP = (
    "importance_sampling_level",
    "loss_type",
    "multi_objective_aggregation",
    "vllm_importance_sampling_mode",
    "vllm_mode",
)


_KINDS = {"int": "an integer", "float": "a number", "string_to_bool": "true or false"}


class RecipeParser(Parser, TrlParser):
    """
    [`~trl.TrlParser`] whose `--config` is listed among the options, and may be written `--config=FILE`. Options are written
    in full. The values of the file are checked as those of the command line are, and an error is one line.

    Args:
        dataclass_types (`Sequence[type]`): Dataclasses whose fields are the options.
        **kwargs: Arguments of [`argparse.ArgumentParser`].

    Attributes:
        recipe (`str`, *optional*): The file that `--config` has named.
        keys (`set[str]`): Keys of this file.
        unknown_keys (`list[str]`): Those that are not options.
    """

    def __init__(self, dataclass_types: Sequence[type], **kwargs: Any):
        kwargs.setdefault("prog", command_name())
        # mypy does not read TRL, so it takes the arguments of TrlParser for those of ArgumentParser.
        super().__init__(dataclass_types, allow_abbrev=False, **kwargs)  # type: ignore[arg-type]
        self.recipe: str | None = None
        help = "YAML file of options, such as those of examples/configs; options on the command line take precedence."
        self.add_argument("--config", metavar="RECIPE", default=argparse.SUPPRESS, help=help)
        self.keys: set[str] = set()
        self.unknown_keys: list[str] = []
        hints = {name: hint for part in dataclass_types for name, hint in get_type_hints(part).items()}
        self._texts = {name for name, hint in hints.items() if hint in (str, str | None)}
        for option in self._actions:
            interval = _RANGES.get(
                option.dest.removeprefix("sft_"),
                "(-inf, inf)" if getattr(option.type, "__name__", "") == "float" else None,
            )
            if option.dest.endswith("_kwargs"):
                option.type = _json_object
            elif interval is not None and option.type is not None:  # None: `--no_...`
                option.type = _Range(interval, _converter(option))
            elif option.dest in _LISTED_IN_HELP and option.choices is None:
                option.choices = list(dict.fromkeys(re.findall(r"(?<!=)'(\w+)'", option.help or ""))) or None

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
        return super().parse_args_and_config(self.read_recipe(args if args is not None else sys.argv[1:]), **kwargs)

    def read_recipe(self, args: Sequence[str]) -> list[str]:
        """
        Check the file that `--config` names, and set `recipe`, `keys` and `unknown_keys`.

        Args:
            args (`Sequence[str]`): Command line.

        Returns:
            `list[str]`: The command line with `--config=FILE` as two words.

        Raises:
            `ValueError`: If the file is not a YAML mapping.
            `SystemExit`: If the value of an option is not allowed.
        """
        words = [part for word in args for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
        if words.count("--config") > 1:
            self.error("argument --config: given more than once, but a run has one recipe; merge the files into one")
        self.recipe = getattr(self.parse_known_args(words)[0], "config", None)
        if self.recipe is not None:
            self._check_recipe(self.recipe, given_options(words))
        return words

    def _check_recipe(self, path: str, given: set[str]) -> None:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not a text file. --config takes a YAML file of options.") from None
        try:
            recipe, tree = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise ValueError(
                f"{path} is not valid YAML: {str(error).replace('<unicode string>', path)}. Write one `option: value` per "
                "line, indented with spaces."
            ) from None
        if not isinstance(recipe, dict):
            raise ValueError(f"{path} must contain a YAML mapping: one `option: value` per line.")
        keys = [key.value for key, _ in cast(yaml.MappingNode, tree).value]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            self.error(f"{path} sets {', '.join(repeated)} more than once. Keep one line for each option.")
        self.keys = set(map(str, recipe))
        self.unknown_keys = sorted(self.keys - {action.dest for action in self._actions} - {"env"})
        options = {action.dest: action for action in self._actions if action.type is not None}  # without `--no_...`
        for name, value in recipe.items():
            option = options.get(name)
            if option is None or value is None:
                continue
            if isinstance(value, list | dict) and name in self._texts:
                self.error(f"{name} in {path}: must be text, got {value!r}.")
            for item in value if isinstance(value, list) and option.nargs in ("+", "*") else [value]:
                # An option of another command may have the same name, as `method`: then the command line's counts.
                if option.choices is not None and item not in option.choices and name not in given:
                    if item is False and "no" in option.choices:
                        self.error(f"{name} in {path}: YAML reads an unquoted no as false. Write {name}: 'no'.")
                    allowed = ", ".join(map(repr, option.choices))
                    self.error(f"{name} in {path} must be one of {allowed}, got {item!r}.")
                kind = _converter(option).__name__  # that of the value, also where `none` is accepted
                if kind in _KINDS or option.type is _json_object and not isinstance(item, dict):
                    try:
                        _converter(option)(str(item))
                    except argparse.ArgumentTypeError as error:
                        rule = f"must be true or false, got {item!r}" if kind == "string_to_bool" else error
                        self.error(f"{name} in {path}: {rule}")
                    except ValueError:
                        self.error(f"{name} in {path}: must be {_KINDS[kind]}, got {item!r}")


def given_options(arguments: Sequence[str]) -> set[str]:
    """Return the names of the options on a command line, `dry_run` of `--dry-run=True` as of `--dry_run`."""
    words = (word.partition("=")[0] for word in arguments if word.startswith("-"))
    return {word.lstrip("-").replace("-", "_") for word in words}


def _converter(option: argparse.Action) -> Callable[[str], Any]:
    # argparse also allows the name of a registered type, which transformers' parser never uses.
    return cast(Callable[[str], Any], option.type)


class _Range:
    """
    Type of an option: a number in an interval, such as `"[0, 1)"`, or one other value, as in `"[1, inf) or -1"`.

    Args:
        interval (`str`): Allowed values.
        kind (`Callable`): `int`, `float`, or a function with one of these names that also reads `none`.
    """

    def __init__(self, interval: str, kind: Callable[[str], float | None]):
        self.interval, _, other = interval.partition(" or ")
        self.other = kind(other) if other else None
        self.kind = kind
        self.__name__ = kind.__name__  # in argparse's own message

    def __call__(self, text: str) -> float | None:
        value = self.kind(text)
        if value is None:  # `none`
            return None
        low, high = map(float, self.interval[1:-1].split(","))
        is_within = low <= value <= high  # not NaN
        is_open_end = (value == low and self.interval[0] == "(") or (value == high and self.interval[-1] == ")")
        if value != self.other and (not is_within or is_open_end):
            raise argparse.ArgumentTypeError(f"{self._rule(low, high)}, got {text}")
        return value

    def _rule(self, low: float, high: float) -> str:
        if low == -math.inf:
            return "must be a finite number"
        if high != math.inf:
            return f"must lie in {self.interval}"
        rule = f"must be {'above' if self.interval[0] == '(' else 'at least'} {low:g}"
        if self.interval[-1] == ")" and self.__name__ == "float":
            rule += " and finite"
        return f"{rule}, or {self.other}" if self.other is not None else rule


def _json_object(text: str) -> str:
    try:
        is_object = isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        is_object = False
    if not is_object:
        raise argparse.ArgumentTypeError(f"must be a JSON object, such as '{{\"name\": 1}}', got {text!r}")
    return text
