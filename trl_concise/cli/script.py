# SPDX-License-Identifier: Apache-2.0
"""
Base of the training scripts: a command line as in TRL's scripts, loading of problems, a report, a model card.

Trainers and datasets are imported after the command line is parsed, so that `--help` and a mistyped flag do not wait for them.
"""

from __future__ import annotations

import dataclasses
import difflib
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from trl import ModelConfig

from .. import demo
from ..config import ConciseGRPOConfig
from ..errors import check_folder, report_input_errors
from ..state.adapters import adapter_config, check_model, load_adapter, load_tokenizer
from .commands import LAUNCHER_FLAGS
from .launch import set_master_port
from .quiet import hide_messages, hide_weight_bars
from .recipe import RecipeParser, given_options


if TYPE_CHECKING:
    from datasets import Dataset

    from ..trainer import ConciseGRPOTrainer


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
        default=1024,
        metadata={"help": "How many problems the report evaluates before and after a run of the demo; 0: no report."},
    )
    verbose: bool = field(
        default=False,
        metadata={"help": "Show library messages and the progress of loading weights, which are hidden otherwise."},
    )
    given: set[str] = field(
        default_factory=set, init=False
    )  # names of the options on the command line and in the recipe


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
        print(comment(_memory_plan(parser.prog, settings)), end="")
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


def model_arguments(training_args: Any, model_args: ModelConfig, **tokenizer_options: Any) -> dict[str, Any]:
    """
    Return the arguments of a trainer for the model to train. An adapter is trained further on its base model.

    Args:
        training_args ([`~transformers.TrainingArguments`]):
            The trainer's configuration. For an adapter, its `model_init_kwargs` are used here and removed.
        model_args ([`~trl.ModelConfig`]):
            Model, LoRA, quantization.
        **tokenizer_options:
            Arguments of `AutoTokenizer.from_pretrained` for an adapter's tokenizer.

    Returns:
        `dict`: `model`, `quantization_config` and `peft_config`; for an adapter, `model` and `processing_class`.
    """
    from trl import get_peft_config, get_quantization_config

    model, revision = model_args.model_name_or_path, model_args.model_revision
    quantization_config = get_quantization_config(model_args)
    if adapter_config(model, revision) is None:
        with report_input_errors():
            check_model(model, revision)
        peft_config = get_peft_config(model_args)
        if peft_config is not None:
            peft_config.revision = revision  # name of the base model, for loading the adapter
        return {"model": model, "quantization_config": quantization_config, "peft_config": peft_config}
    options = {name: value for name, value in (training_args.model_init_kwargs or {}).items() if name != "revision"}
    training_args.model_init_kwargs = None  # TRL would warn that it ignores them
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    with report_input_errors():
        adapter = load_adapter(model, revision, **options)
    return {"model": adapter, "processing_class": load_tokenizer(model, revision, **tokenizer_options)}


