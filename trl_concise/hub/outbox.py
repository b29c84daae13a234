# SPDX-License-Identifier: Apache-2.0
"""
Keeps what a run sends to the Hub on disk until the Hub has it, and sends it.

Revisions are staged in `_hub/` of the run's folder before anything is sent. A run that ends, or dies, while the Hub is down
loses nothing; `trl-concise push` sends the rest later. (TRL and transformers do not push files that begin with an underscore.)
`huggingface_hub` transfers the files. This module adds the record on disk, the retries, and a thread that does not outlive the
run.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from ..evaluation.summaries import read_json
from ..state.checkpoint import write_atomically
from .retries import FAILURES, Retries, first_line, retry_delay


logger = logging.getLogger(__name__)

FOLDER, RECORD_FILE = "_hub", "outbox.json"
# A pickle with local paths, and the token if one was given as an argument; tokens of prompts. Resuming does without them.
# In a subfolder, other names that begin with an underscore belong to checkpoints.
PRIVATE_FILES = (
    *("training_args.bin", "*/training_args.bin", "*/rollouts-*.safetensors"),
    *(".cache/*", "*/.cache/*", "_*", "*/_hub/*", "*/_watch_best*"),
)
_FORMAT = 2
_SAVED = ("repo_id", "private", "tag", "best", "tagged", "card")
_outboxes: dict[Path, Outbox] = {}  # the last one of each folder, in this process


@dataclass
class Revision:
    """A checkpoint that is, or is to be, a branch of the repository. If it neither waits nor is sent, it is to be deleted."""

    step: int
    accuracy: float  # in [0, 1]
    tokens: float  # mean completion length
    staged: str | None = None  # folder in `_hub/` with its files, while it waits
    commit: str | None = None  # on the Hub, once it is sent
    on_hub: bool = False  # whether the Hub may hold a branch of this name

    @property
    def name(self) -> str:
        """Name of the branch."""
        return f"step-{self.step:06d}"


class Outbox:
    """
    The revisions of a run: those that the Hub holds, and those that wait for it.

    One process at a time has a folder's outbox open. In that process, a new one closes the earlier one, of training that was
    interrupted in a notebook; the request that it is making ends before the new one makes its first. Each revision has a
    staging folder of its own, so that what is being sent never changes. If the revision is replaced or dropped meanwhile, its
    folder is removed and the Hub's response is ignored.

    Args:
        run (`str` or `Path`): The run's folder.
        repo_id, private, tag (*optional*): As for [`HubFrontierCallback`]. Default to the recorded values.
        token (`str`, *optional*): Token. Never written to disk.
        patience (`float`, *optional*, defaults to `120.0`): Seconds after which to give up on a request that keeps failing.
            In training it is repeated forever.

    Raises:
        `ValueError`: If something waits for another repository, or no repository is known.
        `RuntimeError`: If another process has the folder open.
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
        self.folder = Path(run, FOLDER)
        self.repo_id, self.private, self.tag = repo_id, private, tag
        self.revisions: dict[str, Revision] = {}
        self.best: str | None = None  # revision that carries the tag, or is to
        self.tagged: str | None = None  # commit that carries it on the Hub
        self.card: str | None = None  # staged folder of the card that waits for the main branch
        self.closed = False
        self._api = HfApi(token=token)
        self._full_repo_id: str | None = None
        self._of_another_repository = False  # what is recorded
        self._lock = threading.RLock()  # between training and the thread
        self._try = Retries(patience, self._check_open)
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._earlier: threading.Thread | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        if (earlier := _outboxes.get(self.folder.resolve())) is not None:
            earlier.close()
            self._earlier = earlier._thread or earlier._earlier
        self._folder_lock = FileLock(self.folder / "lock", thread_local=False)
        try:
            self._folder_lock.acquire(blocking=False)
        except Timeout:
            raise RuntimeError(
                f"{run} is being sent to the Hub by another process, probably the training run itself. Wait for its end."
            ) from None
        try:
            self._read_record()
        except BaseException:
            self.close()
            raise
        _outboxes[self.folder.resolve()] = self

    def close(self) -> None:
        """Free the folder without sending the rest. A request that is being made goes on, but its response is ignored."""
        with self._lock:
            self.closed = True
            self._folder_lock.release()
        self._try.end()
        self._wake.set()

    # What is to be sent

    def add(self, revision: Revision, checkpoint: str | Path, card: Mapping[str, Path]) -> None:
        """
        Keep a checkpoint for sending, with its card (path in the repository -> file), in place of one of the same step. Its
        files are linked, not copied, and survive its deletion.
        """
        with self._change():
            revision.staged = self._stage(revision.name, card, Path(checkpoint))
            replaced = self.revisions.pop(revision.name, None)
            if replaced is not None:
                replaced.staged, revision.on_hub = None, replaced.on_hub
            self.revisions[revision.name] = revision

    def add_card(self, card: Mapping[str, Path]) -> None:
        """Keep a copy of a card for the main branch, in place of one that still waits."""
        with self._change():
            self.card = self._stage("card", card)

    def drop(self, name: str) -> None:
        """Remove a revision, from the Hub too. If it was the best, the best one is unknown until the next revision."""
        with self._change():
            if self.best == name:
                self.best = None
            revision = self.revisions.get(name)
            if revision is not None:
                revision.staged = revision.commit = None
                if not revision.on_hub:
                    del self.revisions[name]

    def set_best(self, name: str) -> None:
        """Set the revision that is the best trade-off."""
        with self._change():
            self.best = name

    def note_push(self) -> None:
        """Record the repository after a push of the whole run, whose card is newer than one that waits."""
        if not self._of_another_repository:
            with self._change():
                self.card = None

    def kept(self) -> list[Revision]:
        """Return the revisions that the repository holds or is to hold."""
        return [revision for revision in list(self.revisions.values()) if revision.staged or revision.commit]

    def unsent(self) -> list[str]:
        """Describe what the Hub has not taken yet."""
        revisions = list(self.revisions.values())
        names = [revision.name for revision in revisions if revision.staged]
        best = self.revisions.get(self.best or "")
        if best is not None and (best.commit is None or best.commit != self.tagged):
            names.append(f"tag {self.tag!r} on {self.best}")
        names += ["model card"] if self.card is not None else []
        return names + [f"deletion of {revision.name}" for revision in revisions if revision not in self.kept()]

    # Sending

    def send(self, newest: int | None = None) -> None:
        """
        Send everything, in an order that leaves the repository whole wherever it stops; of the waiting revisions only the
        `newest`, if given. Raises one of `FAILURES`, the last refusal, after everything that could be sent.
        """
        refused = None
        waiting = [revision for revision in list(self.revisions.values()) if revision.staged]
        jobs: list[Callable[[], None]] = [
            partial(self._send_revision, revision) for revision in waiting[-(newest or len(waiting)) :]
        ]
        for job in [*jobs, self._move_tag, self._send_card, self._delete_revisions]:
            try:
                job()
            except FAILURES as error:
                refused = error
                if self.closed or retry_delay(error, 1) is not None:
                    break  # the Hub is down: the next job would fail too
        if refused is not None:
            raise refused

    @property
    def repository(self) -> str:
        """Full name of the repository, which is created if it does not exist."""
        if self._earlier is not None:
            self._earlier.join()
        if self._full_repo_id is None:  # not a cached_property: before Python 3.12, its lock is shared by all outboxes
            made = self._try(self._api.create_repo, self.repo_id, private=self.private, exist_ok=True)
            self._full_repo_id = made.repo_id
        return self._full_repo_id

    def upload(self, folder: Path, message: str, **options: Any) -> str | None:
        """
        Upload a folder, `options` as for [`~huggingface_hub.HfApi.upload_folder`]. Returns the commit, or `None` if the folder
        was removed meanwhile.
        """
        options |= {"repo_id": self.repository, "folder_path": folder, "commit_message": message}
        try:
            return self._try(self._api.upload_folder, **options).oid
        except FAILURES:
            if folder.is_dir():
                raise
            return None

    def start(self, newest: int) -> None:
        """Send in the background from now on; `newest` as for [`~Outbox.send`]."""
        # Not `HfApi.run_as_future`: the process would not end before an upload that its thread is making.
        self._try.endless = True
        self._thread = threading.Thread(target=self._work, args=(newest,), name="hub-outbox", daemon=True)
        self._thread.start()
        self.wake()

    def wake(self) -> None:
        """Tell the thread that there is something to send."""
        self._wake.set()

    def finish(self, timeout: float) -> list[str]:
        """Let the thread send what is left, for at most `timeout` seconds. Returns what stays on disk."""
        self._try.end()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
        return self.unsent()

    def _work(self, newest: int) -> None:
        ending = False
        try:
            while not ending:
                self._wake.wait()
                self._wake.clear()
                ending = self._try.ending.is_set()
                try:
                    self.send(None if ending else newest)
                except FAILURES as error:
                    if not self.closed:
                        logger.warning("The Hub did not take everything: %s", first_line(error))
        finally:
            self.close()

    def _send_revision(self, revision: Revision) -> None:
        repository = self.repository
        with self._change():
            if revision.staged is None:
                return  # dropped meanwhile
            folder = self.folder / revision.staged
            revision.on_hub = True  # recorded before the request: its response may be lost
        message = f"Step {revision.step}: accuracy {revision.accuracy:.1%}, {revision.tokens:.1f} tokens"
        whole = {"delete_patterns": "*", "ignore_patterns": [*PRIVATE_FILES]}  # nothing else, say of the main branch
        self._try(self._api.create_branch, repository, branch=revision.name, exist_ok=True)
        commit = self.upload(folder, message, revision=revision.name, **whole)
        with self._change():
            if revision.staged is None:
                return  # replaced or dropped meanwhile
            if commit is None:
                logger.warning("%s is missing, so %s cannot be sent.", folder, revision.name)
                self.drop(revision.name)
            revision.staged, revision.commit = None, commit

    def _move_tag(self) -> None:
        best = self.revisions.get(self.best or "")
        if best is None or best.commit in (None, self.tagged):
            return
        commit = best.commit
        with self._change():
            self.tagged = None
        self._delete(self._api.delete_tag, tag=self.tag)
        self._try(self._api.create_tag, self.repository, tag=self.tag, revision=commit, exist_ok=True)
        with self._change():
            self.tagged = commit

    def _send_card(self) -> None:
        card = self.card
        if card is not None:
            self.upload(self.folder / card, "Update the card")
            with self._change():
                self.card = self.card if self.card != card else None

    def _delete_revisions(self) -> None:
        for name, revision in list(self.revisions.items()):
            if revision not in self.kept():
                self._delete(self._api.delete_branch, branch=name)
                with self._change():
                    if self.revisions.get(name) is revision:
                        del self.revisions[name]

    def _delete(self, request: Callable[..., Any], **name: str | None) -> None:
        try:
            self._try(request, self.repository, **name)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # it did not exist, or the response to an earlier deletion was lost
                raise

    # On disk

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Change what is recorded. Files that it does not name any more are removed."""
        with self._lock:
            self._check_open()
            yield
            record = {"format": _FORMAT, **{name: getattr(self, name) for name in _SAVED}}
            record["revisions"] = {name: asdict(revision) for name, revision in self.revisions.items()}
            write_atomically(self.folder / RECORD_FILE, json.dumps(record, indent=2).encode())
            self._remove_unnamed()

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError(f"{self.folder} was opened anew, and this outbox is closed.")

    def _read_record(self) -> None:
        path = self.folder / RECORD_FILE
        given = {name: value for name in ("repo_id", "private", "tag") if (value := getattr(self, name)) is not None}
        if path.exists():
            record = read_json(path)
            if not isinstance(record, dict) or "format" not in record:
                raise ValueError(
                    f"{path} is damaged: expected a JSON object with format. Delete {self.folder} to send the run as it is now."
                )
            if record["format"] != _FORMAT:
                raise ValueError(f"{path} has format {record['format']}; this version reads format {_FORMAT}.")
            vars(self).update({name: record[name] for name in _SAVED})
            self.revisions = {name: Revision(**revision) for name, revision in record["revisions"].items()}
            if given.get("repo_id", self.repo_id) != self.repo_id:
                if left := self.unsent():
                    raise ValueError(
                        f"{self.folder} holds what waits for {self.repo_id}, but repo_id is {given['repo_id']!r}: "
                        f"{', '.join(left)}. Send it with `trl-concise push {self.folder.parent}`, or delete {self.folder}."
                    )
                self._of_another_repository = bool(self.revisions)
                self.private, self.revisions, self.best = None, {}, None
            if (self.repo_id, self.tag) != (given.get("repo_id", self.repo_id), given.get("tag", self.tag)):
                self.tagged = None
        vars(self).update({"tag": self.tag or "best", **given})
        if self.repo_id is None:
            raise ValueError(
                f"No repository is known for {self.folder.parent}. Name one with repo_id (--repo_id), for example user/model."
            )
        self._remove_unnamed()

    def _stage(self, name: str, card: Mapping[str, Path], checkpoint: Path | None = None) -> str:
        staged = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        if checkpoint is not None:
            shutil.copytree(checkpoint, staged, copy_function=_link, dirs_exist_ok=True)
        for path, file in card.items():  # copied, not linked: the next card is written into the same file
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).unlink(missing_ok=True)
            shutil.copyfile(file, staged / path)
        return staged.name

    def _remove_unnamed(self) -> None:
        named = {self.card, *(revision.staged for revision in self.revisions.values())}
        for folder in self.folder.iterdir():
            if folder.is_dir() and folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)


def is_recorded(run: str | Path) -> bool:
    """Whether a run's folder records the repository that it was sent to."""
    return Path(run, FOLDER, RECORD_FILE).exists()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no links
        shutil.copyfile(source, target)
