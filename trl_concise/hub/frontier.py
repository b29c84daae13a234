# SPDX-License-Identifier: Apache-2.0
"""Push the checkpoints on the frontier: those that no other one beats in both accuracy and tokens."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy

from ..evaluation import accuracy_efficiency_score, on_frontier
from .card import card_files, write_card
from .facts import FACTS_FILE
from .outbox import Outbox, Revision
from .sender import Sender


if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import TrainerState


logger = logging.getLogger(__name__)


class HubFrontierCallback(TrainerCallback):
    """
    Push every checkpoint on the frontier of accuracy and tokens to the Hub, in the background.

    A checkpoint evaluated at the same step becomes the revision `step-000120` of the repository, with the card as it is
    then. The revision with the best accuracy-efficiency score against the first evaluation carries the tag `best`. The
    card on the main branch follows; the weights there are those of `trainer.push_to_hub()`.

    Training never waits for the Hub: checkpoints wait on disk, in `_hub/` of the output folder, as hard links that cost
    no space until the checkpoint itself is deleted. When training ends, what is left is sent; what the Hub does not
    take is named in a warning, with the command that sends it later.

    Args:
        repo_id (`str`):
            Repository, e.g. `"user/model"`; made if it does not exist.
        max_revisions (`int`, *optional*, defaults to `10`):
            How many revisions the repository may hold before those no longer on the frontier are deleted, oldest
            first. Those on the frontier always stay.
        max_waiting (`int`, *optional*, defaults to `4`):
            How many revisions are sent at most while training goes on, the newest; older ones wait for its end.
        private (`bool`, *optional*):
            Whether a new repository is private. Defaults to what the account says.
        token (`str`, *optional*):
            Token with write permission. Defaults to the stored one. Never written to disk.
        eval_name (`str`, *optional*):
            Name of the evaluation dataset that counts, where the trainer has several in a `dict`.
        tag (`str`, *optional*, defaults to `"best"`):
            Tag of the best trade-off.
        patience (`float`, *optional*, defaults to `120.0`):
            Seconds for which the end of training keeps trying while the Hub fails.
        timeout (`float`, *optional*, defaults to `1800.0`):
            Seconds for which the end of training waits at most; with several processes, half of `args.ddp_timeout` at
            most, since the others wait meanwhile.

    Raises:
        `ValueError`: If a limit is below 1; when training begins, if checkpoints are not saved and evaluated, or the
            output folder holds something that waits for another repository.
        `RuntimeError`: When training begins, if another process sends what the output folder holds.

    Example:

    ```python
    >>> from trl_concise import HubFrontierCallback

    >>> trainer.add_callback(HubFrontierCallback("user/qwen-concise"))
    >>> trainer.train()  # with eval_strategy="steps", save_strategy="steps" and equal eval_steps and save_steps
    ```
    """

    def __init__(
        self,
        repo_id: str,
        *,
        max_revisions: int = 10,
        max_waiting: int = 4,
        private: bool | None = None,
        token: str | None = None,
        eval_name: str | None = None,
        tag: str = "best",
        patience: float = 120.0,
        timeout: float = 1800.0,
    ):
        if max_revisions < 1 or max_waiting < 1:
            raise ValueError(f"max_revisions and max_waiting are at least 1, got {max_revisions} and {max_waiting}.")
        self.max_revisions = max_revisions
        self.max_waiting = max_waiting
        self.eval_name = eval_name
        self.timeout = timeout
        self._make_sender: Callable[[str], Sender] = lambda run: Sender(
            run, repo_id, token=token, private=private, tag=tag, patience=patience
        )
        self.sender: Sender | None = None  # of the main process, in training

    def on_train_begin(self, args, state, control, **kwargs):
        if args.eval_strategy == IntervalStrategy.NO or args.save_strategy == "no":
            raise ValueError(
                "HubFrontierCallback needs checkpoints and their evaluation; got "
                f"eval_strategy={str(args.eval_strategy.value)!r} and save_strategy={str(args.save_strategy.value)!r}. "
                "Set both to 'steps', with equal eval_steps and save_steps."
            )
        if state.is_world_process_zero:
            self._start(args.output_dir).wake()  # for what an earlier run has left

    def on_save(self, args, state, control, **kwargs):
        if self.sender is None:
            return
        points = evaluated_points(state.log_history, self.eval_name)
        step = state.global_step
        if step not in points:
            names = evaluated_names(state.log_history)
            logger.warning(
                "The checkpoint at step %d was not evaluated%s and is not pushed: %s.",
                step,
                f" on {self.eval_name!r}" if self.eval_name else "",
                f"choose one of the evaluation datasets, eval_name={names}"
                if names and self.eval_name not in names
                else "set eval_steps so that it divides save_steps",
            )
            return
        sender = self._open(self.sender, args.output_dir)
        outbox = sender.outbox
        frontier = frontier_steps(points)
        run = Path(args.output_dir)
        if step in frontier:
            with TemporaryDirectory() as folder:
                card = card_files(self._write_card(outbox, run, Path(folder), state))
                outbox.add(Revision(step, *points[step]), run / f"{PREFIX_CHECKPOINT_DIR}-{step}", card)
                outbox.add_card(card)
        self._prune(outbox, points, frontier)
        best = best_trade_off(points, measured_here(points, outbox.kept()))
        if best is not None:
            outbox.set_best(best)
        sender.wake()

    def on_train_end(self, args, state, control, **kwargs):
        if self.sender is None:
            return
        sender = self._open(self.sender, args.output_dir)
        timeout = self.timeout if args.world_size == 1 else min(self.timeout, args.ddp_timeout / 2)
        unsent = sender.finish(timeout)
        if unsent:
            logger.warning(
                "Not sent to %s: %s. Nothing is lost; send it with\n    trl-concise push %s",
                sender.outbox.repo_id,
                ", ".join(unsent),
                args.output_dir,
            )
        self.sender = None

    def _start(self, run: str) -> Sender:
        self.sender = self._make_sender(run)
        self.sender.start(self.max_waiting)
        return self.sender

    def _open(self, sender: Sender, run: str) -> Sender:
        """Return the sender, or a new one if `push_run` in this process has closed its outbox and sent what it held."""
        return self._start(run) if sender.outbox.closed else sender

    def _write_card(self, outbox: Outbox, run: Path, folder: Path, state: TrainerState) -> Path:
        """Write the card for this repository, which need not be the trainer's, and return where it is."""
        if not (run / FACTS_FILE).exists():  # a plain TRL trainer
            return run
        return write_card(run, outbox.repo_id, folder=folder, state=state).parent

    def _prune(self, outbox: Outbox, points: dict[int, tuple[float, float]], frontier: set[int]) -> None:
        """Drop revisions off the frontier: at once where they still wait, beyond the limit where they were sent."""
        kept = measured_here(points, outbox.kept())
        off = sorted((revision for revision in kept if revision.step not in frontier), key=lambda item: item.step)
        waiting = [revision for revision in off if revision.state == "waiting"]
        sent = [revision for revision in off if revision not in waiting]
        surplus = max(0, len(kept) - len(waiting) - self.max_revisions)
        for revision in [*waiting, *sent[:surplus]]:
            outbox.drop(revision.name)


