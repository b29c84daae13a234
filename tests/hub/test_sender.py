# SPDX-License-Identifier: Apache-2.0
"""What waits for the Hub arrives whole, or stays on disk and is named."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from tests.hub.test_outbox import fill, unsent
from tests.hub_server import HubServer
from tests.test_hub_server import run_client
from trl_concise.hub.outbox import FOLDER, Outbox
from trl_concise.hub.sender import retry_delay


# Begins every client below. The pauses between two tries, the client's and ours, pass at another pace.
SETUP = """
import sys, time
from pathlib import Path
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 200)
from tests.hub.test_outbox import checkpoint
from trl_concise.hub.outbox import Revision
from trl_concise.hub.sender import Sender
run = Path(sys.argv[1])
"""


def sent(hub: HubServer, step: int, content: int | None = None, revision: str | None = None) -> bool:
    """Whether a revision holds the files of its checkpoint, and nothing else."""
    files = hub.repos["tester/model"].files(revision or f"step-{step:06d}")
    files.pop(".gitattributes")
    return files == {
        "model.safetensors": bytes([step if content is None else content]) * 4000,
        "concise_state/state.json": json.dumps({"step": step}).encode(),
    }


@pytest.mark.parametrize(
    ("status", "headers", "failures", "low", "high"),
    [
        (500, {}, 1, 0.75, 1.25),
        (500, {}, 4, 6, 10),
        (503, {}, 5000, 225, 375),
        (429, {"Retry-After": "17"}, 1, 17, 17),
        (429, {}, 2, 1.5, 2.5),
        (412, {}, 1, 0.75, 1.25),
    ],
)
def test_a_failure_is_followed_by_a_growing_or_the_requested_pause(status, headers, failures, low, high):
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.response = SimpleNamespace(status_code=status, headers=headers)
    assert low <= retry_delay(error, failures) <= high


def test_permanent_errors_are_not_retried():
    for status in (400, 401, 403, 404):
        error = HfHubHTTPError.__new__(HfHubHTTPError)
        error.response = SimpleNamespace(status_code=status, headers={})
        assert retry_delay(error, 1) is None
    assert retry_delay(ValueError("Invalid metadata in README.md."), 1) is None
    assert retry_delay(OfflineModeIsEnabled("Cannot reach the Hub"), 1) is None
    assert retry_delay(FileNotFoundError(), 1) is None
    assert retry_delay(ConnectionRefusedError(), 1) is not None
    assert retry_delay(json.JSONDecodeError("", "", 0), 1) is not None


SEND = """
sender = Sender(run)
sender.send()
print(sender.outbox.unsent())
"""


@pytest.mark.slow
def test_twenty_pushes_are_complete_although_every_second_request_fails(tmp_path):
    fill(tmp_path, range(1, 21), "step-000007")
    with HubServer() as hub:
        hub.fail_at_random(0.5, kinds=("500", "429", "cut", "lost"))
        assert run_client(hub, SETUP + SEND, tmp_path).strip() == "[]"
        assert all(sent(hub, step) for step in range(1, 21))
        repo = hub.repos["tester/model"]
        assert len(repo.branches) == 21 and repo.tags == {"best": repo.branches["step-000007"]}
        assert len(hub.requests) > 200
    assert not list((tmp_path / FOLDER).glob("step-*"))


def test_revisions_are_replaced_retagged_and_deleted(tmp_path):
    fill(tmp_path, range(1, 4), "step-000001")
    with HubServer() as hub:
        code = """
        sender = Sender(run)
        outbox = sender.outbox
        sender.send(newest=2)
        print(outbox.unsent())
        sender.send()
        outbox.drop("step-000001")
        outbox.set_best("step-000003")
        print(outbox.unsent())
        sender.send()
        print(outbox.unsent())
        """.replace("\n        ", "\n")
        lines = run_client(hub, SETUP + code, tmp_path).splitlines()
        assert lines == [
            "['step-000001', \"tag 'best' on step-000001\"]",
            "[\"tag 'best' on step-000003\", 'deletion of step-000001']",
            "[]",
        ]
        repo = hub.repos["tester/model"]
        assert set(repo.branches) == {"main", "step-000002", "step-000003"}
        with closing(Outbox(tmp_path)) as outbox:
            assert set(outbox.revisions) == {"step-000002", "step-000003"}
        assert repo.tags == {"best": repo.branches["step-000003"]}


def test_a_record_without_its_best_revision_does_not_stop_a_push(tmp_path):
    fill(tmp_path, range(1, 2))
    record = tmp_path / FOLDER / "outbox.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "best": "step-000009"}))
    with HubServer() as hub:
        assert run_client(hub, SETUP + SEND, tmp_path).strip() == "[]"
        assert sent(hub, 1) and hub.repos["tester/model"].tags == {}


IN_THE_BACKGROUND = """
sender = Sender(run, patience=0.5)
sender.start(newest=4)
sender.wake()
sleep(0.5)  # a step of training
print(sender.finish(timeout=2))
"""


@pytest.mark.parametrize("trouble", ["dead", "silent", "forbidden"])
def test_unsent_revisions_are_named_and_sent_later(trouble, tmp_path):
    waiting = fill(tmp_path, range(1, 3))
    with HubServer() as hub:
        if trouble == "silent":
            hub.slowness = 600
            hub.fail("slow", times=1000)
        elif trouble == "forbidden":
            hub.fail("auth", times=1000)
        else:
            hub.__exit__()
        assert run_client(hub, SETUP + IN_THE_BACKGROUND, tmp_path).splitlines()[-1] == str(waiting)
    if trouble != "dead":
        return
    with HubServer() as hub:
        run_client(hub, SETUP + "Sender(run).send()", tmp_path)
        assert sent(hub, 1) and sent(hub, 2)
    assert unsent(tmp_path) == []


def commits_fail_until_recovery(hub: HubServer, run: Path) -> None:
    """The run's folder holds `failing` after the first failure; a client puts `recovery` there."""
    hub.fail("500", times=10**6, path="/commit/")

    def next_fault(path: str, ordered=hub.next_fault) -> str | None:
        if "/commit/" in path:
            (run / "failing").touch()
        if (run / "recovery").exists():
            hub.recover()
        return ordered(path)

    hub.next_fault = next_fault


