# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with AdaptThink: answer without thinking where that costs no accuracy.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after. At the start, the
embedded model, which always thinks, is trained for some seconds to answer directly too, and its accuracy on each problem is measured:

    accelerate launch examples/adapt_think.py

A real model on one GPU. The first command writes the accuracy of the model on each problem, which the second needs:

    trl-concise filter openai/gsm8k --dataset_config main --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --keep 0 1 \
        --num_completions 16 --temperature 0.6 --top_p 0.95 --use_vllm --output outputs/gsm8k-reference.jsonl
    accelerate launch examples/adapt_think.py --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
        --dataset_name outputs/gsm8k-reference.jsonl --max_completion_length 4096 --use_vllm --output_dir outputs/adapt-think

Time and memory: 65 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method grpo --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --card_gib 80 --use_vllm \
        --max_completion_length 4096
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trl_concise import TrainingScript, demo
from trl_concise.errors import report_input_errors
from trl_concise.methods.adapt_think_config import AdaptThinkConfig


@dataclass
class ExampleConfig(AdaptThinkConfig):
    demo_steps: int = field(
        default=45, metadata={"help": "Of the demo: steps that teach the embedded model to answer directly."}
    )
    demo_problems: int = field(default=128, metadata={"help": "Of the demo: problems to train on."})
    demo_completions: int = field(
        default=8, metadata={"help": "Of the demo: completions per problem that measure the reference."}
    )


@report_input_errors()
def main():
    script = TrainingScript(ExampleConfig, output_dir="outputs/adapt-think-demo", thinking_start="We")
    args, model_args = script.training_args, script.model_args
    is_demo = script.problem_args.dataset_name is None

    # After the command line: --help does not wait for them.
    from accelerate import PartialState

    from trl_concise import load_problems
    from trl_concise.evaluation import filter_problems
    from trl_concise.methods.adapt_think import AdaptThinkTrainer

    # Two folders below the run: an evaluation in the one below would count as one of its base.
    table = Path(args.output_dir, "reference", "problems.jsonl")
    if is_demo:
        reference = model_args.model_name_or_path
        if reference == str(demo.model_path()):
            start = demo.two_mode_model(Path(args.output_dir, "two-modes"), steps=args.demo_steps)
            model_args.model_name_or_path = str(start)
        with PartialState().main_process_first():
            if not table.is_file():
                filter_problems(
                    *("demo", reference, table),
                    keep=(0, 1),
                    num_completions=args.demo_completions,
                    limit=args.demo_problems,
                    max_new_tokens=args.max_completion_length,
                )
    arguments = script.trainer_arguments()
    if is_demo:
        arguments["train_dataset"] = load_problems(str(table))
    trainer = AdaptThinkTrainer(reward_funcs=script.accuracy_reward(), **arguments)
    script.train(trainer)


if __name__ == "__main__":
    main()
