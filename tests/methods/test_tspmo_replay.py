# SPDX-License-Identifier: Apache-2.0
"""Groups that start inside a completion, as T-SPMO adds them to a batch."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.test_tspmo import batch_of
from tests.methods.test_tspmo_prefix_tree import group
from trl_concise import BudgetSchedule, PrefixMatching, TSPMOConfig, TSPMOTrainer
from trl_concise.methods.tspmo_replay import ReplayedGroup, append_rows


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


def test_a_replayed_tree_is_rooted_at_its_prefix():
    rollouts, batch, advantages = batch_of(["ab$", "ac$"], [1.0, 0.0], 2)
    prefix, continuations, rewards = group("ab")[0], group("x$", "y$", "x$"), [1.0, 0.0, 0.0]
    append_rows(batch, [0, 0, 0], [prefix] * 3, continuations, torch.zeros(3, dtype=torch.bool))
    credit = PrefixMatching(replay_per_prompt=1, replay_group_size=3)
    credit._replayed = [ReplayedGroup(range(2, 5), 2, continuations, rewards)]
    advantages, keep = credit.assign(rollouts, batch, advantages)
    expected = torch.zeros(5, 4)
    expected[0, 1], expected[1, 1] = 0.5 / 5, -0.5 / 5
    expected[2, 2], expected[3, 2] = (1 / 2 - 1 / 3) / 4, (0 - 1 / 3) / 4  # x, y and the two ends: 4 edges
    torch.testing.assert_close(advantages / keep.sum(), expected / 2)


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
        ({"beta": 0.1}, "the reference has not scored the replayed rows. Set beta=0"),
        ({"replay_group_size": 1}, "replay_group_size must be at least 2, got 1"),
        ({"replay_per_prompt": -1}, "replay_per_prompt must be at least 0, got -1"),
        (
            {
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 2,
                "replay_group_size": 3,
                "num_generations": 8,
            },
            "Replay adds 3 rows to a generation batch .* steps_per_generation = 2 does not divide",
        ),
    ],
)
def test_settings_that_replay_does_not_support_are_refused(changes, message, tiny_model, problems, tmp_path):
    args = TSPMOConfig(**tiny.settings(tmp_path, **{"replay_per_prompt": 1, **changes}))
    with pytest.raises(ValueError, match=message):
        TSPMOTrainer(tiny_model, tiny.even_reward, args, problems)
