# SPDX-License-Identifier: Apache-2.0
"""Refill in `trainer.train()`: which prompts are trained on, what is logged, and what stays as in TRL."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset, IterableDataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from tests import tiny
from tests.tools import parts
from trl_concise import (
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    DynamicSampling,
    GroupFilter,
    HAPOLengthReward,
    PromptSelector,
)
from trl_concise.checks import check_filter


LIVE = (0, 3, 4, 7, 8, 11)  # rows whose completions are judged differently


def rows(count: int = 12) -> list[dict]:
    return [{"prompt": f"{i}?", "prompt_id": str(i), "row": i} for i in range(count)]


def judged(completions, row, log_extra, log_metric, **kwargs):
    log_extra("row_twice", [2 * one for one in row])
    log_metric("rows", len(row))
    return [float(one in LIVE and i % 2 == 0) for i, one in enumerate(row)]


class Recording(DynamicSampling):
    """Writes down the prompts of each round, and of what is observed."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.rounds, self.observed, self.kept = [], [], []

    def keep(self, rollouts):
        self.rounds.append([int(key) for key in readable(rollouts)])
        return super().keep(rollouts)

    def observe(self, rollouts):
        self.observed.append([int(key) for key in readable(rollouts)])
        self.kept.append(rollouts.by_group(rollouts.kept).any(dim=1).tolist())


def readable(rollouts) -> list[str]:
    from trl_concise.batch.rollouts import prompt_key

    names = {prompt_key(row): row["prompt_id"] for row in rows(99)}
    return [names[key] for key in rollouts.prompt_keys[:: rollouts.num_generations]]


def build(
    model, folder, group_filter=None, *, trainer_class=ConciseGRPOTrainer, dataset=None, reward=judged, **changes
):
    slots = {
        name: changes.pop(name)
        for name in (
            "prompt_selector",
            "token_credit",
            "budget_schedule",
            "peft_config",
            "rollout_func",
            "eval_dataset",
        )
        if name in changes
    }
    if trainer_class is not GRPOTrainer:
        slots["group_filter"] = group_filter
    config = GRPOConfig if trainer_class is GRPOTrainer else ConciseGRPOConfig
    args = config(**tiny.settings(folder, **{"shuffle_dataset": False, "learning_rate": 1e-2, **changes}))
    return trainer_class(model, reward, args, dataset or Dataset.from_list(rows()), **slots)


def test_missing_groups_are_replaced_by_the_next_prompts_and_the_next_batch_continues_after_them(tiny_model, tmp_path):
    group_filter = Recording(max_refills=2)
    trainer = build(tiny_model, tmp_path, group_filter, max_steps=4)
    trainer.train()
    # Two prompts a batch; 0, 3, 4, 7, 8 and 11 are kept.
    assert group_filter.rounds == [[0, 1], [2], [3], [4, 5], [6], [7], [8, 9], [10], [11], [0, 1], [2], [3]]
    assert group_filter.observed == [[0, 3, 1, 2], [4, 7, 5, 6], [8, 11, 9, 10], [0, 3, 1, 2]]
    assert group_filter.kept == 4 * [[True, True, False, False]]
    logged = trainer.state.log_history[:4]
    assert [entry["refill/rounds"] for entry in logged] == [2, 2, 2, 2]
    assert all(entry["refill/replaced_fraction"] == 0.5 and entry["refill/missing_fraction"] == 0 for entry in logged)
    assert all(entry["reward"] == entry["accuracy"] == 0.5 and entry["frac_reward_zero_std"] == 0 for entry in logged)


def test_what_is_still_missing_has_advantage_zero_and_no_row_is_lost(tiny_model, tmp_path):
    group_filter = Recording(max_refills=1)
    trainer = build(tiny_model, tmp_path, group_filter, trainer_class=tiny.spy(ConciseGRPOTrainer), max_steps=2)
    trainer.train()
    assert group_filter.rounds == [[0, 1], [2], [3, 4], []][:3]
    first = trainer.seen[0][0]
    assert len(first["advantages"]) == 8 and (first["advantages"] == 0).sum() == 4
    assert [entry["refill/missing_fraction"] for entry in trainer.state.log_history[:2]] == [0.5, 0]


