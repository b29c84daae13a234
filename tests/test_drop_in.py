# SPDX-License-Identifier: Apache-2.0
"""With every slot empty, `ConciseGRPOTrainer` is `GRPOTrainer`, bit for bit."""

from __future__ import annotations

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

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
