# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train under limits on the mean length and on the loss of accuracy on harder problems (HC-RLHF).

Without arguments: the embedded model on generated problems, at most 40 tokens on average, on a CPU, in a few minutes, with a report before
and after:

    accelerate launch examples/cost_constraints.py

A real model on one GPU, with a limit on the accuracy on harder problems:

    accelerate launch examples/cost_constraints.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --max_mean_tokens 150 --watch_dataset math500 --loss_limit 0.02 --use_vllm \
        --output_dir outputs/cost_constraints

Whether the finished model keeps the limits is tested with `trl-concise accept` (docs/acceptance.md).

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method cost_constraints --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class CostConstraintsConfig(ConciseGRPOConfig):
    max_mean_tokens: float | None = field(
        default=None, metadata={"help": "Largest mean number of tokens per completion."}
    )
    loss_limit: float | None = field(
        default=None,
        metadata={
            "help": "Largest loss of accuracy on the watch dataset, as a fraction: 0.02 is 2 points. Needs --watch_dataset."
        },
    )
    delta: float = field(default=0.1, metadata={"help": "Probability that a mean is above its pessimistic estimate."})
    multiplier_learning_rate: float = field(default=0.01, metadata={"help": "Step size of the multipliers."})
    max_multiplier: float = field(
        default=1e6, metadata={"help": "Largest multiplier. 1: the reward counts at least half."}
    )


# A run of 100 steps is too short for the authors' step size.
DEMO = {"max_mean_tokens": 40.0, "multiplier_learning_rate": 10.0, "max_multiplier": 1.0}


@report_input_errors()
def main():
    script = TrainingScript(CostConstraintsConfig, output_dir="outputs/cost_constraints-demo", **DEMO)
    args = script.training_args

    from trl_concise import ConciseGRPOTrainer  # after the command line: --help does not wait for them
    from trl_concise.methods.cost_constraints import AccuracyLimit, CostConstraints, LengthLimit

    if args.max_mean_tokens is None:
        raise ValueError("Set --max_mean_tokens, the largest mean number of tokens per completion.")
    limits = [LengthLimit(args.max_mean_tokens)]
    if args.loss_limit is not None:
        limits.append(AccuracyLimit(args.loss_limit, on="watch"))
    advantage = CostConstraints(limits, delta=args.delta, multiplier_learning_rate=args.multiplier_learning_rate)
    trainer = ConciseGRPOTrainer(
        reward_funcs=script.accuracy_reward(), advantage=advantage, **script.trainer_arguments()
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
