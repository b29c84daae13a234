# SPDX-License-Identifier: Apache-2.0
"""Every trainer that treats generation in its own way, with the real engine: in the training process and as a server."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig

import trl_concise as tc
from tests import sketches
from tests.vllm.engine import COLOCATE
from tests.vllm.runs import assert_engine_is_policy, train
from trl_concise.methods.adapt_think import AdaptThinkConfig, AdaptThinkTrainer
from trl_concise.methods.auto_think import AutoThinkConfig, AutoThinkTrainer
from trl_concise.methods.delethink import Delethink


LORA = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.mark.parametrize("peft_config", [None, LORA], ids=["full", "lora"])
def test_hapo(peft_config, embedded, mode, tmp_path):
    rate = 1e-3 if peft_config is None else 1e-2
    trainer, _ = train(
        tc.HAPOTrainer,
        tc.HAPOConfig,
        embedded,
        mode,
        tmp_path,
        peft_config=peft_config,
        rows=8,
        learning_rate=rate,
    )
    assert len(trainer.history) == 8
    assert_engine_is_policy(trainer)


def test_budgets_reach_the_engine(embedded, mode, tmp_path):
    _, logs = train(tc.SIRITrainer, tc.SIRIConfig, embedded, mode, tmp_path, budget_cycle=4, min_completion_length=16)
    assert [entry["siri/budget"] for entry in logs] == [96, 56, 16]
    assert all(entry["completions/max_length"] <= entry["siri/budget"] for entry in logs)


def test_prompt_selection(embedded, mode, tmp_path):
    train(tc.GRESOTrainer, tc.GRESOConfig, embedded, mode, tmp_path, rows=8)


class EveryOther(tc.GroupFilter):
    """Keeps every other group of the run."""

    name = "every_other"
    max_refills = 2

    def __init__(self):
        self.rounds = []

    def keep(self, rollouts):
        groups = torch.arange(len(rollouts)) // rollouts.num_generations
        self.rounds.append(len(rollouts) // rollouts.num_generations)
        return groups % 2 == 1


def test_groups_are_replaced(embedded, mode, tmp_path):
    group_filter = EveryOther()
    trainer, logs = train(
        tc.ConciseGRPOTrainer,
        tc.ConciseGRPOConfig,
        embedded,
        mode,
        tmp_path,
        rows=32,
        slots={"group_filter": group_filter},
    )
    assert group_filter.rounds == 3 * [4, 2, 1]
    assert [entry["refill/rounds"] for entry in logs] == [2, 2, 2]
    assert [entry["refill/missing_fraction"] for entry in logs] == [0.25, 0.25, 0.25]
    assert_engine_is_policy(trainer)


@pytest.mark.parametrize("correction", ["sequence_mask", "token_truncate"])
def test_token_selection_with_either_correction(correction, embedded, mode, tmp_path):
    train(
        tc.SGRPOTrainer,
        tc.SGRPOConfig,
        embedded,
        mode,
        tmp_path,
        cutoff=10,
        max_tokens=30,
        vllm_importance_sampling_mode=correction,
    )


@pytest.mark.parametrize("correction", ["sequence_mask", "token_truncate"])
def test_a_rollout_forces_the_first_token(correction, embedded, mode, tmp_path):
    """The engine has not drawn the token, so its score is in no correction (and not in the difference that `train` checks)."""
    slots = {"rollout": sketches.ForcedModes(), "advantage": sketches.AdaptThink()}
    trainer, _ = train(
        tc.ConciseGRPOTrainer,
        tc.ConciseGRPOConfig,
        embedded,
        mode,
        tmp_path,
        slots=slots,
        vllm_importance_sampling_mode=correction,
    )
    for batch in trainer._buffered_inputs:
        assert batch["is_forced"][:, 0].all() and not batch["is_forced"][:, 1:].any()
        assert batch["old_per_token_logps"][:, 0].tolist() == pytest.approx([math.log(0.5)] * len(batch["is_forced"]))
        assert batch["sampling_per_token_logps"][:, 0].isnan().all()


def test_completions_in_chunks(embedded, mode, tmp_path):
    """The engine gets the carried tokens as a part of the prompt, and has drawn none of them."""
    trainer, logs = train(
        tc.ConciseGRPOTrainer,
        tc.ConciseGRPOConfig,
        embedded,
        mode,
        tmp_path,
        slots={"rollout": Delethink(32, keep_head=4)},
        loss_type="grpo",
        vllm_importance_sampling_mode="token_truncate",
    )
    for batch in trainer._buffered_inputs:
        assert len(batch["completion_ids"]) > 16 and batch["completion_ids"].shape[1] <= 32
        carried = batch["completion_mask"].bool() & (batch["tool_mask"] == 0)
        written = batch["completion_mask"].bool() & (batch["tool_mask"] == 1)
        assert carried.any() and batch["sampling_per_token_logps"][carried].isnan().all()
        assert batch["sampling_per_token_logps"][written].isfinite().all()
    assert all(entry["delethink/chunks"] > 1.5 and entry["completions/mean_length"] > 32 for entry in logs)
    assert_engine_is_policy(trainer)


def test_adapt_think(embedded, mode, tmp_path):
    problems = tc.demo.train_dataset(16)
    trainer, logs = train(
        AdaptThinkTrainer,
        AdaptThinkConfig,
        embedded,
        mode,
        tmp_path,
        train_dataset=problems.add_column("pass_rate", [0.5] * 16),
        thinking_start="We",
        max_direct_length=24,
    )
    for batch in trainer._buffered_inputs:
        firsts = trainer.processing_class.batch_decode(batch["completion_ids"][:, :1])
        assert sorted(firsts) == ["</think>"] * (len(firsts) // 2) + ["We"] * (len(firsts) // 2)
        assert batch["forced_logps"][:, 0].tolist() == pytest.approx([math.log(0.5)] * len(firsts))
        assert batch["sampling_per_token_logps"][:, 0].isnan().all()
    assert all(entry["forced_modes/direct_tokens"] <= 24 for entry in logs)
    assert_engine_is_policy(trainer)


def test_auto_think(embedded, mode, tmp_path):
    """The engine gets the prompt with the ellipsis, and the limit of each stage."""
    trainer, logs = train(
        AutoThinkTrainer,
        AutoThinkConfig,
        embedded,
        mode,
        tmp_path,
        stage_steps=[1, 2],
        stage_limits=[24, 48, 96],
    )
    assert [entry["auto_think/stage"] for entry in logs] == [1, 2, 3]
    assert [entry["staged_budget/budget"] for entry in logs] == [24, 48, 96]
    assert all(entry["completions/max_length"] <= entry["staged_budget/budget"] for entry in logs)
    prompts = trainer.processing_class.batch_decode(trainer._buffered_inputs[0]["prompt_ids"])
    assert all(prompt.endswith("<think>\n...\n") for prompt in prompts)
    assert_engine_is_policy(trainer)


def test_replay(embedded, mode, tmp_path):
    train(
        tc.TSPMOTrainer,
        tc.TSPMOConfig,
        embedded,
        mode,
        tmp_path,
        replay_per_prompt=1,
        vllm_importance_sampling_correction=False,
    )


def test_monitor(embedded, mode, tmp_path):
    _, logs = train(
        tc.LASERDTrainer,
        tc.LASERDConfig,
        embedded,
        mode,
        tmp_path,
        monitor_prompts=4,
        monitor_generations=4,
        monitor_every=2,
    )
    assert logs[-1]["laser_d/monitor_tokens"] > logs[0]["laser_d/monitor_tokens"] > 0


def test_the_watch_set_is_completed_greedily_without_effect_on_training(embedded, mode, tmp_path):
    watched = tc.demo.train_dataset(8, seed=1)
    changes = {"watch_every": 2, "on_loss": "best", "generation_kwargs": {"temperature": 1.0}}  # read last
    runs = [
        train(tc.HAPOTrainer, tc.HAPOConfig, embedded, mode, tmp_path, watch_dataset=dataset, **changes)
        for dataset in (None, watched)
    ]
    measured = [entry for entry in runs[1][0].state.log_history if "watch/accuracy" in entry]
    assert [entry["step"] for entry in measured] == [0, 2, 3]
    again = train(
        tc.HAPOTrainer, tc.HAPOConfig, embedded, mode, tmp_path, watch_dataset=watched, seed=1, max_steps=1, **changes
    )[0]
    first = next(entry for entry in again.state.log_history if "watch/accuracy" in entry)
    assert first == measured[0]  # whatever the seed
    if mode is COLOCATE:  # a server draws from a random state of its own
        assert [entry["loss"] for entry in runs[0][1]] == [entry["loss"] for entry in runs[1][1]]


def test_extra_completions_and_their_scores(embedded, mode, tmp_path):
    trainer, _ = train(tc.ConciseGRPOTrainer, tc.ConciseGRPOConfig, embedded, mode, tmp_path, max_steps=1)
    rows = [trainer.train_dataset[row] for row in range(4)]
    first = trainer.generate_rollouts(rows, 4)
    prefixes = [ids[:5] for ids in first.completion_ids[::4]]
    continued = trainer.generate_rollouts(rows, 4, prefix_ids=prefixes, max_tokens=20)
    assert max(map(len, continued.completion_ids)) <= 20
    for rollouts in (first, continued):
        starts = [[*prompt, *prefix] for prompt, prefix in zip(rollouts.prompt_ids, rollouts.prefix_ids, strict=True)]
        scores = trainer.score_logps(starts, rollouts.completion_ids)
        for own, engines in zip(scores, rollouts.logps, strict=True):
            torch.testing.assert_close(own[: len(engines)], torch.tensor(engines), atol=1e-4, rtol=0)


def test_the_seed_reaches_a_colocated_engine(embedded, tmp_path):
    runs = [
        train(tc.HAPOTrainer, tc.HAPOConfig, embedded, COLOCATE, tmp_path, max_steps=1, seed=seed, data_seed=0)[1]
        for seed in (1, 2, 1)
    ]
    lengths = [run[0]["completions/mean_length"] for run in runs]
    assert lengths[0] == lengths[2] != lengths[1]


def test_a_resumed_run_equals_the_original_run(embedded, tmp_path):
    checkpoints = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4, "rows": 8, "steps_per_generation": 2}
    whole, _ = train(tc.HAPOTrainer, tc.HAPOConfig, embedded, COLOCATE, tmp_path / "whole", **checkpoints)
    for step in (1, 2):  # inside a generation block, and after one
        resumed, _ = train(
            tc.HAPOTrainer,
            tc.HAPOConfig,
            embedded,
            COLOCATE,
            tmp_path / f"resumed-{step}",
            resume=str(tmp_path / "whole" / f"checkpoint-{step}"),
            **checkpoints,
        )
        assert resumed.history.state_dict().keys() == whole.history.state_dict().keys()
        for name, weight in whole.model.state_dict().items():
            assert torch.equal(weight, resumed.model.state_dict()[name]), (step, name)
