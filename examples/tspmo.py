# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train a model with T-SPMO: a token earns what choosing it after its prefix has changed in the group.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes:

    accelerate launch examples/tspmo.py

A real model with LoRA on one GPU:

    accelerate launch examples/tspmo.py --model_name_or_path Qwen/Qwen2-1.5B-Instruct --dtype bfloat16 \
        --dataset_name openai/gsm8k --dataset_config main --use_peft --lora_target_modules all-linear \
        --num_generations 16 --per_device_train_batch_size 16 --learning_rate 1e-5 --output_dir outputs/tspmo

Time and memory: at most 8.1 GiB planned; docs/memory.md compares plans with training steps of this model's shape on an H100.

    trl-concise plan --method tspmo --model_name_or_path Qwen/Qwen2-1.5B-Instruct --dtype bfloat16 \
        --use_peft --lora_target_modules all-linear --num_generations 16 --per_device_train_batch_size 16
"""

from __future__ import annotations

from trl_concise import TrainingScript, TSPMOConfig
from trl_concise.errors import report_input_errors


@report_input_errors()
def main():
    script = TrainingScript(TSPMOConfig, output_dir="outputs/tspmo-demo", beta=0.0)

    from trl_concise import TSPMOTrainer  # after the command line: --help does not wait for it

    trainer = TSPMOTrainer(reward_funcs=script.accuracy_reward(), **script.trainer_arguments())
    script.train(trainer)


if __name__ == "__main__":
    main()
