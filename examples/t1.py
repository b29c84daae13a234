# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with T1, reconstructed: many completions per prompt at a high temperature, an entropy bonus, and a KL term whose reference follows the
policy.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/t1.py

A real model on one GPU:

    accelerate launch examples/t1.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --num_generations 64 --use_vllm --output_dir outputs/t1

Time and memory: 60 GiB planned for full fine-tuning on a card of 80 GiB with the reference as a second copy of the model, not measured on
a GPU yet.

    trl-concise plan --method t1 --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class T1Config(ConciseGRPOConfig):
    tau: float = field(
        default=0.995, metadata={"help": "Share of the reference that stays after a step, in [0, 1]; 1 freezes it."}
    )
    kl_weight: float = field(
        default=1e-3, metadata={"help": "Weight of the KL term in the reward, at least 0. beta is TRL's KL term."}
    )


@report_input_errors()
def main():
    script = TrainingScript(
        T1Config,
        output_dir="outputs/t1-demo",
        beta=0.0,
        num_generations=32,
        temperature=1.2,
        entropy_coef=1e-3,
    )

    from trl_concise import ConciseGRPOTrainer  # after the command line: --help does not wait for them
    from trl_concise.methods.campo import RepetitionReward
    from trl_concise.methods.t1 import AnchoredKL

    args = script.training_args
    trainer = ConciseGRPOTrainer(
        reward_funcs=[script.accuracy_reward(), RepetitionReward(), AnchoredKL(args.tau, args.kl_weight)],
        **script.trainer_arguments(),
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
