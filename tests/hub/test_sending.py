# SPDX-License-Identifier: Apache-2.0
"""What waits for the Hub arrives whole, or stays on disk and is named."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from tests.hub.test_outbox import checkpoint, fill, unsent
from tests.hub_server import HubServer
from tests.test_hub_server import run_client
from trl_concise.hub.outbox import FOLDER, Outbox, Revision
from trl_concise.hub.retries import retry_delay


# Begins every client below. The pauses between two tries, the client's and ours, pass at another pace.
SETUP = """
import sys, time
from pathlib import Path
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 200)
from tests.hub.test_outbox import checkpoint
from trl_concise.hub.outbox import Outbox, Revision
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
outbox = Outbox(run)
outbox.send()
print(outbox.unsent())
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


OTHER_FILES = """
from huggingface_hub import HfApi
HfApi().create_repo("tester/model")
HfApi().upload_file(repo_id="tester/model", path_in_repo="other.txt", path_or_fileobj=b"in no checkpoint")
"""


@pytest.mark.parametrize("xet", [False, True])
def test_a_commit_that_deletes_files_is_repeated_if_its_response_was_lost(xet, tmp_path):
    """With Xet, the client repeats the commit itself, and the Hub says that the file to delete does not exist."""
    if xet:
        pytest.importorskip("hf_xet")
    with closing(Outbox(tmp_path, "tester/model")) as outbox:
        folder = checkpoint(tmp_path, 1)
        (folder / "model.safetensors").unlink()  # the server does not have Xet's storage
        outbox.add(Revision(1, 0.5, 99.0), folder, {})
    with HubServer() as hub:
        run_client(hub, OTHER_FILES, tmp_path)
        hub.fail("lost", path="/commit/")
        environment = {} if xet is False else {"HF_HUB_DISABLE_XET": "0"}
        assert run_client(hub, SETUP + SEND, tmp_path, **environment).strip() == "[]"
        files = hub.repos["tester/model"].files("step-000001")
        assert set(files) == {".gitattributes", "concise_state/state.json"}


def test_revisions_are_replaced_retagged_and_deleted(tmp_path):
    fill(tmp_path, range(1, 4), "step-000001")
    with HubServer() as hub:
        code = """
        outbox = Outbox(run)
        outbox.send(newest=2)
        print(outbox.unsent())
        outbox.send()
        outbox.drop("step-000001")
        outbox.set_best("step-000003")
        print(outbox.unsent())
        outbox.send()
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
outbox = Outbox(run, patience=0.5)
outbox.start(newest=4)
sleep(0.5)  # a step of training
print(outbox.finish(timeout=2))
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
        run_client(hub, SETUP + "Outbox(run).send()", tmp_path)
        assert sent(hub, 1) and sent(hub, 2)
    assert unsent(tmp_path) == []


def hold_commits(hub: HubServer, run: Path, refuse: bool = True) -> None:
    """
    Refuse commits, or keep them waiting, until there is a file `recovery` in the run's folder. With the first commit, a file
    `held` appears there.
    """
    next_fault = hub.next_fault

    def hold(path: str) -> str | None:
        if "/commit/" in path and not (run / "recovery").exists():
            (run / "held").touch()
            while not refuse and not (run / "recovery").exists():
                time.sleep(0.02)
            return "500" if refuse else None
        return next_fault(path)

    hub.next_fault = hold


WHILE_HELD = """
outbox = Outbox(run)
outbox.start(newest=4)
while not (run / "held").exists():  # the first version is being sent
    sleep(0.02)
"""


@pytest.mark.parametrize("refuse", [True, False])
def test_what_is_replaced_while_it_is_being_sent_is_sent_anew(refuse, tmp_path):
    """A run that was started again has reached the same step. What the Hub says about the first version changes nothing."""
    fill(tmp_path, range(1, 2), "step-000001")
    code = """
outbox.add(Revision(1, 0.6, 90.0), checkpoint(run, 1, content=9), {})
outbox.add_card({"README.md": run / "checkpoint-1" / "concise_state" / "state.json"})
(run / "recovery").touch()
print(outbox.finish(timeout=30))
"""
    with HubServer() as hub:
        hold_commits(hub, tmp_path, refuse)
        assert run_client(hub, SETUP + WHILE_HELD + code, tmp_path).splitlines()[-1] == "[]"
        assert sent(hub, 1, content=9) and sent(hub, 1, content=9, revision="best")
        messages = hub.repos["tester/model"].messages.values()
        assert "Step 1: accuracy 60.0%, 90.0 tokens" in messages
        assert ("Step 1: accuracy 50.0%, 99.0 tokens" in messages) != refuse
    assert not list((tmp_path / FOLDER).glob("step-*"))


@pytest.mark.parametrize("refuse", [True, False])
def test_what_is_dropped_while_it_is_being_sent_is_deleted(refuse, tmp_path):
    fill(tmp_path, range(1, 2), "step-000001")
    code = """
