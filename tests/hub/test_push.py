# SPDX-License-Identifier: Apache-2.0
"""`trl-concise push`: the card that arrives tells the truth about what arrives with it."""

from __future__ import annotations

import pytest

from tests.hub.test_card import a_run
from tests.hub_server import HubServer
from tests.test_hub_server import run_client


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