def test_a_revision_replaced_during_its_upload_is_not_sent(tmp_path):
    """The Hub was down; the run, started again, has come to the same step."""
    fill(tmp_path, range(1, 2), "step-000001")
    code = """
sender = Sender(run)
sender.start(newest=4)
sender.wake()
while not (run / "failing").exists():  # the first version is being tried
    sleep(0.02)
sender.outbox.add(Revision(1, 0.6, 90.0), checkpoint(run, 1, content=9))
(run / "recovery").touch()
print(sender.finish(timeout=30))
"""
    with HubServer() as hub:
        commits_fail_until_recovery(hub, tmp_path)
        assert run_client(hub, SETUP + code, tmp_path).splitlines()[-1] == "[]"
        assert sent(hub, 1, content=9) and sent(hub, 1, content=9, revision="best")
        assert "Step 1: accuracy 60.0%, 90.0 tokens" in hub.repos["tester/model"].messages.values()
    assert not list((tmp_path / FOLDER).glob("step-*"))


def test_the_tag_follows_when_a_revision_is_replaced(tmp_path):
    fill(tmp_path, range(1, 2), "step-000001")
    code = """
sender = Sender(run)
sender.send()
sender.outbox.add(Revision(1, 0.6, 90.0), checkpoint(run, 1, content=9))
print(sender.outbox.unsent())
sender.send()
"""
    with HubServer() as hub:
        printed = run_client(hub, SETUP + code, tmp_path).splitlines()[-1]
        assert printed == "['step-000001', \"tag 'best' on step-000001\"]"
        assert sent(hub, 1, content=9, revision="best")


def test_deleted_files_do_not_empty_the_branch(tmp_path):
    fill(tmp_path, range(1, 3))
    with HubServer() as hub:
        code = """
import shutil
sender = Sender(run)
shutil.rmtree(next((run / "_hub").glob("step-000001*")))
sender.send()
print(sender.outbox.unsent())
"""
        assert run_client(hub, SETUP + code, tmp_path).strip() == "[]"
        assert set(hub.repos["tester/model"].branches) == {"main", "step-000002"}


def test_an_abandoned_sender_is_replaced_by_the_next_one(tmp_path):
    """Training was interrupted in a notebook, and is begun again."""
    fill(tmp_path, range(1, 2))
    code = """
left = Sender(run)
left.start(newest=4)
left.wake()
while not (run / "failing").exists():
    sleep(0.02)
sender = Sender(run)
sender.start(newest=4)
sender.outbox.add(Revision(2, 0.6, 90.0), checkpoint(run, 2))
(run / "recovery").touch()
print(left.outbox.closed, sender.finish(timeout=30), left._thread.is_alive())
"""
    with HubServer() as hub:
        commits_fail_until_recovery(hub, tmp_path)
        assert run_client(hub, SETUP + code, tmp_path).splitlines()[-1] == "True [] False"
        assert sent(hub, 1) and sent(hub, 2)
    assert unsent(tmp_path) == []


def test_the_end_of_training_waits_for_patience_seconds(tmp_path):
    fill(tmp_path, range(1, 3))
    code = """
now = 0.0
def pause(seconds):
    global now
    now += seconds
sender = Sender(run, patience=20.0)
sender.start(newest=4)
sender.wake()
sleep(0.3)
time.sleep, time.monotonic = pause, lambda: now  # a clock that only pauses turn
sender.finish(timeout=60)
print(now <= 20 + 8)
"""
    with HubServer() as hub:
        hub.fail("500", times=10**6)
        assert run_client(hub, SETUP + code, tmp_path).splitlines()[-1] == "True"


def test_a_repository_named_without_its_owner(tmp_path):
    code = """
sender = Sender(run, "bare")
sender.outbox.add(Revision(1, 0.6, 90.0), checkpoint(run, 1))
sender.send()
"""
    with HubServer() as hub:
        run_client(hub, SETUP + code, tmp_path)
        assert "step-000001" in hub.repos["tester/bare"].branches
    assert unsent(tmp_path) == []
