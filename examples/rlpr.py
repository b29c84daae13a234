# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with RLPR: a completion is rewarded by the probability of the reference answer after its reasoning. No verifier is used in training.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after, which does check
answers:

    accelerate launch examples/rlpr.py

A real model on one GPU, which is asked to box its answer:

    accelerate launch examples/rlpr.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --tags '\\boxed{' '}' --use_vllm --output_dir outputs/rlpr

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method rlpr --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class RLPRConfig(ConciseGRPOConfig):
    tags: list[str] = field(
        default_factory=lambda: ["</think>", "\\boxed{", "}"],
        metadata={
            "help": "Tags of a completion, in order, the last two around the answer. The paper's: '<think>' '</think>' '<answer>' '</answer>'."
        },
    )
    pad_answer: bool = field(
        default=False, metadata={"help": "Whether the reference answer is surrounded by spaces, as in the paper."}
    )
    format_weight: float = field(
        default=0.1, metadata={"help": "Weight of the format in the reward, in [0, 1]; -1: reward -1 without it."}
    )
    max_refills: int = field(
        default=2, metadata={"help": "How often groups with similar rewards are replaced per generation batch."}
    )


@report_input_errors()
def main():
    script = TrainingScript(RLPRConfig, output_dir="outputs/rlpr-demo", epsilon_high=0.27)

    from trl_concise import ConciseGRPOTrainer  # after the command line: --help does not wait for them
    from trl_concise.methods.rlpr import RewardStdFilter, RLPRReward

    args = script.training_args
    trainer = ConciseGRPOTrainer(
        reward_funcs=RLPRReward(args.tags, pad_answer=args.pad_answer, format_weight=args.format_weight),
        group_filter=RewardStdFilter(args.max_refills),
        **script.trainer_arguments(),
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
