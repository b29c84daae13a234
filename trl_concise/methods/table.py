# SPDX-License-Identifier: Apache-2.0
"""
The table of methods: one row per method, those for shorter completions in `length_table.py`, those without rollouts in `offline_table.py`,
experimental systems in `experimental_table.py`.
`trl-concise methods`, the README's table and docs/methods.md are made from it.

    trl-concise methods
    python -m tests.tools.method_table  # rewrites README.md and docs/methods.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from ..errors import Parser
from .experimental_table import EXPERIMENTAL_METHODS
from .length_table import LENGTH_METHODS
from .method import PROVENANCE, Method
from .offline_table import OFFLINE_METHODS


METHODS: tuple[Method, ...] = (
    *LENGTH_METHODS,
    Method(
        "GRESO",
        "skip prompts whose groups gave no gradient",
        "greso",
        ("prompt_selector",),
        ("GRESO",),
        "2506.02177",
        "reconstructed",
        "greso",
        1,
        "GRESOTrainer",
        "greso.md#results",
    ),
    Method(
        "PCL",
        "train on the prompts that a value head predicts to be solved half of the time",
        "pcl",
        ("prompt_selector",),
        ("PCL",),
        "2510.01135",
        "reconstructed",
        "pcl",
        1,
        evidence="pcl.md#results",
    ),
    Method(
        "Dynamic sampling",
        "replace groups without a learning signal (DAPO)",
        "dynamic_sampling",
        ("group_filter",),
        ("DynamicSampling",),
        "2503.14476",
        "reconstructed",
        "dynamic_sampling",
        1,
        evidence="benchmarks.md#against-dynamic-sampling",
    ),
    Method(
        "Curriculum",
        "train on prompts that are solved sometimes",
        "curriculum",
        ("prompt_selector",),
        ("AccuracyBand",),
        None,
        "common",
        "curriculum",
        1,
        evidence="pcl.md#results",
    ),
    Method(
        "SATURN",
        "satisfiable formulas of rising difficulty, an exact checker, and a curriculum by validation",
        "saturn",
        ("prompt_selector",),
        ("SATURNCurriculum", "saturn_reward"),
        "2505.16368",
        "reconstructed",
        "saturn",
        1,
        evidence="saturn.md#results",
    ),
    Method(
        "MGPO",
        "larger advantages on prompts that are solved half of the time (VibeThinker)",
        "mgpo",
        ("advantage",),
        ("MGPO",),
        "2511.06221",
        "reconstructed",
        "mgpo",
        1,
        evidence="mgpo.md#results",
    ),
    Method(
        "One-shot RLVR",
        "rank the problems, and train on one",
        "one_shot_rlvr",
        ("train_dataset",),
        ("historical_variance", "rank_by_historical_variance", "repeat_example"),
        "2504.20571",
        "code",
        "one_shot_rlvr",
        1,
        evidence="one_shot_rlvr.md#results",
    ),
    Method(
        "MR-RLVR",
        "train on tasks about worked solutions first: fill in pieces, restore the order of the steps",
        "mr_rlvr",
        ("train_dataset", "reward_funcs"),
        ("build_process_tasks", "fill_reward", "order_reward"),
        "2511.17473",
        "reconstructed",
        "mr_rlvr",
        1,
        evidence="mr_rlvr.md#results",
    ),
    Method(
        "S-GRPO",
        "the loss on a random subset of the tokens",
        "sgrpo",
        ("token_credit",),
        ("StochasticTokens",),
        "2504.20834",
        "reconstructed",
        "sgrpo",
        2,
        "SGRPOTrainer",
        "sgrpo.md#results",
    ),
    Method(
        "T-SPMO",
        "train on the tokens where the completions of a group diverge",
        "tspmo",
        ("token_credit",),
        ("PrefixMatching",),
        "2504.20834",
        "reconstructed",
        "tspmo",
        2,
        "TSPMOTrainer",
        "tspmo.md#results",
    ),
    Method(
        "KTAE",
        "more advantage for tokens that occur in correct completions, less for those in wrong ones",
        "ktae",
        ("token_credit",),
        ("KTAE",),
        "2505.16826",
        "code",
        "ktae",
        2,
        evidence="ktae.md#results",
    ),
    Method(
        "CAPO",
        "a critic model names wrong steps, whose tokens lose reward",
        "capo",
        ("token_credit",),
        ("CAPO",),
        "2508.02298",
        "reconstructed",
        "capo",
        2,
        evidence="capo.md#results",
    ),
    Method(
        "Noisy rewards and RPR",
        "inverts the rewards of some prompts, rewards phrases of reasoning, calibrates weak scores with them",
        "noisy_rewards",
        ("reward_funcs",),
        ("NoisyReward", "PatternCalibration"),
        "2505.22653",
        "code",
        "noisy_rewards",
        2,
        evidence="noisy_rewards.md#results",
    ),
    Method(
        "ThinkJSON",
        "reward a JSON object with the right keys and values, after the reasoning",
        "text_rewards",
        ("reward_funcs",),
        ("think_json_reward",),
        "2502.14905",
        "reconstructed",
        "text_rewards",
        2,
        evidence="text_rewards.md#results",
    ),
    Method(
        "SRPO",
        "reward answers that a reflection corrects",
        "text_rewards",
        ("reward_funcs",),
        ("srpo_reward",),
        "2506.01713",
        "code",
        "text_rewards",
        2,
    ),
    Method(
        "RLPR",
        "reward the probability of the reference answer after the reasoning",
        "rlpr",
        ("reward_funcs", "group_filter"),
        ("RLPRReward", "RewardStdFilter"),
        "2506.18254",
        "code",
        "rlpr",
        5,
        evidence="rlpr.md#results",
    ),
    Method(
        "Thinker",
        "answer fast, verify, think slowly where the fast answer is wrong, and summarize, with a reward for each turn",
        "thinker",
        ("advantage",),
        ("Thinker",),
        "2505.21097",
        "reconstructed",
        "thinker",
        9,
        evidence="thinker.md#results",
    ),
    Method(
        "Self-verification",
        "train on verdicts about the model's own recent solutions; the verdicts then weight a vote",
        "self_verify",
        ("advantage",),
        ("SelfVerification",),
        "2506.01369",
        "reconstructed",
        "self_verify",
        9,
        evidence="self_verify.md#results",
    ),
    Method(
        "OTC",
        "call tools no more often than the best correct completion so far",
        "otc",
        ("reward_funcs",),
        ("OTCReward", "OTCPPOReward"),
        "2504.14870",
        "reconstructed",
        "otc",
        6,
        evidence="otc.md#results",
    ),
    Method(
        "ProRL",
        "reset the reference model now and then, with a bounded KL penalty",
        "prorl",
        ("advantage", "token_credit"),
        ("ReferenceReset", "K2Penalty"),
        "2505.24864",
        "reconstructed",
        "prorl",
        7,
        evidence="prorl.md#results",
    ),
    Method(
        "CURE",
        "continue completions again from tokens at which the model was uncertain",
        "cure",
        ("rollout",),
        ("CURE",),
        "2508.11016",
        "code",
        "cure",
        7,
        evidence="cure.md#results",
    ),
    Method(
        "T1",
        "a KL term whose reference is a moving average of the policy",
        "t1",
        ("reward_funcs",),
        ("AnchoredKL",),
        "2501.11651",
        "reconstructed",
        "t1",
        7,
        evidence="t1.md#results",
    ),
    Method(
        "Delethink",
        "think in chunks, each in a context of a fixed size",
        "delethink",
        ("rollout",),
        ("Delethink",),
        "2510.06557",
        "code",
        "delethink",
        10,
        evidence="delethink.md#results",
    ),
    *OFFLINE_METHODS,
    *EXPERIMENTAL_METHODS,
)


def main(argv: Sequence[str]) -> int:
    """Run `trl-concise methods`: list the methods."""
    parser = Parser(
        prog="trl-concise methods",
        description="List the methods: the slot of the trainer that each fills, its paper, where its implementation comes from, and "
        "where its results are.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print all fields as JSON")
    args = parser.parse_args(argv)
    if args.json:
        print(json.dumps([asdict(method) for method in METHODS], indent=2))
        return 0
    header = ("method", "slot", "paper", "provenance", "evidence")
    rows = [
        (
            method.name,
            ", ".join(method.slots),
            f"arXiv {method.paper}" if method.paper is not None else "none",
            method.provenance,
            f"docs/{method.evidence}" if method.evidence is not None else "golden values",
        )
        for method in METHODS
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    for key, meaning in PROVENANCE.items():
        print(f"{key}: {meaning}")
    print(
        "docs/methods.md says what each does. `trl-concise METHOD` trains with it; the scripts of the experimental ones are in examples/."
    )
    return 0
