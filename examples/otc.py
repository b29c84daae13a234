# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with OTC: answer correctly with as few calls of a calculator as possible.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after. At the start, the
embedded model is trained for a minute or two to call the calculator:

    accelerate launch examples/otc.py

A real model that calls tools, on one GPU. Replace the calculator in this script by the tools that your problems need:

    accelerate launch examples/otc.py --model_name_or_path Qwen/Qwen3-1.7B --dataset_name openai/gsm8k --dataset_config main \
        --max_completion_length 2048 --use_vllm --output_dir outputs/otc

Time and memory: 61 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method otc --model_name_or_path Qwen/Qwen3-1.7B --card_gib 80 --use_vllm --max_completion_length 2048
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trl_concise import ConciseGRPOConfig, TrainingScript, demo
from trl_concise.errors import report_input_errors


VARIANTS = ("otc_grpo", "otc_ppo")


@dataclass
class OTCConfig(ConciseGRPOConfig):
    variant: str = field(
        default="otc_grpo",
        metadata={
            "help": "Compare with the fewest calls of a correct completion so far (otc_grpo), or with none (otc_ppo).",
            "choices": list(VARIANTS),
        },
    )
    alpha: float = field(default=1.0, metadata={"help": "Largest reward, above 0."})
    smoothing: float = field(
        default=1.0, metadata={"help": "The larger, the less a call costs where none is needed; above 0."}
    )
    demo_steps: int = field(
        default=300, metadata={"help": "Of the demo: steps that teach the embedded model to call the calculator."}
    )
    demo_problems: int = field(default=256, metadata={"help": "Of the demo: problems to train on."})


@report_input_errors()
def main():
    script = TrainingScript(
        OTCConfig,
        output_dir="outputs/otc-demo",
        max_completion_length=160,
        max_steps=30,
        per_device_eval_batch_size=64,
        num_generations_eval=1,
        report_problems=128,
    )
    args, model_args = script.training_args, script.model_args
    if args.reward_weights is None:
        args.reward_weights = [
            0.0,
            1.0,
        ]  # as in the paper, a correct completion earns what its tool calls leave of alpha

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.methods.otc import OTCPPOReward, OTCReward

    if model_args.model_name_or_path == str(demo.model_path()):
        start = demo.tool_model(Path(args.output_dir, "tool-model"), steps=args.demo_steps)
        model_args.model_name_or_path = str(start)
    arguments = script.trainer_arguments()
    if script.problem_args.dataset_name is None:
        arguments["train_dataset"] = demo.tool_dataset(args.demo_problems, seed=args.seed)
    reward = OTCReward if args.variant == "otc_grpo" else OTCPPOReward
    trainer = ConciseGRPOTrainer(
        reward_funcs=[script.accuracy_reward(), reward(args.alpha, args.smoothing)],
        tools=[demo.calculate],
        **arguments,
    )
    script.train(trainer, report=demo.ToolReport)


if __name__ == "__main__":
    main()
