# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train a model with ShorterBetter: each group's shortest correct completion is its target.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/shorter_better.py

A real model on one GPU:

    accelerate launch examples/shorter_better.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct \
        --dataset_name openai/gsm8k --dataset_config main --use_vllm --max_completion_length 2048

Time and memory: 57 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct \
        --card_gib 80 --use_vllm --max_completion_length 2048
"""

from __future__ import annotations

from trl_concise import ShorterBetterConfig, TrainingScript
from trl_concise.errors import report_input_errors


@report_input_errors()
def main():
    script = TrainingScript(ShorterBetterConfig, output_dir="outputs/shorter-better-demo")

    from trl_concise import ShorterBetterTrainer  # after the command line: --help does not wait for it

    trainer = ShorterBetterTrainer(reward_funcs=script.accuracy_reward(), **script.trainer_arguments())
    script.train(trainer)


if __name__ == "__main__":
    main()
