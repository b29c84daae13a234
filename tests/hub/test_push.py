# SPDX-License-Identifier: Apache-2.0
"""`trl-concise push`: the card that arrives tells the truth about what arrives with it."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.hub.test_card import a_run
from tests.hub.test_outbox import checkpoint, fill, unsent
from tests.hub_server import HubServer
from tests.test_hub_server import run_client
from trl_concise.hub.card import card_files, write_card
from trl_concise.hub.outbox import Outbox, Revision


PUSH = "import sys\nfrom trl_concise.cli import main\nsys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("whole", [True, False])
def test_the_card_says_how_to_resume_if_the_checkpoint_comes_along(whole, tmp_path):
    run = a_run(tmp_path / "run")
    (run / "checkpoint-best").mkdir()  # somebody's copy
    checkpoint = run / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    if whole:
        (checkpoint / "trainer_state.json").write_text('{"log_history": []}')
    with HubServer() as hub:
        run_client(hub, PUSH, "push", run, "--repo_id", "tester/elsewhere")
        files = hub.repos["tester/elsewhere"].files()
    card = files["README.md"].decode()
    assert 'model="tester/elsewhere"' in card  # not where the run was to go
    assert ("last-checkpoint/model.safetensors" in files) == whole
    assert ("resume_from_checkpoint" in card) == whole
    if whole:
        assert 'folder = snapshot_download("tester/elsewhere")' in card and 'f"{folder}/last-checkpoint"' in card


def test_a_run_goes_where_it_went_before(tmp_path):
    planned = a_run(tmp_path / "planned", repo_id="tester/planned")
    run = a_run(tmp_path / "run")
    code = """
import sys
from trl_concise.hub.push import push_run
planned, run = sys.argv[1:]
print(push_run(run, "bare"), push_run(run), push_run(planned), push_run(planned, "tester/other"), push_run(planned))
"""
    with HubServer() as hub:
        printed = run_client(hub, code, planned, run).splitlines()[-1]
    assert printed == "tester/bare tester/bare tester/planned tester/other tester/other"


def test_a_push_elsewhere_leaves_the_record_of_the_revisions_alone(tmp_path):
    run = a_run(tmp_path)
    with closing(Outbox(run, "tester/model")) as outbox:
        outbox.add(revision := Revision(1, 0.5, 99.0), checkpoint(run, 1))
        outbox.begin(revision)
        outbox.mark_sent(revision, "a" * 40)
    with HubServer() as hub:
        run_client(hub, PUSH, "push", run, "--repo_id", "tester/elsewhere")
        assert set(hub.repos["tester/elsewhere"].branches) == {"main"}
    with closing(Outbox(run)) as outbox:
        assert (outbox.repo_id, list(outbox.revisions)) == ("tester/model", ["step-000001"])


def test_what_the_warning_recommends_keeps_the_run_private_and_its_tag(tmp_path):
    fill(tmp_path, range(1, 2), "step-000001", private=True, tag="frontier")
    with HubServer() as hub:
        run_client(hub, PUSH, "push", tmp_path)
        repo = hub.repos["tester/model"]
        assert repo.private and set(repo.tags) == {"frontier"}


def test_a_card_that_waits_does_not_take_the_place_of_a_newer_one(tmp_path):
    run = a_run(tmp_path)
    write_card(run)
    with closing(Outbox(run, "tester/model")) as outbox:
        outbox.add_card(card_files(run))  # the Hub was down at the end of training
    with HubServer() as hub:
        run_client(hub, PUSH, "push", run)
        assert hub.repos["tester/model"].files()["README.md"] == (run / "README.md").read_bytes()
        assert "Update the card" not in hub.repos["tester/model"].messages.values()
    assert 'model="tester/model"' in (run / "README.md").read_text()
    assert unsent(run) == []


def test_what_is_private_stays_at_home_in_subfolders_too(tmp_path):
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
    with HubServer() as hub:
        run_client(hub, PUSH, "push", run, "--repo_id", "tester/model")
        sent = hub.repos["tester/model"].files()
    expected = {"model.safetensors", "README.md", "run.json", "sft/model.safetensors", "eval/summary.json"}
    assert set(sent) - {".gitattributes"} == expected
