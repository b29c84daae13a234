# SPDX-License-Identifier: Apache-2.0
"""
Checkpoints and outboxes for the tests of uploads.

Many of these tests start processes that import this module: it imports neither transformers nor TRL, which takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path

from trl_concise.hub.outbox import Outbox, Revision


def checkpoint(run: Path, step: int, content: int | None = None) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "concise_state").mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "model.safetensors").write_bytes(bytes([step if content is None else content]) * 4000)
    (folder / "concise_state" / "state.json").write_text(json.dumps({"step": step}))
    (folder / "training_args.bin").write_bytes(b"private")
    return folder


def fill(run: Path, steps: range, best: str | None = None, **settings) -> list[str]:
    """Leave what a killed run would, and return what waits."""
    box = Outbox(run, "tester/model", **settings)
    for step in steps:
        box.add(Revision(step, 0.5, 100.0 - step), checkpoint(run, step), {})
    if best is not None:
        set_best(box, best)
    return box.unsent()


def drop(box: Outbox, name: str) -> None:
    """Remove a revision, as the callback does."""
    with box.change() as record:
        del record.revisions[name]


def set_best(box: Outbox, name: str) -> None:
    """Name the best revision, as the callback does."""
    with box.change() as record:
        record.best = name


def mark_sent(box: Outbox, name: str) -> None:
    """Leave the record as if the Hub had taken a revision."""
    with box.change() as record:
        record.sent[name] = record.revisions[name].staged


def steps(box: Outbox) -> list[int]:
    """Return the steps of the revisions that the repository holds or is to hold."""
    return [revision.step for revision in box.read().revisions.values()]


def unsent(run: Path) -> list[str]:
    return Outbox(run, "tester/model").unsent()
