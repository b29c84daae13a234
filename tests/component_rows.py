# SPDX-License-Identifier: Apache-2.0
"""
One row per component, for `tests/test_component_contract.py` and `tests/distributed/components.py`.

A row has arguments for every setting of its component, none of them a default. To add a component, add a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset

from tests import slot_rows, tiny
from tests.long_short_runs import SHORT, ScriptedPartner
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer, GroupReward
from trl_concise.components import Component
from trl_concise.data.teachers import Reply
from trl_concise.experimental.cort import CodeExecutionReward, CodeReasoning
from trl_concise.experimental.long_short import LongShortRollout
from trl_concise.experimental.scale_bio import SourceMixture
from trl_concise.experimental.soft_tokens import RLOO, SoftRollout
from trl_concise.methods.adapt_think import AdaptThink, ForcedModes
from trl_concise.methods.auto_think import AutoThinkReward
from trl_concise.methods.campo import RepetitionReward, StagedBudget
from trl_concise.methods.capo import CAPO
from trl_concise.methods.cost_constraints import CostConstraints, LengthLimit
from trl_concise.methods.crisp import CRISP
from trl_concise.methods.cure import CURE
from trl_concise.methods.curriculum import AccuracyBand
from trl_concise.methods.ddca import DDCA
from trl_concise.methods.delethink import Delethink
from trl_concise.methods.dler import BatchWhitening, DifficultyTruncation, TruncationFactor
from trl_concise.methods.drpo import DRPO
from trl_concise.methods.dynamic_sampling import DynamicSampling
from trl_concise.methods.efficient_reasoning import EfficientReasoningReward
from trl_concise.methods.effort import EffortReward, ReasoningAnswerReward
from trl_concise.methods.gated_brevity import BrevityReward
from trl_concise.methods.gfpo import GFPO, AdaptiveGFPO, KeptBaseline
from trl_concise.methods.greso import GRESO
from trl_concise.methods.grpo_lead import DifficultyWeighting, GRPOLEADReward
from trl_concise.methods.hapo import HAPOLengthReward
from trl_concise.methods.kimi import KimiLengthReward
from trl_concise.methods.ktae import KTAE
from trl_concise.methods.l1 import L1Reward
from trl_concise.methods.laser import LASERReward
from trl_concise.methods.laser_d import LASERDReward
from trl_concise.methods.mgpo import MGPO
from trl_concise.methods.noisy_rewards import NoisyReward, PatternCalibration
from trl_concise.methods.on_policy_sft import OnPolicySFT, OnPolicySFTFilter
from trl_concise.methods.otc import OTCPPOReward, OTCReward
from trl_concise.methods.pcl import PCL
from trl_concise.methods.prorl import K2Penalty, ReferenceReset
from trl_concise.methods.rlpr import RewardStdFilter, RLPRReward
from trl_concise.methods.saturn import SATURNCurriculum
from trl_concise.methods.self_verify import SelfVerification
from trl_concise.methods.sgrpo import StochasticTokens
from trl_concise.methods.shorter_better import ShorterBetterReward
from trl_concise.methods.siri import SIRISchedule, TruncationPenalty
from trl_concise.methods.t1 import AnchoredKL
from trl_concise.methods.thinker import Thinker
from trl_concise.methods.tspmo import PrefixMatching


LIMIT = 12  # tokens, with EOS: more than any completion of `slot_rows.rollout` has


def length_in_hundreds(length: float) -> float:
    return length / 100


def list_steps(problem: str, steps: Sequence[str], answer: str | None) -> list[dict[str, str]]:
    return [{"role": "user", "content": " ".join(map(str, map(len, steps)))}]


class StepLengthCritic:
    """Names the steps of an odd length. Some of its critiques cannot be read, some fail."""

    name = "step_length"

    def config(self):
        return {}

    def cost(self, input_tokens, output_tokens):
        return None

    def replies(self, conversations, timeout=None):
        for i, conversation in enumerate(conversations):
            lengths = conversation[0]["content"]
            numbers = [int(length) for length in lengths.split()]
            odd = [str(number) for number, length in enumerate(numbers, start=1) if length % 2]
            verdict = f"Wrong steps: {', '.join(odd) or 'none'}" if sum(numbers) % 5 else "?"
            yield i, Reply(verdict, len(lengths), 1, error="failed" if sum(numbers) % 7 == 0 else None)


class Careless(GroupReward):
    """
    A component as a user may write it: an unusual name, a function as argument, scores in float64 with NaN, metrics and a state with NaN
    and infinity, and optionally a fault.
    """

    name = "0-My--Own_reward"
    needs_correctness = False
    card_settings = ("judge", "scale", "fault")

    def __init__(self, judge: Callable[[float], float], scale: float = 1.0, fault: str | None = None):
        self.judge = judge
        self.scale = scale
        self.fault = fault
        self.seen = 0
        self.shortest = math.inf
        self.last = math.nan

    def measure(self, local):
        wide = torch.ones(len(local.lengths), max(map(len, local.completion_ids)))
        return {"ones": wide[:, :1] if self.fault == "measure" else wide[:, 0], "wide": wide}

    def score(self, rollouts):
        scores = torch.tensor([self.judge(length) for length in rollouts.lengths.tolist()]) * self.scale
        scores = scores.double() * (1 + self.seen)  # of another type than the rewards
        scores[:: rollouts.num_generations] = math.nan
        if self.fault == "infinite":
            scores[-1] = -math.inf
        faults = {"matrix": scores[:, None], "short": scores[:-1], "list": scores.tolist(), "none": None}
        return faults.get(self.fault, scores)

    def observe(self, rollouts):
        self.seen += 1
        self.shortest = min(self.shortest, rollouts.lengths.min().item())

    def metrics(self):
        return {"last": self.last, "shortest": self.shortest}

    def state_dict(self):
        return {"seen": self.seen, "numbers": {"shortest": self.shortest, "last": self.last}}

    def load_state_dict(self, state):
        self.seen, self.shortest, self.last = state["seen"], state["numbers"]["shortest"], state["numbers"]["last"]


@dataclass(frozen=True)
class Row:
    """
    A component and the settings that it is tested with.

    Attributes:
        component (`type[Component]`): The class.
        arguments (`dict[str, Any]`): All arguments of its constructor, different from their defaults.
        slot (`str`): Argument of the trainer.
        args (`dict[str, Any]`): Settings of the trainer that it needs.
        neutral (`dict[str, Any]`, *optional*): Changes to `arguments` that make it neutral; `None` if there are none. The weight 0
            makes every group reward neutral.
        samples (`bool`): Whether the model generates the completions; otherwise `slot_rows.rollout` does.
        on_processes (`dict[str, Any]`): Changes to `arguments` without which completions depend on the number of processes.
        rollout (`Callable`): What generates the completions in the place of the model.
        trainer (`type[ConciseGRPOTrainer]`): The trainer, if the model does not generate.
        validates (`bool`): Whether it needs an evaluation dataset.
        shards (`bool`): Whether it trains a model that FSDP or DeepSpeed shards; otherwise it refuses one.
    """

    component: type[Component]
    arguments: dict[str, Any] = field(default_factory=dict)
    slot: str = "reward_funcs"
    args: dict[str, Any] = field(default_factory=dict)
    neutral: dict[str, Any] | None = field(default_factory=dict)
    samples: bool = False
    on_processes: dict[str, Any] = field(default_factory=dict)
    rollout: Callable = slot_rows.rollout
    trainer: type[ConciseGRPOTrainer] = ConciseGRPOTrainer
    validates: bool = False
    shards: bool = True

    def make(self, **changes: Any) -> Component:
        return self.component(**{**self.arguments, **changes})


def rollout_with_calls(prompts, trainer) -> dict[str, Any]:
    """Generate as `slot_rows.rollout` does, with zero to three tool calls per completion."""
    output = slot_rows.rollout(prompts, trainer)
    return output | {"tool_calls": [sum(ids) % 4 for ids in output["completion_ids"]]}


def rollout_with_blocks(prompts, trainer) -> dict[str, Any]:
    """Generate as `slot_rows.rollout` does, with zero to three executed blocks per completion, some of which failed."""
    output = slot_rows.rollout(prompts, trainer)
    calls = [float(sum(ids) % 4) for ids in output["completion_ids"]]
    failures = [float(min(own, sum(ids) % 3)) for own, ids in zip(calls, output["completion_ids"], strict=True)]
    return output | {"calls": calls, "failures": failures, "failures_by_words": failures}


_ROWS = [
    Row(HAPOLengthReward, {"shape": "linear", "floor": -0.5, "aggregate": "mean", "tolerance": 0.2}),
    Row(LASERReward, {"target_length": 5, "alpha": 0.25}, neutral={"alpha": 0.0}),
    Row(
        LASERDReward,
        {
            "shortest_target": 2,
            "longest_target": 10,
            "interval": 2,
            "alpha": 0.25,
            "explore": True,
            "monitor_prompts": 3,
            "monitor_generations": 2,
            "monitor_every": 5,
            "rounding": "ceil",
        },
        on_processes={"shortest_target": 5, "longest_target": 5},  # one target, whatever the monitor samples
    ),
    Row(ShorterBetterReward, {"alpha": 1.5, "beta": 0.01}),
    Row(L1Reward, {"form": "max-released", "alpha": 0.01, "delta": 0.25}),
    Row(KimiLengthReward, {"warmup_steps": 1}, neutral={"warmup_steps": 100}),
    Row(EfficientReasoningReward, {"alpha": 0.2}, args={"scale_rewards": "none"}),
    Row(GRPOLEADReward, {"alpha": 0.1, "min_length": 1.5, "unanswered_reward": -0.25, "repetition_reward": -0.5}),
    Row(BrevityReward, {"rule": "gr3", "strength": 0.5, "use_rewards": True}, args={"scale_rewards": "none"}),
    Row(EffortReward, {"bonus": 0.5, "penalty": 2.0}),
    Row(
        ReasoningAnswerReward,
        {
            "reasoning_weight": 0.25,
            "answer_weight": 0.125,
            "reasoning_bonus": 0.75,
            "answer_bonus": 0.25,
            "only_correct": False,
        },
    ),
    # Without a count of calls there is nothing to reward: tests/methods/test_otc.py has the weight 0, with tools.
    Row(OTCReward, {"alpha": 0.5, "smoothing": 3.0}, neutral=None, rollout=rollout_with_calls),
    Row(OTCPPOReward, {"alpha": 0.5, "smoothing": 3.0}, neutral=None, rollout=rollout_with_calls),
    Row(TruncationPenalty, {"coefficient": 0.25, "spare_boxed": False}, samples=True, neutral={"coefficient": 1.0}),
    Row(NoisyReward, {"probability": 0.6, "seed": 7, "per": "completion", "needs_answer": False}),
    Row(
        PatternCalibration,
        {
            "reward": "correct_if_even",
            "threshold": 0.75,
            "weight": 2.0,
            "divisor": 20,
            "count_repeats": True,
            "whole_words": True,
        },
    ),
    Row(DifficultyWeighting, {"skip_unsolved": True}, "advantage", neutral=None),
    Row(DDCA, {"beta": 0.5, "baseline": "rloo", "use_pass_rate": False, "min_std": 0.5}, "advantage", neutral=None),
    Row(
        DRPO,
        {"length_temperature": 0.2, "temperature": 5.0, "max_length": 20},
        "advantage",
        args={"loss_type": "grpo"},
        neutral=None,
    ),
    Row(
        BatchWhitening,
        {
            "token_weighted": False,
            "skip_zero_variance": False,
            "unbiased": True,
            "boost": 0.1,
            "boost_truncated": False,
        },
        "advantage",
        args={"scale_rewards": "none"},
        neutral=None,
    ),
    Row(OnPolicySFT, {"max_length": 8, "normalization": "longest"}, "advantage", neutral=None),
    Row(
        OnPolicySFTFilter,
        {"max_length": 8, "max_refills": 2},
        "group_filter",
        neutral=None,
        on_processes={"max_refills": 0},
    ),
    Row(TruncationFactor, {"factor": 0.5}, neutral={"factor": 1.0}, samples=True),
    Row(DifficultyTruncation, {"limits": [9, 6, 3], "thresholds": [0.3, 0.6], "factor": 0.5}),
    Row(
        ForcedModes,
        {
            "direct_share": 0.25,
            "thinking_start": "a",
            "max_direct_length": 6,
            "corrects_importance": False,
            "start_marker": "?",  # with which the prompts end
            "end_marker": "!",
        },
        "rollout",
        neutral=None,
        on_processes={
            "direct_share": 1.0,
            "max_direct_length": 1,
        },  # the forced token alone, whatever the model samples
    ),
    Row(
        CURE,
        {
            "sources": 2,
            "forks": 1,
            "top_k": 6,
            "ordering": "random",  # entropies may differ in their last digits, by the rows that are scored together
            "min_characters": 1,
            "max_prompt_length": 100,
        },
        "rollout",
        neutral={"sources": 4, "forks": 0},
        samples=True,
        trainer=slot_rows.FollowsStart,
    ),
    Row(
        Delethink,
        {"chunk_size": 6, "keep_head": 2},
        "rollout",
        args={"loss_type": "grpo"},
        neutral=None,
        trainer=slot_rows.DrawsChunks,
    ),
    Row(
        CodeReasoning,
        {"executor": slot_rows.run_code, "max_calls": 2},
        "rollout",
        args={"max_completion_length": 64},  # a block has 18 tokens
        neutral=None,
        trainer=slot_rows.WritesCode,
    ),
    Row(CodeExecutionReward, {"omega": 0.25, "release": True}, rollout=rollout_with_blocks),
    Row(
        SoftRollout,
        {
            "cot": "fuzzy",
            "cot_temperature": 0.2,
            "noise_scale": 0.5,
            "max_cot_length": 4,
            "max_answer_length": 5,
            "cot_end": "!",
            "answer_prefix": "?",
        },
        "rollout",
        neutral={"cot": "hard"},
        samples=True,
        shards=False,
        trainer=slot_rows.DrawsTogether,
    ),
    Row(RLOO, {}, "advantage", neutral=None),
    Row(
        LongShortRollout,
        {
            "role": "long",
            "partner": ScriptedPartner(SHORT),
            "max_turns": 2,
            "partner_tokens": 40,
            "partner_temperature": 0.5,
            "long_prompt": "Think.",
            "short_prompt": "Finish.",
        },
        "rollout",
        neutral=None,
        trainer=slot_rows.DrawsChunks,
    ),
    Row(AdaptThink, {"delta": 0.1, "start_marker": "?", "end_marker": "!"}, "advantage", neutral=None),
    Row(
        AutoThinkReward,
        {
            "stage": 2,
            "stage_steps": [3],
            "balance_target": 0.75,
            "balance_slope": 1.0,
            "correct_slope": 0.5,
            "wrong_slope": 0.25,
            "adds_ellipsis": False,  # the prompts are texts
            "start_marker": "?",  # with which they end
            "end_marker": "!",
        },
    ),
    Row(
        RLPRReward,
        {
            "tags": ["8", ":"],
            "answer_column": "prompt_id",
            "aggregate": "geometric",
            "format_weight": 0.25,
            "pad_answer": False,
            "repetition_limit": 2,
        },
    ),
    Row(
        RewardStdFilter,
        {"max_refills": 2, "ratio": 0.75, "decay": 0.5, "collect_from": 1, "filter_from": 2},
        "group_filter",
        neutral={"max_refills": 0, "ratio": 0.0},
        on_processes={"max_refills": 0},
    ),
    Row(
        Thinker,
        {
            "verification_tokens": 6,
            "slow_tokens": 8,
            "summary_tokens": 5,
            "bonus": 0.01,
            "bonus_per_token": False,
            "decay": 0.5,
            "verification_instruction": "Sure?",
            "slow_instruction": "Again.",
            "summary_instruction": "Sum up.",
        },
        "advantage",
        args={"top_k": 1},  # later turns are sampled by each process
        neutral=None,
    ),
    Row(MGPO, {"strength": 2.0}, "advantage", neutral={"strength": 0.0}),
    Row(
        CostConstraints,
        {
            "limits": [LengthLimit(5)],
            "delta": 0.2,
            "test_size": 100,
            "c1": 0.5,
            "c2": 2.0,
            "multiplier": 2.0,
            "multiplier_learning_rate": 0.5,
            "max_multiplier": 100.0,
            "window": 32,
        },
        "advantage",
        neutral={"multiplier": 0.0},
    ),
    Row(
        SIRISchedule,
        {"longest": LIMIT, "shortest": 4, "cycle": 3, "shape": "stair"},
        "budget_schedule",
        neutral={"shortest": LIMIT},
        samples=True,
    ),
    Row(
        StagedBudget,
        {"limits": [4, 8, LIMIT], "steps": [1, 2]},
        "budget_schedule",
        neutral={"limits": [LIMIT] * 3},
        samples=True,
    ),
    Row(RepetitionReward, {"form": "released", "loop": "earliest_start", "constant": 0.2}, samples=True),
    Row(
        PCL,
        {"candidates": 2, "target": 0.25, "learning_rate": 0.1, "updates": 2},
        "prompt_selector",
        neutral={"candidates": 1},
    ),
    Row(
        SourceMixture,
        {"shares": {"p0": 0.4, "p1": 0.3, "p2": 0.2, "p3": 0.1}, "column": "prompt_id", "candidates_per_prompt": 2},
        "prompt_selector",
        neutral=None,
        on_processes={"shares": {f"p{i}": share for i, share in enumerate([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])}},
    ),
    Row(GRESO, {"exploration": 0.3, "zero_variance_target": 0.5, "seed": 7}, "prompt_selector"),
    Row(
        DynamicSampling,
        {"max_refills": 2, "score": "reward", "tolerance": 0.01},
        "group_filter",
        neutral={"max_refills": 0},  # groups without a signal have advantage 0 anyway
        on_processes={"max_refills": 0},
    ),
    Row(GFPO, {"k": 2, "metric": "efficiency", "divisor": "kept"}, "group_filter", neutral={"k": 4}),
    Row(
        AdaptiveGFPO,
        {
            "easy": 1,
            "medium": 2,
            "hard": 3,
            "very_hard": 4,
            "metric": "efficiency",
            "divisor": "kept",
            "min_groups": 3,
        },
        "group_filter",
        neutral={"easy": 4, "medium": 4, "hard": 4},
    ),
    Row(KeptBaseline, {}, "advantage", neutral=None),
    Row(
        AccuracyBand,
        {"low": 0.3, "high": 0.7, "visits": 2, "exploration": 0.3, "seed": 7},
        "prompt_selector",
        neutral={"low": 0.0, "high": 1.0},
    ),
    Row(
        SATURNCurriculum,
        {"threshold": 0.25, "every": 2, "generations": 2, "level_column": "stage"},
        "prompt_selector",
        neutral={"level_column": "only_stage"},
        on_processes={"threshold": 1.0},  # each process draws its own completions in validation
        validates=True,
    ),
    Row(
        StochasticTokens,
        {"cutoff": 1, "max_tokens": 4, "probability": 0.75, "count_forced": False, "seed": 7, "cap": "random"},
        "token_credit",
        neutral={"cutoff": 100},
    ),
    Row(
        PrefixMatching,
        {"replay_per_prompt": 1, "replay_group_size": 3, "baseline": "unweighted"},
        "token_credit",
        neutral=None,
        on_processes={"replay_per_prompt": 0, "replay_group_size": 4},
    ),
    Row(
        KTAE,
        {"weight": 0.5, "fisher_weight": 0.5, "gain_weight": 2.0, "term_frequency": False},
        "token_credit",
        neutral={"weight": 0.0},
    ),
    Row(
        CAPO,
        {
            "critic": StepLengthCritic(),
            "critiques": 2,
            "vote": "average",
            "outcome_weight": 1.5,
            "process_weight": 0.5,
            "separator": "[05:?DI]",
            "answer_column": None,
            "timeout": 60.0,
            "request": list_steps,
        },
        "token_credit",
        neutral=None,
    ),
    Row(
        ReferenceReset,
        {"every": 1, "max_kl": 0.5, "patience": 2, "metric": "eval_reward", "clear_optimizer": True},
        "advantage",
        args={"beta": 0.1},
        neutral={"every": 0, "max_kl": None, "patience": None},
    ),
    Row(
        K2Penalty,
        {"coefficient": 0.5, "max_log_ratio": 2.0, "max_penalty": 1.0},
        "token_credit",
        neutral={"coefficient": 0.0},
    ),
    Row(
        SelfVerification,
        {"ratio": 0.5, "verdict_reward": "binary", "buffer_size": 12, "max_age": 3},
        "advantage",
        neutral={"ratio": 0.0},
        on_processes={"ratio": 0.0},  # what the model writes depends on the number of processes
    ),
    Row(AnchoredKL, {"tau": 0.5, "kl_weight": 0.01}, neutral={"tau": 1.0, "kl_weight": 0.0}),
    Row(CRISP, {"instruction": "Short. ", "refresh_every": 1}, "token_credit", neutral=None),
    Row(Careless, {"judge": length_in_hundreds, "scale": 0.5, "fault": "of no kind"}),
]
ROWS = {row.component.__name__: row for row in _ROWS}


def problems(count: int) -> Dataset:
    return Dataset.from_list(
        [
            {
                **row,
                "target_length": 2 + i,
                "effort_tokens": [4, None][i % 2],
                "pass_rate": i / 8,
                "stage": 2 * i // count,
                "only_stage": 0,
            }
            for i, row in enumerate(slot_rows.PROBLEMS[:count])
        ]
    )


def correct_if_even(completion_ids, **kwargs):
    """Return 1 if the last token before EOS has an even id."""
    return [float(ids[-2] % 2 == 0) if len(ids) > 1 else 0.0 for ids in completion_ids]


def build(model: str, folder, row: str, correct: Callable = correct_if_even, **changes: Any) -> ConciseGRPOTrainer:
    """Return the trainer of a row: groups of four, two of the four prompts per step."""
    given = ROWS[row]
    named = {"reward": correct.__name__} if "reward" in given.arguments else {}
    component = given.make(**named, **changes.pop("arguments", {}))
    dataset = changes.pop("dataset", problems(4))
    samples = changes.pop("samples", given.samples)
    slots = {} if given.slot == "reward_funcs" else {given.slot: component}
    settings = {"max_steps": 4, "max_completion_length": LIMIT, "learning_rate": 1e-2, **given.args}
    settings |= {} if slots else {"reward_weights": [1.0, 0.5]}
    trainer_class = ConciseGRPOTrainer if samples else given.trainer
    return trainer_class(
        model,
        [correct] if slots else [correct, component],
        ConciseGRPOConfig(**tiny.settings(folder, **{**settings, **changes})),
        dataset,
        eval_dataset=dataset if given.validates else None,
        rollout_func=None if samples or given.slot == "rollout" else given.rollout,
        **slots,
    )
