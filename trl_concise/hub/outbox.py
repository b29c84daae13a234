# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints on their way to the Hub.

What is to be sent is written down and kept on disk, in `_hub/` of the run's folder, before anything is sent, and stays
there until the Hub has taken it: a run that ends, or dies, while the Hub is down loses nothing, and `trl-concise push`
sends the rest later. (TRL's and transformers' own pushes skip files that begin with an underscore.)
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.utils import filter_repo_objects

from ..checkpoint import write_atomically


logger = logging.getLogger(__name__)

FOLDER = "_hub"
# A pickle with local paths, and the token if one was given as an argument; tokens of prompts. Resuming does without them.
PRIVATE_FILES = ["training_args.bin", "*/rollouts-*.safetensors", ".cache/*", "_*"]
# Of the HTTP library that huggingface_hub is built on, of its storage client, of an answer that is not JSON.
FAILURES = (*HfHubHTTPError.__bases__, OSError, RuntimeError, ValueError)
_RECORD_FILE = "outbox.json"
_CARD = "card"
_FORMAT = 1
_LONGEST_PAUSE, _LONGEST_PAUSE_AT_THE_END = 300.0, 8.0  # seconds; in training nobody waits
_dice = random.Random()  # the run's own random state is part of its checkpoints


@dataclass
class Revision:
    """
    A checkpoint that is, or is to be, a branch of the repository.

    Args:
        step (`int`): Training step.
        accuracy (`float`): Evaluated accuracy, in [0, 1].
        tokens (`float`): Evaluated mean completion length, in tokens.
        state (`str`): `"waiting"`, `"sent"` or `"off"` (sent, to be deleted).
    """

    step: int
    accuracy: float
    tokens: float
    state: str = "waiting"

    @property
    def name(self) -> str:
        """Name of the branch."""
        return f"step-{self.step:06d}"


def retry_delay(error: Exception, failures: int) -> float | None:
    """
    Decide how long to wait before a request is tried again.

    Args:
        error (`Exception`): Why it failed.
        failures (`int`): How often in a row it has, this time included.

    Returns:
        `float` or `None`: Seconds: what the Hub asks for (`Retry-After`), else about 1, 2, 4, ... up to 300. `None`
        where another try would fail the same way: no permission, or content that the Hub rejects.
    """
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


