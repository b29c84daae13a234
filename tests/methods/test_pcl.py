# SPDX-License-Identifier: Apache-2.0
"""PCL: the choice and the value loss at the golden values, what the head learns, and that policy and head do not change each other."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.batch.rollouts import Rollouts, prompt_key
from trl_concise.methods.pcl import PCL, closest_values, pcl_value_loss


VALUES = [0.05, 0.30, 0.48, 0.55, 0.70, 0.95, 0.61, 0.20]
tensor = torch.tensor


def test_golden_choice_and_loss():
    assert closest_values(VALUES, 2) == [2, 3]
    loss = pcl_value_loss(tensor([0.48, 0.55]), tensor([6 / 16, 10 / 16]))
    assert loss.item() == pytest.approx(0.01665)


@given(st.lists(st.sampled_from(VALUES), min_size=1, max_size=12), st.data())
def test_the_choice_is_the_best_set_of_its_size(values, data):
    count = data.draw(st.integers(1, len(values)))
    chosen = closest_values(values, count, 0.5)
    assert len(set(chosen)) == count and chosen == sorted(chosen) and set(chosen) <= set(range(len(values)))
    assert sorted(abs(values[i] - 0.5) for i in chosen) == sorted(abs(value - 0.5) for value in values)[:count]
    assert closest_values(values, len(values)) == list(range(len(values)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"target": 1.0}, "target must lie between 0 and 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
        ({"updates": 0}, "updates at least 1"),
    ],
)
def test_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PCL(**arguments)


def rollouts_of(rates: dict[str, list[float]]) -> Rollouts:
    correct = tensor([value for group in rates.values() for value in group])
    keys = tuple(key for key, group in rates.items() for _ in group)
    return Rollouts(keys, torch.ones(len(keys), dtype=torch.int64), correct, len(keys) // len(rates))


def test_the_head_learns_from_the_mean_of_a_group():
    """With two orthogonal states it finds both success rates; a group whose correctness is unknown changes nothing."""
    one, other = PCL(learning_rate=0.1, updates=50), PCL(learning_rate=0.1, updates=50)
    states = torch.eye(3)
    for selector, group in ((one, [1.0, 0.0, 0.0, 0.0]), (other, [0.25] * 4)):
        assert selector._values(states).tolist() == [0.5] * 3
        for _ in range(20):
            selector._chosen = {"a": states[0], "b": states[1], "c": states[2]}
            selector.observe(rollouts_of({"a": group, "b": [1.0] * 4, "c": [math.nan] * 4}))
    assert torch.equal(one.head, other.head)
    values = one._values(states).detach()
    assert values[0] == pytest.approx(0.25, abs=0.02) and values[1] > 0.9
    assert one.metrics()["success_rate"] == pytest.approx(0.625) and one.metrics()["explained_variance"] > 0.9
    head = one.head.detach().clone()
    one.observe(rollouts_of({"unknown prompt": [1.0] * 4}))
    one._chosen = {"c": states[2]}
    one.observe(rollouts_of({"c": [math.nan] * 4}))
    assert torch.equal(one.head, head) and not one._chosen


def test_the_update_is_adam_on_the_loss():
    torch.manual_seed(0)
    states, targets = torch.randn(6, 4), torch.rand(6)
    selector = PCL(learning_rate=0.05)
    selector._values(states)
    head = torch.zeros(5, requires_grad=True)
    adam = torch.optim.Adam([head], lr=0.05)
    for _ in range(10):
        selector._update(states, targets)
        adam.zero_grad()
        values = (states @ head[:-1] + head[-1]).sigmoid()
        (pcl_value_loss(values, targets) / 6).backward()
        adam.step()
    torch.testing.assert_close(selector.head.detach(), head.detach())


@pytest.mark.parametrize("peft", [False, True])
def test_features_are_the_last_hidden_states_of_the_prompts(peft, tiny_model, tmp_path):
    problems = Dataset.from_list([{"prompt": "?" * (i + 1)} for i in range(8)])
    selector = PCL()
    trainer = ConciseGRPOTrainer(
        tiny_model,
        tiny.even_reward,
        ConciseGRPOConfig(**tiny.settings(tmp_path)),
        problems,
        prompt_selector=selector,
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]) if peft else None,
    )
    trainer.model.train()
    features = selector._features(problems["prompt"][:])
    assert trainer.model.training
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    for i in (0, 7):
        ids = tokenizer(problems["prompt"][i], return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(features[i], hidden, atol=1e-5, rtol=1e-4)


def test_training_selects_by_the_values_before_the_update_and_changes_the_policy_as_grpo_would(tiny_model, tmp_path):
    problems = Dataset.from_list([{"prompt": f"{i}?", "prompt_id": str(i)} for i in range(16)])
    events = []

    class Watched(PCL):
        def choose(self, candidates, count, step):
            assert len(candidates) == min(4 * count, 16)
            chosen = super().choose(candidates, count, step)
            values = self._values(torch.stack([self._features([row["prompt"]])[0] for row in candidates]))
            assert chosen == closest_values(values.tolist(), count)
            events.append([candidates[i]["prompt_id"] for i in chosen])
            return chosen

        def observe(self, rollouts):
            trained = [key for key in dict.fromkeys(rollouts.prompt_keys)]
            super().observe(rollouts)
            events.append(trained)

    selector = Watched(learning_rate=0.5)
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=6))
    trainer = ConciseGRPOTrainer(tiny_model, tiny.even_reward, args, problems, prompt_selector=selector)
    trainer.train()
    chosen = [event for event in events if len(event[0]) < 32]
    trained = [event for event in events if len(event[0]) == 32]
    keys = [{prompt_key({"prompt_id": name}) for name in event} for event in chosen]
    assert len(trained) == 6 and [set(event) for event in trained] == keys[:6]
    assert chosen[0] == sorted(chosen[0], key=int) or len(chosen[0]) == 2  # all values are equal: TRL's order
    assert selector.head.detach().abs().sum() > 0
    log = [entry for entry in trainer.state.log_history if "pcl/success_rate" in entry]
    assert len(log) == 6 and all(0 <= entry["pcl/predicted_rate"] <= 1 for entry in log)
    # The loss of the policy does not reach the head, which is not one of its parameters.
    assert not any(selector.head.shape == parameter.shape for parameter in trainer.model.parameters())
