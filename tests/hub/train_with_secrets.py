# SPDX-License-Identifier: Apache-2.0
"""
Train with a secret in every place that a run can see, and push in both ways.

    python -m tests.hub.train_with_secrets MODEL RECIPE [ANYTHING ...]

The secrets come from the environment variable SECRETS (JSON: place -> value), the command line and the recipe.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset

from tests import tiny
from trl_concise import GroupReward, HAPOConfig, HAPOLengthReward, HAPOTrainer
from trl_concise.hub.push import push_run


@dataclass
class MyConfig(HAPOConfig):
    card_settings = ("strictness", "judge_style")

    strictness: float = 0.5
    judge_style: str = ""
    judge_api_key: str | None = None
    wandb_secret: str = ""
    judge_pin: int = 0
    vault: dict[str, Any] | None = None
    judge_urls: list[str] | None = None
    from_recipe: str = ""
    recipe_vault: dict[str, Any] | None = None


class MyReward(GroupReward):
    name = "mine"
    card_settings = ("strength", "judge")

    def __init__(self, strength, judge, api_key, headers, keys_file, weights):
        self.strength, self.judge = strength, judge
        self.api_key, self.headers, self.keys_file, self.weights = api_key, headers, keys_file, weights

    def score(self, rollouts):
        return torch.zeros(len(rollouts.lengths))


class MyLengthReward(HAPOLengthReward):
    name = "my_hapo"

    def __init__(self, floor, password):
        super().__init__(floor=floor)
        self.password = password


def main(model: str, recipe: str) -> None:
    secrets = json.loads(os.environ.pop("SECRETS"))

    def judge(completion_ids, key=secrets["closure"], **kwargs):
        return tiny.even_reward(completion_ids)

    settings = tiny.settings(
        "run",
        push_to_hub=True,
        hub_model_id="tester/model",
        hub_strategy="checkpoint",
        hub_token=secrets["hub token"],
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="accuracy",
        reward_weights=[1.0, 0.5, 0.5],
        run_name=secrets["run name"],
        vllm_server_base_url=secrets["server"],
        chat_template_kwargs={"key": secrets["template"]},
        optim_args=secrets["optimizer"],
        strictness=0.25,
        judge_style="kind",
        judge_api_key=secrets["field key"],
        wandb_secret=secrets["field word"],
        judge_pin=int(secrets["field number"]),
        vault={"db": {"passwords": [secrets["field nested"]]}},
        judge_urls=[secrets["field url"]],
        **yaml.safe_load(Path(recipe).read_text()),
    )
    rewards = [
        partial(judge, key=secrets["partial"]),
        MyReward(
            strength=0.75,
            judge=judge,
            api_key=secrets["component key"],
            headers={"Authorization": [secrets["component nested"]]},
            keys_file=Path(secrets["component path"]),
            weights=torch.tensor([float(secrets["component tensor"])]),
        ),
        MyLengthReward(floor=-0.25, password=secrets["component of ours"]),
    ]
    problems = Dataset.from_list([{"prompt": f"problem {i}", "answer_key": secrets["dataset"]} for i in range(8)])
    trainer = HAPOTrainer(model, rewards, MyConfig(**settings), problems, problems.select(range(2)))
    trainer.train()
    trainer.push_to_hub(dataset_name=secrets["dataset url"])
    print(push_run("run", "tester/again", token=secrets["hub token"]))


if __name__ == "__main__":
    main(*sys.argv[1:3])
