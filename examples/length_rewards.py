# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train a model with one of the smaller length methods: L1, Kimi k1.5, GRPO-LEAD, Arora and Zanette, DAPO's overlong punishment,
DDCA, DRPO, prime-rl's gated brevity and pass-rate penalty, GR3, Long2Short, JET, open-rs's cosine; or with none. They are described in docs/length_rewards.md;
DDCA, DRPO and the five after it in docs/ddca.md, docs/drpo.md and docs/gated_brevity.md. Settings of published models: docs/recipes.md.

Without arguments: Kimi's length reward, on the embedded model and generated problems, on a CPU, in a few minutes:

    accelerate launch examples/length_rewards.py

Another method, on a real model and one GPU:

    accelerate launch examples/length_rewards.py --method grpo-lead --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct \
        --dataset_name openai/gsm8k --dataset_config main --use_vllm --max_completion_length 512

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


METHODS = [
    "kimi",
    "l1-exact",
    "l1-max",
    "grpo-lead",
    "grpo-lead-released",
    "efficient-reasoning",
    "overlong",
    "dler",
    "ddca",
    "drpo",
    "gated",
    "pass-rate",
    "gr3",
    "long2short",
    "jet",
    "open-rs",
    "none",
]


SETTINGS = {  # what a method needs, whatever the default
    "efficient-reasoning": {"scale_rewards": "none"},  # no division by the deviation of a group
    "gated": {"scale_rewards": "none"},
    "pass-rate": {"scale_rewards": "none"},
    "gr3": {"scale_rewards": "none"},
    "dler": {"scale_rewards": "none"},  # the same; it divides by that of the batch
    "drpo": {"loss_type": "grpo"},  # the mean over the tokens of each completion, which DRPO weights
}
OWN_ADVANTAGES = ("ddca", "drpo")  # replace TRL's


@dataclass
class LengthRewardConfig(ConciseGRPOConfig):
    method: str = field(default="kimi", metadata={"help": "Which length method.", "choices": METHODS})


@report_input_errors()
def main():
    script = TrainingScript(LengthRewardConfig, output_dir="outputs/length-rewards-demo")
    args = script.training_args

    # After the command line: --help does not wait for them.
    from trl.rewards import get_cosine_scaled_reward, get_soft_overlong_punishment

    from trl_concise import (
        BatchWhitening,
        ConciseGRPOTrainer,
        DifficultyWeighting,
        EfficientReasoningReward,
        GRPOLEADReward,
        KimiLengthReward,
        L1Reward,
        TruncationPenalty,
    )
    from trl_concise.methods.ddca import DDCA
    from trl_concise.methods.drpo import DRPO
    from trl_concise.methods.gated_brevity import RULES, BrevityReward
    from trl_concise.methods.l1 import with_target_length
    from trl_concise.methods.text_rewards import OPEN_RS_COSINE, think_end_reward

    for name, value in SETTINGS.get(args.method, {}).items():
        if name in script.given and getattr(args, name) != value:
            raise ValueError(
                f"--method {args.method} needs --{name} {value}, but {getattr(args, name)} was given. Leave --{name} out."
            )
        setattr(args, name, value)
    if args.method in OWN_ADVANTAGES and "scale_rewards" in script.given:
        raise ValueError(
            f"--scale_rewards has no effect with --method {args.method}, which computes its own advantages. Leave it out."
        )
    if args.method == "dler" and args.mask_truncated_completions:
        raise ValueError(
            "--mask_truncated_completions removes truncated completions from the loss, but DLER shortens completions only "
            "through them. Leave it out."
        )
    arguments = script.trainer_arguments()
    limit, rewards, advantage = args.max_completion_length, [script.accuracy_reward()], None
    if args.method == "kimi":
        rewards.append(KimiLengthReward())
    elif args.method in ("l1-exact", "l1-max"):
        form = args.method.removeprefix("l1-")
        lengths = {"low": max(limit // 8, 1), "high": limit, "mode": form}
        for name in ("train_dataset", "eval_dataset", "watch_dataset"):
            if arguments[name] is not None:
                arguments[name] = arguments[name].map(with_target_length, fn_kwargs=lengths)
        rewards.append(L1Reward(form, alpha=1.2 / limit))  # the paper's 0.0003 at its limit of 4,000 tokens
    elif args.method == "grpo-lead":
        rewards.append(GRPOLEADReward())
        advantage = DifficultyWeighting()
    elif args.method == "grpo-lead-released":  # as in the authors' code, for models that think before </think>
        rewards.append(GRPOLEADReward(min_length=4000, unanswered_reward=0.0, repetition_reward=-2.0))
        advantage = DifficultyWeighting(skip_unsolved=True)
    elif args.method == "efficient-reasoning":
        rewards.append(EfficientReasoningReward(alpha=0.2))
    elif args.method == "overlong":
        rewards.append(get_soft_overlong_punishment(limit, limit // 5))  # the paper's cache: 4,096 of 20,480
    elif args.method == "dler":  # as in version 0.1.0: without the refill of examples/dler.py
        if "epsilon_high" not in script.given:
            args.epsilon_high = 0.28
        rewards.append(TruncationPenalty())
        advantage = BatchWhitening()  # and a small --max_completion_length: the limit is the penalty
    elif args.method == "open-rs":
        rewards += [think_end_reward, get_cosine_scaled_reward(limit, **OPEN_RS_COSINE)]
        args.reward_weights = args.reward_weights or [0.0, 1.0, 2.0]  # the authors'; the cosine includes correctness
    elif args.method == "ddca":
        advantage = DDCA()
    elif args.method == "drpo":
        advantage = DRPO()
    elif args.method in RULES:
        rewards.append(BrevityReward(args.method))
        if args.method == "jet":
            args.reward_weights = args.reward_weights or [0.9, 1.0]  # the authors'; the other 0.1 is for the format
    script.train(ConciseGRPOTrainer(reward_funcs=rewards, advantage=advantage, **arguments))


if __name__ == "__main__":
    main()
