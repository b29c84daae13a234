# SPDX-License-Identifier: Apache-2.0
"""
Command line of the training scripts: options, parsing, checks, and `--dry_run`.

Trainers and datasets are imported later, so that `--help` and a mistyped option do not wait for them.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from trl import GRPOConfig, ModelConfig

from ..errors import check_folder, name_unknown_options, report_input_errors
from ..state.adapters import adapter_config
from .commands import LAUNCHER_FLAGS
from .launch import set_master_port
from .quiet import hide_messages, hide_weight_bars
from .recipe import RecipeParser, given_options


# Options that have no effect unless one of the options before the colon is given.
_NEEDED_FOR = {
    ("dataset_name", "candidates"): ("dataset_config", "dataset_train_split"),
    ("watch_dataset",): ("watch_every", "watch_problems", "max_accuracy_loss", "on_loss"),
    ("teacher",): ("teacher_base_url", "concurrency"),
}
_NEEDED_FOR_PROBLEMS = {
    ("dataset_name",): ("problem_column", "answer_column", "context_column", "choices_column"),
    ("dataset_name", "watch_dataset"): ("system_prompt",),
}
_RESUMING = {"true": True, "false": None, "auto": "auto"}  # other values of --resume_from_checkpoint are folders


@dataclass
class RunArguments:
    """Options of every training script."""

    dry_run: bool = field(
        default=False, metadata={"help": "Print the resolved settings and the memory plan, and stop."}
    )
    report_problems: int = field(
        default=1536,
        metadata={"help": "How many problems the report evaluates before and after a run of the demo; 0: no report."},
    )
    verbose: bool = field(
        default=False,
        metadata={"help": "Show library messages and the progress of loading weights, which are hidden otherwise."},
    )
    given: set[str] = field(
        default_factory=set, init=False
    )  # names of the options on the command line and in the recipe


@dataclass
class ProblemArguments(RunArguments):
    """Which problems to train on."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Dataset id on the Hub or local .jsonl/.json/.parquet/.csv file. Default: generated problems."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str | None = field(default=None, metadata={"help": "Split to evaluate on."})
    problem_column: str | None = field(default=None, metadata={"help": "Column that holds the problem."})
    answer_column: str | None = field(default=None, metadata={"help": "Column that holds the final answer."})
    context_column: str | None = field(
        default=None, metadata={"help": "Column of the text before the problem; 'none': no such text."}
    )
    choices_column: str | None = field(
        default=None, metadata={"help": "Column of the options of multiple-choice problems; 'none': no options."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "System message before every problem."})
    watch_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Problems on which accuracy and tokens are measured during training, see --watch_every, "
            "--max_accuracy_loss and --on_loss. Choose harder problems than those to train on: math500, gsm8k or another "
            "short name of trl-concise eval, a dataset id on the Hub (its split 'test'), or a local file."
        },
    )
    watch_problems: int = field(
        default=256, metadata={"help": "Largest number of these problems to use, the same ones in every run."}
    )
    show: int = field(
        default=0, metadata={"help": "Print the first SHOW problems as the trainer will see them, and stop."}
    )
    prompt_suffix: str | None = field(
        default=None,
        metadata={"help": "Text after every problem, for example an instruction on the form of the answer."},
    )
    answer_format: str = field(
        default="auto",
        metadata={
            "help": "Where the reward looks for the final answer of a completion.",
            "choices": ["auto", "boxed", "answer_tag", "last_number"],
        },
    )
    control: bool = field(
        default=False,
        metadata={
            "help": "After a run of the demo, also train and evaluate its control: GRPO without a length reward, until it has "
            "generated as many tokens. By default, the report shows the figures of an earlier control run."
        },
    )
    final_form: bool = field(
        default=True, metadata={"help": "Whether an answer that leaves arithmetic to be done, such as 6 * 7, earns 0."}
    )


