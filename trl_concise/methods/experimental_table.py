# SPDX-License-Identifier: Apache-2.0
"""The rows of the table of methods for `trl_concise.experimental`: systems whose interfaces may still change."""

from __future__ import annotations

from .method import Method


EXPERIMENTAL_METHODS: tuple[Method, ...] = (
    Method(
        "TaTToo",
        "check the claims in the steps of a solution with tools: a reward, and the score of a vote",
        "tattoo",
        ("reward_funcs", "evaluation"),
        ("step_tool_reward", "verify_steps"),
        "2510.06217",
        "reconstructed",
        "experimental/tattoo",
        11,
        evidence="experimental/tattoo.md#results",
        package="experimental",
    ),
    Method(
        "Resa",
        "insert a sparse autoencoder of a source model, and train LoRA against its error",
        "resa",
        ("SFTTrainer",),
        ("train_sae", "sae_inserted", "reasoning_features"),
        "2506.09967",
        "code",
        "experimental/resa",
        11,
        "SAETuningTrainer",
        "experimental/resa.md#results",
        "experimental",
    ),
    Method(
        "CoRT",
        "execute Python blocks in the reasoning, and continue after their output",
        "cort",
        ("rollout", "reward_funcs"),
        ("CodeReasoning", "CodeExecutionReward"),
        "2506.09820",
        "reconstructed",
        "experimental/cort",
        11,
        evidence="experimental/cort.md#results",
        package="experimental",
    ),
    Method(
        "ScaleBiO",
        "how much of each data source to train on, learned from a validation set",
        "scale_bio",
        ("SFTTrainer", "prompt_selector"),
        ("SourceMixture", "mix_sources"),
        "2406.19976",
        "reconstructed",
        "experimental/scale_bio",
        11,
        "ScaleBiOTrainer",
        "experimental/scale_bio.md#results",
        "experimental",
    ),
    Method(
        "RLoT",
        "a small network chooses the next block of reasoning of a frozen model",
        "rlot",
        ("evaluation",),
        ("train_navigator", "run_policy", "Navigator"),
        "2505.14140",
        "code",
        "experimental/rlot",
        11,
        evidence="experimental/rlot.md#results",
        package="experimental",
    ),
)
