# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train a model with LASER-D or LASER-DE: target lengths by difficulty, updated during training.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/laser_d.py

A real model on one GPU:

    accelerate launch examples/laser_d.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct \
        --dataset_name openai/gsm8k --dataset_config main --use_vllm --max_completion_length 2048 --explore True

Time and memory: 57 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct \
        --card_gib 80 --use_vllm --max_completion_length 2048
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trl_concise
from trl_concise import LASERDConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class LASERDScriptConfig(LASERDConfig):
    reward: str = field(
        default="math_accuracy_reward",
        metadata={
            "help": "Base score: 1 or 0, or the authors' 1, -0.5 and -1 for models that think before </think>.",
            "choices": ["math_accuracy_reward", "laser_base_score"],
        },
    )


@report_input_errors()
def main():
    script = TrainingScript(
        LASERDScriptConfig, output_dir="outputs/laser-d-demo", monitor_prompts=32, monitor_generations=4
    )

    from trl_concise import LASERDTrainer  # after the command line: --help does not wait for it

    args = script.training_args
    own = args.reward != "math_accuracy_reward"
    reward = getattr(trl_concise, args.reward) if own else script.accuracy_reward()
    trainer = LASERDTrainer(reward_funcs=reward, **script.trainer_arguments())
    script.train(trainer)


if __name__ == "__main__":
    main()
