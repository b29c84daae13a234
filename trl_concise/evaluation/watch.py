# SPDX-License-Identifier: Apache-2.0
"""
[`WatchSet`]: accuracy and tokens of a fixed problem set while a model is trained, and what to do when accuracy falls.

The metrics of a length method describe the problems that it trains on. On those, fewer tokens at equal accuracy look like
success even if the model no longer solves harder problems. `docs/what_can_go_wrong.md` shows such a run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from accelerate.utils import gather
from datasets import IterableDataset
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from ..batch.rollouts import prompt_digest, prompt_key
from ..checks import check_dataset
from ..state.checkpoint import STATE_FOLDER, write_atomically
from ..state.step_start import RandomState
from .metrics import accuracy_interval, bootstrap_interval


if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

    from ..components import TrainerView

    class WatchedTrainer(TrainerView, Protocol):
        """What the watch uses in addition: it logs and saves the model."""

        control: TrainerControl

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            """See [`~transformers.Trainer.save_model`]."""


logger = logging.getLogger(__name__)

ON_LOSS = ("warn", "stop", "best")
BEST_FOLDER = "_watch_best"  # with the underscore, it is not uploaded with the output folder
RECOMMENDED_PROBLEMS = 256
_FIGURES_FILE = "watch.json"
_STATE_FILE = "watch_set.json"


class WatchSet(TrainerCallback):
    """
    Measures the policy on a fixed problem set at the start of training, every few steps and at the end.

    [`ConciseGRPOTrainer`] adds it when it is given a `watch_dataset`. One greedy completion per problem is generated with
    the trainer's own engine, at most `max_completion_length` tokens long, and judged by the `correctness` function. The
    problems are divided among the processes, and every process receives all results. Training itself is not affected: the
    random state, the logged metrics and the components stay as they are.

    Logged are `watch/accuracy` and `watch/tokens` (the mean, end of turn included) with their 95 % intervals (`_low`,
    `_high`), `watch/truncated_fraction`, `watch/accuracy_change` against the start with its interval, and `watch/passed`.
    A measurement fails (0) if the whole interval of the change, paired over problems, is below `-max_accuracy_loss`.

    Args:
        trainer ([`ConciseGRPOTrainer`]):
            Trainer whose policy is measured.
        dataset (`Dataset` or `list[dict]`):
            Rows with a `prompt` and the columns that the `correctness` function needs. Recommended are at least 256 problems
            that are harder than the training problems.
        every (`int`):
            Optimizer steps from one measurement to the next, at least 1.
        max_accuracy_loss (`float`):
            Largest loss of accuracy that is accepted, in `[0, 1)`.
        on_loss (`str`):
            What happens when a measurement fails. `"warn"` logs a warning. `"stop"` also ends the training, after a
            checkpoint is saved unless `save_strategy="no"`. `"best"` logs a warning, and keeps the model with the fewest
            tokens among all measurements that passed after the start in `_watch_best` of the output folder.

    Attributes:
        best (`dict[str, float]`, *optional*): `step`, `accuracy` and `tokens` of the model in `_watch_best`.

    Raises:
        `ValueError`: If a setting is out of range, the dataset is empty or streamed, or the trainer uses tools or
            environments.
    """

    def __init__(
        self,
        trainer: WatchedTrainer,
        dataset: Sequence[Mapping[str, Any]],
        *,
        every: int,
        max_accuracy_loss: float,
        on_loss: str,
    ):
        if every < 1:
            raise ValueError(f"watch_every is {every}, but must be at least 1 optimizer step.")
        if not 0 <= max_accuracy_loss < 1:
            raise ValueError(
                f"max_accuracy_loss is {max_accuracy_loss}, but must be a fraction in [0, 1), such as 0.02 for 2 points."
            )
        if on_loss not in ON_LOSS:
            raise ValueError(f"on_loss is {on_loss!r}, but must be one of {', '.join(map(repr, ON_LOSS))}.")
        if isinstance(dataset, IterableDataset):
            raise ValueError("watch_dataset is a stream, but its problems are fixed: load it with streaming=False.")
        if trainer.tools or trainer.environment_factories is not None:
            raise ValueError(
                "watch_dataset cannot be used with tools or environments: the watch generates without them, so it would "
                "measure another policy than the trained one."
            )
        column = trainer.correctness_column
        if column is None:
            raise ValueError(
                "watch_dataset needs a reward function that says whether a completion is correct, but there is none. Add one to "
                "reward_funcs, or remove watch_dataset."
            )
        check_dataset(
            dataset,
            components=(),
            prompt_selector=None,
            reward_funcs={trainer.reward_func_names[column]: trainer.reward_funcs[column]},
            chat_template=getattr(trainer.processing_class, "chat_template", None),
            brings_own_prompts=False,
            name="watch",
        )
        self.trainer = trainer
        self.rows: list[Mapping[str, Any]] = [dataset[index] for index in range(len(dataset))]
        self.every = every
        self.max_accuracy_loss = max_accuracy_loss
        self.on_loss = on_loss
        self.best: dict[str, float] | None = None
        self._start: np.ndarray | None = None  # correctness per problem
        self._latest: np.ndarray | None = None
        self._start_step = 0
        self._last_step: int | None = None
        digests = b"".join(prompt_digest(prompt_key(row)) for row in self.rows)
        self._digest = hashlib.sha256(digests).hexdigest()
        if len(self.rows) < RECOMMENDED_PROBLEMS and trainer.accelerator.is_main_process:
            logger.warning(
                "watch_dataset has %d problems. With fewer than %d, only a large loss of accuracy is certain.",
                len(self.rows),
                RECOMMENDED_PROBLEMS,
            )

    @property
    def losses(self) -> list[float]:
        """Correctness at the start minus that of the last measurement, -1, 0 or 1 per problem; empty before the first."""
        if self._start is None or self._latest is None:
            return []
        changes = self._start - self._latest
        return changes[~np.isnan(changes)].tolist()

    # When to measure

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self._start = self._latest = self._last_step = self.best = None
            if self.on_loss == "best" and self.trainer.accelerator.is_main_process:
                _remove_best(Path(args.output_dir))  # of an earlier run in the same folder
        elif self._start is None:
            logger.warning(
                "The checkpoint contains no measurement of the watch set: accuracy is compared with that of step %d.",
                state.global_step,
            )

    def on_step_begin(self, args, state, control, **kwargs):
        self._measure_if_due(state)  # the start: every callback, such as the progress bar, is ready by now

    def on_step_end(self, args, state, control, **kwargs):
        self._measure_if_due(state)
        if self.has_stopped(state):
            control.should_training_stop = True
            control.should_save = control.should_save or args.save_strategy != SaveStrategy.NO

    def has_stopped(self, state: TrainerState) -> bool:
        """Return whether `on_loss="stop"` ends the run at this step."""
        if self.on_loss != "stop":
            return False
        return any(log.get("watch/passed") == 0 and log["step"] == state.global_step for log in state.log_history)

    def _measure_if_due(self, state: TrainerState) -> None:
        step = state.global_step
        is_due = step % self.every == 0 or step >= state.max_steps or self._start is None
        if is_due and step != self._last_step:
            random_state = RandomState.capture(self.trainer.accelerator.device)
            try:
                self._measure(step)
            finally:
                random_state.restore(self.trainer.accelerator.device)

    # Measuring

    def _measure(self, step: int) -> None:
        correct, tokens, truncated = self._complete()
        if np.isnan(correct).all():
            raise ValueError(
                "The correctness function gave no verdict on any problem of watch_dataset. Check that its rows have the "
                "columns that the function needs, and that their reference answers can be read."
            )
        if self._start is None:
            self._start, self._start_step = correct, step
        self._latest, self._last_step = correct, step
        figures = measure_change(correct, tokens, self._start, self.max_accuracy_loss)
        figures["watch/truncated_fraction"] = float(truncated.mean())
        self._log(figures)
        if not figures["watch/passed"]:
            if self.trainer.accelerator.is_main_process:
                logger.warning(self._explain_loss(figures, step))
        elif self.on_loss == "best" and step != self._start_step:
            if not self.best or figures["watch/tokens"] < self.best["tokens"]:
                self._keep_best(figures, step)

    def _log(self, figures: dict[str, float]) -> None:
        # Not trainer.log, which would also log and clear the training metrics. Logging clears should_log, by which the
        # trainer decides after `on_step_end` whether to log those.
        should_log = self.trainer.control.should_log
        Trainer.log(self.trainer, figures)
        self.trainer.control.should_log = should_log

    def _complete(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Complete every problem: correctness (NaN: unknown), tokens, truncation, in the order of the rows."""
        trainer = self.trainer
        processes, process = trainer.accelerator.num_processes, trainer.accelerator.process_index
        each = math.ceil(len(self.rows) / processes)  # as many on every process: generation is collective
        own = [index % len(self.rows) for index in range(process * each, (process + 1) * each)]
        at_once = trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation  # as in training
        parts = [self._complete_rows(own[first : first + at_once]) for first in range(0, each, at_once)]
        everything = gather(torch.cat(parts)).cpu().numpy()[: len(self.rows)]  # repeated rows are at the end
        correct, tokens, truncated = everything.T
        return correct, tokens, truncated

    def _complete_rows(self, indices: list[int]) -> torch.Tensor:
        rows = [self.rows[index] for index in indices]
        rollouts = self.trainer.generate_rollouts(rows, 1, greedy=True)
        correct = self.trainer.judge_rollouts(rows, rollouts)
        tokens = torch.tensor([len(ids) for ids in rollouts.completion_ids], device=correct.device)
        return torch.stack([correct, tokens.float(), rollouts.truncated.float()], dim=1)

    def _explain_loss(self, figures: Mapping[str, float], step: int) -> str:
        change, low, high = (100 * figures[f"watch/accuracy_change{end}"] for end in ("", "_low", "_high"))
        then = {
            "warn": "Training goes on.",
            "stop": "Training stops.",
            "best": "Training goes on. "
            + (f"{BEST_FOLDER} contains step {self.best['step']:.0f}." if self.best else "No measurement passed yet."),
        }[self.on_loss]
        return (
            f"Accuracy on the watch set is {figures['watch/accuracy']:.1%} at step {step}, {-change:.1f} points below that of "
            f"step {self._start_step} (95 % interval of the change: {low:.1f} to {high:.1f}); max_accuracy_loss allows "
            f"{100 * self.max_accuracy_loss:g}. {then} See docs/what_can_go_wrong.md."
        )

    # The best model

    def _keep_best(self, figures: Mapping[str, float], step: int) -> None:
        """Save the model in place of the best one. Whenever the process dies, one of the two is complete."""
        self.best = {
            "step": step,
            "accuracy": figures["watch/accuracy"],
            "tokens": figures["watch/tokens"],
        }
        output_dir, accelerator = Path(self.trainer.args.output_dir), self.trainer.accelerator
        fresh = output_dir / f"{BEST_FOLDER}.tmp"
        if accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        accelerator.wait_for_everyone()
        self.trainer.save_model(str(fresh), _internal_call=True)  # without a push to the Hub
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_atomically(fresh / _FIGURES_FILE, (json.dumps(dict(figures), indent=2) + "\n").encode())
            kept, previous = output_dir / BEST_FOLDER, output_dir / f"{BEST_FOLDER}.old"
            if kept.exists():
                shutil.rmtree(previous, ignore_errors=True)
                kept.rename(previous)
            fresh.rename(kept)
            shutil.rmtree(previous, ignore_errors=True)
        accelerator.wait_for_everyone()

    # State

    def save(self, checkpoint: str | Path) -> None:
        """Write the measurement at the start and the best model's figures into a checkpoint."""
        if self._start is None:
            return
        state = {
            "prompts": self._digest,
            "start": self._start_step,
            "correct": _as_json(self._start),
            "latest": _as_json(self._latest),
            "last": self._last_step,
            "best": self.best,
        }
        write_atomically(Path(checkpoint, STATE_FOLDER, _STATE_FILE), json.dumps(state).encode())

    def load(self, checkpoint: str | Path) -> None:
        """
        Restore what [`~WatchSet.save`] wrote, if the checkpoint contains it.

        Raises:
            `ValueError`: If the checkpoint is of a run with another watch set.
        """
        path = Path(checkpoint, STATE_FOLDER, _STATE_FILE)
        if not path.exists():
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["prompts"] != self._digest:
            raise ValueError(
                f"{checkpoint} was written with another watch_dataset of {len(state['correct'])} problems. Resume with that "
                f"one, or delete {path} to compare with the accuracy at the resumed step."
            )
        self._start = _from_json(state["correct"])
        self._latest = _from_json(state.get("latest"))  # None in checkpoints of version 0.1.0
        self._start_step, self._last_step, self.best = state["start"], state["last"], state["best"]
        previous = Path(self.trainer.args.output_dir, f"{BEST_FOLDER}.old")
        if self.trainer.accelerator.is_main_process and previous.exists() and not previous.with_suffix("").exists():
            previous.rename(previous.with_suffix(""))  # the run was killed between two renames