outbox.drop("step-000001")
(run / "recovery").touch()
print(outbox.finish(timeout=30))
"""
    with HubServer() as hub:
        hold_commits(hub, tmp_path, refuse)
        assert run_client(hub, SETUP + WHILE_HELD + code, tmp_path).splitlines()[-1] == "[]"
        repo = hub.repos["tester/model"]
        assert (set(repo.branches), repo.tags) == ({"main"}, {})


def test_a_run_that_is_killed_while_it_sends_loses_nothing_and_leaves_no_branch(tmp_path):
    fill(tmp_path, range(1, 3))
    with HubServer() as hub:
        hold_commits(hub, tmp_path)
        run_client(hub, SETUP + WHILE_HELD + "import os\nos._exit(0)", tmp_path)
        (tmp_path / "recovery").touch()
        assert "step-000001" in hub.repos["tester/model"].branches  # without its files
        code = """
outbox = Outbox(run)
outbox.add(Revision(1, 0.6, 90.0), checkpoint(run, 1), {})  # the run, started again, has reached the same step
outbox.drop("step-000001")
print(outbox.unsent())
outbox.send()
"""
        printed = run_client(hub, SETUP + code, tmp_path).splitlines()[-1]
        assert printed == "['step-000002', 'deletion of step-000001']"
        assert set(hub.repos["tester/model"].branches) == {"main", "step-000002"} and sent(hub, 2)
    assert unsent(tmp_path) == []


def test_a_card_that_is_replaced_while_it_is_being_sent_is_sent_anew(tmp_path):
    (tmp_path / "README.md").write_text("first")
    with closing(Outbox(tmp_path, "tester/model")) as outbox:
        outbox.add_card({"README.md": tmp_path / "README.md"})
    code = """
(run / "README.md").write_text("second")
outbox.add_card({"README.md": run / "README.md"})
(run / "recovery").touch()
print(outbox.finish(timeout=30))
"""
    with HubServer() as hub:
        hold_commits(hub, tmp_path, refuse=False)
        assert run_client(hub, SETUP + WHILE_HELD + code, tmp_path).splitlines()[-1] == "[]"
        repo = hub.repos["tester/model"]
        assert repo.files()["README.md"] == b"second" and list(repo.messages.values()).count("Update the card") == 2
    assert not list((tmp_path / FOLDER).glob("card-*"))


def test_the_tag_follows_when_a_revision_is_replaced(tmp_path):
    fill(tmp_path, range(1, 2), "step-000001")
    code = """
outbox = Outbox(run)
outbox.send()
outbox.add(Revision(1, 0.6, 90.0), checkpoint(run, 1, content=9), {})
print(outbox.unsent())
outbox.send()
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
outbox = Outbox(run)
shutil.rmtree(next((run / "_hub").glob("step-000001*")))
outbox.send()
print(outbox.unsent())
"""
        assert run_client(hub, SETUP + code, tmp_path).strip() == "[]"
        assert set(hub.repos["tester/model"].branches) == {"main", "step-000002"}


def test_an_outbox_that_is_opened_again_closes_the_earlier_one(tmp_path):
    """Training was interrupted in a notebook, and is begun again."""
    fill(tmp_path, range(1, 2))
    code = """
left = Outbox(run)
left.start(newest=4)
while not (run / "held").exists():
    sleep(0.02)
outbox = Outbox(run)
outbox.start(newest=4)
outbox.add(Revision(2, 0.6, 90.0), checkpoint(run, 2), {})
(run / "recovery").touch()
print(left.closed, outbox.finish(timeout=30), left._thread.is_alive())
"""
    with HubServer() as hub:
        hold_commits(hub, tmp_path)
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
outbox = Outbox(run, patience=20.0)
outbox.start(newest=4)
sleep(0.3)
time.sleep, time.monotonic = pause, lambda: now  # a clock that only pauses turn
outbox.finish(timeout=60)
print(now <= 20 + 8)
"""
    with HubServer() as hub:
        hub.fail("500", times=10**6)
        assert run_client(hub, SETUP + code, tmp_path).splitlines()[-1] == "True"


def test_a_repository_named_without_its_owner(tmp_path):
    code = """
outbox = Outbox(run, "bare")
outbox.add(Revision(1, 0.6, 90.0), checkpoint(run, 1), {})
outbox.send()
"""
    with HubServer() as hub:
        run_client(hub, SETUP + code, tmp_path)
        assert "step-000001" in hub.repos["tester/bare"].branches
    assert unsent(tmp_path) == []
