# SPDX-License-Identifier: Apache-2.0
"""What waits for the Hub arrives whole, or stays on disk and is named."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from tests.hub.outboxes import checkpoint, fill, steps, unsent
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
from tests.hub.outboxes import checkpoint, drop, set_best
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
    ("status", "headers", "failures", "delay"),
    [
        (500, {}, 1, 1),
        (500, {}, 4, 8),
        (503, {}, 5000, 8),
        (429, {"Retry-After": "17"}, 1, 17),
        (429, {}, 2, 2),
        (412, {}, 1, 1),
    ],
)
def test_a_failure_is_followed_by_a_growing_or_the_requested_pause(status, headers, failures, delay):
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.response = SimpleNamespace(status_code=status, headers=headers)
    assert retry_delay(error, failures) == delay


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
outbox = Outbox(run, "tester/model")
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
    assert not list((tmp_path / FOLDER).glob("*/step-*"))


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
    folder = checkpoint(tmp_path, 1)
    (folder / "model.safetensors").unlink()  # the server does not have Xet's storage
    Outbox(tmp_path, "tester/model").add(Revision(1, 0.5, 99.0), folder, {})
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
        outbox = Outbox(run, "tester/model")
        outbox.send()
        drop(outbox, "step-000001")
        set_best(outbox, "step-000003")
        print(outbox.unsent())
        outbox.send()
        print(outbox.unsent())
        """.replace("\n        ", "\n")
        lines = run_client(hub, SETUP + code, tmp_path).splitlines()
        assert lines == [
            "[\"tag 'best' on step-000003\"]",
            "[]",
        ]
        repo = hub.repos["tester/model"]
        assert set(repo.branches) == {"main", "step-000002", "step-000003"}
        assert steps(Outbox(tmp_path, "tester/model")) == [2, 3]
        assert repo.tags == {"best": repo.branches["step-000003"]}


def test_a_record_without_its_best_revision_does_not_stop_a_push(tmp_path):
    fill(tmp_path, range(1, 2))
    record = tmp_path / FOLDER / "tester--model" / "outbox.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "best": "step-000009"}))
    with HubServer() as hub:
        assert run_client(hub, SETUP + SEND, tmp_path).strip() == "[]"
        assert sent(hub, 1) and hub.repos["tester/model"].tags == {}


IN_THE_BACKGROUND = """
outbox = Outbox(run, "tester/model", patience=0.5)
outbox.wake()
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
    with HubServer() as hub:
        run_client(hub, SETUP + "Outbox(run, 'tester/model').send()", tmp_path)
        assert sent(hub, 1) and sent(hub, 2)
    assert unsent(tmp_path) == []


def test_a_refused_revision_does_not_hold_up_the_others(tmp_path):
    fill(tmp_path, range(1, 4), "step-000003")
    code = """
outbox = Outbox(run, "tester/model", patience=5)
drop(outbox, "step-000002")
try:
    outbox.send()
except Exception as error:
    print(type(error).__name__)
print(outbox.unsent())
"""
    with HubServer() as hub:
        hub.fail("auth", times=1000, path="/commit/step-000001")
        lines = run_client(hub, SETUP + code, tmp_path).splitlines()
        assert lines[-2:] == ["HfHubHTTPError", "['step-000001']"]
        assert sent(hub, 3) and hub.repos["tester/model"].tags.keys() == {"best"}
        assert "step-000002" not in hub.repos["tester/model"].branches
    with HubServer() as hub:  # which takes it now
        run_client(hub, SETUP + "Outbox(run, 'tester/model').send()", tmp_path)
        assert sent(hub, 1)


def hold_commits(hub: HubServer, run: Path, refuse: bool = True, branch: str = "") -> None:
    """
    Refuse commits, or keep them waiting, until there is a file `recovery` in the run's folder. With the first commit, a file
    `held` appears there.
    """
    next_fault = hub.next_fault

    def hold(path: str) -> str | None:
        if f"/commit/{branch}" in path and not (run / "recovery").exists():
            (run / "held").touch()
            while not refuse and not (run / "recovery").exists():
                time.sleep(0.02)
            return "500" if refuse else None
        return next_fault(path)

    hub.next_fault = hold


WHILE_HELD = """
outbox = Outbox(run, "tester/model")
outbox.wake()
while not (run / "held").exists():  # the first version is being sent
    sleep(0.02)
"""


@pytest.mark.parametrize("refuse", [True, False])
def test_what_is_replaced_while_it_is_being_sent_is_sent_anew(refuse, tmp_path):
    """A run that was started again has reached the same step. What the Hub says about the first version changes nothing."""
    fill(tmp_path, range(1, 2), "step-000001")
    code = """
outbox.add(Revision(1, 0.6, 90.0), checkpoint(run, 1, content=9), {})
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
    assert not list((tmp_path / FOLDER).glob("*/step-*"))


