# SPDX-License-Identifier: Apache-2.0
"""
Base of the training scripts: loads the model and the problems that the command line names, trains, saves.

Trainers and datasets are imported after the command line is parsed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from trl import ModelConfig

from .. import demo
from ..config import ConciseGRPOConfig
from ..errors import report_input_errors
from ..state.adapters import adapter_config, check_model, load_adapter, load_tokenizer
from .arguments import ProblemArguments, parse_arguments


if TYPE_CHECKING:
    from datasets import Dataset

    from ..trainer import ConciseGRPOTrainer


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

    def train(
        self,
        trainer: ConciseGRPOTrainer,
        *,
        report: Callable[..., AbstractContextManager] | None = None,
    ) -> None:
        """
        Train, from a checkpoint with `--resume_from_checkpoint`; save the model, the history and a model card.

        For a finished run, these files are saved again, in case the job was stopped before, and no report is written. At the end,
        the process group is closed: call it last.

        Args:
            trainer ([`ConciseGRPOTrainer`]): Built from [`~TrainingScript.trainer_arguments`].
            report (`Callable`, *optional*): Makes the report of a run on the generated problems, a context manager, from the trainer,
                the number of problems and `control`. Default: [`demo.Report`].
        """
        from ..callbacks import show_progress

        args, dataset_name = self.training_args, self.problem_args.dataset_name
        show_progress(trainer)
        checkpoint = trainer.find_checkpoint()
        is_demo = self.problem_args.report_problems and dataset_name is None
        reports = is_demo and not trainer.is_finished(checkpoint)
        problems, control = self.problem_args.report_problems, self.problem_args.control
        make_report = report or demo.Report
        with make_report(trainer, problems, control=control) if reports else nullcontext():
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
