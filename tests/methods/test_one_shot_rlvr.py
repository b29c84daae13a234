# SPDX-License-Identifier: Apache-2.0
"""Golden values: from the authors' published accuracies (ypwang61/One-Shot-RLVR @ 21ed529, data/acc_step_500.json)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import AccuracyBand, ConciseGRPOConfig, ConciseGRPOTrainer, load_problems, math_accuracy_reward
from trl_concise.batch.rollouts import prompt_key
from trl_concise.methods.one_shot_rlvr import historical_variance, rank_by_historical_variance, repeat_example
from trl_concise.state.accuracies import AccuracyHistory


DATA = Path(__file__).parents[3] / "shared" / "data"
eighths = st.integers(0, 8).map(lambda correct: correct / 8)

# Choosing the example


def test_historical_variance():
    assert historical_variance([0, 0.125, 0.5, 1, 1]) == 0.1775
    assert historical_variance([0.5]) == historical_variance([0.1] * 7) == 0


def test_historical_variance_without_visits_is_refused():
    with pytest.raises(ValueError, match="at least one visit, got none"):
        historical_variance([])


@given(st.lists(eighths, min_size=1), st.integers(-8, 8))
def test_a_constant_changes_no_variance(accuracies, shift):
    assert historical_variance([accuracy + shift / 4 for accuracy in accuracies]) == historical_variance(accuracies)


@given(st.dictionaries(st.integers(), st.lists(eighths, min_size=1)))
def test_ranking_is_stable(accuracies):
    ranking = rank_by_historical_variance(accuracies)
    order = {key: place for place, key in enumerate(accuracies)}
    assert ranking == sorted(accuracies, key=lambda key: (-historical_variance(accuracies[key]), order[key]))


@pytest.mark.skipif(not (DATA / "dsr_sub_accuracy.json").exists(), reason="the authors' accuracies are not at hand")
def test_the_authors_ranking():
    accuracies = json.loads((DATA / "dsr_sub_accuracy.json").read_text())
    ranking = rank_by_historical_variance(accuracies)
    expected = {1: "124", 2: "267", 13: "682", 605: "60", 606: "906"}
    assert {rank: ranking[rank - 1] for rank in expected} == expected
    deviation = {rank: historical_variance(accuracies[key]) ** 0.5 for rank, key in expected.items()}
    assert deviation == pytest.approx({1: 0.40676, 2: 0.39607, 13: 0.27261, 605: 0.10729, 606: 0.10711}, abs=5e-6)
    constant = [key for key in accuracies if historical_variance(accuracies[key]) == 0]
    assert len(constant) == 104 and ranking[-104:] == constant  # in their order
    assert {"174", "770", "789"} < set(constant)  # the paper's pi_1207, pi_1208 and pi_1209


# Repeating it


def test_one_example_fills_a_batch():
    dataset = repeat_example({"prompt": "2 + 2?", "solution": "4"})
    assert dataset.to_list() == [{"prompt": "2 + 2?", "solution": "4"}] * 128


@given(st.integers(1, 8), st.integers(1, 8))
def test_examples_have_equal_shares(examples, share):
    dataset = repeat_example([{"prompt": str(i)} for i in range(examples)], rows=examples * share)
    assert Counter(dataset["prompt"]) == {str(i): share for i in range(examples)}


@pytest.mark.parametrize(("examples", "rows"), [(3, 128), (4, 2), (0, 128)])
def test_unequal_shares_are_refused(examples, rows):
    with pytest.raises(ValueError, match=f"{examples} examples cannot have equal shares of {rows} rows"):
        repeat_example([{"prompt": str(i)} for i in range(examples)], rows=rows)


@pytest.mark.skipif(not (DATA / "one_shot_pi1.jsonl").exists(), reason="the authors' example is not at hand")
def test_the_authors_example_is_trained_on(tiny_model, tmp_path):
    example = load_problems(str(DATA / "one_shot_pi1.jsonl"), problem_column="prompt", answer_column="answer")
    dataset = repeat_example(example, rows=4)
    assert len(dataset) == 4 and set(dataset["solution"]) == {"12.8"}
    args = ConciseGRPOConfig(
        **tiny.settings(tmp_path, per_device_train_batch_size=16, max_steps=1, beta=0.001, entropy_coef=0.001)
    )
    trainer = ConciseGRPOTrainer(tiny_model, math_accuracy_reward, args, dataset)
    trainer.train()
    assert trainer.state.log_history[0]["rewards/math_accuracy_reward/mean"] == 0


def test_only_the_answer_is_rewarded():
    rewards = math_accuracy_reward(["the answer is 12.8", r"\boxed{13}"], solution=["12.8", "12.8"])
    assert rewards == [1.0, 0.0]


# Training on it


def train(model, dataset, output_dir, reward, **changes):
    settings = {"max_steps": 1, "learning_rate": 0.0, "loss_type": "dapo", "beta": 0.0, **changes}
    args = ConciseGRPOConfig(**tiny.settings(output_dir, **settings))
    trainer = ConciseGRPOTrainer(model, reward, args, dataset)
    torch.manual_seed(1)
    for parameter in trainer.model.parameters():  # away from the reference, so that there is a KL divergence
        parameter.data += 0.05 * torch.randn_like(parameter)
    torch.manual_seed(2)
    trainer.train()
    return trainer


def test_a_group_of_equal_rewards_has_only_kl_and_entropy_terms(tiny_model, tmp_path):
    dataset = repeat_example({"prompt": "2 + 2?"}, rows=2)

    def wrong(completions, **kwargs):
        return [0.0] * len(completions)

    trainer = train(tiny_model, dataset, tmp_path, wrong, beta=0.5, entropy_coef=0.25)
    (step,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert step["kl"] > 0.01 and step["entropy"] > 1
    assert step["loss"] == pytest.approx(0.5 * step["kl"] - 0.25 * step["entropy"], rel=1e-3)
    assert step["frac_reward_zero_std"] == 1


def test_copies_are_independent_groups(tiny_model, tmp_path):
    """A copy that is solved by all has no advantage, whatever the other copy's rewards are."""
    seen = {}

    class Recording(ConciseGRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            batch = super()._generate_and_score_completions(inputs)
            seen.update(batch)
            return batch

    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=1))
    dataset = repeat_example({"prompt": "2 + 2?"}, rows=2)
    Recording(tiny_model, lambda completions, **kwargs: [1.0] * 4 + [1.0, 0.0, 0.0, 0.0], args, dataset).train()
    assert seen["advantages"][:4].tolist() == [0] * 4
    assert seen["advantages"][4:].tolist() == pytest.approx([1.4997, -0.4999, -0.4999, -0.4999], abs=1e-3)


def test_from_a_first_run_to_the_one_example(tiny_model, problems, tmp_path):
    def some_rows_right(completions, row, trainer_state, **kwargs):
        return [float(number == 5 and trainer_state.epoch >= 1) for number in row]

    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=16))
    trainer = ConciseGRPOTrainer(tiny_model, some_rows_right, args, problems, prompt_selector=AccuracyBand(0, 1))
    trainer.train()
    trainer.prompt_selector.accuracies.save(tmp_path / "accuracies.safetensors")

    accuracies = AccuracyHistory.load(tmp_path / "accuracies.safetensors")
    assert len(accuracies) == 16 and all(len(visits) == 2 for visits in accuracies.values())
    first = rank_by_historical_variance(accuracies)[0]
    dataset = repeat_example(problems.filter(lambda row: prompt_key(row) == first), rows=8)
    assert isinstance(dataset, Dataset) and set(dataset["row"]) == {5} and len(dataset) == 8