def test_metrics_and_table_describe_the_trained_batch_and_every_token_is_counted(tiny_model, tmp_path):
    trainer = build(tiny_model, tmp_path, Recording(max_refills=2), max_steps=1, log_completions=True)
    calls, generate = [], trainer._generate_single_turn

    def generated(prompt_ids, *args, **kwargs):
        output = generate(prompt_ids, *args, **kwargs)
        calls.append([len(ids) for ids in output[0]])
        return output

    trainer._generate_single_turn = generated
    trainer.train()
    assert [len(lengths) for lengths in calls] == [8, 4, 4]
    trained = calls[0][:4] + calls[2]
    entry = trainer.state.log_history[0]
    assert entry["completions/mean_length"] == pytest.approx(sum(trained) / 8)
    assert (entry["completions/min_length"], entry["completions/max_length"]) == (min(trained), max(trained))
    prompt_tokens = 16 * 2
    assert entry["num_tokens"] == prompt_tokens + sum(map(sum, calls))
    assert trainer.state.num_input_tokens_seen == entry["num_tokens"]
    dropped = sum(calls[0][4:]) + sum(calls[1])
    assert dropped - 8 <= entry["refill/tokens"] <= dropped  # without EOS
    assert list(trainer._logs["prompt"]) == ["0?"] * 4 + ["3?"] * 4
    assert list(trainer._logs["extra"]["row_twice"]) == [0] * 4 + [6] * 4
    assert list(trainer._logs["rewards"]["judged"]) == [1, 0] * 4
    assert len(trainer._logs["advantages"]) == 8 and all(trainer._logs["advantages"])
    assert entry["rows"] == pytest.approx((8 + 4 + 4) / 3)  # of a reward function: one value per round


@pytest.mark.parametrize("stream", [False, True], ids=["map", "stream"])
@pytest.mark.parametrize("max_refills", [0, 3])
def test_a_filter_that_keeps_everything_trains_as_trl(max_refills, stream, tiny_model, tmp_path):
    class All(GroupFilter):
        name = "all"

        def keep(self, rollouts):
            return torch.ones(len(rollouts), dtype=torch.bool)

    All.max_refills = max_refills

    def data():
        dataset = Dataset.from_list(rows(10))
        return dataset.to_iterable_dataset() if stream else dataset

    changes = {"max_steps": 7, "shuffle_dataset": True, "beta": 0.1, "reward": tiny.even_reward}
    changes |= {"per_device_train_batch_size": 12}  # three prompts: an epoch leaves out one of ten
    plain = build(tiny_model, tmp_path, trainer_class=GRPOTrainer, dataset=data(), **changes)
    plain.train()
    ours = build(tiny_model, tmp_path, All(), dataset=data(), **changes)
    ours.train()
    assert tiny.losses(plain) == tiny.losses(ours) and any(tiny.losses(plain))
    keys = [key for key in plain.state.log_history[0] if "time" not in key]
    for one, other in zip(plain.state.log_history[:-1], ours.state.log_history[:-1], strict=True):
        assert {key: one[key] for key in keys if key in one} == {key: other[key] for key in keys if key in one}


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 0.1, "steps_per_generation": 2, "per_device_train_batch_size": 4},
        {"num_iterations": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        {"beta": 0.1, "peft_config": LoraConfig(target_modules="all-linear"), "steps_per_generation": 2},
        {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "per_device_train_batch_size": 4},
    ],
    ids=["two steps per generation", "two iterations", "lora", "accumulation"],
)
def test_log_probabilities_are_those_of_the_final_completions(changes, tiny_model, tmp_path):
    group_filter = Recording(max_refills=9)
    trainer = build(
        tiny_model, tmp_path, group_filter, trainer_class=tiny.spy(ConciseGRPOTrainer), max_steps=1, **changes
    )
    trainer.train()
    assert any(len(rounds) < 4 for rounds in group_filter.rounds)
    model = tiny.load(tiny_model)
    inputs = trainer.seen[0][0]
    keys = [key for key in ("old_per_token_logps", "ref_per_token_logps") if key in inputs]
    assert keys
    with torch.no_grad():
        logps = tiny.whole_logps(model, inputs)
    mask = inputs["completion_mask"].bool()
    for key in keys:
        torch.testing.assert_close(inputs[key][mask], logps[mask], atol=1e-4, rtol=0)
    assert (inputs["advantages"] != 0).all()


def test_every_epoch_continues_a_stream(tiny_model, tmp_path):
    group_filter = Recording(max_refills=2)
    stream = IterableDataset.from_generator(lambda: iter(rows(7)))
    build(tiny_model, tmp_path, group_filter, dataset=stream, max_steps=4).train()
    # Seven rows: the second pass begins inside a batch's replacements, and a batch does not straddle passes.
    assert (
        group_filter.rounds
        == [[0, 1], [2], [3], [4, 5], [6], [0], [1, 2], [3, 4], [5, 6], [1], [2]][:6] + group_filter.rounds[6:]
    )
    assert group_filter.rounds[6] == [1, 2]


