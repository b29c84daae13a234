# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from trl_concise import HAPOConfig
from trl_concise.demo import SETTINGS, generate_problems, model_path, train_dataset
from trl_concise.demo.problems import TRAINING_OPERATIONS
from trl_concise.demo.settings import TRAINING_PROBLEMS


def test_settings_are_a_config():
    fields = {name: value for name, value in SETTINGS.items() if name != "model_name_or_path"}
    config = HAPOConfig(**fields)
    assert config.per_device_train_batch_size % config.num_generations == 0
    assert SETTINGS["model_name_or_path"] == str(model_path())


def test_each_problem_is_visited_several_times():
    prompts_per_step = SETTINGS["per_device_train_batch_size"] // SETTINGS["num_generations"]
    assert SETTINGS["max_steps"] * prompts_per_step >= 3 * TRAINING_PROBLEMS  # the first visit has no length reward


def test_train_dataset():
    dataset = train_dataset(5, seed=1)
    rows = generate_problems(5, seed=1, operations=TRAINING_OPERATIONS)
    assert dataset.column_names == ["prompt", "solution", "prompt_id"]
    assert dataset["prompt_id"] == [row["prompt_id"] for row in rows]
    assert dataset[0]["prompt"] == [{"role": "user", "content": rows[0]["problem"]}]
    assert dataset[0]["solution"] == rows[0]["answer"]
    assert len(train_dataset()) == TRAINING_PROBLEMS