def _as_json(correct: np.ndarray | None) -> list[int | None] | None:
    if correct is None:
        return None
    return [int(one) if one in (0, 1) else None for one in correct]


def _from_json(correct: list[int | None] | None) -> np.ndarray | None:
    if correct is None:
        return None
    return np.array(correct, dtype=float)  # NaN for None


def measure_change(
    correct: np.ndarray, tokens: np.ndarray, correct_at_start: np.ndarray, max_accuracy_loss: float
) -> dict[str, float]:
    """
    Return the figures of a measurement, with 95 % intervals over the problems.

    Args:
        correct (`numpy.ndarray`): `(problems,)`, 1 correct, 0 wrong, NaN unknown.
        tokens (`numpy.ndarray`): `(problems,)`, tokens of the completions.
        correct_at_start (`numpy.ndarray`): `(problems,)`, the same problems at the start.
        max_accuracy_loss (`float`): In `[0, 1)`.

    Returns:
        `dict[str, float]`: As [`WatchSet`] logs them. `watch/passed` is 0 if the whole interval of the change is below
        `-max_accuracy_loss`, otherwise 1.
    """
    known = correct[~np.isnan(correct)]
    change = (correct - correct_at_start)[~np.isnan(correct - correct_at_start)]
    figures: dict[str, float] = {}
    for name, values, interval in (
        ("accuracy", known, accuracy_interval),
        ("tokens", tokens, bootstrap_interval),
        ("accuracy_change", change, bootstrap_interval),
    ):
        if len(values):
            low, high = interval(values[:, None].tolist())
            figures |= {f"watch/{name}": float(values.mean()), f"watch/{name}_low": low, f"watch/{name}_high": high}
    figures["watch/passed"] = float(not figures.get("watch/accuracy_change_high", 0) < -max_accuracy_loss)
    return figures


def _remove_best(output_dir: Path) -> None:
    for suffix in ("", ".tmp", ".old"):
        shutil.rmtree(output_dir / f"{BEST_FOLDER}{suffix}", ignore_errors=True)
