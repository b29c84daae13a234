# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with PCL: of four candidates per prompt, the one is rolled out whose predicted success rate is closest to one half.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after.
Watch `pcl/success_rate` and `pcl/explained_variance` (`--report_to`, or the output folder):

    accelerate launch examples/pcl.py

A real model on one GPU:

    accelerate launch examples/pcl.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --output_dir outputs/pcl

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method pcl --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@report_input_errors()
def main():
    script = TrainingScript(ConciseGRPOConfig, output_dir="outputs/pcl-demo")

    from trl_concise import ConciseGRPOTrainer  # after the command line: --help does not wait for it
    from trl_concise.methods.pcl import PCL

    trainer = ConciseGRPOTrainer(
        reward_funcs=script.accuracy_reward(), prompt_selector=PCL(), **script.trainer_arguments()
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
