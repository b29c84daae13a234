# SPDX-License-Identifier: Apache-2.0
"""Callback that pushes the checkpoints that no other beats in accuracy and tokens at once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy

from ..evaluation import accuracy_efficiency_score, on_frontier
from ..evaluation.runs import FACTS_FILE, evaluations
from .card import card_files, write_card
from .outbox import Outbox, Record, Revision


logger = logging.getLogger(__name__)


class HubFrontierCallback(TrainerCallback):
    """
    Push every checkpoint on the frontier of accuracy and tokens to the Hub, in the background.

    A checkpoint evaluated at the same step becomes the revision `step-000120` of the repository, with the current card. The
    revision with the best accuracy-efficiency score against the first evaluation carries the tag `best`. The card on the main
    branch is updated; the weights there are those of `trainer.push_to_hub()`.

    Training does not wait for the Hub: checkpoints wait in `_hub/` of the output folder, as hard links that take no space
    until the checkpoint itself is deleted. When training ends, the rest is sent. A warning lists what could not be sent, with
    the command that sends it later.

    Args:
        repo_id (`str`):
            Repository, e.g. `"user/model"`; created if it does not exist.
        max_revisions (`int`, *optional*, defaults to `10`):
            How many revisions the repository may hold before those no longer on the frontier are deleted, oldest
            first. Those on the frontier are never deleted.
        private (`bool`, *optional*):
            Whether a new repository is private. Defaults to the account's setting.
        token (`str`, *optional*):
            Token with write permission. Defaults to the stored one. Never written to disk.
        eval_name (`str`, *optional*):
            Name of the evaluation dataset that is used, if the trainer has several in a `dict`.
        tag (`str`, *optional*, defaults to `"best"`):
            Tag of the best trade-off.
        patience (`float`, *optional*, defaults to `120.0`):
            Seconds for which a request is repeated while the Hub fails. After that, sending starts again with the next
            checkpoint, and once more when training ends.
        timeout (`float`, *optional*, defaults to `1800.0`):
            Longest wait at the end of training, in seconds; with several processes, half of `args.ddp_timeout` at most,
            because the others wait meanwhile.
        max_waiting (`int`, *optional*): Deprecated, without effect.

    Raises:
        `ValueError`: If `max_revisions` is below 1; when training begins, if checkpoints are not saved and evaluated.

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
        private: bool | None = None,
        token: str | None = None,
        eval_name: str | None = None,
        tag: str = "best",
        patience: float = 120.0,
        timeout: float = 1800.0,
        max_waiting: int | None = None,
    ):
        if max_waiting is not None:
            warnings.warn("max_waiting has no effect any more: all revisions are sent.", FutureWarning, stacklevel=2)
        if max_revisions < 1:
            raise ValueError(f"max_revisions must be at least 1, got {max_revisions}.")
        self.max_revisions, self.eval_name, self.timeout = max_revisions, eval_name, timeout
        self._open = partial(Outbox, repo_id=repo_id, token=token, private=private, tag=tag, patience=patience)
        self.outbox: Outbox | None = None  # of the main process, in training

    def on_train_begin(self, args, state, control, **kwargs):
        if args.eval_strategy == IntervalStrategy.NO or args.save_strategy == "no":
            raise ValueError(
                "HubFrontierCallback needs checkpoints and their evaluation; got "
                f"eval_strategy={str(args.eval_strategy.value)!r} and save_strategy={str(args.save_strategy.value)!r}. "
                "Set both to 'steps', with equal eval_steps and save_steps."
            )
        if state.is_world_process_zero:
            self.outbox = self._open(args.output_dir)
            self.outbox.break_links(state.global_step)
            self.outbox.wake()  # to send what an earlier run has left

    def on_save(self, args, state, control, **kwargs):
        if self.outbox is None:
            return
        evaluated = evaluations(state.log_history)
        points = {
            step: (figures["accuracy"], figures["tokens_mean"])
            for step, figures in evaluated.get(self.eval_name, {}).items()
        }
        outbox, step, run = self.outbox, state.global_step, Path(args.output_dir)
        if step not in points:
            logger.warning(
                "The checkpoint at step %d was not evaluated and is not pushed. Set eval_steps so that it divides save_steps, "
                "and eval_name (%r) to one of the evaluation datasets: %s.",
                step,
                self.eval_name,
                list(evaluated),
            )
            return
        frontier = frontier_steps(points)
        if step in frontier:
            with TemporaryDirectory() as folder:
                card = run  # of a plain TRL trainer
                if (run / FACTS_FILE).exists():  # names this repository, which need not be the trainer's
                    card = write_card(run, outbox.repo_id, folder=folder, state=state).parent
                outbox.add(Revision(step, *points[step]), run / f"{PREFIX_CHECKPOINT_DIR}-{step}", card_files(card))
        with outbox.change() as record:
            self._choose(record, points, frontier)
        outbox.wake()

    def on_train_end(self, args, state, control, **kwargs):
        if self.outbox is None:
            return
        outbox, self.outbox = self.outbox, None
        unsent = outbox.finish(self.timeout if args.world_size == 1 else min(self.timeout, args.ddp_timeout / 2))
        if unsent:
            logger.warning(
                "Not sent to %s: %s.\nNothing is lost; send it with\n    trl-concise push %s --repo_id %s",
                outbox.repo_id,
                ", ".join(unsent),
                args.output_dir,
                outbox.repo_id,
            )

    def _choose(self, record: Record, points: dict[int, tuple[float, float]], frontier: set[int]) -> None:
        """Drop revisions off the frontier, at once if they still wait, beyond the limit if they were sent; name the best."""
        kept = [one for one in record.revisions.values() if points.get(one.step) == (one.accuracy, one.tokens)]
        off = sorted((one for one in kept if one.step not in frontier), key=lambda one: one.step)
        waiting = [one for one in off if one.name in record.waiting()]
        sent = [one for one in off if one not in waiting]
        for one in waiting + sent[: max(0, len(kept) - len(waiting) - self.max_revisions)]:
            del record.revisions[one.name]
            kept.remove(one)
        if kept:
            record.best = best_trade_off(points, kept)


def frontier_steps(points: dict[int, tuple[float, float]]) -> set[int]:
    """Return the steps that no other step beats in accuracy and tokens at once; of equal ones the first."""
    first = {point: step for step, point in reversed(points.items())}
    return {step for step, best in zip(first.values(), on_frontier(*zip(*first, strict=True)), strict=True) if best}


def best_trade_off(points: dict[int, tuple[float, float]], revisions: Iterable[Revision]) -> str:
    """
    Return the name of the revision with the highest accuracy-efficiency score against the first point.

    A base without accuracy or tokens has no such score; then the most accurate revision is the best.
    """
    base = next(iter(points.values()))

    def score(revision: Revision) -> tuple[float, float, float]:
        point = revision.accuracy, revision.tokens
        return accuracy_efficiency_score(*point, *base) if min(base) > 0 else 0.0, revision.accuracy, -revision.tokens

    return max(revisions, key=score).name
