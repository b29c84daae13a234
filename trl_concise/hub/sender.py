# SPDX-License-Identifier: Apache-2.0
"""Sending what is in the outbox, patiently: one request at a time, again and again while the Hub fails."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects

from .outbox import Outbox, Revision


logger = logging.getLogger(__name__)

# A pickle with local paths, and the token if one was given as an argument; tokens of prompts. Resuming does without them.
PRIVATE_FILES = [
    *("training_args.bin", "*/training_args.bin", "*/rollouts-*.safetensors"),
    *(
        ".cache/*",
        "*/.cache/*",
        "_*",
        "*/_hub/*",
        "*/_watch_best*",
    ),  # in a subfolder, other names like that are parts of checkpoints
]
# Of the HTTP library that huggingface_hub is built on, of its storage client, of an answer that is not JSON.
FAILURES = (*HfHubHTTPError.__bases__, OSError, RuntimeError, ValueError)
_LONGEST_PAUSE, _LONGEST_PAUSE_AT_THE_END = 300.0, 8.0  # seconds; training does not wait
_dice = random.Random()  # the run's own random state is part of its checkpoints
_senders: dict[Path, Sender] = {}  # the last one of each folder, in this process


def retry_delay(error: Exception, failures: int) -> float | None:
    """
    Decide how long to wait before a request is tried again.

    Args:
        error (`Exception`): Why it failed.
        failures (`int`): How often in a row it has, this time included.

    Returns:
        `float` or `None`: Seconds: what the Hub asks for (`Retry-After`), else about 1, 2, 4, ... up to 300. `None`
        where another try would fail the same way: no permission, content that the Hub rejects, offline mode.
    """
    if isinstance(error, (OfflineModeIsEnabled, FileNotFoundError)):
        return None
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    # 408 timeout, 409 and 412 somebody else is committing, 429 too many requests
    if status is not None and 400 <= status < 500 and status not in (408, 409, 412, 429):
        return None
    if isinstance(error, ValueError) and not isinstance(error, (json.JSONDecodeError, OSError)):
        return None
    if response is not None and response.headers.get("Retry-After", "").isdigit():
        return float(response.headers["Retry-After"])
    return min(2.0 ** min(failures - 1, 20), _LONGEST_PAUSE) * _dice.uniform(0.75, 1.25)


class Sender:
    """
    Sends what is in the outbox of a run, at once or in a thread.

    Everything is sent by [`~Sender.send`], one request at a time, in an order that leaves the repository whole wherever
    it stops: a revision's files, then the tag, the card, and only then what is to be deleted.

    An earlier sender of the same folder in this process, of training that was interrupted in a notebook, is closed; the
    request that it is making ends before this one makes its first.

    Args:
        run (`str` or `Path`): The run's folder.
        repo_id (`str`, *optional*): Repository on the Hub; defaults to the one in the outbox.
        token (`str`, *optional*): Token; defaults to the stored one. Never written down.
        private (`bool`, *optional*): Whether a new repository is private.
        tag (`str`, *optional*): Tag of the best trade-off.
        patience (`float`, *optional*, defaults to `120.0`): Seconds without a success after which to give up on a Hub
            that fails, outside training; in training it is never given up.

    Raises:
        As [`Outbox`].
    """

    def __init__(
        self,
        run: str | Path,
        repo_id: str | None = None,
        *,
        token: str | None = None,
        private: bool | None = None,
        tag: str | None = None,
        patience: float = 120.0,
    ):
        self.patience = patience
        self.api = HfApi(token=token)
        self._repo_id: str | None = None  # as the Hub has it, once it exists
        self._last_success = time.monotonic()
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._earlier: threading.Thread | None = None
        place = Path(run).resolve()
        if (earlier := _senders.get(place)) is not None:
            earlier.close()
            self._earlier = earlier._thread or earlier._earlier
        self.outbox = Outbox(run, repo_id, private=private, tag=tag)
        _senders[place] = self

    def close(self) -> None:
        """End without sending the rest. A request that is being made goes on, but its answer changes nothing here."""
        self.outbox.close()
        self._ending.set()
        self._wake.set()

    def make_repository(self) -> str:
        """Make the repository if it does not exist, and return its full name."""
        if self._earlier is not None:
            self._earlier.join()
        if self._repo_id is None:
            made = self._try(self.api.create_repo, self.outbox.repo_id, private=self.outbox.private, exist_ok=True)
            self._repo_id = made.repo_id  # a name alone is one in the user's own namespace
        return self._repo_id

    def send(self, newest: int | None = None) -> None:
        """
        Send everything, or as much as the Hub takes.

        Args:
            newest (`int`, *optional*): Send at most this many of the waiting revisions, the newest.

        Raises:
            One of `FAILURES`: What the Hub refused last. Everything else that could be sent has been.
        """
        refused = None
        self._begin_to_wait()
        for job in self._jobs(newest):
            if self.outbox.closed:
                break
            try:
                self.make_repository()
                job()
            except FAILURES as error:
                refused = error
                if retry_delay(error, 1) is not None:
                    break  # the Hub is down: the next job would fare no better
        if refused is not None:
            raise refused

    def send_folder(self, folder: Path, message: str, **options: Any) -> None:
        """Send a folder to the main branch, now; `options` as for [`~huggingface_hub.HfApi.upload_folder`]."""
        self._begin_to_wait()
        repo_id = self.make_repository()
        self._try(self.api.upload_folder, repo_id=repo_id, folder_path=folder, commit_message=message, **options)

    def start(self, newest: int) -> None:
        """Begin to send in the background; `newest` as for [`~Sender.send`]."""
        self._thread = threading.Thread(target=self._work, args=(newest,), name="hub-sender", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Tell the thread that there is something to send."""
        self._wake.set()

    def finish(self, timeout: float) -> list[str]:
        """
        Let the thread send what is left, and close.

        Args:
            timeout (`float`): Seconds after which not to wait any longer, even for an upload that is under way.

        Returns:
            `list[str]`: What could not be sent, and stays on disk.
        """
        self._last_success = time.monotonic()  # from here on patience is limited
        self._ending.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
        return self.outbox.unsent()

    def _begin_to_wait(self) -> None:
        if not self._ending.is_set():  # from then on the clock runs
            self._last_success = time.monotonic()

    def _work(self, newest: int) -> None:
        ending = False
        try:
            while not ending:
                self._wake.wait()
                self._wake.clear()
                ending = self._ending.is_set()
                try:
                    self.send(None if ending else newest)
                except FAILURES as error:
                    if not self.outbox.closed:
                        logger.warning("The Hub did not take everything: %s", _first_line(error))
        finally:
            self.outbox.close()

    def _jobs(self, newest: int | None) -> Iterable[Callable[[], None]]:
        """Yield what is to be done, each thing when its turn comes."""
        waiting = self.outbox.in_state("waiting")
        for revision in waiting if newest is None else waiting[-newest:]:
            yield partial(self._send_revision, revision)
        if (commit := self.outbox.to_tag()) is not None:
            yield partial(self._move_tag, commit)
        if (card := self.outbox.card) is not None:
            yield partial(self._send_card, card)
        for revision in self.outbox.in_state("off"):
            yield partial(self._delete_revision, revision)

    def _send_revision(self, revision: Revision) -> None:
        staged = self.outbox.begin(revision)
        if staged is None:
            return
        request = partial(self._try, wanted=lambda: self.outbox.waits(revision))
        name = revision.name
        message = f"Step {revision.step}: accuracy {revision.accuracy:.1%}, {revision.tokens:.1f} tokens"
        try:
            request(self.api.create_branch, self._repo_id, branch=name, exist_ok=True)
            while True:
                present = request(self.api.list_repo_files, self._repo_id, revision=name)
                operations = _replace_all(present, staged)
                try:
                    commit = request(
                        self.api.create_commit, self._repo_id, operations, commit_message=message, revision=name
                    )
                    break
                except EntryNotFoundError:
                    pass  # what was to be deleted is gone: by an earlier commit, whose answer was lost
        except FAILURES:
            if self.outbox.waits(revision):
                raise
        else:
            self.outbox.mark_sent(revision, commit.oid)

    def _move_tag(self, commit: str) -> None:
        self.outbox.mark_tagged(None)
        try:
            self._try(self.api.delete_tag, self._repo_id, tag=self.outbox.tag)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # the first time
                raise
        self._try(self.api.create_tag, self._repo_id, tag=self.outbox.tag, revision=commit, exist_ok=True)
        self.outbox.mark_tagged(commit)

    def _send_card(self, card: str) -> None:
        def waits() -> bool:
            return self.outbox.card == card and not self.outbox.closed

        try:
            self._try(
                self.api.upload_folder,
                repo_id=self._repo_id,
                folder_path=self.outbox.folder / card,
                commit_message="Update the card",
                wanted=waits,
            )
        except FAILURES:
            if waits():
                raise
        else:
            self.outbox.mark_card_sent(card)

    def _delete_revision(self, revision: Revision) -> None:
        try:
            self._try(self.api.delete_branch, self._repo_id, branch=revision.name)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # an earlier deletion, whose answer was lost
                raise
        self.outbox.mark_deleted(revision)

    def _try(
        self, request: Callable[..., Any], *args: Any, wanted: Callable[[], bool] = lambda: True, **kwargs: Any
    ) -> Any:
        """Make a request until it succeeds, is hopeless or no longer wanted, or the Hub has failed for too long."""
        failures = 0

        def given_up() -> bool:
            return self.outbox.closed or not wanted()

        while True:
            try:
                answer = request(*args, **kwargs)
            except FAILURES as error:
                failures += 1
                delay = retry_delay(error, failures)
                training = self._thread is not None and not self._ending.is_set()
                tired = not training and time.monotonic() - self._last_success > self.patience
                if delay is None or tired or given_up():
                    raise
                if failures == 1:
                    logger.info("The Hub failed (%s); trying again.", _first_line(error))
                if training:
                    self._ending.wait(delay)  # the end of training is a reason to try at once
                else:
                    time.sleep(min(delay, _LONGEST_PAUSE_AT_THE_END))
                if given_up():
                    raise
            else:
                self._last_success = time.monotonic()
                return answer


def _replace_all(present: list[str], folder: Path) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return the operations that make a branch hold a folder's files and nothing else, say of what main held."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    kept = list(filter_repo_objects(files, ignore_patterns=PRIVATE_FILES))
    return [
        *(CommitOperationDelete(path) for path in present if path not in kept and path != ".gitattributes"),
        *(CommitOperationAdd(path, str(files[path])) for path in kept),
    ]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"
