# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with Delethink: completions are written in chunks, each with the problem and a short carried part in the context.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after. At the start, the
embedded model is trained for two minutes to continue after a reset of its context:

    accelerate launch examples/delethink.py

A real model on one GPU, in at most three chunks of 2,048 tokens:

    accelerate launch examples/delethink.py --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --dataset_name openai/gsm8k \
        --dataset_config main --chunk_size 2048 --max_completion_length 4096 --temperature 0.6 --epsilon_high 0.26 --use_vllm \
        --vllm_max_model_length 3072 --output_dir outputs/delethink

Time and memory: 71 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet. Plan with the chunks, 3 * 2,048 tokens:

    trl-concise plan --method delethink --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --card_gib 80 --use_vllm \
        --max_completion_length 6144
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from trl_concise import ConciseGRPOConfig, TrainingScript, demo
from trl_concise.errors import report_input_errors


@dataclass
class DelethinkConfig(ConciseGRPOConfig):
    chunk_size: int = field(
        default=64,
        metadata={
            "help": "Tokens of a chunk, half of which are carried over; max_completion_length limits the whole completion."
        },
    )
    keep_head: int | None = field(
        default=None, metadata={"help": "Carried tokens that are the first of the completion: 100, in the demo 8."}
    )
    demo_steps: int = field(
        default=300, metadata={"help": "Of the demo: steps that teach the embedded model to continue after a reset."}
    )


@report_input_errors()
def main():
    script = TrainingScript(
        DelethinkConfig,
        output_dir="outputs/delethink-demo",
        max_completion_length=192,
        max_steps=30,
        per_device_train_batch_size=32,
        loss_type="grpo",
        beta=0.0,
        report_problems=128,
    )
    args, model_args = script.training_args, script.model_args

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.demo.carry_over import HEAD
    from trl_concise.methods.delethink import Delethink

    is_demo = model_args.model_name_or_path == str(demo.model_path())
    if "loss_type" not in script.given:
        args.loss_type = "grpo"  # the mean over completions
    keep_head = args.keep_head if args.keep_head is not None else HEAD if is_demo else 100
    rollout = Delethink(args.chunk_size, keep_head)
    if is_demo:
        start = demo.carry_over_model(Path(args.output_dir, "carry-over-model"), steps=args.demo_steps)
        model_args.model_name_or_path = str(start)
    trainer = ConciseGRPOTrainer(reward_funcs=script.accuracy_reward(), rollout=rollout, **script.trainer_arguments())
    script.train(trainer, report=partial(demo.Report, chunking=rollout.chunking))


if __name__ == "__main__":
    main()
