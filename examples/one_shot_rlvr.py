# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
One-shot RLVR: train on a single problem, the first of the dataset, repeated to fill each step.

Without arguments: the embedded model on one generated problem, on a CPU, in a few minutes, with a report on the problems
that it never saw, before and after:

    accelerate launch examples/one_shot_rlvr.py

The authors' setting, on a file that holds their example (`problem` and `answer`, one line):

    accelerate launch examples/one_shot_rlvr.py --config examples/configs/one_shot_rlvr_paper.yaml --dataset_name pi1.jsonl

`rank_by_historical_variance` chooses the problem, see docs/one_shot_rlvr.md.

Time and memory: not measured on a GPU yet.
"""

from __future__ import annotations

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@report_input_errors()
def main():
    script = TrainingScript(
        ConciseGRPOConfig,
        output_dir="outputs/one-shot-demo",
        beta=0.001,
        entropy_coef=0.001,
        loss_type="dapo",
    )

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.methods.one_shot_rlvr import repeat_example

    arguments = script.trainer_arguments()
    args = script.training_args
    arguments["train_dataset"] = repeat_example(
        arguments["train_dataset"].select([0]), rows=args.generation_batch_size // args.num_generations
    )
    trainer = ConciseGRPOTrainer(reward_funcs=script.accuracy_reward(), **arguments)
    script.train(trainer)


if __name__ == "__main__":
    main()
