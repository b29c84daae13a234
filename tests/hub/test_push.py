# SPDX-License-Identifier: Apache-2.0
"""`trl-concise push`: the card that arrives tells the truth about what arrives with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.hub.outboxes import checkpoint, fill, mark_sent
from tests.hub.test_card import a_run
from tests.hub_server import HubServer
from trl_concise.hub.card import card_files, write_card
from trl_concise.hub.outbox import Outbox, Revision
from trl_concise.hub.push import push_run


# The client reads the Hub's address when it is imported, and that takes a while: one process pushes for all tests here.
PUSH = """
import json, sys
from trl_concise.hub.push import push_run
for line in sys.stdin:
    print(push_run(*json.loads(line)), flush=True)
"""


@pytest.fixture(scope="module")
def hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="module")
def push(hub):
    """`push_run(run, repo_id)`, which returns the repository."""
    command = [sys.executable, "-c", PUSH]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, **hub.environment()}, text=True, **pipes) as client:

        def push(run, repo_id=None):
            client.stdin.write(json.dumps([str(run), repo_id]) + "\n")
            client.stdin.flush()
            return client.stdout.readline().strip()

        yield push


@pytest.mark.parametrize("whole", [True, False])
def test_the_card_describes_resuming_if_the_checkpoint_is_included(whole, hub, push, tmp_path):
    run = a_run(tmp_path / "run")
    (run / "checkpoint-best").mkdir()  # somebody's copy
    checkpoint = run / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    if whole:
        (checkpoint / "trainer_state.json").write_text('{"log_history": []}')
    texts = ["page.html", *(f"eval/{name}.jsonl" for name in ("problems", "uncertainty", "disagreements"))]
    for name in texts:  # which have prompts and completions
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("private\n")
    repo_id = f"tester/elsewhere-{whole}"
    assert push(run, repo_id) == repo_id
    files = hub.repos[repo_id].files()
    assert not set(texts) & set(files)
    card = files["README.md"].decode()
    assert f'model="{repo_id}"' in card  # not where the run was to go
    assert ("last-checkpoint/model.safetensors" in files) == whole
    assert ("resume_from_checkpoint" in card) == whole
    if whole:
        assert f'folder = snapshot_download("{repo_id}")' in card and 'f"{folder}/last-checkpoint"' in card


def test_a_run_is_pushed_to_the_same_repository_as_before(push, tmp_path):
    run = a_run(tmp_path / "run")
    assert [push(run, "bare"), push(run)] == ["tester/bare"] * 2
    planned = a_run(tmp_path / "planned", repo_id="tester/planned")
    assert [push(planned), push(planned, "tester/other"), push(planned)] == [
        "tester/planned",
        "tester/other",
        "tester/other",
    ]


def test_a_push_to_another_repository_keeps_the_record_of_revisions(hub, push, tmp_path):
    run = a_run(tmp_path)
    outbox = Outbox(run, "tester/model")
    outbox.add(Revision(1, 0.5, 99.0), checkpoint(run, 1), {})
    mark_sent(outbox, "step-000001")
    push(run, "tester/away")
    assert set(hub.repos["tester/away"].branches) == {"main"}
    assert list(outbox.read().revisions) == ["step-000001"]


def test_the_recommended_command_keeps_privacy_and_tag(hub, push, tmp_path):
    fill(tmp_path, range(1, 2), "step-000001", private=True, tag="frontier")
    repo = hub.repos[push(tmp_path)]
    assert repo.private and set(repo.tags) == {"frontier"}


def test_a_waiting_card_does_not_replace_a_newer_one(hub, push, tmp_path):
    run = a_run(tmp_path)
    write_card(run)
    outbox = Outbox(run, "tester/newer")
    outbox.add(Revision(1, 0.5, 99.0), checkpoint(run, 1), card_files(run))  # the Hub was down at the end of training
    repo = hub.repos[push(run)]
    assert repo.files()["README.md"] == (run / "README.md").read_bytes()
    assert "Update the card" not in repo.messages.values()
    assert 'model="tester/newer"' in (run / "README.md").read_text()
    assert "step-000001" in repo.branches and outbox.unsent() == []


def test_a_repository_must_be_known(tmp_path):
    (tmp_path / "config.json").write_text("{}")  # a model
    with pytest.raises(ValueError, match=r"No repository is known .* repo_id \(--repo_id\)"):
        push_run(tmp_path)


def test_private_files_are_not_uploaded_from_subfolders_either(hub, push, tmp_path):
    run = a_run(tmp_path)
    (run / "model.safetensors").write_bytes(b"weights")
    private = ["training_args.bin", "checkpoint-3/optimizer.pt", "_hub/outbox.json", ".cache/a", "completions/a.csv"]
    for name in (
        "sft/model.safetensors",
        *(f"sft/{name}" for name in private),
        "eval/settings.json",
        "eval/summary.json",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("[]")
    sent = hub.repos[push(run, "tester/kept")].files()
    expected = {"model.safetensors", "README.md", "run.json", "sft/model.safetensors", "eval/summary.json"}
    assert set(sent) - {".gitattributes"} == expected
