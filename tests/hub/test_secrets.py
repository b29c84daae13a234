# SPDX-License-Identifier: Apache-2.0
"""Nothing that is private reaches the card, the Hub or the log, wherever a user puts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset

from tests import tiny
from tests.hub.test_frontier import ROOT
from tests.hub_server import TOKEN, HubServer
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, GroupReward, REDIConfig
from trl_concise.evaluation.runs import FACTS_FILE, read_facts
from trl_concise.hub.settings import changed_settings, own_fields


IN_CODE = {
    "hub token": TOKEN,
    "closure": "sk-1a",
    "partial": "sk-2b",
    "run name": "run-of-hunter3",
    "server": "https://me:hunter4@vllm.internal/v1",
    "template": "hunter5",
    "optimizer": "note=hunter6",
    "field key": "hf_hunter7",
    "field word": "hunter8",
    "field number": "80085123",
    "field nested": "hunter9",
    "field url": "https://api.internal/?token=hunter10",
    "component key": "sk-1234567890 /home/me/private",
    "component nested": "Bearer hunter11",
    "component path": "/home/hunter12/keys.json",
    "component tensor": "77001133",
    "component of ours": "hunter13",
    "dataset": "hunter14",
    "dataset url": "https://hf:hunter15@host/data.jsonl",
}
IN_RECIPE = {
    "from_recipe": "hunter16",
    "recipe_vault": {"a": {"b": ["hunter17", {"url": "s3://key:hunter18@bucket"}]}},
}
IN_ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-hunter19",
    "WANDB_API_KEY": "hunter20",
    "DATABASE_URL": "postgres://me:hunter21@db/x",
}
ON_COMMAND_LINE = {
    "hunter22": ["-p", "hunter22"],
    "hunter23": ["--pw=hunter23"],
    "hunter24": ["--auth", "Bearer-hunter24"],
    "hunter25": ["db.password=hunter25"],
    "hunter26": ["+api.key=hunter26"],
    "hunter27": ['{"login": {"pass": "hunter27"}}'],
    "hunter28": ["hunter28"],
    "hunter29": ["-phunter29"],
    "hunter30": ["--learning_rate", "hunter30"],
    "hunter31": ["https://me:hunter31@host"],
    "hunter32": ["/home/hunter32/model"],
}
TEXTS = [*IN_CODE.values(), "hunter16", "hunter17", "hunter18", *IN_ENVIRONMENT.values(), *ON_COMMAND_LINE]
PRIVATE_FOLDER = "home-of-hunter33"


def test_no_secret_leaves_the_run(tiny_model, tmp_path):
    folder = tmp_path / PRIVATE_FOLDER
    folder.mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(IN_RECIPE))
    with HubServer() as hub:
        arguments = [argument for given in ON_COMMAND_LINE.values() for argument in given]
        environment = {"PYTHONPATH": str(ROOT), "SECRETS": json.dumps(IN_CODE), **IN_ENVIRONMENT, **hub.environment()}
        done = subprocess.run(
            [sys.executable, "-m", "tests.hub.train_with_secrets", tiny_model, str(recipe), *arguments],
            env={**os.environ, **environment},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    files = {f"{name}/{path}": data for name, repo in hub.repos.items() for path, data in repo.files().items()}
    assert {
        "README.md",
        "run.json",
        "trainer_state.json",
        "training_args.bin",
        "last-checkpoint/training_args.bin",
    } <= {path.removeprefix("tester/model/") for path in files}
    assert "tester/again/last-checkpoint/trainer_state.json" in files
    run = folder / "run"
    files |= {f"run/{name}": (run / name).read_bytes() for name in ("README.md", FACTS_FILE, "trainer_state.json")}
    files |= {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    texts = [*TEXTS, PRIVATE_FOLDER, str(tmp_path), tiny_model]
    assert len(texts) >= 30
    leaks = [(text, name) for text in texts for name, data in files.items() if text.encode() in data]
    assert leaks == []

    # What was chosen for publishing is there, and so is what is known to be harmless.
    facts = read_facts(run)
    assert facts["settings"]["strictness"] == 0.25 and facts["settings"]["judge_style"] == "kind"
    assert facts["settings"]["learning_rate"] == 1e-3 and facts["settings"]["reward_weights"] == [1.0, 0.5, 0.5, 1.0]
    published = [method.get("settings") for method in facts["methods"]]
    assert published == [{"strength": 0.75, "judge": "main.<locals>.judge"}, {"floor": -0.25}, None]
    arguments = torch.load(run / "training_args.bin", weights_only=True)  # settings, not a pickled config
    assert arguments["strictness"] == 0.25 and arguments.items() <= facts["settings"].items()


@dataclass
class MyConfig(ConciseGRPOConfig):
    card_settings = ("shown",)

    shown: str = ""
    words: str = ""
    count: int = 0
    table: dict[str, Any] | None = None


def test_only_known_fields_and_chosen_ones_are_settings(tmp_path):
    text = {
        name: "hunter2"
        for name in own_fields(MyConfig)
        if MyConfig.__dataclass_fields__[name].type in ("str", "str | None", str, str | None)
        and name not in ("output_dir", "log_level", "log_level_replica", "resume_from_checkpoint")
    }
    kept = MyConfig(str(tmp_path), use_cpu=True)
    for name, value in text.items():  # not validated by a constructor
        setattr(kept, name, value)
    kept.shown, kept.words, kept.count, kept.table = "this", "hunter2", 3, {"a": "hunter2"}
    kept.loss_type = "https://me:hunter2@host"
    words = {
        "correctness",
        "importance_sampling_level",
        "multi_objective_aggregation",
        "scale_rewards",
        "vllm_importance_sampling_mode",
        "vllm_mode",
    }
    assert changed_settings(kept) == {"shown": "this"} | dict.fromkeys(words, "hunter2")  # TRL refuses other words


def test_trackers_do_not_get_the_text_of_the_users_own_fields(tmp_path):
    args = MyConfig(str(tmp_path), use_cpu=True, shown="this", words="hunter2", count=3, table={"a": "hunter2"})
    logged = args.to_dict()
    assert (logged["shown"], logged["count"]) == ("this", 3)
    assert (logged["words"], logged["table"]) == ("<WORDS>", "<TABLE>")
    assert "hunter2" not in args.to_json_string() + str(args.to_sanitized_dict())
    plain = REDIConfig(str(tmp_path), use_cpu=True, run_name="mine").to_dict()
    assert plain["run_name"] == "mine" and plain["alpha"] == 0.8


class Odd(GroupReward):
    """A component whose constructor takes what JSON lacks, and publishes all of it."""

    name = "odd"
    card_settings = ("judge", "weights", "file", "limits", "table", "tags", "kind")

    def __init__(self, judge, weights, file, limits, table, tags, kind):
        self.judge, self.weights, self.file, self.limits = judge, weights, file, limits
        self.table, self.tags, self.kind = table, tags, kind

    def score(self, rollouts):
        return torch.zeros(len(rollouts.lengths))


def test_settings_that_json_lacks_are_saved_as_text(tiny_model, problems, tmp_path):
    odd = Odd(
        judge=tiny.even_reward,
        weights=torch.ones(2, 3),
        file=Path("/home/me/keys.json"),
        limits=(float("inf"), float("nan"), 1.5),
        table={1: [Path("/home/me/b"), object()], "x|y": "two\nlines"},
        tags={"b", "a"},
        kind=Dataset,
    )
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, save_strategy="steps", save_steps=1, max_steps=1))
    trainer = ConciseGRPOTrainer(tiny_model, [tiny.even_reward, odd], args, problems)
    trainer.train()
    assert (tmp_path / "checkpoint-1" / "concise_state" / "state.json").exists()
    text = (tmp_path / FACTS_FILE).read_text()
    facts = json.loads(text, parse_constant=pytest.fail)
    assert facts["methods"][0]["settings"] == {
        "judge": "even_reward",
        "weights": "tensor of shape (2, 3)",
        "file": "keys.json",
        "limits": ["inf", "nan", 1.5],
        "table": {"1": ["b", "object"], "x|y": "two\nlines"},
        "tags": ["a", "b"],
        "kind": "Dataset",
    }
    card = (tmp_path / "README.md").read_text()
    assert r"x\|y" in card and "two\\nlines" in card
    assert "/home/me" not in text + card and "0x" not in text + card


def test_the_log_of_the_output_folder_does_not_name_the_folder(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path))
    trainer = ConciseGRPOTrainer(tiny_model, tiny.even_reward, args, problems)
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-9")
    trainer.create_model_card()
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == "checkpoint-9" and state["global_step"] == 0
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-9")  # the run needs it
