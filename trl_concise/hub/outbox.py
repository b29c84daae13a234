# SPDX-License-Identifier: Apache-2.0
"""
Keeps what a run sends to the Hub on disk until the Hub has it, and sends it.

The disk is the only state: every change reads the record, changes it and writes it, so that threads, processes and later runs
agree, and a run that dies loses nothing. `huggingface_hub` transfers the files. TRL and transformers do not push `_hub/`,
because its name begins with an underscore.
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
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from ..evaluation.summaries import read_json
from ..state.checkpoint import write_atomically
from .retries import FAILURES, first_line, repeat, retry_delay


logger = logging.getLogger(__name__)

FOLDER, RECORD_FILE = "_hub", "outbox.json"
# A pickle with local paths, and the token if one was given as an argument; tokens of prompts. Resuming does without them.
# In a subfolder, other names that begin with an underscore belong to checkpoints.
PRIVATE_FILES = [
    *("training_args.bin", "*/training_args.bin", "*/rollouts-*.safetensors"),
    *(".cache/*", "*/.cache/*", "_*", "*/_hub/*", "*/_watch_best*"),
]


@dataclass
class Revision:
    """A checkpoint that is, or is to be, a branch of the repository."""

    step: int
    accuracy: float  # in [0, 1]
    tokens: float  # mean completion length
    card: list[str] = field(default_factory=list)  # those of its files that go to the main branch too
    staged: str | None = None  # folder with its files, until the Hub has them

    @property
    def name(self) -> str:
        """Name of the branch."""
        return f"step-{self.step:06d}"


@dataclass
class Record:
    """What is on the Hub, or is to be sent."""

    private: bool | None = None
    tag: str = "best"
    revisions: dict[str, Revision] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)  # branches to delete, if they exist
    best: str | None = None  # revision that carries the tag, or is to
    tag_waits: bool = False


class Outbox:
    """
    The revisions that a run sends to one repository: those that the Hub holds, and those that wait for it.

    Each revision has a staging folder of its own in `_hub/`, so that what is being sent never changes. If the revision is
    replaced or dropped meanwhile, its folder is removed and the Hub's response is ignored.

    Args:
        run (`str` or `Path`): The run's folder.
        repo_id (`str`): Repository.
        token, private, tag (*optional*): As for [`HubFrontierCallback`]. Default to the recorded values, the token to the
            stored one; it is never written to disk.
        patience (`float`, *optional*, defaults to `120.0`): Seconds for which a request is repeated.

    Raises:
        `ValueError`: If the record on disk is damaged, or of an earlier version.
    """

    def __init__(
        self,
        run: str | Path,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        tag: str | None = None,
        patience: float = 120.0,
    ):
        self.folder = Path(run, FOLDER, repo_id.replace("/", "--"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.repo_id = repo_id
        self._given = {name: value for name, value in (("private", private), ("tag", tag)) if value is not None}
        self._api = HfApi(token=token)
        self._full_repo_id: str | None = None
        self._patience = patience
        self._try = partial(repeat, patience)
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="hub-outbox", daemon=True)
        if (old := Path(run, FOLDER, RECORD_FILE)).exists():
            raise ValueError(
                f"{old} is of an earlier version. Send what waits there with that version, and delete {old}."
            )
        self.read()  # reports a damaged record

    # On disk

    def read(self) -> Record:
        """Return what is recorded."""
        with FileLock(self.folder / "record.lock"):
            return self._read()

    @contextmanager
    def change(self) -> Iterator[Record]:
        """Change what is recorded. Files that the record does not name any more are removed."""
        with FileLock(self.folder / "record.lock"):
            record = self._read()
            yield record
            write_atomically(self.folder / RECORD_FILE, json.dumps(asdict(record), indent=2).encode())
            named = {revision.staged for revision in record.revisions.values()}
            for folder in self.folder.iterdir():
                if folder.is_dir() and folder.name not in named:
                    shutil.rmtree(folder, ignore_errors=True)

    def _read(self) -> Record:
        path = self.folder / RECORD_FILE
        saved = read_json(path) if path.exists() else asdict(Record())
        if not isinstance(saved, dict) or set(saved) != set(vars(Record())):
            raise ValueError(
                f"{path} is damaged: expected a JSON object with {', '.join(vars(Record()))}. Delete {self.folder} to send the run "
                "as it is now."
            )
        revisions = {name: Revision(**values) for name, values in saved.pop("revisions").items()}
        record = Record(**saved)
        record.revisions = {  # without those whose files were deleted before they were sent
            name: revision for name, revision in revisions.items() if (self.folder / (revision.staged or "")).is_dir()
        }
        record.best = record.best if record.best in record.revisions else None
        record.tag_waits |= self._given.get("tag", record.tag) != record.tag
        vars(record).update(self._given)
        return record

    def add(self, revision: Revision, checkpoint: str | Path, card: Mapping[str, Path]) -> None:
        """
        Keep a checkpoint for sending, with its card (path in the repository -> file), in place of one of the same step. Its
        files are linked, not copied, and survive its deletion.
        """
        with self.change() as record:
            staged = Path(tempfile.mkdtemp(prefix=f"{revision.name}-", dir=self.folder))
            shutil.copytree(checkpoint, staged, copy_function=_link, dirs_exist_ok=True)
            for path, file in card.items():  # copied, not linked: the next card is written into the same file
                (staged / path).parent.mkdir(parents=True, exist_ok=True)
                (staged / path).unlink(missing_ok=True)
                shutil.copyfile(file, staged / path)
            record.revisions.pop(revision.name, None)  # the newest is the last
            record.revisions[revision.name] = replace(revision, staged=staged.name, card=list(card))
            record.dropped = [name for name in record.dropped if name != revision.name]

    def drop(self, name: str) -> None:
        """Remove a revision, from the Hub too. If it was the best, none is the best until the next call of `set_best`."""
        with self.change() as record:
            record.revisions.pop(name, None)
            record.dropped.append(name)

    def set_best(self, name: str) -> None:
        """Set the revision that is the best trade-off."""
        with self.change() as record:
            record.tag_waits |= record.best != name
            record.best = name

    def kept(self) -> list[Revision]:
        """Return the revisions that the repository holds or is to hold."""
        return list(self.read().revisions.values())

    def unsent(self) -> list[str]:
        """Describe what the Hub has not taken yet."""
        record = self.read()
        names = [name for name, revision in record.revisions.items() if revision.staged]
        if record.best is not None and (record.tag_waits or record.best in names):
            names.append(f"tag {record.tag!r} on {record.best}")
        return names

    # Sending

    @property
    def repository(self) -> str:
        """Full name of the repository, which is created if it does not exist."""
        if self._full_repo_id is None:
            created = self._try(self._api.create_repo, self.repo_id, private=self.read().private, exist_ok=True)
            self._full_repo_id = created.repo_id
            with self.change():  # the folder remembers the repository
                pass
        return self._full_repo_id

    def upload(self, folder: Path, message: str, **options: Any) -> None:
        """Upload a folder without private files; `options` as for [`~huggingface_hub.HfApi.upload_folder`]."""
        options |= {"repo_id": self.repository, "folder_path": folder, "commit_message": message}
        options["ignore_patterns"] = [*PRIVATE_FILES, *options.get("ignore_patterns", ())]
        self._try(self._api.upload_folder, **options)

    def send(self, update_card: bool = True) -> None:
        """
        Send everything, in an order that leaves the repository whole wherever it stops.

        Raises one of `FAILURES`: at once if the Hub does not answer for `patience` seconds; if it refuses a revision, after everything
        else was sent.

        Args:
            update_card (`bool`, *optional*, defaults to `True`): Whether the main branch receives the card of each revision.
        """
        try:  # one sender at a time: of two processes, or of training that was interrupted and begun again
            sending = FileLock(self.folder / "sending.lock", timeout=self._patience).acquire()
        except Timeout:
            raise RuntimeError(f"Another process is sending {self.folder} to the Hub. Wait for its end.") from None
        with sending:
            record = self.read()
            refused = None
            for name in record.revisions:
                try:
                    self._send_revision(name, update_card)
                except FAILURES as error:
                    if retry_delay(error, 1) is not None:  # the Hub does not answer: the others would wait as long
                        raise
                    refused = error
            self._move_tag()
            for name in record.dropped:
                self._delete_branch(name)
            if refused is not None:
                raise refused

    def _send_revision(self, name: str, update_card: bool) -> None:
        revision = self.read().revisions.get(name)
        if revision is None or revision.staged is None:
            return  # it is sent, or was dropped meanwhile
        folder = self.folder / revision.staged
        message = f"Step {revision.step}: accuracy {revision.accuracy:.1%}, {revision.tokens:.1f} tokens"
        self._try(self._api.create_branch, self.repository, branch=name, exist_ok=True)
        try:
            self.upload(folder, message, revision=name, delete_patterns="*")
            if update_card and revision.card:
                self.upload(folder, "Update the card", allow_patterns=revision.card)
        except FAILURES:
            if folder.is_dir():  # else it was replaced, dropped or deleted meanwhile
                raise
        with self.change() as record:
            current = record.revisions.get(name)
            if current is not None and current.staged == revision.staged:  # not replaced or dropped meanwhile
                current.staged = None
                record.tag_waits |= record.best == name

    def _move_tag(self) -> None:
        record = self.read()
        best, tag = record.best, record.tag
        if best is None or not record.tag_waits or record.revisions[best].staged:
            return
        self._delete(self._api.delete_tag, tag=tag)
        self._try(self._api.create_tag, self.repository, tag=tag, revision=best, exist_ok=True)
        with self.change() as record:
            record.tag_waits = record.best != best

    def _delete_branch(self, name: str) -> None:
        if name in self.read().dropped:
            self._delete(self._api.delete_branch, branch=name)
            with self.change() as record:
                record.dropped = [other for other in record.dropped if other != name]

    def _delete(self, request: Callable[..., Any], **name: str) -> None:
        try:
            self._try(request, self.repository, **name)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # it did not exist, or the response to an earlier deletion was lost
                raise

    # In the background

    def wake(self) -> None:
        """Send in the background what waits. A thread that `HfApi.run_as_future` starts would delay the end of the process."""
        if self._thread.ident is None:
            self._thread.start()
        self._wake.set()

    def finish(self, timeout: float) -> list[str]:
        """Let the thread send what is left, for at most `timeout` seconds. Returns what stays on disk."""
        self._ending.set()
        self.wake()
        self._thread.join(timeout)
        return self.unsent()

    def _work(self) -> None:
        ending = False
        while not ending:
            self._wake.wait()
            self._wake.clear()
            ending = self._ending.is_set()
            try:
                self.send()
            except FAILURES as error:
                logger.warning("The Hub did not take everything: %s", first_line(error))


def last_repository(run: str | Path) -> str | None:
    """Return the repository that a run's folder was last sent to; `None` if there is none."""
    records = sorted(Path(run, FOLDER).glob(f"*/{RECORD_FILE}"), key=lambda path: path.stat().st_mtime)
    return records[-1].parent.name.replace("--", "/") if records else None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no links
        shutil.copyfile(source, target)
