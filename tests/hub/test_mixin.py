# SPDX-License-Identifier: Apache-2.0
"""When a trainer writes its card, and where not; the card of trainers that take no parts (`test_card.py` has the others)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig

from tests.distributed import redi
from tests.hub.test_frontier import ROOT
from tests.hub_server import HubServer, card_errors
from trl_concise import CFTTrainer, REDITrainer
from trl_concise.cli.commands import main
from trl_concise.evaluation.runs import FACTS_FILE, read_facts


CRITIQUES = Dataset.from_list(
    [{"question": f"{i} + {i}?", "solution": "7", "critique": "Conclusion: wrong [END]"} for i in range(8)]
)
TRAINERS = {
    "REDI": (REDITrainer, redi.pairs(), {"alpha": 0.5}, "2505.24850", "xu2025redi"),
    "CFT": (CFTTrainer, CRITIQUES, {"overlong": "error"}, "2501.17703", "wang2025critique"),
}


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize("name", TRAINERS)
def test_the_card_of_a_trained_model(name, peft, tiny_model, tmp_path):
    trainer_class, dataset, changed, paper, citation = TRAINERS[name]
    run = tmp_path / "run"
    settings = redi.settings(run, save_strategy="steps", save_steps=2, hub_token="hf_secret", **changed)
    config = LoraConfig(r=4, target_modules=["q_proj"]) if peft else None
    trainer = trainer_class(
        tiny_model, args=trainer_class.config_class(**settings), train_dataset=dataset, peft_config=config
    )
    trainer.train()
    trainer.save_model()  # PEFT edits the card here, and writes its own into the checkpoint

    for path in [run / "README.md", *([run / "checkpoint-2" / "README.md"] if peft else [])]:
        card = ModelCard.load(path)
        assert {"trl", "trl-concise", name.lower()} <= set(card.data.tags)
        assert ({"peft", "lora"} <= set(card.data.tags)) == peft
        assert card.data.base_model is None  # a folder of this machine
        assert f"| {name} | [" in card.text and f"https://huggingface.co/papers/{paper}" in card.text
        assert ("Reconstructed: the whitespace" in card.text) == (name == "CFT")
        for setting, value in changed.items():
            assert f"| `{setting}` | {value} |" in card.text
        assert citation in card.text and "vonwerra2020trl" in card.text
        assert card_errors(str(card)) == []
    trainer.create_model_card()
    assert main(["card", str(run)]) == 0
    published = (run / "README.md").read_bytes() + (run / FACTS_FILE).read_bytes()
    assert b"| Optimizer steps | 2 |" in published and b"| Wall time |" in published
    for private in (str(tmp_path), tiny_model, "hf_secret"):
        assert private.encode() not in published


def test_a_card_describes_its_run_and_does_not_replace_the_users_card(tiny_model, tmp_path):
    run, mine = tmp_path / "run", tmp_path / "my-repo"
    for steps in (2, 1):  # the second in the folder of the first
        args = REDITrainer.config_class(**redi.settings(run, max_steps=steps))
        config = LoraConfig(r=4, target_modules=["q_proj"])
        trainer = REDITrainer(tiny_model, args=args, train_dataset=redi.pairs(), peft_config=config)
        trainer.train()
        trainer.save_model()
        assert f"| Optimizer steps | {steps} |" in (run / "README.md").read_text()

    mine.mkdir()
    (mine / "README.md").write_text("# My own words\n")
    trainer.save_model(str(mine))
    assert "# My own words" in (mine / "README.md").read_text() and not (mine / FACTS_FILE).exists()
    for _ in range(2):  # the second time, what is there is ours
        trainer.save_model(str(tmp_path / "new"))
        assert (tmp_path / "new" / "README.md").read_bytes() == (run / "README.md").read_bytes()


class HoldingHub(HubServer):
    """Keeps large files waiting for as long as a file exists."""

    def __init__(self, hold):
        super().__init__()
        self.hold = hold

    def next_fault(self, path):
        while "/info/lfs" in path and self.hold.exists():
            time.sleep(0.02)
        return super().next_fault(path)


def test_files_being_uploaded_are_not_rewritten(tiny_model, tmp_path):
    run, hold = tmp_path / "run", tmp_path / "hold"
    with HoldingHub(hold) as hub:
        done = subprocess.run(
            [sys.executable, "-m", "tests.hub.save_while_uploading", tiny_model, str(run), str(hold)],
            env={**os.environ, **hub.environment()},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["None", "None"]
    repo = hub.repos["tester/model"]
    assert list(repo.messages.values()) == [
        "initial commit",
        "Training in progress, step 1",
        "Training in progress, step 3",
    ]
    for step, commit in zip([1, 3], list(repo.commits)[1:], strict=True):
        files = repo.files(commit)
        assert json.loads(files["run.json"])["steps"] == json.loads(files["trainer_state.json"])["global_step"] == step
        state = json.loads(files["concise_state/state.json"])["components"]["hapo"]["tensors"]
        assert hashlib.sha256(files["concise_state/hapo.safetensors"]).hexdigest() == state["sha256"]
    assert read_facts(run)["steps"] == 4
