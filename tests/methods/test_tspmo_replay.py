# SPDX-License-Identifier: Apache-2.0
"""Groups that start inside a completion, as T-SPMO adds them to a batch."""

from __future__ import annotations

import math

import pytest
import torch

from tests import tiny
from trl_concise import (
    BudgetSchedule,
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    HAPOLengthReward,
    PrefixMatching,
    StochasticTokens,
    TSPMOConfig,
    TSPMOTrainer,
)


def replaying(model, problems, folder, **changes):
    args = TSPMOConfig(**tiny.settings(folder, **{"max_steps": 1, "replay_per_prompt": 1, **changes}))
    trainer = tiny.spy(TSPMOTrainer)(model, even_tokens, args, problems)
    trainer.train()
    return trainer


def even_tokens(completion_ids, **kwargs):
    return [sum(token % 2 == 0 for token in ids) / 8 for ids in completion_ids]


def test_replayed_groups_are_separate_groups(tiny_model, problems, tmp_path):
    trainer = replaying(tiny_model, problems, tmp_path, replay_group_size=6)
    inputs, loss, gradients = trainer.seen[0]
    assert len(inputs["prompt_ids"]) == 8 + 2 * 6  # two prompts
    rows = [
        [token for token, used in zip(ids, mask, strict=True) if used]
        for ids, mask in zip(inputs["completion_ids"].tolist(), inputs["completion_mask"].tolist(), strict=True)
    ]
    assert max(map(len, rows)) <= 8
    # Rows are shuffled; the objective is rebuilt from what each kept token carries.
    keep = (inputs["tool_mask"] * inputs["completion_mask"]).bool()
    assert torch.equal(keep, inputs["advantages"] != 0)
    assert inputs["num_items_in_batch"] == keep.sum()
    model = tiny.load(tiny_model)
    log_probs = tiny.whole_logps(model, inputs)
    expected = -((log_probs - log_probs.detach()).exp() * inputs["advantages"] * keep).sum() / keep.sum()
    torch.testing.assert_close(loss, expected.detach(), atol=1e-6, rtol=1e-4)
    for ours, reference in zip(gradients, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-3)


def test_replayed_completions_keep_to_the_budget(tiny_model, problems, tmp_path):
    class Twice(BudgetSchedule):
        name = "twice"

        def max_completion_length(self, step):
            return 16  # max_completion_length is 8: many a prefix alone is longer

    args = TSPMOConfig(**tiny.settings(tmp_path, max_steps=1, replay_per_prompt=2))
    trainer = tiny.spy(TSPMOTrainer)(tiny_model, even_tokens, args, problems, budget_schedule=Twice())
    trainer.train()
    replayed = trainer.seen[0][0]["completion_mask"].sum(dim=1)
    assert len(replayed) > 8 and replayed.max() == 16


def test_replay_is_off_by_default_and_reproducible(tiny_model, problems, tmp_path):
    off = replaying(tiny_model, problems, tmp_path / "off", replay_per_prompt=0)
    assert len(off.seen[0][0]["prompt_ids"]) == 8
    first, second = (replaying(tiny_model, problems, tmp_path / name, num_iterations=2, max_steps=2) for name in "ab")
    assert tiny.losses(first) == tiny.losses(second)
    own = {tuple(ids[:3]) for ids in off.seen[0][0]["completion_ids"].tolist()}
    assert own <= {tuple(ids[:3]) for ids in first.seen[0][0]["completion_ids"].tolist()}  # beside the same batch


def test_old_scores_of_replayed_rows_are_those_of_the_policy(tiny_model, problems, tmp_path):
    trainer = replaying(tiny_model, problems, tmp_path, num_iterations=2, max_steps=1)
    inputs, _, _ = trainer.seen[0]
    keep = (inputs["tool_mask"] * inputs["completion_mask"]).bool()
    with torch.no_grad():
        logps = tiny.whole_logps(tiny.load(tiny_model), inputs)
    torch.testing.assert_close(inputs["old_per_token_logps"][keep], logps[keep], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replay_group_size": 1}, "replay_group_size must be at least 2, got 1"),
        ({"replay_per_prompt": -1}, "replay_per_prompt must be at least 0, got -1"),
    ],
)
def test_settings_that_replay_does_not_support_are_refused(changes, message, tiny_model, problems, tmp_path):
    args = TSPMOConfig(**tiny.settings(tmp_path, **{"replay_per_prompt": 1, **changes}))
    with pytest.raises(ValueError, match=message):
        TSPMOTrainer(tiny_model, tiny.even_reward, args, problems)


def test_the_reference_scores_replayed_rows(tiny_model, problems, tmp_path):
    trainer = replaying(tiny_model, problems, tmp_path, beta=0.1, max_steps=2, learning_rate=1e-2)
    inputs, _, _ = trainer.seen[1]  # the policy has moved
    assert len(inputs["prompt_ids"]) == 16
    keep = (inputs["tool_mask"] * inputs["completion_mask"]).bool()
    with torch.no_grad():
        expected = tiny.whole_logps(tiny.load(tiny_model), inputs)
    torch.testing.assert_close(inputs["ref_per_token_logps"][keep], expected[keep], atol=1e-5, rtol=0)


def test_replay_combines_with_group_rewards_other_credits_and_any_number_of_rows(tiny_model, problems, tmp_path):
    """Three rows per prompt in two micro-batches: the missing ones are filled with rows that the loss does not use."""
    args = ConciseGRPOConfig(
        **tiny.settings(
            tmp_path,
            max_steps=2,
            num_generations=8,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
        )
    )
    credits = [PrefixMatching(replay_per_prompt=1, replay_group_size=3), StochasticTokens(1, 3, 0.5)]
    trainer = tiny.spy(ConciseGRPOTrainer)(
        tiny_model, [tiny.even_reward, HAPOLengthReward()], args, problems, token_credit=credits
    )
    trainer.train()
    assert [len(inputs["prompt_ids"]) for inputs, _, _ in trainer.seen] == [6] * 4
    used = torch.cat([inputs["completion_mask"].any(dim=1) for inputs, _, _ in trainer.seen[:2]])
    assert all(math.isfinite(loss) for loss in tiny.losses(trainer))
    assert len(used) == 12
