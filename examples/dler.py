# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with DLER: truncation is the length penalty, and groups without a signal are replaced.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/dler.py

A real model on one GPU. The limit is the length penalty, so it is smaller than most completions of the model:

    accelerate launch examples/dler.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --max_completion_length 256 --output_dir outputs/dler

The authors' settings: `--config examples/configs/dler_paper.yaml`. DA-DLER, which continues from a model that DLER has trained:
`--difficulty_limits 4000 2000`.

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method dler --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from trl_concise import DLERConfig, TrainingScript
from trl_concise.errors import report_input_errors


@report_input_errors()
def main():
    script = TrainingScript(DLERConfig, output_dir="outputs/dler-demo", max_completion_length=64)

    from trl_concise import DLERTrainer  # after the command line: --help does not wait for it
    from trl_concise.methods.dler import judge_truncated

    args = script.training_args
    if args.scale_rewards != "none" and "scale_rewards" in script.given:
        raise ValueError("--scale_rewards has no effect with DLER, which computes its own advantages. Leave it out.")
    if "difficulty_thresholds" in script.given and args.difficulty_limits is None:
        raise ValueError("--difficulty_thresholds has no effect without --difficulty_limits. Give both, or neither.")
    correctness = script.accuracy_reward()
    if args.truncation_factor > 0:
        correctness = judge_truncated(correctness)
    script.train(DLERTrainer(reward_funcs=correctness, **script.trainer_arguments()))


if __name__ == "__main__":
    main()
