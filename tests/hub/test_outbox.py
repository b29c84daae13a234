# SPDX-License-Identifier: Apache-2.0
"""What waits for the Hub arrives whole, or stays on disk and is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError

from tests.hub_server import HubServer
from tests.test_hub_server import run_client
from trl_concise.hub.outbox import FOLDER, Outbox, Revision, retry_delay


# Begins every client below. The pauses between two tries, the client's and ours, pass at another pace.
SETUP = """
import sys, time
from pathlib import Path
sleep = time.sleep
time.sleep = lambda seconds: sleep(seconds / 200)
from trl_concise.hub.outbox import FAILURES, Outbox, Revision
run = Path(sys.argv[1])
"""


def checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    (folder / "concise_state").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes([step]) * 4000)
    (folder / "concise_state" / "state.json").write_text(json.dumps({"step": step}))
    (folder / "training_args.bin").write_bytes(b"private")
    return folder


def outbox(run: Path, steps: range) -> Outbox:
    box = Outbox(run, "tester/model")
    for step in steps:
        box.add(Revision(step, 0.5, 100.0 - step), checkpoint(run, step))
    return box


def sent(hub: HubServer, step: int) -> bool:
    """Whether a revision holds the files of its checkpoint, and nothing else."""
    files = hub.repos["tester/model"].files(f"step-{step:06d}")
    files.pop(".gitattributes")
    return files == {
        "model.safetensors": bytes([step]) * 4000,
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
def test_a_failure_is_answered_by_a_growing_pause_or_the_one_asked_for(status, headers, failures, low, high):
    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.response = SimpleNamespace(status_code=status, headers=headers)
    assert low <= retry_delay(error, failures) <= high


def test_what_is_hopeless_is_not_tried_again():
    for status in (400, 401, 403, 404):
        error = HfHubHTTPError.__new__(HfHubHTTPError)
        error.response = SimpleNamespace(status_code=status, headers={})
        assert retry_delay(error, 1) is None
    assert retry_delay(ValueError("Invalid metadata in README.md."), 1) is None
    assert retry_delay(ConnectionRefusedError(), 1) is not None
    assert retry_delay(json.JSONDecodeError("", "", 0), 1) is not None


def test_what_waits_survives_its_checkpoint_and_the_process(tmp_path):
    box = outbox(tmp_path, range(1, 3))
    staged = tmp_path / FOLDER / "step-000001" / "model.safetensors"
    assert staged.stat().st_nlink == 2  # no copy
    (tmp_path / "checkpoint-1" / "model.safetensors").unlink()
    assert staged.read_bytes() == bytes([1]) * 4000
    box.set_best("step-000002")
    again = Outbox(tmp_path)
    assert (again.repo_id, again.unsent()) == (
        "tester/model",
        ["step-000001", "step-000002", "tag 'best' on step-000002"],
    )
    again.drop("step-000001")
    assert not staged.exists() and Outbox(tmp_path).unsent() == ["step-000002", "tag 'best' on step-000002"]


def test_another_repository_is_refused_while_something_waits(tmp_path):
    outbox(tmp_path, range(1, 2))
    with pytest.raises(
        ValueError, match=r"holds \['step-000001'\], which wait for tester/model, but repo_id is 'other'"
    ):
        Outbox(tmp_path, "other")


def test_a_repository_must_be_known(tmp_path):
    with pytest.raises(ValueError, match=r"No repository is known .* repo_id \(--repo_id\)"):
        Outbox(tmp_path)


def test_twenty_pushes_arrive_whole_though_every_second_request_fails(tmp_path):
    outbox(tmp_path, range(1, 21)).set_best("step-000007")
    with HubServer() as hub:
        hub.fail_at_random(0.5, kinds=("500", "429", "cut", "lost"))
        code = "outbox = Outbox(run)\noutbox.send()\nprint(outbox.unsent())"
        assert run_client(hub, SETUP + code, tmp_path).strip() == "[]"
        assert all(sent(hub, step) for step in range(1, 21))
        repo = hub.repos["tester/model"]
        assert len(repo.branches) == 21 and repo.tags == {"best": repo.branches["step-000007"]}
        assert len(hub.requests) > 200
    assert not list((tmp_path / FOLDER).glob("step-*"))


def test_revisions_are_replaced_retagged_and_deleted(tmp_path):
    outbox(tmp_path, range(1, 4)).set_best("step-000001")
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
        assert set(Outbox(tmp_path).revisions) == {"step-000002", "step-000003"}
        assert repo.tags == {"best": repo.branches["step-000003"]}


@pytest.mark.parametrize("state", ["waiting", "sent"])
def test_a_revision_that_is_dropped_is_no_longer_the_best(state, tmp_path):
    box = outbox(tmp_path, range(1, 3))
    box.revisions["step-000001"].state = state
    box.set_best("step-000001")
    box.drop("step-000001")  # and the process dies before another is the best
    assert Outbox(tmp_path).best is None
    assert not [what for what in box.unsent() if what.startswith("tag")]


def test_a_record_whose_best_revision_is_gone_does_not_stop_a_push(tmp_path):
    outbox(tmp_path, range(1, 2))
    record = tmp_path / FOLDER / "outbox.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "best": "step-000009"}))
    with HubServer() as hub:
        code = "outbox = Outbox(run)\noutbox.send()\nprint(outbox.unsent())"
        assert run_client(hub, SETUP + code, tmp_path).strip() == "[]"
        assert sent(hub, 1) and hub.repos["tester/model"].tags == {}


IN_THE_BACKGROUND = """
outbox = Outbox(run, patience=0.5)
outbox.start(newest=4)
outbox.wake()
sleep(0.5)  # a step of training
print(outbox.finish(timeout=2))
"""


@pytest.mark.parametrize("trouble", ["dead", "silent", "forbidden"])
def test_what_the_hub_does_not_take_is_named_and_sent_later(trouble, tmp_path):
    box = outbox(tmp_path, range(1, 3))
    with HubServer() as hub:
        if trouble == "silent":
            hub.slowness = 600
            hub.fail("slow", times=1000)
        elif trouble == "forbidden":
            hub.fail("auth", times=1000)
        else:
            hub.__exit__()
        assert run_client(hub, SETUP + IN_THE_BACKGROUND, tmp_path).splitlines()[-1] == str(box.unsent())
    if trouble != "dead":
        return
    with HubServer() as hub:
        run_client(hub, "from trl_concise.cli import main\nimport sys\nsys.exit(main(sys.argv[1:]))", "push", tmp_path)
        assert sent(hub, 1) and sent(hub, 2)
        assert "last-checkpoint/model.safetensors" not in hub.repos["tester/model"].files()  # no trainer_state.json
    assert Outbox(tmp_path).unsent() == []
