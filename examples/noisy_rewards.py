# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with wrong rewards, to see how much a run depends on right ones: the correctness is inverted for a share of the prompts, or phrases
of reasoning are rewarded instead of it.

Without arguments: 40 % of the prompts with inverted rewards, the embedded model on generated problems, on a CPU, in a few minutes, with a
report before and after:

    accelerate launch examples/noisy_rewards.py

The reasoning-pattern reward alone, on a real model and one GPU:

    accelerate launch examples/noisy_rewards.py --method pattern --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct \
        --dataset_name openai/gsm8k --dataset_config main --use_vllm --output_dir outputs/pattern

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class NoisyRewardsConfig(ConciseGRPOConfig):
    method: str = field(
        default="noise",
        metadata={
            "help": "`noise` inverts the correctness of some prompts; `pattern` rewards phrases of reasoning alone.",
            "choices": ["noise", "pattern"],
        },
    )
    flip_probability: float = field(
        default=0.4, metadata={"help": "Share of the prompts whose rewards are inverted, with `--method noise`."}
    )
    flip_seed: int = field(default=0, metadata={"help": "Seed of the draws, with `--method noise`."})


@report_input_errors()
def main():
    script = TrainingScript(NoisyRewardsConfig, output_dir="outputs/noisy-rewards-demo")

    from trl_concise import ConciseGRPOTrainer  # after the command line: --help does not wait for them
    from trl_concise.methods.noisy_rewards import NoisyReward, reasoning_pattern_reward

    args = script.training_args
    if "reward_weights" in script.given:
        raise ValueError(
            f"--reward_weights {args.reward_weights} has no effect: the correctness has the weight 0 here, and the other reward 1. Leave it "
            "out."
        )
    args.reward_weights = [0.0, 1.0]  # the true correctness is measured only
    if args.method == "noise":
        reward = NoisyReward(args.flip_probability, args.flip_seed)
    else:
        reward = reasoning_pattern_reward
    trainer = ConciseGRPOTrainer(reward_funcs=[script.accuracy_reward(), reward], **script.trainer_arguments())
    script.train(trainer)


if __name__ == "__main__":
    main()
