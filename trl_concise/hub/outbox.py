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
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_type_hints

from filelock import FileLock, Timeout
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

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


class _Checked:
    """Raises a `TypeError` if a field of a dataclass has a value of another type."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {getattr(self, name)!r}")


@dataclass
class Revision(_Checked):
    """A checkpoint that is, or is to be, a branch of the repository."""

    step: int
    accuracy: float | int  # in [0, 1]
    tokens: float | int  # mean completion length
    card: list = field(default_factory=list)  # those of its files that go to the main branch too
    staged: str = ""  # folder with its files, until the Hub has them; its name tells two versions of a revision apart
    files: int = 0  # how many were staged

    @property
    def name(self) -> str:
        """Name of the branch."""
        return f"step-{self.step:06d}"


@dataclass
class Record(_Checked):
    """What the Hub is to hold, and what it holds."""

    private: bool | None = None
    tag: str = "best"
    best: str | None = None  # revision that is to carry the tag
    revisions: dict = field(default_factory=dict)  # branch -> Revision, the newest last
    sent: dict = field(default_factory=dict)  # branch on the Hub -> its staging folder; None: it may be incomplete
    tagged: list = field(default_factory=list)  # the tag on the Hub, and the staging folder of its revision

    def waiting(self) -> dict[str, Revision]:
        """Return the revisions that the Hub has not taken yet."""
        return {name: one for name, one in self.revisions.items() if self.sent.get(name) != one.staged}

    def tag_to_be(self) -> list[str]:
        """Return what `tagged` is to become."""
        return [self.tag, self.revisions[self.best].staged] if self.best in self.revisions else self.tagged


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
        given: dict[str, Any] = {"private": private, "tag": tag}
        self._given = {name: value for name, value in given.items() if value is not None}
        self._api, self._try = HfApi(token=token), partial(repeat, patience)
        self._lock = FileLock(self.folder / "sending.lock", timeout=patience)
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
        path = self.folder / RECORD_FILE
        try:
            record = Record(**json.loads(path.read_bytes())) if path.exists() else Record()
            revisions = {name: Revision(**values) for name, values in record.revisions.items()}
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged: {error}. Delete {self.folder} to send the run as it is now."
            ) from None
        return replace(record, revisions=revisions, **self._given)

    @contextmanager
    def change(self) -> Iterator[Record]:
        """Change what is recorded. Files that do not wait any more are removed."""
        with FileLock(self.folder / "record.lock"):
            record = self.read()
            yield record
            write_atomically(self.folder / RECORD_FILE, json.dumps(asdict(record), indent=2).encode())
            staged = {revision.staged for revision in record.waiting().values()}
            for folder in self.folder.iterdir():
                if folder.is_dir() and folder.name not in staged:
                    shutil.rmtree(folder, ignore_errors=True)

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
            record.revisions.pop(revision.name, None)
            record.revisions[revision.name] = replace(
                revision, staged=staged.name, card=list(card), files=len(_files(staged))
            )

    def break_links(self, step: int) -> None:
        """Copy what waits of steps after this one: training that goes on from here writes into the linked files again."""
        with self.change() as record:
            for revision in record.waiting().values():
                for file in _files(self.folder / revision.staged) if revision.step > step else ():
                    os.replace(shutil.copyfile(file, self.folder / "copy"), file)

    def unsent(self) -> list[str]:
        """Describe what the Hub has not taken yet."""
        record = self.read()
        tag = [f"tag {record.tag!r} on {record.best}"] if record.tagged != record.tag_to_be() else []
        return [*record.waiting(), *tag]

    # Sending

    @cached_property
    def repository(self) -> str:
        """Full name of the repository, which is created if it does not exist."""
        created = self._try(self._api.create_repo, self.repo_id, private=self.read().private, exist_ok=True)
        with self.change():  # the folder remembers the repository
            return created.repo_id

    def upload(self, folder: Path, message: str, **options: Any) -> None:
        """Upload a folder without private files; `options` as for [`~huggingface_hub.HfApi.upload_folder`]."""
        options |= {"repo_id": self.repository, "folder_path": folder, "commit_message": message}
        options["ignore_patterns"] = [*PRIVATE_FILES, *options.get("ignore_patterns", ())]
        self._try(self._api.upload_folder, **options)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Be the only sender: of two processes, or of training that was interrupted and begun again."""
        try:
            lock = self._lock.acquire()
        except Timeout:
            raise RuntimeError(f"Another process is sending {self.folder} to the Hub. Wait for its end.") from None
        with lock:
            yield

    def send(self, update_card: bool = True) -> None:
        """
        Send everything, in an order that leaves the repository whole wherever it stops.

        Raises one of `FAILURES`: at once if the Hub does not answer for `patience` seconds; if it refuses a revision, after everything
        else was sent.

        Args:
            update_card (`bool`, *optional*, defaults to `True`): Whether the main branch receives the card of each revision.
        """
        refused = None
        with self.sending():
            record = self.read()
            branches = dict.fromkeys([*record.revisions, *record.sent])
            requests: list[Callable[[], None]] = [partial(self._update, name, update_card) for name in branches]
            for request in [*requests, self._move_tag]:
                try:
                    request()
                except FAILURES as error:
                    if retry_delay(error, 1) is not None:  # the Hub does not answer: the others would wait as long
                        raise
                    refused = error
        if refused is not None:
            raise refused

    def _update(self, name: str, update_card: bool) -> None:
        """Make a branch what the record says."""
        if name not in self.read().revisions:
            self._delete(self._api.delete_branch, branch=name)
            with self.change() as record:
                record.sent.pop(name, None)
        with self.change() as record:
            if name not in record.waiting():
                return
            revision = record.waiting()[name]
            folder = self.folder / revision.staged
            if len(_files(folder)) < revision.files:
                logger.warning("%s is not sent to the Hub: files in %s were deleted.", name, folder)
                del record.revisions[name]
                return
            record.sent[name] = None
        self._try(self._api.create_branch, self.repository, branch=name, exist_ok=True)
        message = f"Step {revision.step}: accuracy {revision.accuracy:.1%}, {revision.tokens:.1f} tokens"
        try:
            self.upload(folder, message, revision=name, delete_patterns="*")
            if update_card and revision.card:
                self.upload(folder, "Update the card", allow_patterns=revision.card)
        except FAILURES:
            if folder.is_dir():
                raise
            return  # it was replaced or dropped meanwhile
        with self.change() as record:
            record.sent[name] = revision.staged

    def _move_tag(self) -> None:
        record = self.read()
        if record.tagged == record.tag_to_be() or record.best in record.waiting():
            return
        self._delete(self._api.delete_tag, tag=record.tag)
        self._try(self._api.create_tag, self.repository, tag=record.tag, revision=record.best, exist_ok=True)
        with self.change() as changed:
            changed.tagged = record.tag_to_be()

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


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no links
        shutil.copyfile(source, target)