@pytest.mark.parametrize("refuse", [True, False])
def test_what_is_dropped_while_it_is_being_sent_is_deleted(refuse, tmp_path):
    fill(tmp_path, range(1, 2), "step-000001")
    code = """
drop(outbox, "step-000001")
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
outbox = Outbox(run, "tester/model")
outbox.add(Revision(1, 0.6, 90.0), checkpoint(run, 1), {})  # the run, started again, has reached the same step
drop(outbox, "step-000001")
print(outbox.unsent())
outbox.send()
"""
        printed = run_client(hub, SETUP + code, tmp_path).splitlines()[-1]
        assert printed == "['step-000002']"
        assert set(hub.repos["tester/model"].branches) == {"main", "step-000002"} and sent(hub, 2)
    assert unsent(tmp_path) == []


@pytest.mark.parametrize("update_card", [True, False])
def test_the_main_branch_receives_the_card_of_the_last_revision(update_card, tmp_path):
    outbox, card = Outbox(tmp_path, "tester/model"), tmp_path / "README.md"
    for step in (1, 2):
        card.write_text(f"Step {step}")
        outbox.add(Revision(step, 0.5, 9.0 - step), checkpoint(tmp_path, step), {"README.md": card})
    with HubServer() as hub:
        run_client(hub, SETUP + f"Outbox(run, 'tester/model').send(update_card={update_card})", tmp_path)
        repo = hub.repos["tester/model"]
        assert repo.files("step-000001")["README.md"] == b"Step 1"
        main = {".gitattributes", "README.md"} if update_card else {".gitattributes"}
        assert set(repo.files()) == main and repo.files().get("README.md", b"Step 2") == b"Step 2"


def test_the_tag_follows_when_a_revision_is_replaced(tmp_path):
    fill(tmp_path, range(1, 2), "step-000001")
    code = """
outbox = Outbox(run, "tester/model")
outbox.send()
outbox.add(Revision(1, 0.6, 90.0), checkpoint(run, 1, content=9), {})
print(outbox.unsent())
outbox.send()
"""
    with HubServer() as hub:
        printed = run_client(hub, SETUP + code, tmp_path).splitlines()[-1]
        assert printed == "['step-000001', \"tag 'best' on step-000001\"]"
        assert sent(hub, 1, content=9, revision="best")


@pytest.mark.parametrize("deleted", ["", "model.safetensors", "concise_state"])
def test_a_revision_whose_files_were_deleted_is_named_and_not_sent(deleted, tmp_path):
    fill(tmp_path, range(1, 3), "step-000001")
    code = f"""
import shutil
outbox = Outbox(run, "tester/model")
(folder,) = (run / "_hub").glob("*/step-000001*")
deleted = folder / {deleted!r}
deleted.unlink() if deleted.is_file() else shutil.rmtree(deleted)
outbox.send()
print(outbox.unsent())
"""
    with HubServer() as hub:
        done = run_client(hub, SETUP + "import logging; logging.basicConfig(stream=sys.stdout)" + code, tmp_path)
        warning, rest = done.splitlines()
        assert "step-000001 is not sent to the Hub: files in " in warning and rest == "[]"
        assert set(hub.repos["tester/model"].branches) == {"main", "step-000002"}


def test_training_that_is_interrupted_and_begun_again_sends_with_one_thread_at_a_time(tmp_path):
    """In a notebook, the thread of the interrupted training is still sending when the next one begins."""
    fill(tmp_path, range(1, 2))
    code = """
left = Outbox(run, "tester/model")
left.wake()
while not (run / "held").exists():
    sleep(0.02)
outbox = Outbox(run, "tester/model")
outbox.wake()
outbox.add(Revision(2, 0.6, 90.0), checkpoint(run, 2), {})
(run / "recovery").touch()
print(outbox.finish(timeout=30))
"""
    with HubServer() as hub:
        hold_commits(hub, tmp_path)
        assert run_client(hub, SETUP + code, tmp_path).splitlines()[-1] == "[]"
        assert sent(hub, 1) and sent(hub, 2)
        assert sum("/branch/step-000001" in request for request in hub.requests) == 1
    assert unsent(tmp_path) == []


def test_two_processes_do_not_send_at_once(tmp_path):
    fill(tmp_path, range(1, 2))
    code = """
import subprocess
again = "import sys; from trl_concise.hub.outbox import Outbox; Outbox(sys.argv[1], 'tester/model', patience=0).send()"
command = [sys.executable, "-c", again, str(run)]
print(subprocess.run(command, capture_output=True, text=True).stderr)
(run / "recovery").touch()
print(outbox.finish(timeout=30))
"""
    with HubServer() as hub:
        hold_commits(hub, tmp_path, refuse=False, branch="step-000001")
        lines = run_client(hub, SETUP + WHILE_HELD + code, tmp_path).splitlines()
    assert lines[-1] == "[]" and "Another process is sending" in "".join(lines)


def test_the_end_of_training_waits_for_patience_seconds(tmp_path):
    fill(tmp_path, range(1, 3))
    code = """
now = 0.0
def pause(seconds):
    global now
    now += seconds
time.sleep, time.monotonic = pause, lambda: now  # a clock that only pauses turn
outbox = Outbox(run, "tester/model", patience=20.0)
outbox.wake()
sleep(0.3)
ended = now
outbox.finish(timeout=60)
print(0 < now - ended <= 2 * 20)  # the attempt that was being made, and the last one
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
