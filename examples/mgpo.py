# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with MGPO: groups count more the closer their success rate is to one half.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/mgpo.py

A real model on one GPU:

    accelerate launch examples/mgpo.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --use_vllm --output_dir outputs/mgpo

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trl_concise import ConciseGRPOConfig, TrainingScript
from trl_concise.errors import report_input_errors


@dataclass
class MGPOConfig(ConciseGRPOConfig):
    strength: float = field(default=1.0, metadata={"help": "How much less other groups count; 0 is plain GRPO."})


@report_input_errors()
def main():
    script = TrainingScript(MGPOConfig, output_dir="outputs/mgpo-demo")

    from trl_concise import ConciseGRPOTrainer  # after the command line: --help does not wait for them
    from trl_concise.methods.mgpo import MGPO

    advantage = MGPO(strength=script.training_args.strength)
    trainer = ConciseGRPOTrainer(
        reward_funcs=script.accuracy_reward(), advantage=advantage, **script.trainer_arguments()
    )
    script.train(trainer)


if __name__ == "__main__":
    main()
