# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train a model with HAPO, so that it reasons in fewer tokens.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after:

    accelerate launch examples/hapo.py

The embedded model on your own problems, a few steps:

    accelerate launch examples/hapo.py --dataset_name problems.jsonl --max_steps 4

A real model on one GPU (a recipe for 40 GB; every value can be overridden on the command line):

    accelerate launch examples/hapo.py --config examples/configs/hapo_1.5b_40gb.yaml \
        --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k --dataset_config main --use_vllm
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from transformers import ProgressCallback
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from trl_concise import ConciseProgressCallback, HAPOConfig, HAPOTrainer, demo, load_problems, math_accuracy_reward


@dataclass
class ProblemArguments:
    """Which problems to train on."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Dataset id on the Hub or local .jsonl/.json/.parquet/.csv file. Default: generated problems."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str | None = field(default=None, metadata={"help": "Split to evaluate on."})
    problem_column: str | None = field(default=None, metadata={"help": "Column that holds the problem."})
    answer_column: str | None = field(default=None, metadata={"help": "Column that holds the final answer."})
    system_prompt: str | None = field(default=None, metadata={"help": "System message before every problem."})


def load_split(problem_args: ProblemArguments, split: str):
    return load_problems(
        problem_args.dataset_name,
        config_name=problem_args.dataset_config,
        split=split,
        problem_column=problem_args.problem_column,
        answer_column=problem_args.answer_column,
        system_prompt=problem_args.system_prompt,
    )


def main():
    parser = TrlParser((ProblemArguments, HAPOConfig, ModelConfig))
    if not {"--model_name_or_path", "--config"} & {argument.partition("=")[0] for argument in sys.argv}:
        parser.set_defaults_with_config(**demo.SETTINGS)  # the embedded model, on the CPU
    problem_args, training_args, model_args = parser.parse_args_and_config()
    if model_args.model_name_or_path is None:
        parser.error("--model_name_or_path is needed with --config")

    if problem_args.dataset_name is None:
        train_dataset, eval_dataset = demo.train_dataset(seed=training_args.seed), None
    else:
        train_dataset = load_split(problem_args, problem_args.dataset_train_split)
        eval_split = problem_args.dataset_test_split
        eval_dataset = load_split(problem_args, eval_split) if eval_split is not None else None

    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    trainer = HAPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=math_accuracy_reward,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ConciseProgressCallback)

    if problem_args.dataset_name is None:
        with demo.Report(trainer):
            trainer.train()
    else:
        trainer.train()

    trainer.save_model()
    if trainer.accelerator.is_main_process:
        trainer.history.save(f"{training_args.output_dir}/history.safetensors")
    trainer.create_model_card(dataset_name=problem_args.dataset_name)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=problem_args.dataset_name)


if __name__ == "__main__":
    main()
