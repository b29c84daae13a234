# SPDX-License-Identifier: Apache-2.0
"""Evaluate a run of the demo before and after training, on problems like the training problems and on harder ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from ..evaluation import accuracy_efficiency_score, evaluate
from ..evaluation.accept import print_acceptance
from ..evaluation.acceptance import Limits, accept
from ..evaluation.evaluator import SETTINGS_FILE
from ..evaluation.identity import name_of
from ..evaluation.metrics import LEAST_BASE_ACCURACY
from ..evaluation.plots import can_plot
from ..evaluation.report import report
from ..evaluation.summaries import SUMMARY_FILE, differing_settings, read_json, read_summary
from ..state.checkpoint import write_atomically
from .control import train_control
from .problems import SETS
from .settings import EVALUATION, SETTINGS, model_path, problem_dataset


if TYPE_CHECKING:
    from datasets import Dataset
    from trl import GRPOTrainer

    from ..evaluation.chunks import Chunking


EVALUATION_PROBLEMS = 1536
DESCRIPTIONS = {
    "demo": "2 operations, as in training",
    "demo_harder": "3 operations, one more",
    "demo_hardest": "4 operations, two more",
}
BUDGETS = (24, 32, 48)  # tokens: the base model, truncated
LIMITS = Limits(max_token_share=0.6, max_accuracy_loss=0.02)  # written down before the first test
TESTED = ("demo", "demo_harder")  # the embedded model solves hardly any of the hardest problems
BEFORE, AFTER, CONTROL = "evaluation-before", "evaluation-after", "control-grpo"  # folders
CONTROL_NAME = "GRPO without length reward"
CONTROLS = Path(__file__).parent / "controls"  # measured once, by benchmarks/demo_controls.py


class Report:
    """
    Evaluate a trainer's model before and after training, next to its controls.

    The folder of the run then contains results of `trl-concise eval`: `evaluation-before`, `evaluation-after`, and one folder
    per control. At the end of the block, the main process also writes what `trl-concise report` writes, and prints the tables.
    Nothing is reported if training failed.

    Controls are GRPO without a length reward, at the same number of generated tokens, and supervised fine-tuning on shortest
    correct completions. Their figures ship with the package, and the tables name the command and the commit that measured them.
    They are left out if the trainer's model is not the one that the controls started from.

    Args:
        trainer ([`~trl.GRPOTrainer`]): Trainer of the embedded model, or of another one on the same problems.
        problems (`int`, *optional*, defaults to `1536`): Largest number of problems of each set; there are 1,024, 1,536 and 256.
        control (`bool`, *optional*, defaults to `False`): Whether to train and evaluate the GRPO control after this run.
        chunking ([`~trl_concise.evaluation.chunks.Chunking`], *optional*): As for [`~trl_concise.evaluation.evaluate`].
        limits ([`~trl_concise.evaluation.acceptance.Limits`], *optional*): Limits that the trained model is tested against at the end, on problems
            of two and of three operations, as `trl-concise accept` does.

    Raises:
        `ValueError`: If the control is requested with several processes.

    Example:

    ```python
    >>> with Report(trainer):
    ...     trainer.train()
    ```
    """

    def __init__(
        self,
        trainer: GRPOTrainer,
        problems: int = EVALUATION_PROBLEMS,
        *,
        control: bool = False,
        chunking: Chunking | None = None,
        limits: Limits | None = None,
    ):
        if control and trainer.accelerator.num_processes > 1:
            raise ValueError(
                f"control=True trains a second model on one process; there are {trainer.accelerator.num_processes}. Train "
                "the control on one process, or leave it out."
            )
        self.trainer = trainer
        self.problems = problems
        self.control = control
        self.chunking = chunking
        self.limits = limits
        self.folder = Path(trainer.args.output_dir)
        self.sets = held_out_sets()

    def __enter__(self) -> Report:
        if self.trainer.is_world_process_zero():
            for folder in (BEFORE, AFTER, CONTROL, "control-sft"):
                shutil.rmtree(self.folder / folder, ignore_errors=True)  # of an earlier run
            model = self.trainer.model
            name = "embedded model" if model.config._name_or_path == str(model_path()) else name_of(model)
            self.base = self._evaluate(model, BEFORE, name, budgets=BUDGETS)
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        trainer = self.trainer
        if error_type is not None or not trainer.is_world_process_zero():
            return
        own = self.folder.resolve().name
        trained = self._evaluate(trainer.model, AFTER, own, base=self.base)
        start = read_json(self.folder / BEFORE / SETTINGS_FILE)["weights"]
        controls = copy_controls(self.folder, self.base, start)
        tokens = generated_tokens(trainer)
        if self.control:
            controls = [record for record in controls if record["model"] != CONTROL_NAME]
            controls += self._train_control(tokens)
        trainer.save_state()  # for `trl-concise report`
        if can_plot("The plot of the run"):
            report([self.folder])
        print_tables(self.base, trained, controls)
        spent = {f"{record['generated_tokens']:,}" for record in controls if "generated_tokens" in record}
        compared = f", the GRPO control {spent.pop()}" if spent else ""
        Console().print(f"Tokens generated in training: this run {tokens:,}{compared}.", highlight=False)
        if self.limits is None:
            return
        try:
            results = accept([self.folder / AFTER], self.limits, base=self.folder / BEFORE, datasets=TESTED)
        except ValueError as error:  # too few problems
            print(f"\nNo acceptance test: {error}")
        else:
            print()
            print_acceptance(results)

    def _evaluate(self, model: PreTrainedModel, folder: str, name: str, **options: Any) -> list[dict[str, Any]]:
        trainer = self.trainer
        return evaluate(
            trainer.accelerator.unwrap_model(model),
            self.sets,
            self.folder / folder,
            tokenizer=trainer.processing_class,
            limit=self.problems,
            seed=trainer.args.seed,
            model_name=name,
            chunking=self.chunking,
            **{**EVALUATION, "max_new_tokens": max(EVALUATION["max_new_tokens"], trainer.args.max_completion_length)},
            **options,
        )

    def _train_control(self, tokens: int) -> list[dict[str, Any]]:
        trainer, args = self.trainer, self.trainer.args
        settings = {name: getattr(args, name) for name in SETTINGS if hasattr(args, name)}
        with TemporaryDirectory() as folder:
            changes = {"output_dir": folder, "save_strategy": "no", "seed": args.seed}
            control, budget = train_control(
                trainer.model.config._name_or_path, trainer.train_dataset, tokens, settings | changes
            )
        records = self._evaluate(control.model, CONTROL, CONTROL_NAME, base=self.base)  # replaces the one that ships
        return [{**record, "generated_tokens": budget.tokens} for record in records]


def held_out_sets() -> dict[str, Dataset]:
    """Return the problem sets that `trl-concise eval` knows as `demo`, `demo_harder` and `demo_hardest`."""
    return {
        name: problem_dataset(**SETS[file])
        for name, file in zip(DESCRIPTIONS, ("test", "harder", "hardest"), strict=True)
    }


def generated_tokens(trainer: GRPOTrainer) -> int:
    """Return the number of tokens that a run has generated in training, from its log."""
    log = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
    args, before, tokens = trainer.args, 0, 0.0
    each = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    for entry in log:  # an entry has the mean of the steps since the one before
        tokens += each * entry["completions/mean_length"] * (entry["step"] - before)
        before = entry["step"]
    return round(tokens)


def copy_controls(folder: Path, base: Sequence[Mapping[str, Any]], start: str | None) -> list[dict[str, Any]]:
    """
    Copy the controls that ship with the package into a run's folder, if they can be compared with the run.

    Args:
        folder (`Path`): The run's folder.
        base (`Sequence[Mapping]`): Records of the model before training.
        start (`str`, *optional*): Fingerprint of that model.

    Returns:
        `list[dict[str, Any]]`: Their records. A control is left out if it started from other weights or was measured on other
        problems or with other settings.
    """
    whole = {record["dataset"]: record for record in base if record["budget"] is None}
    copied: list[dict[str, Any]] = []
    for path in sorted(CONTROLS.glob(f"*/{SUMMARY_FILE}")):
        records = [
            record
            for record in read_summary(path)
            if record["start_weights"] == start and not differing_settings(record, whole[record["dataset"]])
        ]
        if records:
            place = folder / f"control-{path.parent.name}" / SUMMARY_FILE
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, json.dumps(records, indent=2).encode() + b"\n")
            copied += records
    return copied


def print_tables(
    base: Sequence[Mapping[str, Any]],
    trained: Sequence[Mapping[str, Any]],
    controls: Sequence[Mapping[str, Any]],
    console: Console | None = None,
) -> None:
    """Print accuracy and tokens before and after training and of the controls: a table per problem set."""
    console = console or Console()
    for name, description in DESCRIPTIONS.items():
        before, *truncated = (record for record in base if record["dataset"] == name)
        (after,) = (record for record in trained if record["dataset"] == name)
        closest = min(truncated, key=lambda item: abs(item["budget"] - after["tokens_mean"]))
        rows = {"before training": before, "after training": after}
        rows |= {item["model"] + "*" * ("measured_by" in item): item for item in controls if item["dataset"] == name}
        rows[f"base, truncated at {closest['budget']}"] = closest
        table = Table(title=f"{before['problems']:,} problems of {description}")
        table.add_column("")
        for heading in ("Accuracy", "Tokens", "Saved", "AES"):
            table.add_column(heading, justify="right", no_wrap=True)
        for title, record in rows.items():
            low, high = record["accuracy_interval"]
            cells = [f"{record['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]", f"{record['tokens_mean']:.1f}"]
            if record is not before:
                cells += [f"{1 - record['tokens_mean'] / before['tokens_mean']:.1%}", _score(record, before)]
            table.add_row(title, *cells, style="bold" if record is after else None)
        console.print(table)
    console.print(
        "None of these problems was trained on. [ ]: 95 % interval over problems. AES: accuracy-efficiency score, weights 1, 3 "
        "and 5. Compare with GRPO: only the difference is an effect of the length reward.",
        highlight=False,
    )
    for command, commit in dict.fromkeys(
        (item["measured_by"], item["commit"]) for item in controls if "measured_by" in item
    ):
        console.print(f"* Not part of this run: measured at {commit} with `{command}`.", highlight=False)


def _score(record: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Return the accuracy-efficiency score; a dash against a base that solves hardly anything, where it has no meaning."""
    if base["accuracy"] < LEAST_BASE_ACCURACY:
        return "-"
    both = (record["accuracy"], record["tokens_mean"], base["accuracy"], base["tokens_mean"])
    return f"{accuracy_efficiency_score(*both):+.2f}"
