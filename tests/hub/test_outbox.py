# SPDX-License-Identifier: Apache-2.0
"""What waits for the Hub stays on disk, whole, until the Hub has it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from tests.hub.outboxes import checkpoint, drop, fill, mark_sent, set_best, unsent
from trl_concise import HubFrontierCallback
from trl_concise.hub.outbox import FOLDER, Outbox, Revision, last_repository


def test_waiting_files_survive_their_checkpoint_and_the_process(tmp_path):
    fill(tmp_path, range(1, 3), "step-000002")
    (staged,) = (tmp_path / FOLDER).glob("*/step-000001*/model.safetensors")
    assert staged.stat().st_nlink == 2  # no copy
    (tmp_path / "checkpoint-1" / "model.safetensors").unlink()
    assert staged.read_bytes() == bytes([1]) * 4000
    assert last_repository(tmp_path) == "tester/model"
    assert unsent(tmp_path) == ["step-000001", "step-000002", "tag 'best' on step-000002"]
    drop(Outbox(tmp_path, "tester/model"), "step-000001")
    assert not staged.exists() and unsent(tmp_path) == ["step-000002", "tag 'best' on step-000002"]


def test_staging_files_of_a_dead_process_are_removed(tmp_path):
    fill(tmp_path, range(1, 2))
    folder = tmp_path / FOLDER / "tester--model"
    (folder / "step-000002-abc").mkdir()
    set_best(Outbox(tmp_path, "tester/model"), "step-000001")
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
    mark_sent(box, "step-000001")
    with box.change() as record:
        record.tagged = record.tag_to_be()
    assert box.unsent() == []
    assert Outbox(tmp_path, "tester/model", tag="top").unsent() == ["tag 'top' on step-000001"]


@pytest.mark.parametrize("state", ["waiting", "sent"])
def test_a_revision_that_is_dropped_is_no_longer_the_best(state, tmp_path):
    fill(tmp_path, range(1, 3), "step-000001")
    box = Outbox(tmp_path, "tester/model")
    if state == "sent":
        mark_sent(box, "step-000001")
    drop(box, "step-000001")
    assert unsent(tmp_path) == ["step-000002"]


@pytest.mark.parametrize("resumed_at", [0, 1, 2])
def test_waiting_files_do_not_change_when_a_later_run_writes_their_checkpoint_again(resumed_at, tmp_path):
    """The run was killed after step 2, and resumed from an earlier checkpoint; it saves into the same folders."""
    fill(tmp_path, range(1, 3))
    args = TrainingArguments(tmp_path, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1)
    callback = HubFrontierCallback("tester/model", patience=0.0)
    callback.on_train_begin(args, TrainerState(global_step=resumed_at), TrainerControl())
    for step in range(resumed_at + 1, 3):
        for name in ("model.safetensors", "concise_state/state.json"):
            (tmp_path / f"checkpoint-{step}" / name).write_bytes(b"of the later run")  # as `torch.save` and `open` do
    for step in (1, 2):
        (staged,) = (tmp_path / FOLDER).glob(f"*/step-{step:06d}*")
        assert (staged / "model.safetensors").read_bytes() == bytes([step]) * 4000
        assert json.loads((staged / "concise_state" / "state.json").read_text()) == {"step": step}
        assert (staged / "model.safetensors").stat().st_nlink == (2 if step <= resumed_at else 1)


RECORD = {"private": None, "tag": "best", "best": None, "revisions": {}, "sent": {}, "tagged": []}
REVISION = {"step": 1, "accuracy": 0.5, "tokens": 9.0, "card": [], "staged": "step-000001-abc", "files": 1}


@pytest.mark.parametrize(
    "damage",
    [
        *(
            {"revisions": {"step-000001": REVISION | field}}
            for field in ({"step": "1"}, {"tokens": None}, {"card": "a"})
        ),
        *(
            {"revisions": {"step-000001": REVISION | field}}
            for field in ({"staged": 7}, {"files": []}, {"unknown": 1})
        ),
        *(
            {"revisions": revisions}
            for revisions in ({"step-000001": {}}, {"step-000001": 5}, {"step-000001": None}, [1])
        ),
        *(
            {"private": "yes"},
            {"tag": None},
            {"best": ["step-000001"]},
            {"sent": None},
            {"tagged": "best"},
            {"unknown": 1},
        ),
    ],
    ids=str,
)
def test_a_damaged_record_is_reported_with_its_file(damage, tmp_path):
    path = tmp_path / FOLDER / "tester--model" / "outbox.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(RECORD | {"revisions": {"step-000001": REVISION}}))
    assert unsent(tmp_path) == ["step-000001"]
    path.write_text(json.dumps(RECORD | damage))
    with pytest.raises(
        ValueError, match=rf"{path} is damaged: .* Delete {path.parent} to send the run as it is now\."
    ):
        Outbox(tmp_path, "tester/model")


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
