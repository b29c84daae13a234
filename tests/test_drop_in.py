# SPDX-License-Identifier: Apache-2.0
"""With every slot empty, `ConciseGRPOTrainer` is `GRPOTrainer`, bit for bit."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

import trl_concise
from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer


def train(trainer_class, config_class, model, problems, output_dir, **changes):
    args = config_class(**tiny.settings(output_dir, **changes))
    trainer = trainer_class(model, [tiny.even_reward], args, problems, problems.select(range(4)))
    trainer.train()
    return trainer


def assert_same_run(ours, theirs):
    assert tiny.losses(ours) == tiny.losses(theirs)
    assert any(loss != 0 for loss in tiny.losses(theirs))
    for (name, a), (_, b) in zip(ours.model.named_parameters(), theirs.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"])
def test_losses_are_bit_identical(loss_type, tiny_model, problems, tmp_path):
    changes = {"loss_type": loss_type, "max_steps": 3, "num_iterations": 2, "max_grad_norm": 1e9}
    theirs = train(GRPOTrainer, GRPOConfig, tiny_model, problems, tmp_path, **changes)
    ours = train(ConciseGRPOTrainer, ConciseGRPOConfig, tiny_model, problems, tmp_path, **changes)
    assert_same_run(ours, theirs)


def test_losses_are_bit_identical_over_two_epochs_with_evaluation(tiny_model, problems, tmp_path):
    changes = {"max_steps": -1, "num_train_epochs": 2, "eval_strategy": "epoch", "per_device_train_batch_size": 16}
    theirs = train(GRPOTrainer, GRPOConfig, tiny_model, problems, tmp_path, **changes)
    ours = train(ConciseGRPOTrainer, ConciseGRPOConfig, tiny_model, problems, tmp_path, **changes)
    assert_same_run(ours, theirs)
    rewards = [[e["eval_reward"] for e in t.state.log_history if "eval_reward" in e] for t in (ours, theirs)]
    assert rewards[0] == rewards[1] and len(rewards[0]) == 2


def test_an_unshuffled_dataset_stays_in_order(tiny_model, problems, tmp_path):
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, shuffle_dataset=False))
    trainer = ConciseGRPOTrainer(tiny_model, [tiny.even_reward], args, problems)
    assert list(trainer._get_train_sampler())[::4] == list(range(16))


# Every drop-in takes what its parent takes


TRAINERS = [name for name in trl_concise.__all__ if name.endswith("Trainer")]
CONFIGS = [name for name in trl_concise.__all__ if name.endswith("Config")]
# Where a drop-in's default is not its parent's: the documentation page that says so and why.
DIFFERENT_DEFAULTS: dict[tuple[str, str], str] = {
    ("SGRPOConfig", "loss_type"): "sgrpo.md",
    ("DLERConfig", "epsilon_high"): "dler.md",
    ("DLERConfig", "scale_rewards"): "dler.md",
}


def trl_parent(cls: type) -> type:
    return next(base for base in cls.__mro__ if base.__module__.startswith("trl."))


@pytest.mark.parametrize("name", TRAINERS)
def test_constructor_takes_every_argument_of_its_parent(name):
    cls = getattr(trl_concise, name)
    parent = inspect.signature(trl_parent(cls).__init__).parameters
    ours = inspect.signature(cls.__init__)
    ours.bind(**{argument: None for argument in parent})
    ours.bind(*[None] * len(parent))  # and in the same order
    for argument in set(ours.parameters) & set(parent) - {"self"}:
        assert ours.parameters[argument].default == parent[argument].default, argument


@pytest.mark.parametrize("name", CONFIGS)
def test_config_has_every_field_of_its_parent_with_its_default(name):
    cls = getattr(trl_concise, name)
    ours = {item.name: item for item in dataclasses.fields(cls)}
    for item in dataclasses.fields(trl_parent(cls)):
        same = ours[item.name].default == item.default and ours[item.name].default_factory == item.default_factory
        if (name, item.name) in DIFFERENT_DEFAULTS:
            page = Path(__file__).parents[1] / "docs" / DIFFERENT_DEFAULTS[name, item.name]
            assert not same and f"`{item.name}`" in page.read_text(encoding="utf-8"), item.name
        else:
            assert same, f"{item.name}: {ours[item.name].default!r} instead of {item.default!r}"