class Outbox:
    """
    The record of what a run has sent and has yet to send, and a thread that sends it.

    Everything is sent by [`~Outbox.send`], one request at a time, in an order that leaves the repository whole wherever
    it stops: a revision's files, then the tag, the card, and only then what is to be deleted.

    Args:
        run (`str` or `Path`): The run's folder.
        repo_id (`str`, *optional*): Repository on the Hub; defaults to the one in the record.
        token (`str`, *optional*): Token; defaults to the stored one. Never written down.
        private (`bool`, *optional*): Whether a new repository is private.
        tag (`str`, *optional*, defaults to `"best"`): Tag of the best trade-off.
        patience (`float`, *optional*, defaults to `120.0`): Seconds without a success after which to give up on a Hub
            that fails, outside training; in training it is never given up.

    Raises:
        `ValueError`: If the folder holds checkpoints that wait for another repository, or no repository is named.
    """

    def __init__(
        self,
        run: str | Path,
        repo_id: str | None = None,
        *,
        token: str | None = None,
        private: bool | None = None,
        tag: str = "best",
        patience: float = 120.0,
    ):
        self.folder = Path(run) / FOLDER
        self.private = private
        self.tag = tag
        self.patience = patience
        self.revisions: dict[str, Revision] = {}
        self.best: str | None = None  # revision that carries the tag, or is to
        self.tagged: str | None = None  # revision that carries it on the Hub
        self.repo_id = repo_id
        self._read_record()
        if self.repo_id is None:
            raise ValueError(f"No repository is known for {run}: name one with repo_id (--repo_id), e.g. user/model.")
        self.api = HfApi(token=token)
        self._lock = threading.Lock()
        self._exists = False  # the repository
        self._attempted: set[str] = set()  # revisions of which the Hub may hold something
        self._card_version = 0
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # What is to be sent

    def add(self, revision: Revision, checkpoint: str | Path, card: Mapping[str, Path] | None = None) -> None:
        """
        Keep a checkpoint for sending, in no time: its files are linked, not copied, and survive its deletion.

        Args:
            revision ([`Revision`]): What it is.
            checkpoint (`str` or `Path`): The checkpoint's folder.
            card (`Mapping[str, Path]`, *optional*): Files that make up its card, by their place in the repository.
        """
        target = self.folder / revision.name
        shutil.rmtree(target, ignore_errors=True)
        link_files(Path(checkpoint), target)
        self._copy_card(card or {}, target)
        with self._lock:
            self.revisions[revision.name] = revision
            self._write_record()

    def add_card(self, card: Mapping[str, Path]) -> None:
        """Keep a copy of the card's files, by their place in the repository, for the main branch, in place of an older one that still waits."""
        with self._lock:
            self._card_version += 1
            shutil.rmtree(self.folder / _CARD, ignore_errors=True)
            self._copy_card(card, self.folder / _CARD)

    def drop(self, name: str) -> None:
        """Take a revision out: what was sent of it is deleted from the Hub. If it was the best, there is none for now."""
        with self._lock:
            if self.best == name:
                self.best = None
            revision = self.revisions[name]
            if revision.state == "waiting" and name not in self._attempted:
                shutil.rmtree(self.folder / name, ignore_errors=True)
                del self.revisions[name]
            elif revision.state in ("waiting", "sent"):
                revision.state = "off"
            self._write_record()

    def set_best(self, name: str | None) -> None:
        """Say which revision is the best trade-off."""
        with self._lock:
            self.best = name
            self._write_record()

    def kept(self) -> list[Revision]:
        """Return the revisions that the repository holds or is to hold."""
        with self._lock:
            return [revision for revision in self.revisions.values() if revision.state != "off"]

    def unsent(self) -> list[str]:
        """Return what the Hub has not taken yet, in words."""
        with self._lock:
            names = [name for name, revision in self.revisions.items() if revision.state == "waiting"]
            if self.best in self.revisions and self.best != self.tagged:
                names.append(f"tag {self.tag!r} on {self.best}")
            if (self.folder / _CARD).exists():
                names.append("model card")
            names += [f"deletion of {name}" for name, revision in self.revisions.items() if revision.state == "off"]
        return names

    # Sending

    def send(self, newest: int | None = None) -> None:
        """
        Send everything, or as much as the Hub takes.

        Args:
            newest (`int`, *optional*): Send only so many of the waiting revisions, the newest.

        Raises:
            One of `FAILURES`: What the Hub refused last. Everything else that could be sent has been.
        """
        refused = None
        self._last_success = time.monotonic()
        for job in self._jobs(newest):
            try:
                self._make_repository()
                job()
            except FAILURES as error:
                refused = error
                if retry_delay(error, 1) is not None:
                    break  # the Hub is down: the next job would fare no better
        if refused is not None:
            raise refused

    def send_folder(self, folder: Path, message: str, **options: Any) -> None:
        """Send a folder to the main branch, now; `options` as for [`~huggingface_hub.HfApi.upload_folder`]."""
        self._last_success = time.monotonic()
        self._make_repository()
        self._try(
            self.api.upload_folder,
            repo_id=self.repo_id,
            folder_path=folder,
            commit_message=message,
            **options,
        )

    def start(self, newest: int) -> None:
        """Begin to send in the background; `newest` as for [`~Outbox.send`]."""
        self._thread = threading.Thread(target=self._work, args=(newest,), name="hub-outbox", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Tell the thread that there is something to send."""
        self._wake.set()

    def finish(self, timeout: float) -> list[str]:
        """
        Send what is left.

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
        return self.unsent()

    def _work(self, newest: int) -> None:
        ending = False
        while not ending:
            self._wake.wait()
            self._wake.clear()
            ending = self._ending.is_set()
            try:
                self.send(None if ending else newest)
            except FAILURES as error:
                logger.warning("The Hub did not take everything: %s", _first_line(error))

    def _jobs(self, newest: int | None) -> Iterable[Callable[[], None]]:
        """Yield what is to be done, each thing when its turn comes."""
        with self._lock:
            waiting = [name for name, revision in self.revisions.items() if revision.state == "waiting"]
        for name in waiting if newest is None else waiting[-newest:]:
            yield lambda name=name: self._send_revision(name)
        with self._lock:
            best = self.revisions.get(self.best)
            tag_waits = best is not None and best.state == "sent" and best.name != self.tagged
        if tag_waits:
            yield lambda: self._move_tag(best.name)
        if (self.folder / _CARD).exists():
            yield self._send_card
        with self._lock:
            off = [name for name, revision in self.revisions.items() if revision.state == "off"]
        for name in off:
            yield lambda name=name: self._delete_revision(name)

    def _make_repository(self) -> None:
        if not self._exists:
            self._try(self.api.create_repo, self.repo_id, private=self.private, exist_ok=True)
            self._exists = True

    def _send_revision(self, name: str) -> None:
        with self._lock:
            revision = self.revisions.get(name)
            if revision is None or revision.state != "waiting":
                return  # dropped in the meantime
            self._attempted.add(name)
        self._try(self.api.create_branch, self.repo_id, branch=name, exist_ok=True)
        message = f"Step {revision.step}: accuracy {revision.accuracy:.1%}, {revision.tokens:.1f} tokens"
        while True:
            present = self._try(self.api.list_repo_files, self.repo_id, revision=name)
            operations = _replace_all(present, self.folder / name)
            try:
                self._try(self.api.create_commit, self.repo_id, operations, commit_message=message, revision=name)
                break
            except EntryNotFoundError:
                pass  # what was to be deleted is gone: by an earlier commit, whose answer was lost
        with self._lock:
            if revision.state == "waiting":
                revision.state = "sent"
            self._write_record()
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def _move_tag(self, best: str) -> None:
        try:
            self._try(self.api.delete_tag, self.repo_id, tag=self.tag)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # the first time
                raise
        self._try(self.api.create_tag, self.repo_id, tag=self.tag, revision=best, exist_ok=True)
        with self._lock:
            self.tagged = best
            self._write_record()

    def _send_card(self) -> None:
        version = self._card_version
        self._try(
            self.api.upload_folder,
            repo_id=self.repo_id,
            folder_path=self.folder / _CARD,
            commit_message="Update the card",
        )
        with self._lock:
            if version == self._card_version:  # else a newer one has come
                shutil.rmtree(self.folder / _CARD, ignore_errors=True)

    def _delete_revision(self, name: str) -> None:
        try:
            self._try(self.api.delete_branch, self.repo_id, branch=name)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # an earlier deletion, whose answer was lost
                raise
        with self._lock:
            del self.revisions[name]
            self._write_record()
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def _try(self, request: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a request until it succeeds, is hopeless, or the Hub has failed for too long."""
        failures = 0
        while True:
            try:
                answer = request(*args, **kwargs)
            except FAILURES as error:
                failures += 1
                delay = retry_delay(error, failures)
                training = self._thread is not None and not self._ending.is_set()
                tired = not training and time.monotonic() - self._last_success > self.patience
                if delay is None or tired:
                    raise
                if failures == 1:
                    logger.info("The Hub failed (%s); trying again.", _first_line(error))
                if training:
                    self._ending.wait(delay)  # the end of training is a reason to try at once
                else:
                    time.sleep(min(delay, _LONGEST_PAUSE_AT_THE_END))
            else:
                self._last_success = time.monotonic()
                return answer

    def _copy_card(self, card: Mapping[str, Path], target: Path) -> None:
        # Copied, not linked: the next card is written into the same file.
        for name, file in card.items():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            shutil.copyfile(file, place)

    # The record

    def _read_record(self) -> None:
        path = self.folder / _RECORD_FILE
        if not path.exists():
            return
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("format") != _FORMAT:
            raise ValueError(f"{path} has format {record.get('format')}; this version reads format {_FORMAT}.")
        waiting = [name for name, revision in record["revisions"].items() if revision["state"] == "waiting"]
        if self.repo_id not in (None, record["repo_id"]):
            if waiting:
                raise ValueError(
                    f"{self.folder} holds {waiting}, which wait for {record['repo_id']}, but repo_id is {self.repo_id!r}. "
                    f"Send them with `trl-concise push {self.folder.parent}`, or delete {self.folder}."
                )
            return
        self.repo_id, self.best, self.tagged = record["repo_id"], record["best"], record["tagged"]
        self.revisions = {name: Revision(**revision) for name, revision in record["revisions"].items()}

    def _write_record(self) -> None:
        record = {
            "format": _FORMAT,
            "repo_id": self.repo_id,
            "best": self.best,
            "tagged": self.tagged,
            "revisions": {name: asdict(revision) for name, revision in self.revisions.items()},
        }
        write_atomically(self.folder / _RECORD_FILE, json.dumps(record, indent=2).encode())


def _replace_all(present: list[str], folder: Path) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Return the operations that make a branch hold a folder's files and nothing else, say of what main held."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    kept = list(filter_repo_objects(files, ignore_patterns=PRIVATE_FILES))
    return [
        *(CommitOperationDelete(path) for path in present if path not in kept and path != ".gitattributes"),
        *(CommitOperationAdd(path, str(files[path])) for path in kept),
    ]


def link_files(source: Path, target: Path) -> None:
    """Hard-link a folder's files into another, or copy them where the file system has no links."""
    for file in sorted(source.rglob("*")):
        if not file.is_file():
            continue
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(file, place)
        except OSError:
            shutil.copyfile(file, place)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"