def parse_arguments(
    classes: tuple[type, type, type], arguments: Sequence[str] | None, demo_settings: dict[str, Any]
) -> tuple[Any, Any, ModelConfig]:
    """
    Parse the command line of a training script as TRL's scripts do, `--config` included.

    `--dry_run` prints the settings and the memory plan, and stops, with status 2 if a local data file is missing. For an
    unknown option, the error suggests the closest one; any other error is reported in one line.

    Args:
        classes (`tuple[type, type, type]`):
            A [`RunArguments`] with the options of the script, the trainer's configuration, and [`~trl.ModelConfig`].
        arguments (`Sequence[str]`, *optional*):
            Command line. Defaults to the process's own.
        demo_settings (`dict[str, Any]`):
            Defaults of a run of the embedded model, used if neither `--model_name_or_path` nor `--config` is given.

    Returns:
        `tuple`: One object per class. The model settings of the third are in the `model_init_kwargs` of the second.
    """
    arguments = list(arguments if arguments is not None else sys.argv[1:])
    parser = RecipeParser(classes, usage="%(prog)s [--OPTION VALUE ...]", epilog=_own_options_line(*classes))
    parser.group_options("options of this script and its method", _own_options(*classes), "options of TRL")
    if not {"model_name_or_path", "config"} & given_options(arguments):
        parser.set_defaults_with_config(**demo_settings)
    given, unknown = parser.parse_known_args(arguments)
    if not given.verbose:
        hide_messages()
        hide_weight_bars()
    # A recipe for a GPU can also be read on a machine without one: on a CPU, bf16 is not refused.
    on_cpu = ["--use_cpu"] if given.dry_run else []
    with report_input_errors():
        parser.read_recipe(arguments)
        unknown += [f"--{name}" for name in parser.unknown_keys]
        if unknown:
            parser.error(_report_unknown_options(unknown, classes))
        run_args, training_args, model_args = parser.parse_args_and_config([*arguments, *on_cpu])
    if model_args.model_name_or_path is None:
        parser.error("--model_name_or_path is needed with --config")
    run_args.given = given_options(arguments) | parser.keys
    _check_given(parser, run_args, training_args, model_args)
    _check_effect(parser, given_options(arguments), run_args)
    _check_adapter(parser, model_args)
    if run_args.dry_run:
        from ..data.problems import local_file
        from ..memory.report import comment

        asked = parser.parse_known_args(arguments)[0]
        for name in ("use_cpu", "dataloader_pin_memory"):  # the second is computed from the first
            setattr(training_args, name, getattr(asked, name))
        settings = resolved_settings(run_args, training_args, model_args)
        print(yaml.safe_dump(settings, sort_keys=True), end="")
        print(comment(_memory_plan(parser.prog, settings, isinstance(training_args, GRPOConfig))), end="")
        with report_input_errors():
            for name in {"dataset_name", "candidates", "watch_dataset"} & set(settings):
                local_file(settings[name])
        sys.exit()
    set_master_port()
    resume = str(training_args.resume_from_checkpoint).lower()  # flags are text
    if resume in _RESUMING:
        training_args.resume_from_checkpoint = _RESUMING[resume]
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    return run_args, training_args, model_args


def resolved_settings(*parts: Any) -> dict[str, Any]:
    """Return every setting that differs from its default, as in a recipe for `--config`."""
    settings = {}
    for part in parts:
        for item in dataclasses.fields(part):
            value = getattr(part, item.name)
            value = value.value if isinstance(value, Enum) else value
            is_unset = item.init and item.default not in (None, "auto", dataclasses.MISSING) and value is None
            if (
                is_unset
                or isinstance(value, bool | int | float | str | list | dict)
                and value not in (item.default, [])
            ):
                settings[item.name] = value
    for name in ("dry_run", "verbose", "generation_batch_size"):  # not settings; follows from the others
        settings.pop(name, None)
    return settings


def _check_adapter(parser: RecipeParser, model_args: ModelConfig) -> None:
    """Report an error for a new adapter on top of an adapter."""
    model = model_args.model_name_or_path
    if model_args.use_peft and adapter_config(model, model_args.model_revision) is not None:
        parser.error(
            f"{model} is an adapter, which is trained further as it is; --use_peft would add another. Leave out --use_peft (or "
            f"set it to false), or merge the adapter first: trl-concise merge {shlex.quote(model)} OUTPUT_DIR"
        )


