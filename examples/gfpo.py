# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with GFPO: sample a large group, and learn from its k shortest or most token-efficient completions.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/gfpo.py

A real model on one GPU, with the 4 shortest of 16 completions:

    accelerate launch examples/gfpo.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --num_generations 16 --per_device_train_batch_size 16 --k 4 --output_dir outputs/gfpo

Time and memory: 56 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method gfpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm \
        --num_generations 16 --per_device_train_batch_size 16
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class GFPOConfig(ConciseGRPOConfig):
    k: int | None = field(
        default=None, metadata={"help": "Completions to keep of each group. Default: half of num_generations."}
    )
    metric: str = field(
        default="length",
        metadata={
            "help": "Keep the shortest completions, or those with the most reward per token.",
            "choices": ["length", "efficiency"],
        },
    )
    divisor: str = field(
        default="all",
        metadata={"help": "The loss divides by the tokens of these completions.", "choices": ["all", "kept"]},
    )
    adaptive: bool = field(
        default=False,
        metadata={
            "help": "Keep k completions of difficult prompts, three quarters of k of medium and half of k of easy ones."
        },
    )


@report_input_errors()
def main():
    script = TrainingScript(GFPOConfig, output_dir="outputs/gfpo-demo")
    args = script.training_args

    from trl_concise import ConciseGRPOTrainer  # after the command line: --help does not wait for them
    from trl_concise.methods.gfpo import GFPO, AdaptiveGFPO, KeptBaseline

    if "scale_rewards" in script.given:
        raise ValueError("--scale_rewards has no effect with GFPO, which computes its own advantages. Leave it out.")
    k = args.k if args.k is not None else max(args.num_generations // 2, 1)
    settings = {"metric": args.metric, "divisor": args.divisor}
    if args.adaptive:  # the paper's 4, 6, 8 and 8 for k = 8
        group_filter = AdaptiveGFPO(max(k // 2, 1), max(3 * k // 4, 1), k, k, **settings)
    else:
        group_filter = GFPO(k, **settings)
    script.train(
        ConciseGRPOTrainer(
            reward_funcs=script.accuracy_reward(),
            group_filter=group_filter,
            advantage=KeptBaseline(),
            **script.trainer_arguments(),
        )
    )


if __name__ == "__main__":
    main()
