# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with on-policy SFT: cross-entropy on the model's own completions that are correct and end before the limit.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after. The limit is
`--max_completion_length`:

    accelerate launch examples/on_policy_sft.py --max_completion_length 48

A real model on one GPU:

    accelerate launch examples/on_policy_sft.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --max_completion_length 256 --output_dir outputs/on-policy-sft

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class OnPolicySFTConfig(ConciseGRPOConfig):
    max_length: int | None = field(
        default=None,
        metadata={"help": "Longest completion that is trained on, in tokens. Default: the generation limit."},
    )
    normalization: str = field(
        default="tokens", metadata={"help": "What the loss divides by.", "choices": ["tokens", "longest"]}
    )
    max_refills: int = field(
        default=0,
        metadata={"help": "How often prompts without a kept completion are replaced per step. Default: never."},
    )


@report_input_errors()
def main():
    # No KL term, as in the paper; the demo's settings have one.
    script = TrainingScript(OnPolicySFTConfig, output_dir="outputs/on-policy-sft-demo", beta=0.0)
    args = script.training_args

    from trl_concise import ConciseGRPOTrainer  # after the command line: --help does not wait for them
    from trl_concise.methods.on_policy_sft import OnPolicySFT, OnPolicySFTFilter

    trainer = ConciseGRPOTrainer(
        reward_funcs=script.accuracy_reward(),
        advantage=OnPolicySFT(args.max_length, args.normalization),
        group_filter=OnPolicySFTFilter(args.max_length, args.max_refills) if args.max_refills else None,
        **script.trainer_arguments(),
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
