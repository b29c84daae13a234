# SPDX-License-Identifier: Apache-2.0
"""The card of trainers that take no parts; `test_card.py` has those that do."""

from __future__ import annotations

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig

from tests.distributed import redi
from tests.hub_server import card_errors
from trl_concise import CFTTrainer, REDITrainer
from trl_concise.cli import main
from trl_concise.hub.facts import FACTS_FILE


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
