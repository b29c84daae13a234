# SPDX-License-Identifier: Apache-2.0
"""What waits for the Hub stays on disk, whole, until the Hub has it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from trl_concise.hub.outbox import FOLDER, Outbox, Revision


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
    with closing(Outbox(run, "tester/model", **settings)) as box:
        for step in steps:
            box.add(Revision(step, 0.5, 100.0 - step), checkpoint(run, step), {})
        if best is not None:
            box.set_best(best)
        return box.unsent()


def mark_sent(box: Outbox, name: str, commit: str = "a" * 40) -> None:
    """Leave the record as if the Hub had taken a revision."""
    with box._change():
        revision = box.revisions[name]
        revision.staged, revision.commit, revision.on_hub = None, commit, True


def unsent(run: Path) -> list[str]:
    with closing(Outbox(run)) as box:
        return box.unsent()


def test_waiting_files_survive_their_checkpoint_and_the_process(tmp_path):
    fill(tmp_path, range(1, 3), "step-000002")
    (staged,) = (tmp_path / FOLDER).glob("step-000001*/model.safetensors")
    assert staged.stat().st_nlink == 2  # no copy
    (tmp_path / "checkpoint-1" / "model.safetensors").unlink()
    assert staged.read_bytes() == bytes([1]) * 4000
    with closing(Outbox(tmp_path)) as again:
        assert (again.repo_id, again.unsent()) == (
            "tester/model",
            ["step-000001", "step-000002", "tag 'best' on step-000002"],
        )
        again.drop("step-000001")
    assert not staged.exists() and unsent(tmp_path) == ["step-000002", "tag 'best' on step-000002"]


def test_staging_files_of_a_dead_process_are_removed(tmp_path):
    fill(tmp_path, range(1, 2))
    (tmp_path / FOLDER / "step-000002-abc").mkdir()
    assert unsent(tmp_path) == ["step-000001"]
    assert [folder.name[:11] for folder in (tmp_path / FOLDER).glob("step-*")] == ["step-000001"]


@pytest.mark.parametrize("what", ["revision", "tag", "card", "deletion"])
def test_another_repository_is_refused_while_something_waits(what, tmp_path):
    (tmp_path / "README.md").write_text("# Card\n")
    with closing(Outbox(tmp_path, "tester/model", tag="top")) as box:
        box.add(Revision(1, 0.5, 99.0), checkpoint(tmp_path, 1), {})
        if what != "revision":
            mark_sent(box, "step-000001")
        if what == "tag":
            box.set_best("step-000001")
        elif what == "card":
            box.add_card({"README.md": tmp_path / "README.md"})
        elif what == "deletion":
            box.drop("step-000001")
    waits = {"tag": "tag 'top' on step-000001", "card": "model card", "deletion": "deletion of step-000001"}
    expected = f"what waits for tester/model, but repo_id is 'other': {waits.get(what, 'step-000001')}. Send it"
    with pytest.raises(ValueError, match=expected):
        Outbox(tmp_path, "other")
    assert unsent(tmp_path)  # and the folder is free


def test_a_repository_must_be_known(tmp_path):
    with pytest.raises(ValueError, match=r"No repository is known .* repo_id \(--repo_id\)"):
        Outbox(tmp_path)


def test_privacy_and_tag_are_remembered(tmp_path):
    fill(tmp_path, range(1, 2), private=True, tag="frontier")
    with closing(Outbox(tmp_path)) as box:
        assert (box.private, box.tag) == (True, "frontier")
    with closing(Outbox(tmp_path, private=False, tag="other")) as box:
        assert (box.private, box.tag) == (False, "other")


@pytest.mark.parametrize("state", ["waiting", "sent"])
def test_a_revision_that_is_dropped_is_no_longer_the_best(state, tmp_path):
    fill(tmp_path, range(1, 3), "step-000001")
    with closing(Outbox(tmp_path)) as box:
        if state == "sent":
            mark_sent(box, "step-000001")
        box.drop("step-000001")  # and the process dies before another is the best
    with closing(Outbox(tmp_path)) as box:
        assert box.best is None
        assert not [what for what in box.unsent() if what.startswith("tag")]


def test_a_folder_is_open_once(tmp_path):
    code = "import sys\nfrom trl_concise.hub.outbox import Outbox\nOutbox(sys.argv[1], 'tester/model')"
    earlier = Outbox(tmp_path, "tester/model")
    with closing(Outbox(tmp_path, "tester/model")) as box:
        with pytest.raises(RuntimeError, match="this outbox is closed"):
            earlier.add(Revision(1, 0.5, 99.0), checkpoint(tmp_path, 1), {})
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
        assert "is being sent to the Hub by another process" in done.stderr
    with pytest.raises(RuntimeError, match="this outbox is closed"):
        box.add(Revision(1, 0.5, 99.0), checkpoint(tmp_path, 1), {})
    Outbox(tmp_path, "tester/model").close()