def _check_given(parser: RecipeParser, *parsed: Any) -> None:
    """Report values that fail later or without a clear message."""
    given = {item.name: getattr(part, item.name) for part in parsed for item in dataclasses.fields(part)}
    for name in (
        "model_name_or_path",
        "dataset_name",
        "candidates",
        "watch_dataset",
        "output_dir",
        "resume_from_checkpoint",
    ):
        if given.get(name) == "":
            parser.error(f"--{name} is empty: give a name, or leave the option out")
    with report_input_errors(parser.prog):
        check_folder("--output_dir", given["output_dir"])
    if given.get("dataset_test_split") and given["dataset_name"] is None:
        parser.error("--dataset_test_split needs --dataset_name: the generated problems have one split")
    evaluates = given["eval_on_start"] or given["eval_strategy"] != "no"
    if evaluates and not given.get("dataset_test_split"):
        option = "eval_on_start" if given["eval_on_start"] else f"eval_strategy {given['eval_strategy'].value}"
        if "dataset_test_split" in given:
            parser.error(f"--{option} needs problems to evaluate on: name their split with --dataset_test_split")
        parser.error(f"--{option} has no effect: this command takes no dataset to evaluate on; leave the option out")


def _check_effect(parser: RecipeParser, given: set[str], run_args: Any) -> None:
    """Report options of the command line that have no effect without another one. A recipe may contain them."""
    needed_for = _NEEDED_FOR | (_NEEDED_FOR_PROBLEMS if isinstance(run_args, ProblemArguments) else {})
    for needed, names in needed_for.items():
        if all(getattr(run_args, name, None) is None for name in needed):
            for name in given.intersection(names):
                parser.error(
                    f"--{name} has no effect without --{needed[0]}. Add --{needed[0]}, or leave --{name} out."
                )
    if getattr(run_args, "control", False) and (run_args.dataset_name is not None or not run_args.report_problems):
        option = "--dataset_name" if run_args.dataset_name is not None else "--report_problems 0"
        parser.error(
            f"--control adds to the report on the generated problems, and {option} leaves that out. Leave one out."
        )


def _report_unknown_options(unknown: Sequence[str], classes: Sequence[type]) -> str:
    """Name the options, or keys of a `--config` file, that do not exist, each with the closest one."""
    options = [
        "--config",
        *LAUNCHER_FLAGS,
        *(f"--{item.name}" for part in classes for item in dataclasses.fields(part) if item.init),
    ]
    message = name_unknown_options(unknown, options, {"--config_file": "--accelerate_config"})
    return message if message.startswith("no option") else f"{message}: every value follows an option"


def _own_options(script_class: type, config_class: type, model_class: type) -> list[str]:
    """Return the names of the options that are not TRL's."""
    inherited = {item.name for item in dataclasses.fields(_trl_config(config_class))}
    fields = (*dataclasses.fields(script_class), *dataclasses.fields(config_class))
    return [item.name for item in fields if item.init and item.name not in inherited]


def _trl_config(config_class: type) -> type:
    return next(part for part in config_class.__mro__ if part.__module__.startswith("trl."))


def _own_options_line(script_class: type, config_class: type, model_class: type) -> str:
    """Return the last line of the help, the part that stays visible in a terminal, with the options that are not TRL's."""
    own = ", ".join(f"--{name}" for name in _own_options(script_class, config_class, model_class))
    trl = _trl_config(config_class).__name__
    return f"Options of this script and its method: {own}. The others are those of {trl} and {model_class.__name__} in TRL."


def _memory_plan(prog: str, settings: dict[str, Any], generates: bool) -> str:
    """Plan the memory of a run on a card of 40 GiB, as `trl-concise plan` does. An unknown method that `generates` is planned as GRPO."""
    from ..memory import PlanSettings, plan
    from ..memory.report import adapter_settings, load_shape, report
    from ..memory.settings import OFFLINE_METHODS, ONLINE_METHODS

    method = Path(prog.split()[-1]).stem  # `trl-concise hapo`, or `hapo.py`
    if method not in OFFLINE_METHODS and not generates:
        return f"none: `trl-concise plan` does not know {method}"
    known = {item.name for item in dataclasses.fields(PlanSettings)} & set(settings)
    try:
        planned = PlanSettings(
            method=method if method in (*ONLINE_METHODS, *OFFLINE_METHODS) else "grpo",
            **{name: settings[name] for name in known} | adapter_settings(settings.get("model_name_or_path")),
        )
        shape = load_shape(planned.model_name_or_path)
        return report(plan(planned, shape), shape)
    except ValueError as error:
        return f"none: {error}"