def evaluated_points(log_history: list[dict[str, Any]], name: str | None = None) -> dict[int, tuple[float, float]]:
    """Return accuracy and mean tokens of every step evaluated on a dataset, in order; the first is the base."""
    prefix = "eval" if name is None else f"eval_{name}"
    points = ((log["step"], log.get(f"{prefix}_accuracy"), log.get(f"{prefix}_tokens_mean")) for log in log_history)
    return {
        step: (accuracy, tokens) for step, accuracy, tokens in points if accuracy is not None and tokens is not None
    }


def evaluated_names(log_history: list[dict[str, Any]]) -> list[str]:
    """Return the names of the evaluation datasets, where there are several."""
    found = (re.fullmatch(r"eval_(.+)_tokens_mean", key) for log in log_history for key in log)
    return sorted({match[1] for match in found if match})


def frontier_steps(points: dict[int, tuple[float, float]]) -> set[int]:
    """Return the steps that no other step beats in accuracy and tokens at once; of equal ones the first."""
    first: dict[tuple[float, float], int] = {}
    for step, point in points.items():
        first.setdefault(point, step)
    accuracies, tokens = zip(*first, strict=True)
    return {step for step, best in zip(first.values(), on_frontier(accuracies, tokens), strict=True) if best}


def measured_here(points: dict[int, tuple[float, float]], revisions: Iterable[Revision]) -> list[Revision]:
    """Return the revisions that the points tell of. Others come from an earlier run in the same folder."""
    return [revision for revision in revisions if points.get(revision.step) == (revision.accuracy, revision.tokens)]


def best_trade_off(points: dict[int, tuple[float, float]], revisions: Iterable[Revision]) -> str | None:
    """
    Return the name of the revision with the highest accuracy-efficiency score against the first point.

    A base without accuracy or tokens has no such score; then the most accurate revision is the best.
    """
    base_accuracy, base_tokens = next(iter(points.values()))

    def score(revision: Revision) -> tuple[float, float]:
        if base_accuracy <= 0 or base_tokens <= 0:
            return revision.accuracy, -revision.tokens
        return (
            accuracy_efficiency_score(revision.accuracy, revision.tokens, base_accuracy, base_tokens),
            revision.accuracy,
        )

    best = max(revisions, key=score, default=None)
    return None if best is None else best.name
