# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with AutoThink: three stages after which the model thinks where it has to.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after. At the start, the
embedded model, which always thinks, is trained for some seconds to answer directly too. The stages switch after 40 and 80 of 100 steps:

    accelerate launch examples/auto_think.py

A real model on one GPU, stage by stage:

    accelerate launch examples/auto_think.py --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --stage 1 \
        --dataset_name openai/gsm8k --dataset_config main --max_completion_length 4096 --use_vllm --output_dir outputs/stage-1

Time and memory: 65 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --card_gib 80 --use_vllm \
        --max_completion_length 4096
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trl_concise import TrainingScript, demo
from trl_concise.errors import report_input_errors
from trl_concise.methods.auto_think_config import AutoThinkConfig


@dataclass
class ExampleConfig(AutoThinkConfig):
    demo_steps: int = field(
        default=45, metadata={"help": "Of the demo: steps that teach the embedded model to answer directly."}
    )


@report_input_errors()
def main():
    script = TrainingScript(ExampleConfig, output_dir="outputs/auto-think-demo", stage_steps=[40, 80])
    args, model_args = script.training_args, script.model_args
    if model_args.model_name_or_path == str(demo.model_path()):
        start = demo.two_mode_model(Path(args.output_dir, "two-modes"), steps=args.demo_steps)
        model_args.model_name_or_path = str(start)

    from trl_concise.methods.auto_think import AutoThinkTrainer  # after the command line: --help does not wait for it

    trainer = AutoThinkTrainer(reward_funcs=script.accuracy_reward(), **script.trainer_arguments())
    script.train(trainer)


if __name__ == "__main__":
    main()
