# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with KTAE: tokens that occur in the correct completions of a group get a larger advantage than those of the wrong ones.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/ktae.py

A real model on one GPU:

    accelerate launch examples/ktae.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --output_dir outputs/ktae

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class KTAEConfig(ConciseGRPOConfig):
    key_token_weight: float = field(
        default=1.0, metadata={"help": "Weight of a token's value in its advantage; 0 is plain GRPO."}
    )
    fisher_weight: float = field(
        default=1.0, metadata={"help": "Share of Fisher's exact test in a token's value, at least 0."}
    )
    gain_weight: float = field(
        default=1.0, metadata={"help": "Share of the information gain in a token's value, at least 0."}
    )
    term_frequency: bool = field(
        default=True, metadata={"help": "Whether it matters how often a token occurs in a completion."}
    )


@report_input_errors()
def main():
    script = TrainingScript(KTAEConfig, output_dir="outputs/ktae-demo")

    from trl_concise import ConciseGRPOTrainer  # after the command line: --help does not wait for them
    from trl_concise.methods.ktae import KTAE

    args = script.training_args
    trainer = ConciseGRPOTrainer(
        reward_funcs=script.accuracy_reward(),
        token_credit=KTAE(args.key_token_weight, args.fisher_weight, args.gain_weight, args.term_frequency),
        **script.trainer_arguments(),
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