class TrainingScript:
    """
    Base class of a training script, which only has to build the method's trainer.

    Every field of the config, of [`~trl.ModelConfig`] and of `ProblemArguments` is a flag, and `--config` reads them from
    a YAML file (see [`parse_arguments`]). Without `--model_name_or_path` and `--config`, the model that ships with the package is trained on the
    CPU; without `--dataset_name`, on generated problems, with a report before and after.

    Args:
        config_class (`type[ConciseGRPOConfig]`):
            Configuration of the method's trainer.
        arguments (`Sequence[str]`, *optional*):
            Command line. Defaults to the process's own.
        **demo_settings:
            Settings of a run of the embedded model that differ from `demo.SETTINGS`.

    Attributes:
        problem_args (`ProblemArguments`): Which problems to train on.
        training_args ([`ConciseGRPOConfig`]): The method's configuration.
        model_args ([`~trl.ModelConfig`]): Model, LoRA, quantization.
        given (`set[str]`): Names of the options that the command line or the recipe sets.

    Example:

    ```python
    >>> script = TrainingScript(HAPOConfig)
    >>> trainer = HAPOTrainer(reward_funcs=script.accuracy_reward(), **script.trainer_arguments())
    >>> script.train(trainer)
    ```
    """

    def __init__(
        self,
        config_class: type[ConciseGRPOConfig],
        arguments: Sequence[str] | None = None,
        **demo_settings: Any,
    ):
        self.problem_args, self.training_args, self.model_args = parse_arguments(
            (ProblemArguments, config_class, ModelConfig), arguments, {**demo.SETTINGS, **demo_settings}
        )
        self.given: set[str] = self.problem_args.given

    def load_datasets(self) -> tuple[Dataset, Dataset | None]:
        """
        Return the problems to train on, and those to evaluate on if `--dataset_test_split` is given.

        With `--show`, print the first problems and stop.
        """
        train_dataset, eval_dataset = self._load_datasets()
        if self.problem_args.show:
            from ..data.problems import is_main_process, show_problems

            if is_main_process():
                show_problems(train_dataset, self.problem_args.show)
            sys.exit()
        return train_dataset, eval_dataset

    def accuracy_reward(self) -> Callable[..., list[float | None]]:
        """Return [`math_accuracy_reward`] with the command line's `--answer_format` and `--final_form`."""
        from ..verification import math_accuracy_reward

        return math_accuracy_reward(format=self.problem_args.answer_format, final_form=self.problem_args.final_form)

    def trainer_arguments(self) -> dict[str, Any]:
        """
        Return the arguments that every trainer takes: `args`, `train_dataset`, `eval_dataset`, `watch_dataset`, and those of
        [`model_arguments`].
        """
        train_dataset, eval_dataset = self.load_datasets()
        return {
            "args": self.training_args,
            "train_dataset": train_dataset,
            "eval_dataset": eval_dataset,
            "watch_dataset": self._load_watch_dataset(),
            **model_arguments(self.training_args, self.model_args, padding_side="left", truncation_side="left"),
        }

    def train(self, trainer: ConciseGRPOTrainer) -> None:
        """
        Train, from a checkpoint with `--resume_from_checkpoint`; save the model, the history and a model card.

        For a finished run, these files are saved again, in case the job was stopped before, and no report is written. At the end,
        the process group is closed: call it last.

        Args:
            trainer ([`ConciseGRPOTrainer`]): Built from [`~TrainingScript.trainer_arguments`].
        """
        from ..callbacks import show_progress

        args, dataset_name = self.training_args, self.problem_args.dataset_name
        show_progress(trainer)
        checkpoint = trainer.find_checkpoint()
        is_demo = self.problem_args.report_problems and dataset_name is None
        reports = is_demo and not trainer.is_finished(checkpoint)
        problems, control = self.problem_args.report_problems, self.problem_args.control
        with demo.Report(trainer, problems, control=control) if reports else nullcontext():
            trainer.train(resume_from_checkpoint=checkpoint or False)
            trainer.save_model()
            if trainer.history is not None and trainer.accelerator.is_main_process:
                trainer.history.save(f"{args.output_dir}/history.safetensors")
        trainer.create_model_card(dataset_name=dataset_name)
        if args.push_to_hub:
            trainer.push_to_hub(dataset_name=dataset_name)
        trainer.accelerator.end_training()  # a process that exits with an open process group may crash

    def _load_datasets(self) -> tuple[Dataset, Dataset | None]:
        if self.problem_args.dataset_name is None:
            if (suffix := self.problem_args.prompt_suffix) is not None:
                with report_input_errors():
                    raise ValueError(
                        f"--prompt_suffix {suffix!r} applies to problems of your own. Add --dataset_name."
                    )
            return demo.train_dataset(seed=self.training_args.seed), None
        train_split, test_split = self.problem_args.dataset_train_split, self.problem_args.dataset_test_split
        with report_input_errors():
            _check_splits(self.problem_args.dataset_name, train_split, test_split)
            return (
                self._load_split(train_split),
                self._load_split(test_split) if test_split is not None else None,
            )

    def _load_watch_dataset(self) -> Dataset | None:
        from ..evaluation.sets import load_problem_sets

        name, count = self.problem_args.watch_dataset, self.problem_args.watch_problems
        if name is None:
            return None
        with report_input_errors():
            (problems,) = load_problem_sets([name], system_prompt=self.problem_args.system_prompt).values()
        return self._with_suffix(problems.shuffle(seed=0).select(range(min(count, len(problems)))))

    def _load_split(self, split: str) -> Dataset:
        from ..data import load_problems

        problems = load_problems(
            self.problem_args.dataset_name,
            config_name=self.problem_args.dataset_config,
            split=split,
            problem_column=self.problem_args.problem_column,
            answer_column=self.problem_args.answer_column,
            context_column=self.problem_args.context_column,
            choices_column=self.problem_args.choices_column,
            system_prompt=self.problem_args.system_prompt,
        )
        return self._with_suffix(problems)

    def _with_suffix(self, problems: Dataset) -> Dataset:
        from ..data.rows import add_prompt_suffix

        suffix = self.problem_args.prompt_suffix
        return problems.map(add_prompt_suffix, fn_kwargs={"suffix": suffix}) if suffix is not None else problems


def _check_splits(dataset: str, train_split: str, test_split: str | None) -> None:
    """Check that training and evaluation do not share the rows of one file: a file has only one split."""
    from ..data.problems import local_file

    if test_split is not None and local_file(dataset) is not None and not ("[" in train_split and "[" in test_split):
        raise ValueError(
            f"{dataset} is one file, so {train_split!r} and {test_split!r} share rows. Give slices: "
            "--dataset_train_split 'train[:90%]' --dataset_test_split 'train[90%:]'."
        )


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
    found = []
    for name in (word.partition("=")[0] for word in unknown if word.startswith("--")):
        close = ["--accelerate_config"] if name == "--config_file" else difflib.get_close_matches(name, options, n=1)
        found.append(f"no option {name}" + (f"; did you mean {close[0]}?" if close else ""))
    return " ".join(found) or f"unexpected argument {' '.join(unknown)}: every value follows an option"


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


def _memory_plan(prog: str, settings: dict[str, Any]) -> str:
    """Plan the memory of a run on a card of 40 GiB, as `trl-concise plan` does."""
    from ..memory import PlanSettings, plan
    from ..memory.report import adapter_settings, load_shape, report
    from ..memory.settings import OFFLINE_METHODS, ONLINE_METHODS

    method = Path(prog.split()[-1]).stem  # `trl-concise hapo`, or `hapo.py`
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
