# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with ProRL, version 2: a small KL penalty whose reference is reset to the policy, batch-normalized advantages, and groups without a
signal replaced.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/prorl.py

A real model on one GPU:

    accelerate launch examples/prorl.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --reset_every 200 --use_vllm --output_dir outputs/prorl

Time and memory: 60 GiB planned for full fine-tuning on a card of 80 GiB with the reference as a second copy of the model, not measured on
a GPU yet.

    trl-concise plan --method prorl --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm

With every setting of version 2 that is known: --config examples/configs/prorl_v2.yaml
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class ProRLConfig(ConciseGRPOConfig):
    reset_every: int = field(
        default=20,
        metadata={
            "help": "Steps after which the reference becomes a copy of the policy; 0: never. Paper: 200 to 500."
        },
    )
    max_kl: float | None = field(
        default=None, metadata={"help": "KL divergence above which the reference is reset. Default: for no value."}
    )
    patience: int | None = field(
        default=None,
        metadata={"help": "Evaluations without a better eval_accuracy after which it is reset. Default: none."},
    )
    clear_optimizer: bool = field(
        default=False, metadata={"help": "Whether a reset clears the moments of the optimizer, as in version 1."}
    )
    kl_penalty: float = field(default=1e-4, metadata={"help": "Weight of the KL penalty, at least 0."})
    max_refills: int = field(
        default=2, metadata={"help": "How often groups without a signal are replaced per generation batch. Paper: 10."}
    )


@report_input_errors()
def main():
    script = TrainingScript(
        ProRLConfig, output_dir="outputs/prorl-demo", beta=0.0, epsilon_high=0.27, scale_rewards="none"
    )

    from trl_concise import (  # after the command line: --help does not wait
        BatchWhitening,
        ConciseGRPOTrainer,
        DynamicSampling,
    )
    from trl_concise.methods.dler import TruncationFactor
    from trl_concise.methods.prorl import K2Penalty, ReferenceReset

    args = script.training_args
    resets = ReferenceReset(args.reset_every, args.max_kl, args.patience, clear_optimizer=args.clear_optimizer)
    trainer = ConciseGRPOTrainer(
        reward_funcs=[script.accuracy_reward(), TruncationFactor(0.0)],
        group_filter=DynamicSampling(args.max_refills),
        advantage=[BatchWhitening(), resets],
        token_credit=K2Penalty(args.kl_penalty),
        **script.trainer_arguments(),
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
