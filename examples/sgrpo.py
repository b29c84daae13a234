# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train a model with Stochastic GRPO: a random subset of each completion's tokens enters the loss.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes:

    accelerate launch examples/sgrpo.py

A real model with LoRA on one GPU:

    accelerate launch examples/sgrpo.py --model_name_or_path Qwen/Qwen2-1.5B-Instruct --dtype bfloat16 \
        --dataset_name openai/gsm8k --dataset_config main --use_peft --lora_target_modules all-linear \
        --cutoff 50 --max_tokens 100 --probability 0.5 --learning_rate 1e-5 --output_dir outputs/sgrpo

Time and memory: 5.3 GiB planned; docs/memory.md compares plans with training steps of this model's shape on an H100.

    trl-concise plan --method sgrpo --model_name_or_path Qwen/Qwen2-1.5B-Instruct --dtype bfloat16 \
        --use_peft --lora_target_modules all-linear
"""

from __future__ import annotations

from trl_concise import SGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@report_input_errors()
def main():
    # The demo's completions have some 80 tokens: with the default cutoff of 50 most of them would be in the loss.
    script = TrainingScript(SGRPOConfig, output_dir="outputs/sgrpo-demo", beta=0.0, cutoff=16, max_tokens=32)

    from trl_concise import SGRPOTrainer  # after the command line: --help does not wait for it

    trainer = SGRPOTrainer(reward_funcs=script.accuracy_reward(), **script.trainer_arguments())
    script.train(trainer)


if __name__ == "__main__":
    main()
