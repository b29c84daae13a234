# SPDX-License-Identifier: Apache-2.0
"""The equation is tested in `tests/methods/test_tspmo_prefix_tree.py`; here is what becomes of it in a batch and in the loss."""

from __future__ import annotations

import random

import pytest
import torch

from tests import tiny
from tests.methods.test_tspmo_prefix_tree import all_prefixes, group
from trl_concise import (
    HAPOConfig,
    HAPOTrainer,
    PrefixMatching,
    StochasticTokens,
    TSPMOConfig,
    TSPMOTrainer,
)
from trl_concise.batch.rollouts import CompletionTokens, Rollouts


# The component


def batch_of(completions: list[str], rewards: list[float], num_generations: int, local=slice(None)):
    ids = group(*completions)
    own = ids[local]
    width = max(map(len, own))
    rollouts = Rollouts(
        prompt_keys=tuple(str(i // num_generations) for i in range(len(ids))),
        lengths=torch.tensor([len(row) for row in ids]),
        correct=torch.tensor(rewards),
        num_generations=num_generations,
        rewards={"accuracy": torch.tensor(rewards)},
        local=local,
    )
    batch = {
        "completion_ids": torch.tensor([row + [0] * (width - len(row)) for row in own]),
        "completion_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in own]),
    }
    return rollouts, batch, torch.zeros(len(own))


def test_the_baseline_is_chosen():
    batch = batch_of(["abce$", "abd$", "abce$", "af$"], [1.0, 0.0, 1.0, 0.0], 4)
    advantages, keep = PrefixMatching(baseline="unweighted").assign(*batch)
    # 9 edges; b and f are worth 1/3 more and less than their unweighted mean, c and d 1/2.
    scaled = advantages / keep.sum() * 9
    assert scaled[keep].sort().values.tolist() == pytest.approx([-1 / 2, -1 / 3, 1 / 3, 1 / 2])


def test_two_groups_count_alike():
    rollouts, batch, advantages = batch_of(["ab$", "ac$", "xyz$", "xq$"], [1.0, 0.0, 0.0, 1.0], 2)
    advantages, keep = PrefixMatching().assign(rollouts, batch, advantages)
    # Four kept tokens of 5 and 6 edges: what a mean over the kept tokens makes of it is the mean over the two groups.
    expected = torch.zeros(4, 4)
    expected[0, 1], expected[1, 1], expected[2, 1], expected[3, 1] = 0.5 / 5, -0.5 / 5, -0.5 / 6, 0.5 / 6
    torch.testing.assert_close(advantages / keep.sum(), expected / 2)
    assert torch.equal(keep, expected != 0)


def test_the_rows_of_two_processes_together_are_those_of_one():
    completions = ["abce$", "abd$", "abce$", "af$", "pq$", "pr$", "pq$", "s$"]
    rewards = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    whole = PrefixMatching().select(CompletionTokens(group(*completions), [[1] * len(c) for c in completions], 4))
    parts = []
    for start, stop in [(0, 6), (6, 8)]:  # the second group straddles them
        tokens = CompletionTokens(
            group(*completions), [[1] * len(c) for c in completions], 4, local=slice(start, stop), start=0
        )
        keep = PrefixMatching().select(tokens)
        parts.append(torch.nn.functional.pad(keep, (0, whole.size(1) - keep.size(1))))
    assert torch.equal(torch.cat(parts), whole)
    rollouts, batch, advantages = batch_of(completions, rewards, 4)
    _, kept = PrefixMatching().assign(rollouts, batch, advantages)
    assert not (kept & ~whole).any()  # `select` says all that `assign` may keep


def test_metrics():
    credit = PrefixMatching()
    credit.assign(*batch_of(["abce$", "abd$", "abce$", "af$"], [1.0, 0.0, 1.0, 0.0], 4))
    assert credit.metrics() == {
        "edges": 9,
        "informative_edges": 4,
        "branching_prefixes": 2,
        "kept_fraction": pytest.approx(4 / 17),
    }


# The trainer


def fixed(completions: list[str], truncated=()):
    """A rollout function that answers with these completions; `$` is EOS."""

    def rollout(prompts, trainer):
        eos = trainer.processing_class.eos_token_id
        ids = [[eos if c == "$" else ord(c) for c in completion] for completion in completions]
        return {"prompt_ids": [[5, 6]] * len(prompts), "completion_ids": ids, "logprobs": None}

    return rollout


COMPLETIONS = ["abce$", "abd$", "abce$", "af$", "xyz$", "xq", "xyw$", "xqq$"]
REWARDS = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.5]


def listed_reward(completions, **kwargs):
    return REWARDS


def brute_force_loss(model, inputs, completions, rewards, num_generations=4) -> torch.Tensor:
    """Both groups by the definition: every prefix enumerated, nothing shared or cropped."""
    log_probs = tiny.whole_logps(model, inputs)
    eos = model.config.eos_token_id
    rows = [
        [token for token, kept in zip(ids, mask, strict=True) if kept]
        for ids, mask in zip(inputs["completion_ids"].tolist(), inputs["completion_mask"].tolist(), strict=True)
    ]
    loss = 0.0
    for start in (0, num_generations):
        ids = [[eos if c == "$" else ord(c) for c in text] for text in completions[start : start + num_generations]]
        edges = all_prefixes(ids, rewards[start : start + num_generations])
        for (prefix, token), (_, advantage) in edges.items():
            # Rows are shuffled; any that begins like this will do.
            row = next(i for i, row in enumerate(rows) if tuple(row[: len(prefix) + 1]) == (*prefix, token))
            log_prob = log_probs[row, len(prefix)]
            loss = loss - (log_prob - log_prob.detach()).exp() * advantage / len(edges) / 2
    return loss


def train_beside_brute_force(completions, rewards, micro_batches, model_path, problems, tmp_path) -> dict:
    """One step, whose loss and gradients must be those of the definition. Returns what was logged."""
    args = TSPMOConfig(
        **tiny.settings(
            tmp_path,
            max_steps=1,
            per_device_train_batch_size=8 // micro_batches,
            gradient_accumulation_steps=micro_batches,
        )
    )
    reward = lambda completions, **kwargs: rewards  # noqa: E731
    trainer = tiny.spy(TSPMOTrainer)(model_path, reward, args, problems, rollout_func=fixed(completions))
    trainer.train()
    assert len(trainer.seen) == micro_batches
    model = tiny.load(model_path)
    whole = {
        name: torch.cat([inputs[name] for inputs, _, _ in trainer.seen])
        for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    }
    expected = brute_force_loss(model, whole, completions, rewards)
    gradients = [sum(parts) for parts in zip(*(gradients for _, _, gradients in trainer.seen), strict=True)]
    torch.testing.assert_close(sum(loss for _, loss, _ in trainer.seen), expected.detach(), atol=1e-6, rtol=1e-4)
    expected_gradients = torch.autograd.grad(expected, list(model.parameters()))
    assert max(gradient.abs().max() for gradient in expected_gradients) > 1e-3
    for ours, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-3)
    return trainer.state.log_history[0]


