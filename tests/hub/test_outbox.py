# SPDX-License-Identifier: Apache-2.0
"""What waits for the Hub stays on disk, whole, until the Hub has it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trl_concise.hub.outbox import FOLDER, Outbox, Revision, last_repository


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
        box.set_best(best)
    return box.unsent()


def mark_sent(box: Outbox, name: str) -> None:
    """Leave the record as if the Hub had taken a revision."""
    with box.change() as record:
        record.revisions[name].staged = None


def unsent(run: Path) -> list[str]:
    return Outbox(run, "tester/model").unsent()


def test_waiting_files_survive_their_checkpoint_and_the_process(tmp_path):
    fill(tmp_path, range(1, 3), "step-000002")
    (staged,) = (tmp_path / FOLDER).glob("*/step-000001*/model.safetensors")
    assert staged.stat().st_nlink == 2  # no copy
    (tmp_path / "checkpoint-1" / "model.safetensors").unlink()
    assert staged.read_bytes() == bytes([1]) * 4000
    assert last_repository(tmp_path) == "tester/model"
    assert unsent(tmp_path) == ["step-000001", "step-000002", "tag 'best' on step-000002"]
    Outbox(tmp_path, "tester/model").drop("step-000001")
    assert not staged.exists() and unsent(tmp_path) == ["step-000002", "tag 'best' on step-000002"]


def test_staging_files_of_a_dead_process_are_removed(tmp_path):
    fill(tmp_path, range(1, 2))
    folder = tmp_path / FOLDER / "tester--model"
    (folder / "step-000002-abc").mkdir()
    Outbox(tmp_path, "tester/model").set_best("step-000001")
    assert [path.name[:11] for path in folder.glob("step-*")] == ["step-000001"]


def test_each_repository_has_its_own_outbox(tmp_path):
    assert last_repository(tmp_path) is None
    fill(tmp_path, range(1, 3))
    other = Outbox(tmp_path, "other")
    other.add(Revision(3, 0.5, 97.0), checkpoint(tmp_path, 3), {})
    assert (unsent(tmp_path), other.unsent()) == (["step-000001", "step-000002"], ["step-000003"])
    assert last_repository(tmp_path) == "other"


def test_privacy_and_tag_are_remembered(tmp_path):
    fill(tmp_path, range(1, 2), "step-000001", private=True, tag="frontier")
    record = Outbox(tmp_path, "tester/model").read()
    assert (record.private, record.tag) == (True, "frontier")
    record = Outbox(tmp_path, "tester/model", private=False, tag="other").read()
    assert (record.private, record.tag) == (False, "other")


def test_a_tag_with_another_name_waits_again(tmp_path):
    fill(tmp_path, range(1, 2), "step-000001")
    box = Outbox(tmp_path, "tester/model")
    with box.change() as record:
        record.revisions["step-000001"].staged, record.tag_waits = None, False
    assert box.unsent() == []
    assert Outbox(tmp_path, "tester/model", tag="top").unsent() == ["tag 'top' on step-000001"]


@pytest.mark.parametrize("state", ["waiting", "sent"])
def test_a_revision_that_is_dropped_is_no_longer_the_best(state, tmp_path):
    fill(tmp_path, range(1, 3), "step-000001")
    box = Outbox(tmp_path, "tester/model")
    if state == "sent":
        mark_sent(box, "step-000001")
    box.drop("step-000001")  # and the process dies before another is the best
    assert box.read().best is None and unsent(tmp_path) == ["step-000002"]


ADD = """
import sys
from pathlib import Path
from trl_concise.hub.outbox import Outbox, Revision
run, first = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for step in range(first, first + 20):
    Outbox(run, "tester/model").add(Revision(step, 0.5, 9.0), run / "checkpoint-1", {})
"""


def test_changes_of_two_processes_are_all_recorded(tmp_path):
    checkpoint(tmp_path, 1)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", ADD, tmp_path, str(first)], **pipes) for first in (0, 20)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert sorted(unsent(tmp_path)) == [f"step-{step:06d}" for step in range(40)]
    assert len(list((tmp_path / FOLDER).glob("*/step-*"))) == 40
