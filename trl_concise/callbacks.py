# SPDX-License-Identifier: Apache-2.0
"""Callbacks: a progress bar with accuracy, tokens and history coverage, and a warning before a run collapses."""

from __future__ import annotations

import atexit
import logging
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer_utils import has_length


if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)


class ConciseProgressCallback(TrainerCallback):
    """
    A progress bar with accuracy, tokens per completion and history coverage of the last logged step, the latest figures of the
    watch set, and the time left.

    If the output is a file instead of a terminal, the same figures are printed as one line per logged step. All logged
    metrics are still in `trainer.state.log_history` and in the trackers of `report_to`.

    Args:
        console ([`~rich.console.Console`], *optional*): Where to show it. Defaults to the standard output.

    Example:

    ```python
    >>> from transformers import ProgressCallback
    >>> from trl_concise import ConciseProgressCallback

    >>> trainer.remove_callback(ProgressCallback)
    >>> trainer.add_callback(ConciseProgressCallback)
    ```
    """

    shown = {  # logged metric -> how the bar shows it
        "accuracy": "accuracy {:.0%}",
        "completions/mean_length": "{:.0f} tokens",
        "hapo/history_coverage": "history {:.0%}",
        "watch/accuracy": "watch set {:.0%}",
        "watch/tokens": "at {:.0f} tokens",
        "mean_token_accuracy": "token accuracy {:.1%}",  # SFT, CFT, REDI
        "redi/chosen_logps_per_token": "correct {:.3f}",
        "redi/rejected_logps_per_token": "incorrect {:.3f} nats per token",
    }

    def __init__(self, console: Console | None = None):
        self.console = console
        self._progress: Progress | None = None  # of this process; None on all but the first, and outside training
        self._evaluating: TaskID | None = None
        self._latest: dict[bool, str] = {}  # whether of the watch set -> its latest figures

    def on_train_begin(self, args, state, control, **kwargs):
        self._latest = {}
        if not state.is_world_process_zero:
            return
        self._stop()  # training that failed did not call `on_train_end`, and may be started again
        console = self.console or Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not (console.is_interactive or console.is_jupyter),
        )
        self._training = self._progress.add_task(
            "Training", total=state.max_steps, completed=state.global_step, figures=""
        )
        self._progress.start()
        atexit.register(self._progress.stop)  # restores the terminal if training fails

    def on_step_end(self, args, state, control, **kwargs):
        if self._progress is not None:
            self._progress.update(self._training, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "train_runtime" in (logs or {}) or self._progress is None:  # the summary at the end
            return
        texts = [text.format(logs[name]) for name, text in self.shown.items() if logs.get(name) is not None]
        if not texts:
            return
        figures = ", ".join(texts)
        self._latest["watch/accuracy" in logs] = figures  # the watch set's come less often, and stay in the bar
        self._progress.update(self._training, figures=", ".join(self._latest[kind] for kind in sorted(self._latest)))
        if self._progress.disable:
            left = TimeRemainingColumn().render(self._progress.tasks[0])
            self._progress.console.print(
                f"step {state.global_step}/{state.max_steps}: {figures}, {left} left", soft_wrap=True
            )

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if not has_length(eval_dataloader) or self._progress is None:
            return
        if self._evaluating is None:
            self._evaluating = self._progress.add_task("Evaluation", total=len(eval_dataloader), figures="")
        self._progress.advance(self._evaluating)

    def on_evaluate(self, args, state, control, **kwargs):
        if self._progress is not None and self._evaluating is not None:
            self._progress.remove_task(self._evaluating)
            self._evaluating = None

    def on_train_end(self, args, state, control, **kwargs):
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            atexit.unregister(self._progress.stop)
        self._progress = self._evaluating = None


def show_progress(trainer: Trainer) -> None:
    """Replace the progress bar of transformers with [`ConciseProgressCallback`], unless `disable_tqdm` is set."""
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(ConciseProgressCallback)


class CollapseCallback(TrainerCallback):
    """
    Warns when the log-probabilities of correct and of incorrect traces fall together, faster than a slope.

    REDI's objective is unbounded below, so a run can end in this way. The slope is that of a least-squares line through
    the values logged over the last steps. It is computed from the trainer's log, so it also works in a resumed run.

    Args:
        slope (`float`): Fall per optimizer step, in nats per token, above which to warn.
        alpha (`float`): Weight of the incorrect traces, for the advice.
    """

    chosen, rejected = "redi/chosen_logps_per_token", "redi/rejected_logps_per_token"
    least_steps = 20  # the line spans at least this many steps ...
    least_points = 5  # ... and this many logged points

    def __init__(self, slope: float, alpha: float):
        self.slope = slope
        self.alpha = alpha
        self._is_falling = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or self.chosen not in (logs or {}):
            return
        points = []
        for entry in reversed(state.log_history):
            if self.chosen in entry and self.rejected in entry:
                points.append((entry["step"], entry[self.chosen], entry[self.rejected]))
                if len(points) >= self.least_points and state.global_step - entry["step"] >= self.least_steps - 1:
                    break
        else:
            return  # too early to tell
        steps, *sides = np.array(points).T
        falls = [-np.polyfit(steps, side, deg=1)[0] for side in sides]
        was_falling, self._is_falling = self._is_falling, min(falls) > self.slope
        if self._is_falling and not was_falling:
            logger.warning(
                "Correct and incorrect traces lose likelihood together: %.3f and %.3f nats per token and step over the "
                "last %d steps (collapse_slope = %g). A run that continues like this collapses. Lower learning_rate (%g "
                "now)%s.",
                *falls,
                steps[0] - steps[-1] + 1,
                self.slope,
                args.learning_rate,
                f" or alpha ({self.alpha:g} now; 0.8 is the paper's)" if self.alpha > 0.8 else "",
            )