@pytest.mark.parametrize("seed", range(6))
def test_loss_and_gradients_on_random_groups(seed, tiny_model, problems, tmp_path):
    rng = random.Random(seed)
    completions = ["".join(rng.choices("ab", k=rng.randint(1, 6))) + "$" * rng.randint(0, 1) for _ in range(8)]
    rewards = [0.0, 1.0, *rng.choices([0.0, 0.5, 1.0], k=4), 1.0, 0.0]
    train_beside_brute_force(completions, rewards, rng.choice([1, 2, 4]), tiny_model, problems, tmp_path)


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_loss_and_gradients_are_those_of_all_prefixes(micro_batches, tiny_model, problems, tmp_path):
    logged = train_beside_brute_force(COMPLETIONS, REWARDS, micro_batches, tiny_model, problems, tmp_path)
    assert logged["tspmo/edges"] == 9  # 9 in the first group, 9 in the second
    assert logged["tspmo/branching_prefixes"] == 2 and logged["tspmo/informative_edges"] == 4


def test_with_a_kl_term_every_edge_counts_once(tiny_model, problems, tmp_path):
    args = TSPMOConfig(**tiny.settings(tmp_path, max_steps=1, beta=0.1))
    trainer = tiny.spy(TSPMOTrainer)(tiny_model, listed_reward, args, problems, rollout_func=fixed(COMPLETIONS))
    trainer.train()
    inputs, _, _ = trainer.seen[0]
    assert (inputs["tool_mask"] * inputs["completion_mask"]).sum() == 18
    assert (inputs["advantages"] != 0).sum() < 18


def test_equal_rewards_leave_the_model_alone(tiny_model, problems, tmp_path):
    def equal(completions, **kwargs):
        return [0.3] * len(completions)

    trainer = tiny.spy(TSPMOTrainer)(
        tiny_model,
        equal,
        TSPMOConfig(**tiny.settings(tmp_path, max_steps=1)),
        problems,
        rollout_func=fixed(COMPLETIONS),
    )
    trainer.train()
    assert all(gradient.abs().max() == 0 for gradient in trainer.seen[0][2])
    assert trainer.state.log_history[0]["tspmo/kept_fraction"] == 0


def test_truncated_completions_can_be_left_out(tiny_model, problems, tmp_path):
    args = TSPMOConfig(**tiny.settings(tmp_path, max_steps=1, mask_truncated_completions=True))
    trainer = tiny.spy(TSPMOTrainer)(tiny_model, listed_reward, args, problems, rollout_func=fixed(COMPLETIONS))
    trainer.train()
    inputs, _, _ = trainer.seen[0]
    kept = inputs["tool_mask"] * inputs["completion_mask"]
    cut = inputs["completion_mask"].sum(1) == 0  # `xq`
    assert cut.sum() == 1 and kept[cut].sum() == 0
    q = ord("q")
    assert ((inputs["completion_ids"][:, 1] == q) & (kept[:, 1] == 1)).sum() == 1  # xqq$ stands for x -> q


def test_with_a_length_reward_and_another_selection(tiny_model, problems, tmp_path):
    trainer = tiny.spy(HAPOTrainer)(
        tiny_model,
        listed_reward,
        HAPOConfig(**tiny.settings(tmp_path, max_steps=1)),
        problems,
        rollout_func=fixed(COMPLETIONS),
        token_credit=[PrefixMatching(), StochasticTokens(cutoff=2, max_tokens=2, probability=0)],
    )
    trainer.train()
    inputs, _, _ = trainer.seen[0]
    kept = inputs["tool_mask"] * inputs["completion_mask"]
    assert kept[:, :2].sum() > 0 and kept[:, 2:].sum() == 0  # xyz$ and xyw$ part at their third token
    assert "hapo/history_coverage" in trainer.state.log_history[0]


def test_rewards_that_are_normalized_one_by_one_are_refused(tiny_model, problems, tmp_path):
    args = TSPMOConfig(**tiny.settings(tmp_path, multi_objective_aggregation="normalize_then_sum"))
    with pytest.raises(ValueError, match="Set it to 'sum_then_normalize'"):
        TSPMOTrainer(tiny_model, tiny.even_reward, args, problems)
