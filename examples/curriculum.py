# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train on the prompts that the model solves sometimes, and record how well each one is solved.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/curriculum.py

The accuracies are saved to `accuracies.safetensors` in the output folder; `AccuracyHistory.load` reads them. A real model:

    accelerate launch examples/curriculum.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --num_train_epochs 5 --use_vllm --output_dir outputs/curriculum

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@report_input_errors()
def main():
    script = TrainingScript(ConciseGRPOConfig, output_dir="outputs/curriculum-demo")

    from trl_concise import AccuracyBand, ConciseGRPOTrainer  # after the command line: --help does not wait for them

    selector = AccuracyBand(low=0.2, high=0.8, seed=script.training_args.seed)
    trainer = ConciseGRPOTrainer(
        reward_funcs=script.accuracy_reward(), prompt_selector=selector, **script.trainer_arguments()
    )
    script.train(trainer)
    if trainer.is_world_process_zero():
        selector.accuracies.save(f"{script.training_args.output_dir}/accuracies.safetensors")


if __name__ == "__main__":
    main()
