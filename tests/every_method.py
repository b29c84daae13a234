# SPDX-License-Identifier: Apache-2.0
"""
Every method of the table that generates, as a user trains with it: its drop-in trainer, or its components in their slots.

A method that is added to the table is tested without a further line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

import trl_concise as tc
from tests.component_rows import ROWS
from trl_concise.data.effort import with_effort
from trl_concise.methods.one_shot_rlvr import repeat_example
from trl_concise.methods.table import METHODS


OFFLINE = {"DPOTrainer", "SFTTrainer", "RewardTrainer", "DistillationTrainer"}  # slots
# They need a model that writes its reasoning between markers: tests/methods/test_adapt_think.py and test_auto_think.py.
THINKING = {"AdaptThink", "AutoThink"}
# Problems with levels, and fast answers of which some are correct: tests/methods/test_saturn.py and test_thinker.py.
OWN_PROBLEMS = {"SATURN", "Thinker"}
TOOLS = {"OTC"}  # need a model that calls tools: tests/methods/test_otc.py and tests/demo/test_tools.py
# By name, such as `laser_d_laser_de`: a module may have several methods.
ONLINE = {
    re.sub(r"\W+", "_", method.name).lower(): method
    for method in METHODS
    if method.package == "methods"
    and not OFFLINE & set(method.slots)
    and method.name not in THINKING | TOOLS | OWN_PROBLEMS
}
# What the default settings of a method need, or what makes it act within a few steps.
SETTINGS: dict[str, dict[str, Any]] = {
    "delethink": {"loss_type": "grpo"},
    "laser_d_laser_de": {"monitor_prompts": 2, "monitor_generations": 2},
    "prorl": {"beta": 0.0},  # the penalty is K2Penalty's
    "t_spmo": {"scale_rewards": "none", "loss_type": "dr_grpo"},
}
# Arguments by component, where those of its row suit only the completions of `tests/slot_rows.py`.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "GRPOLEADReward": {
        "unanswered_reward": None,
        "repetition_reward": None,
    },  # which no completion of a small model would have
    "StagedBudget": {"limits": [32, 48], "steps": [4]},
    "RLPRReward": {"answer_column": "solution"},
}


def build(
    name: str, model: str, reward_funcs: Sequence[Any], settings: Mapping[str, Any], dataset: Dataset, **more: Any
):
    """
    Return the trainer of a method.

    Args:
        name (`str`): Key of [`ONLINE`].
        model (`str`): Folder of the model.
        reward_funcs (`Sequence`): The reward functions of the user, to which the method adds its own.
        settings (`Mapping[str, Any]`): Arguments of the config; those that the method needs are added.
        dataset (`Dataset`): Problems with a `target_length`, which L1 reads.
        more: Further arguments of the trainer.
    """
    method = ONLINE[name]
    settings = {**settings, **SETTINGS.get(name, {})}
    if method.trainer is not None:
        trainer_class = getattr(tc, method.trainer)
        args = trainer_class.config_class(**settings)
        return trainer_class(model, [*reward_funcs], args=args, train_dataset=dataset, **more)
    rewards, slots = [*reward_funcs], {}
    for row in (ROWS[component] for component in method.components if component in ROWS):
        settings |= row.args
        arguments = dict(ARGUMENTS.get(row.component.__name__, {}))
        if "reward" in row.arguments:  # the name of a reward function
            arguments["reward"] = reward_funcs[0].__name__
        if row.slot == "reward_funcs":
            rewards.append(row.make(**arguments))
        else:
            slots[row.slot] = row.make(**arguments)
    if name == "effort":
        dataset = with_effort(dataset, {"low": 8, "high": None})
    if method.slots == ("train_dataset",):
        dataset = repeat_example(dataset[0], len(dataset))
    args = tc.ConciseGRPOConfig(**{**settings, **SETTINGS.get(name, {})})
    return tc.ConciseGRPOTrainer(model, rewards, args=args, train_dataset=dataset, **slots, **more)