def test_a_selector_chooses_replacements_and_everything_observes_each_row_once(tiny_model, tmp_path):
    class Last(PromptSelector):
        """Takes the last candidates, and counts what it sees."""

        name = "last"

        def __init__(self):
            self.counts, self.seen = [], []

        def choose(self, candidates, count, step):
            self.counts.append(count)
            return list(range(count))

        def observe(self, rollouts):
            self.seen += readable(rollouts)

    selector, hapo = Last(), HAPOLengthReward()
    trainer = build(
        tiny_model,
        tmp_path,
        Recording(max_refills=2),
        reward=[judged, hapo],
        prompt_selector=selector,
        token_credit=parts.HalfOfTheTokens(),
        budget_schedule=parts.Shrinking(),
        max_steps=3,
    )
    trainer.train()
    assert selector.counts == [2, 1, 1] * 3
    assert sorted(selector.seen) == sorted(str(i) for i in range(12))
    assert trainer.history.to_pandas()["visits"].tolist() == [1] * 12


def test_a_rollout_func_is_called_for_each_round_and_its_fields_reach_rewards(tiny_model, tmp_path):
    def rollout(prompts, trainer):
        return {
            "prompt_ids": [[5, 6, 7]] * len(prompts),
            "completion_ids": [[10, 11 + i, 2] for i in range(len(prompts))],
            "logprobs": None,
            "env_mask": [[1, 0, 1]] * len(prompts),
            "row": [int(prompt[:-1]) for prompt in prompts],
        }

    dataset = Dataset.from_list([{"prompt": f"{i}?", "prompt_id": str(i)} for i in range(12)])
    group_filter = Recording(max_refills=2)
    trainer = build(
        tiny_model,
        tmp_path,
        group_filter,
        trainer_class=tiny.spy(ConciseGRPOTrainer),
        dataset=dataset,
        rollout_func=rollout,
        max_steps=1,
    )
    trainer.train()
    assert group_filter.rounds == [[0, 1], [2], [3]]
    inputs = trainer.seen[0][0]
    assert inputs["tool_mask"].tolist() == [[1, 0, 1]] * 8
    assert trainer.rollout_func is rollout


def test_evaluation_is_never_filtered(tiny_model, tmp_path):
    group_filter = Recording(max_refills=2)
    data = Dataset.from_list(rows(4))
    trainer = build(
        tiny_model, tmp_path, group_filter, eval_dataset=data, eval_strategy="steps", eval_steps=1, max_steps=1
    )
    trainer.train()
    assert len(group_filter.rounds) == 3
    entry = next(entry for entry in trainer.state.log_history if "eval_reward" in entry)
    assert entry["eval_reward"] == 0.25 and not any(key.startswith("eval_refill") for key in entry)


def test_single_completions_that_are_not_kept_have_advantage_zero(tiny_model, tmp_path):
    class First(GroupFilter):
        name = "first"

        def keep(self, rollouts):
            return torch.arange(len(rollouts)) % rollouts.num_generations < 2

    trainer = build(
        tiny_model,
        tmp_path,
        First(),
        trainer_class=tiny.spy(ConciseGRPOTrainer),
        dataset=Dataset.from_list([row for row in rows() if row["row"] in LIVE]),
        max_steps=1,
    )
    trainer.train()
    assert (trainer.seen[0][0]["advantages"] != 0).sum() == 4
    assert "refill/rounds" not in trainer.state.log_history[0]


@pytest.mark.parametrize(
    "kept",
    [torch.ones(3, dtype=torch.bool), torch.ones(8), [True] * 8, None],
    ids=["short", "numbers", "list", "none"],
)
def test_a_verdict_of_another_shape_is_refused(kept, tiny_model, tmp_path):
    class Wrong(GroupFilter):
        name = "wrong"

        def keep(self, rollouts):
            return kept

    with pytest.raises(ValueError, match=r"Wrong\.keep returned .* for 8 completions\. Return a tensor of bools"):
        build(tiny_model, tmp_path, Wrong()).train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_refills": -1}, r"Careless\.max_refills is -1\. Set it to an integer of at least 0"),
        ({"max_refills": None}, r"Careless\.max_refills is None\. Set it"),
        ({"divisor": "some"}, r"Careless\.divisor is 'some', but must be one of \('kept', 'all'\)"),
    ],
)
def test_settings_of_a_filter_are_checked(settings, message, tiny_model, tmp_path):
    class Careless(GroupFilter):
        name = "careless"

        def keep(self, rollouts):
            return rollouts.correct > 0

    group_filter = Careless()
    for name, value in settings.items():
        setattr(group_filter, name, value)
    with pytest.raises(ValueError, match=message):
        build(tiny_model, tmp_path, group_filter)


def test_images_tools_and_environments_are_refused(tiny_model, tmp_path):
    images = Dataset.from_list([{**row, "image": None} for row in rows()])
    with pytest.raises(ValueError, match="DynamicSampling cannot replace groups of prompts with images"):
        build(tiny_model, tmp_path, DynamicSampling(), dataset=images).train()
    for tools, environments in (([len], None), ([], {"": list})):
        with pytest.raises(
            ValueError, match=r"DynamicSampling cannot replace groups .* call tools or environments\. Set"
        ):
            check_filter(DynamicSampling(), tools, environments)
        check_filter(DynamicSampling(max_refills=0), tools, environments)
