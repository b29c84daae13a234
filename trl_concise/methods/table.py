# SPDX-License-Identifier: Apache-2.0
"""
The table of methods: one row per method. `trl-concise methods`, the README's table and docs/methods.md are made from it.

    trl-concise methods
    python -m tests.tools.method_table  # rewrites README.md and docs/methods.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..errors import Parser


QUESTIONS = (
    "How do I make completions shorter?",
    "Which prompts should be trained on?",
    "Which completions or tokens should carry the loss?",
    "How do I train without rollouts?",
)
PROVENANCE = {
    "code": "from the paper and the authors' code",
    "paper": "from the paper's equations",
    "common": "a common technique, without one paper",
    "reconstructed": "partly or wholly reconstructed; the page lists what is",
}


@dataclass(frozen=True)
class Method:
    """
    One method.

    Attributes:
        name (`str`): As in the paper.
        what (`str`): What it does, in a few words.
        module (`str`): Module in `trl_concise.methods`.
        slots (`tuple[str, ...]`): Arguments of the trainer that its components fill; `reward_funcs` for a group reward,
            the TRL trainer of an offline method.
        components (`tuple[str, ...]`): Classes for a [`ConciseGRPOTrainer`], or functions of a method without one.
        trainer (`str`, *optional*): The drop-in trainer.
        paper (`str`, *optional*): arXiv identifier.
        provenance (`str`): A key of [`PROVENANCE`].
        page (`str`): Page in docs/.
        evidence (`str`, *optional*): Section of a page in docs/ with results that we measured. `None`: equation and golden values
            only.
        question (`int`): Index in [`QUESTIONS`].
    """

    name: str
    what: str
    module: str
    slots: tuple[str, ...]
    components: tuple[str, ...]
    paper: str | None
    provenance: str
    page: str
    question: int
    trainer: str | None = None
    evidence: str | None = None


METHODS: tuple[Method, ...] = (
    Method(
        "HAPO",
        "be shorter than the shortest correct completion so far",
        "hapo",
        ("reward_funcs",),
        ("HAPOLengthReward",),
        "2505.11225",
        "code",
        "hapo",
        0,
        "HAPOTrainer",
        "hapo.md#results",
    ),
    Method(
        "LASER",
        "a bonus for correct completions within a target length",
        "laser",
        ("reward_funcs",),
        ("LASERReward",),
        "2505.15612",
        "code",
        "laser",
        0,
        "LASERTrainer",
        "laser.md#results",
    ),
    Method(
        "LASER-D, LASER-DE",
        "one target per difficulty, updated during training",
        "laser_d",
        ("reward_funcs",),
        ("LASERDReward",),
        "2505.15612",
        "code",
        "laser",
        0,
        "LASERDTrainer",
        "laser.md#results",
    ),
    Method(
        "ShorterBetter",
        "each group's shortest correct completion is its target",
        "shorter_better",
        ("reward_funcs",),
        ("ShorterBetterReward",),
        "2504.21370",
        "code",
        "shorter_better",
        0,
        "ShorterBetterTrainer",
        "shorter_better.md#results",
    ),
    Method(
        "L1",
        "reach the length that the prompt asks for, or stay below it",
        "l1",
        ("reward_funcs",),
        ("L1Reward",),
        "2503.04697",
        "code",
        "length_rewards",
        0,
        evidence="length_rewards.md#results",
    ),
    Method(
        "Kimi k1.5",
        "the shortest completion of a group gets the most, the longest the least",
        "kimi",
        ("reward_funcs",),
        ("KimiLengthReward",),
        "2501.12599",
        "reconstructed",
        "length_rewards",
        0,
        evidence="length_rewards.md#results",
    ),
    Method(
        "Arora and Zanette",
        "correct completions earn less the longer they are, relative to the group",
        "efficient_reasoning",
        ("reward_funcs",),
        ("EfficientReasoningReward",),
        "2502.04463",
        "code",
        "length_rewards",
        0,
        evidence="length_rewards.md#results",
    ),
    Method(
        "GRPO-LEAD",
        "a length-dependent reward, and larger advantages on difficult prompts",
        "grpo_lead",
        ("reward_funcs", "advantage"),
        ("GRPOLEADReward", "DifficultyWeighting"),
        "2504.09696",
        "code",
        "length_rewards",
        0,
        evidence="length_rewards.md#results",
    ),
    Method(
        "DLER",
        "truncation as the length penalty, and advantages normalized over the batch",
        "dler",
        ("reward_funcs", "group_filter", "advantage"),
        ("TruncationFactor", "DifficultyTruncation", "BatchWhitening"),
        "2510.15110",
        "reconstructed",
        "dler",
        0,
        "DLERTrainer",
        "dler.md#results",
    ),
    Method(
        "DDCA",
        "a second advantage for length, among the correct completions of a group",
        "ddca",
        ("advantage",),
        ("DDCA",),
        "2602.02099",
        "code",
        "ddca",
        0,
        evidence="ddca.md#results",
    ),
    Method(
        "DRPO",
        "short correct completions are raised most, long ones never pushed down",
        "drpo",
        ("advantage",),
        ("DRPO",),
        "2510.04474",
        "reconstructed",
        "drpo",
        0,
        evidence="drpo.md#results",
    ),
    Method(
        "On-policy SFT",
        "cross-entropy on the correct completions within the limit",
        "on_policy_sft",
        ("advantage", "group_filter"),
        ("OnPolicySFT", "OnPolicySFTFilter"),
        "2602.13407",
        "reconstructed",
        "on_policy_sft",
        0,
        evidence="on_policy_sft.md#results",
    ),
    Method(
        "CRISP",
        "distill the model with a concise instruction into itself",
        "crisp",
        ("token_credit",),
        ("CRISP",),
        "2603.05433",
        "reconstructed",
        "crisp",
        0,
        evidence="crisp.md#results",
    ),
    Method(
        "Gated brevity, pass-rate penalty",
        "a bonus for correct completions below their mean length, or a penalty in proportion to the pass rate (prime-rl)",
        "gated_brevity",
        ("reward_funcs",),
        ("BrevityReward",),
        None,
        "code",
        "gated_brevity",
        0,
        evidence="gated_brevity.md#results",
    ),
    Method(
        "GR3",
        "the reward divided by relative length",
        "gated_brevity",
        ("reward_funcs",),
        ("BrevityReward",),
        "2603.10535",
        "reconstructed",
        "gated_brevity",
        0,
        evidence="gated_brevity.md#results",
    ),
    Method(
        "Long2Short",
        "moves reward from long correct completions to short ones (VibeThinker)",
        "gated_brevity",
        ("reward_funcs",),
        ("BrevityReward",),
        "2606.16140",
        "paper",
        "gated_brevity",
        0,
        evidence="gated_brevity.md#results",
    ),
    Method(
        "JET",
        "correct completions placed between the shortest and the longest correct one",
        "gated_brevity",
        ("reward_funcs",),
        ("BrevityReward",),
        "2509.23392",
        "code",
        "gated_brevity",
        0,
        evidence="gated_brevity.md#results",
    ),
    Method(
        "Effort",
        "the prompt asks for a level of effort; separate lengths of reasoning and answer (Nemotron 3)",
        "effort",
        ("reward_funcs",),
        ("EffortReward", "ReasoningAnswerReward"),
        "2512.20848",
        "reconstructed",
        "effort",
        0,
        evidence="effort.md#results",
    ),
    Method(
        "GFPO",
        "sample more, learn from the shortest completions of each group",
        "gfpo",
        ("group_filter", "advantage"),
        ("GFPO", "AdaptiveGFPO", "KeptBaseline"),
        "2508.09726",
        "reconstructed",
        "gfpo",
        0,
        evidence="gfpo.md#results",
    ),
    Method(
        "SIRI",
        "the generation limit shrinks and grows",
        "siri",
        ("budget_schedule", "reward_funcs"),
        ("SIRISchedule", "TruncationPenalty"),
        "2509.25176",
        "reconstructed",
        "siri",
        0,
        "SIRITrainer",
        "siri.md#results",
    ),
    Method(
        "CAMPO",
        "the generation limit grows in stages, and loops are penalized (MiroMind-M1)",
        "campo",
        ("budget_schedule", "reward_funcs"),
        ("StagedBudget", "RepetitionReward"),
        "2507.14683",
        "code",
        "campo",
        0,
        evidence="campo.md#results",
    ),
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
        "Dynamic sampling",
        "replace groups without a learning signal (DAPO)",
        "dynamic_sampling",
        ("group_filter",),
        ("DynamicSampling",),
        "2503.14476",
        "reconstructed",
        "dynamic_sampling",
        1,
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
    ),
    Method(
        "AdaptThink",
        "answer without thinking where that costs no accuracy",
        "adapt_think",
        ("rollout", "advantage"),
        ("ForcedModes", "AdaptThink"),
        "2505.13417",
        "code",
        "adapt_think",
        0,
        "AdaptThinkTrainer",
        evidence="adapt_think.md#results",
    ),
    Method(
        "AutoThink",
        "balance thinking and direct answers, then correctness, then length",
        "auto_think",
        ("reward_funcs",),
        ("AutoThinkReward",),
        "2505.10832",
        "code",
        "auto_think",
        0,
        "AutoThinkTrainer",
        evidence="auto_think.md#results",
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
        "REDI",
        "offline, from a teacher's correct and incorrect traces",
        "redi",
        ("DPOTrainer",),
        (),
        "2505.24850",
        "code",
        "redi",
        3,
        "REDITrainer",
        "redi.md#results",
    ),
    Method(
        "CFT",
        "fine-tune on critiques of solutions",
        "cft",
        ("SFTTrainer",),
        (),
        "2501.17703",
        "code",
        "cft",
        3,
        "CFTTrainer",
        "cft.md#results",
    ),
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
    print("docs/methods.md says what each does. `trl-concise METHOD` trains with it.")
    return 0
