# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with GRESO: prompts whose groups had no variance are skipped before the rollout.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after.
Watch `greso/skipped_fraction` rise and `greso/zero_variance_fraction` stop rising (`--report_to`, or the output folder):

    accelerate launch examples/greso.py

A real model on one GPU; GRESO skips prompts from the second visit on, so train for several epochs:

    accelerate launch examples/greso.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --num_train_epochs 5 --use_vllm --output_dir outputs/greso

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from trl_concise import GRESOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@report_input_errors()
def main():
    script = TrainingScript(GRESOConfig, output_dir="outputs/greso-demo")

    from trl_concise import GRESOTrainer  # after the command line: --help does not wait for it

    trainer = GRESOTrainer(reward_funcs=script.accuracy_reward(), **script.trainer_arguments())
    script.train(trainer)


if __name__ == "__main__":
    main()
