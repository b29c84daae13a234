# SPDX-License-Identifier: Apache-2.0
"""The report of a demo run: a table, plots, and `results.json`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from transformers import AutoModelForCausalLM

from ..evaluation import FrontierPoint, accuracy_efficiency_score, plot_frontier
from ..evaluation.plots import BLUE, VERMILLION, can_plot, integer_ticks, new_figure, save_figure, show_as_percent
from ..state.checkpoint import write_atomically
from .evaluate import MAX_COMPLETION_LENGTH, Evaluation, evaluate_cut, evaluate_model
from .problems import generate_problems
from .settings import SETTINGS, model_path


if TYPE_CHECKING:
    from trl import GRPOTrainer


EVALUATION_PROBLEMS = 1024
SFT_CONTROL = Path(__file__).parent / "sft_control.json"


@dataclass(frozen=True)
class Outcome:
    """
    Result of a run.

    Args:
        base, trained ([`Evaluation`]): The model before and after training, on the same problems.
        cut ([`Evaluation`]): The base model, made to answer at the trained model's mean length.
        sft (`dict[str, Any]`, *optional*): Figures of supervised fine-tuning, if they are of the same base model.
        max_new_tokens, temperature: How the completions of both were drawn.
        seconds (`float`): Wall time of training and both evaluations.
        seed (`int`): Seed of the run.
        settings (`dict[str, Any]`): Settings of the run.
    """

    base: Evaluation
    trained: Evaluation
    cut: Evaluation
    sft: dict[str, Any] | None
    max_new_tokens: int
    temperature: float
    seconds: float
    seed: int
    settings: dict[str, Any]

    def efficiency(self, accuracy: float, tokens: float) -> float | None:
        """Accuracy-efficiency score, weights 1, 3 and 5; `None` against a base model that solves nothing."""
        if self.base.accuracy <= 0:
            return None
        return accuracy_efficiency_score(accuracy, tokens, self.base.accuracy, self.base.tokens_mean)


class Report:
    """
    Evaluate a trainer's model before and after training, and report the difference.

    At the end of the block, the main process prints the table and writes `results.json`, `training.png`,
    `plots/frontier.png` and `trainer_state.json` to the trainer's output folder. Nothing is reported if training failed.

    Args:
        trainer ([`~trl.GRPOTrainer`]): Trainer of the embedded model, or of another one on the same problems.
        problems (`int`, *optional*, defaults to `1024`): How many problems of the `test` split to evaluate on.

    Example:

    ```python
    >>> with Report(trainer):
    ...     trainer.train()
    ```
    """

    def __init__(self, trainer: GRPOTrainer, problems: int = EVALUATION_PROBLEMS):
        self.trainer = trainer
        self.max_new_tokens = max(MAX_COMPLETION_LENGTH, trainer.args.max_completion_length)
        self.temperature = 1.0
        self.rows = generate_problems(problems, seed=0, split="test")

    def __enter__(self) -> Report:
        self.started = time.perf_counter()
        if self.trainer.is_world_process_zero():
            self.base = self._evaluate("Before training")
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is not None or not self.trainer.is_world_process_zero():
            return
        trained = self._evaluate("After training")
        seconds = time.perf_counter() - self.started
        args = self.trainer.args
        embedded = self.trainer.model.config._name_or_path == str(model_path())
        sft = load_sft_control()
        outcome = Outcome(
            base=self.base,
            trained=trained,
            cut=self._cut_base(round(trained.tokens_mean)),
            sft=sft if embedded and sft["problems"] == len(self.rows) else None,  # of the same problems, or none
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seconds=seconds,
            seed=args.seed,
            settings={name: getattr(args, name) for name in SETTINGS if hasattr(args, name)},
        )
        print_table(outcome)
        write_results(outcome, args.output_dir)
        if can_plot("The plot of the run"):
            plot_training(self.trainer.state.log_history, outcome, Path(args.output_dir) / "training.png")
            plot_outcome(outcome, Path(args.output_dir) / "plots" / "frontier.png")
        self.trainer.save_state()  # for `trl-concise report`

    def _evaluate(self, title: str) -> Evaluation:
        trainer = self.trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns) as progress:
            task = progress.add_task(title, total=len(self.rows))
            return evaluate_model(
                model,
                trainer.processing_class,
                self.rows,
                max_completion_length=self.max_new_tokens,
                temperature=self.temperature,
                seed=trainer.args.seed,
                on_batch=lambda done: progress.advance(task, done),
            )

    def _cut_base(self, tokens: int) -> Evaluation:
        model = AutoModelForCausalLM.from_pretrained(self.trainer.model.config._name_or_path)
        model.to(self.trainer.accelerator.device)
        return evaluate_cut(
            model, self.trainer.processing_class, self.rows, self.base, tokens, seed=self.trainer.args.seed
        )


def load_sft_control() -> dict[str, Any]:
    """Figures of supervised fine-tuning on shortest correct completions, with the command that printed them."""
    return json.loads(SFT_CONTROL.read_text())


def print_table(outcome: Outcome, console: Console | None = None) -> None:
    """Print accuracy and tokens before and after training, and the two controls."""
    lines = [
        ("Before training", outcome.base.accuracy, outcome.base.tokens_mean),
        ("After training", outcome.trained.accuracy, outcome.trained.tokens_mean),
        ("Control: before training, truncated at that length", outcome.cut.accuracy, outcome.cut.tokens_mean),
    ]
    caption = "AES: accuracy-efficiency score, weights 1, 3 and 5."
    if outcome.sft is not None:
        lines.append(
            ("Control: SFT on shortest correct completions*", outcome.sft["accuracy"], outcome.sft["tokens_mean"])
        )
        caption += f"\n* Not part of this run: {outcome.sft['command']}"
    table = Table(title=f"{len(outcome.base.correct):,} problems that training never saw", caption=caption)
    table.add_column("")
    for heading in ("Accuracy", "Mean tokens", "Tokens saved", "AES"):
        table.add_column(heading, justify="right")
    for name, accuracy, tokens in lines:
        saved, score = 1 - tokens / outcome.base.tokens_mean, outcome.efficiency(accuracy, tokens)
        table.add_row(
            name,
            f"{accuracy:.1%}",
            f"{tokens:.1f}",
            f"{saved:.1%}",
            "-" if score is None else f"{score:+.2f}",
            style="bold" if name == "After training" else None,
        )
    console = console or Console()
    console.print(table)
    console.print(f"Training and both evaluations took {outcome.seconds:.0f} s (seed {outcome.seed}).")


def write_results(outcome: Outcome, output_dir: str | Path) -> Path:
    """
    Write `results.json`.

    Args:
        outcome ([`Outcome`]): Result of the run.
        output_dir (`str` or `Path`): Folder to write to; made if it is missing.

    Returns:
        `Path`: The file. Keys: `base`, `trained`, `base_cut` (each with `accuracy`, `tokens_mean`,
            `truncated_fraction`, `problems`; the first two also with `max_new_tokens` and `temperature`), `sft_control`,
            `tokens_saved`, `accuracy_efficiency_score` (`None` if the base solves nothing), `seconds`, `seed`,
            `settings`.
    """
    drawn = {"max_new_tokens": outcome.max_new_tokens, "temperature": outcome.temperature}
    results = {
        "base": outcome.base.summary() | drawn,
        "trained": outcome.trained.summary() | drawn,
        "base_cut": outcome.cut.summary(),
        "sft_control": outcome.sft,
        "tokens_saved": 1 - outcome.trained.tokens_mean / outcome.base.tokens_mean,
        "accuracy_efficiency_score": outcome.efficiency(outcome.trained.accuracy, outcome.trained.tokens_mean),
        "seconds": outcome.seconds,
        "seed": outcome.seed,
        "settings": outcome.settings,
    }
    path = Path(output_dir) / "results.json"
    write_atomically(path, json.dumps(results, indent=2, default=str).encode() + b"\n")
    return path


def plot_training(log_history: list[dict[str, Any]], outcome: Outcome, path: str | Path) -> None:
    """
    Plot accuracy and tokens over the training steps, between the held-out figures before and after.

    Args:
        log_history (`list[dict[str, Any]]`): `trainer.state.log_history`.
        outcome ([`Outcome`]): Result of the run.
        path (`str` or `Path`): Image file to write.

    Raises:
        `ImportError`: If matplotlib is missing.
    """
    last = max((log["step"] for log in log_history), default=0)
    figure = new_figure(7, 5)
    accuracy_axes, tokens_axes = figure.subplots(2, sharex=True)
    panels = [
        (accuracy_axes, "Accuracy", BLUE, "accuracy", "accuracy"),
        (tokens_axes, "Completion tokens", VERMILLION, "completions/mean_length", "tokens_mean"),
    ]
    for axes, name, color, key, attribute in panels:
        logged = [(log["step"], log[key]) for log in log_history if key in log]
        if logged:  # not where logging_steps exceeds max_steps
            marker = "o" if len(logged) <= 30 else None
            label = "training prompts, per step"
            axes.plot(*zip(*logged, strict=True), color=color, linewidth=1.2, marker=marker, markersize=4, label=label)
        held_out = [getattr(outcome.base, attribute), getattr(outcome.trained, attribute)]
        axes.plot([0, last], held_out, "o", color="black", label="held-out problems", zorder=3, clip_on=False)
        for step, value in zip([0, last], held_out, strict=True):
            text = f"{value:.1%}" if attribute == "accuracy" else f"{value:.1f}"
            axes.annotate(text, (step, value), xytext=(0, 8), textcoords="offset points", ha="center")
        axes.set_ylabel(name)
        axes.legend(frameon=False)
    show_as_percent(accuracy_axes)
    tokens_axes.set_ylim(bottom=0)
    tokens_axes.set_xlabel("Training step")
    integer_ticks(tokens_axes.xaxis)
    save_figure(figure, path)


def plot_outcome(outcome: Outcome, path: str | Path) -> None:
    """
    Plot accuracy against tokens before and after training, and of the controls.

    Args:
        outcome ([`Outcome`]): Result of the run.
        path (`str` or `Path`): Image file to write.

    Raises:
        `ImportError`: If matplotlib is missing.
    """
    points = [
        FrontierPoint("before training", outcome.base.accuracy, outcome.base.tokens_mean, "base"),
        FrontierPoint(
            "", outcome.cut.accuracy, outcome.cut.tokens_mean, "cut", "before training, truncated at that length"
        ),
        FrontierPoint("after training", outcome.trained.accuracy, outcome.trained.tokens_mean, series="this run"),
    ]
    if outcome.sft is not None:
        name = "SFT on shortest correct completions"
        points.append(FrontierPoint("", outcome.sft["accuracy"], outcome.sft["tokens_mean"], series=name))
    plot_frontier(points, path, title=f"{len(outcome.base.correct):,} problems that training never saw")
