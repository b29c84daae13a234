# SPDX-License-Identifier: Apache-2.0
"""
What is on its way to the Hub, on disk.

What is to be sent is written down and kept in `_hub/` of the run's folder before anything is sent, and stays there until
the Hub has taken it: a run that ends, or dies, while the Hub is down loses nothing, and `trl-concise push` sends the
rest later. (TRL's and transformers' own pushes skip files that begin with an underscore.)
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..state.checkpoint import write_atomically


logger = logging.getLogger(__name__)

FOLDER = "_hub"
_RECORD_FILE = "outbox.json"
_FORMAT = 1


@dataclass
class Revision:
    """
    A checkpoint that is, or is to be, a branch of the repository.

    Args:
        step (`int`): Training step.
        accuracy (`float`): Evaluated accuracy, in [0, 1].
        tokens (`float`): Evaluated mean completion length, in tokens.
        state (`str`): `"waiting"`, `"sent"` or `"off"` (to be deleted).
        staged (`str`, *optional*): Folder in `_hub/` with its files, while it waits.
        on_hub (`bool`): Whether the Hub may hold a branch of this name.
        commit (`str`, *optional*): Commit on the Hub, once it is sent.
    """

    step: int
    accuracy: float
    tokens: float
    state: str = "waiting"
    staged: str | None = None
    on_hub: bool = False
    commit: str | None = None

    @property
    def name(self) -> str:
        """Name of the branch."""
        return f"step-{self.step:06d}"


class Outbox:
    """
    The record of what a run has sent and has yet to send, and the files that wait.

    A folder has one open outbox at a time, in whatever process. Whatever is added gets a staging folder of its own, so
    that what is being sent never changes: if it is replaced or dropped meanwhile, its files are gone, and `mark_*` of
    it, when the Hub has answered, does nothing.

    Args:
        run (`str` or `Path`): The run's folder.
        repo_id (`str`, *optional*): Repository on the Hub; defaults to the one in the record.
        private (`bool`, *optional*): Whether a new repository is private; defaults to what the record says.
        tag (`str`, *optional*): Tag of the best trade-off; defaults to the one in the record, else `"best"`.

    Raises:
        `ValueError`: If something waits for another repository, or no repository is named.
        `RuntimeError`: If the folder is in use.
    """

    def __init__(
        self, run: str | Path, repo_id: str | None = None, *, private: bool | None = None, tag: str | None = None
    ):
        self.folder = Path(run) / FOLDER
        self.repo_id = repo_id
        self.private = private
        self.tag = tag
        self.revisions: dict[str, Revision] = {}
        self.best: str | None = None  # revision that carries the tag, or is to
        self.tagged: str | None = None  # commit that carries it on the Hub
        self.card: str | None = None  # folder with the card that waits
        self.closed = False
        self._keeps_record = True
        self._lock = threading.RLock()  # between training and the thread that sends
        self.folder.mkdir(parents=True, exist_ok=True)
        self._folder_lock = FileLock(self.folder / "lock", thread_local=False)
        try:
            self._folder_lock.acquire(blocking=False)
        except Timeout:
            raise RuntimeError(
                f"{run} is being sent to the Hub by another process, probably the training run itself. Wait for its end."
            ) from None
        try:
            self._read_record()
            if self.repo_id is None:
                raise ValueError(
                    f"No repository is known for {run}: name one with repo_id (--repo_id), e.g. user/model."
                )
            self.tag = self.tag or "best"
            self._sweep()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the folder. This object does not write any more."""
        with self._lock:
            self.closed = True
            self._folder_lock.release()

    # What is to be sent

    def add(self, revision: Revision, checkpoint: str | Path, card: Mapping[str, Path] | None = None) -> None:
        """
        Keep a checkpoint for sending, in no time: its files are linked, not copied, and survive its deletion.

        Args:
            revision ([`Revision`]): What it is. Takes the place of one of the same step.
            checkpoint (`str` or `Path`): The checkpoint's folder.
            card (`Mapping[str, Path]`, *optional*): Files that make up its card, by their place in the repository.
        """
        staged = self._stage(revision.name)
        link_files(Path(checkpoint), staged)
        self._copy_card(card or {}, staged)
        with self._lock:
            revision.staged = staged.name
            replaced = self.revisions.pop(revision.name, None)
            if replaced is not None:
                revision.on_hub = replaced.on_hub
            self.revisions[revision.name] = revision
            self._write_record()
            self._unstage(replaced)

    def add_card(self, card: Mapping[str, Path]) -> None:
        """Keep a copy of the card's files (see [`~Outbox.add`]) for the main branch, in place of one that still waits."""
        staged = self._stage("card")
        self._copy_card(card, staged)
        with self._lock:
            self._replace_card(staged.name)

    def drop_card(self) -> None:
        """Take the card that waits out."""
        with self._lock:
            if self.card is not None:
                self._replace_card(None)

    def drop(self, name: str) -> None:
        """Remove a revision, also from the Hub. If it was the best, no revision is the best for now."""
        with self._lock:
            if self.best == name:
                self.best = None
            revision = self.revisions.get(name)
            if revision is not None and revision.on_hub:
                revision.state = "off"
            else:
                self.revisions.pop(name, None)
            self._write_record()
            self._unstage(revision)

    def set_best(self, name: str) -> None:
        """Say which revision is the best trade-off."""
        with self._lock:
            self.best = name
            self._write_record()

    def remember_repository(self) -> None:
        """Write down where the run was sent to, unless the record is that of revisions in another repository."""
        with self._lock:
            if self._keeps_record:
                self._write_record()

    def kept(self) -> list[Revision]:
        """Return the revisions that the repository holds or is to hold."""
        with self._lock:
            return [revision for revision in self.revisions.values() if revision.state != "off"]

    def unsent(self) -> list[str]:
        """Return what the Hub has not taken yet, in words."""
        with self._lock:
            names = [revision.name for revision in self.in_state("waiting")]
            best = self._best_revision()
            if best is not None and (best.state == "waiting" or best.commit != self.tagged):
                names.append(f"tag {self.tag!r} on {self.best}")
            if self.card is not None:
                names.append("model card")
            names += [f"deletion of {revision.name}" for revision in self.in_state("off")]
        return names

    def _best_revision(self) -> Revision | None:
        return None if self.best is None else self.revisions.get(self.best)

    # For the sender

    def in_state(self, state: str) -> list[Revision]:
        """Return the revisions in a state, in the order in which they were added."""
        with self._lock:
            return [revision for revision in self.revisions.values() if revision.state == state]

    def waits(self, revision: Revision) -> bool:
        """Whether a revision is still to be sent: it may have been dropped, or replaced by another of the same step."""
        with self._lock:
            return not self.closed and self.revisions.get(revision.name) is revision and revision.state == "waiting"

    def begin(self, revision: Revision) -> Path | None:
        """Return the folder to send as a revision, once it is written down that the Hub may hold it; `None` if it is off."""
        with self._lock:
            if revision.staged is None or not self.waits(revision):
                return None
            staged = self.folder / revision.staged
            if not staged.is_dir():
                logger.warning("%s is gone, so %s cannot be sent.", staged, revision.name)
                self.drop(revision.name)
                return None
            revision.on_hub = True
            self._write_record()
            return staged

    def mark_sent(self, revision: Revision, commit: str) -> None:
        """Note that the Hub holds a revision."""
        with self._lock:
            if self.waits(revision):
                revision.state, revision.commit = "sent", commit
                self._write_record()
                self._unstage(revision)

    def mark_deleted(self, revision: Revision) -> None:
        """Note that the Hub does not hold a revision any more."""
        with self._lock:
            if not self.closed and self.revisions.get(revision.name) is revision:
                del self.revisions[revision.name]
                self._write_record()

    def to_tag(self) -> str | None:
        """Return the commit that the tag is to be moved to, if it is on the Hub."""
        with self._lock:
            best = self._best_revision()
            return best.commit if best is not None and best.state == "sent" and best.commit != self.tagged else None

    def mark_tagged(self, commit: str | None) -> None:
        """Note which commit carries the tag."""
        with self._lock:
            if not self.closed:
                self.tagged = commit
                self._write_record()

    def mark_card_sent(self, card: str) -> None:
        """Note that the Hub holds a card."""
        with self._lock:
            if not self.closed and self.card == card:
                self._replace_card(None)

    # Files that wait

    def _stage(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def _unstage(self, revision: Revision | None) -> None:
        if revision is not None and revision.staged is not None:
            shutil.rmtree(self.folder / revision.staged, ignore_errors=True)

    def _replace_card(self, card: str | None) -> None:
        old, self.card = self.card, card
        self._write_record()
        if old is not None:
            shutil.rmtree(self.folder / old, ignore_errors=True)

    def _copy_card(self, card: Mapping[str, Path], target: Path) -> None:
        # Copied, not linked: the next card is written into the same file.
        for name, file in card.items():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            shutil.copyfile(file, place)

    def _sweep(self) -> None:
        """Remove what a process left that died between writing files and writing the record."""
        named = {self.card, *(revision.staged for revision in self.in_state("waiting"))}
        for folder in self.folder.iterdir():
            if folder.is_dir() and folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)

    # The record

    def _read_record(self) -> None:
        path = self.folder / _RECORD_FILE
        if not path.exists():
            return
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("format") != _FORMAT:
            raise ValueError(f"{path} has format {record.get('format')}; this version reads format {_FORMAT}.")
        asked, tag = self.repo_id, self.tag
        self.repo_id, self.tag = record["repo_id"], record["tag"]
        self.revisions = {name: Revision(**revision) for name, revision in record["revisions"].items()}
        self.best, self.tagged = record["best"], record["tagged"]
        if record["card"] is not None and (self.folder / record["card"]).is_dir():
            self.card = record["card"]
        if asked in (None, self.repo_id):
            self.private = record["private"] if self.private is None else self.private
            if tag not in (None, self.tag):
                self.tag, self.tagged = tag, None
            return
        if left := self.unsent():
            raise ValueError(
                f"{self.folder} holds what waits for {self.repo_id}, but repo_id is {asked!r}: {', '.join(left)}. Send it "
                f"with `trl-concise push {self.folder.parent}`, or delete {self.folder}."
            )
        self._keeps_record = not self.revisions
        self.repo_id, self.tag, self.revisions, self.best, self.tagged = asked, tag, {}, None, None

    def _write_record(self) -> None:
        if self.closed:
            raise RuntimeError(f"{self.folder} was opened anew, and this outbox is closed.")
        record = {
            "format": _FORMAT,
            "repo_id": self.repo_id,
            "private": self.private,
            "tag": self.tag,
            "best": self.best,
            "tagged": self.tagged,
            "card": self.card,
            "revisions": {name: asdict(revision) for name, revision in self.revisions.items()},
        }
        write_atomically(self.folder / _RECORD_FILE, json.dumps(record, indent=2).encode())


def is_recorded(run: str | Path) -> bool:
    """Whether a run's folder says which repository it was sent to."""
    return Path(run, FOLDER, _RECORD_FILE).exists()


def link_files(source: Path, target: Path) -> None:
    """Hard-link a folder's files into another, or copy them where the file system has no links."""
    for file in sorted(source.rglob("*")):
        if not file.is_file():
            continue
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:
            shutil.copyfile(file, place)
