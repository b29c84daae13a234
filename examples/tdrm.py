# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft]"]
# ///
"""
Train a process reward model with TDRM: every step of a completion gets a value, learned by temporal differences.

Without arguments: the embedded model on its own completions of generated problems, on a CPU, in a few minutes, with best-of-n against
majority vote on held-out problems:

    accelerate launch examples/tdrm.py

A real model, from completions that `trl-concise eval` has sampled and judged:

    trl-concise eval Qwen/Qwen2.5-1.5B-Instruct openai/gsm8k --dataset_config main --dataset_split train \
        --num_completions 8 --temperature 1.0 --use_vllm --output_dir outputs/rollouts
    accelerate launch examples/tdrm.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k \
        --dataset_config main --rollouts outputs/rollouts --output_dir outputs/tdrm

Then `ProcessReward("outputs/tdrm")` is a reward function, and the score of `best_of_n`. Without `--rollouts`, the dataset has step-labeled rows
of your own: `prompt`, `completions` (the steps), `rewards` and `label`.

Time and memory: the run without arguments takes 103 seconds of one CPU core; its reward model does not beat the vote (docs/tdrm.md). Not measured on a
GPU yet: `trl-concise plan --method tdrm` plans it as supervised fine-tuning, which has an LM head in addition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from accelerate import PartialState
from trl import ModelConfig

from trl_concise import demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors
from trl_concise.methods.tdrm_config import TDRMConfig


if TYPE_CHECKING:
    from datasets import Dataset


DEMO = {
    "model_name_or_path": str(demo.model_path()),
    "output_dir": "outputs/tdrm-demo",
    "report_problems": 64,
    "step_separator": "\n",  # the embedded model writes one step per line
    "n_steps": 2,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "learning_rate": 5e-4,  # a model of a million parameters needs a higher one than a large model
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "logging_steps": 20,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
# About half of the embedded model's completions of such problems are correct.
SAMPLING = {**demo.EVALUATION, "temperature": 1.6, "progress": False}
OPERATIONS = (3,)


@dataclass
class TDRMArguments(RunArguments):
    """Where the step-labeled data comes from."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "With --rollouts, the problems, named as in trl-concise eval; otherwise step-labeled rows: a dataset id on the Hub or "
            "a local .jsonl file. Default: generated problems."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    rollouts: str | None = field(
        default=None, metadata={"help": "Output folder of trl-concise eval with completions of the problems."}
    )
    demo_problems: int = field(
        default=128, metadata={"help": "Generated problems to train on, with two completions each."}
    )


def step_rows(source: TDRMArguments, args: TDRMConfig) -> Dataset:
    """The step-labeled rows to train on: loaded, built from rollouts, or from those of the embedded model."""
    from trl_concise.data import build_steps
    from trl_concise.data.problems import load_rows
    from trl_concise.evaluation import evaluate, load_problem_sets

    name, folder = source.dataset_name, source.rollouts
    if name is not None and folder is None:
        return load_rows(name, source.dataset_config, source.dataset_train_split)
    if name is not None:
        sets = load_problem_sets([name], config_name=source.dataset_config, split=source.dataset_train_split)
    else:
        sets = {"train": demo.train_dataset(source.demo_problems, seed=args.seed, operations=OPERATIONS)}
        folder = f"{args.output_dir}/rollouts"
        with PartialState().main_process_first():  # the others find every completion in the folder
            evaluate(str(demo.model_path()), sets, folder, num_completions=2, seed=args.seed, **SAMPLING)
    return build_steps(folder, sets, separator=args.step_separator)


def report(source: TDRMArguments, output_dir: str, seed: int) -> None:
    """Print best-of-n with the trained model against majority vote, on held-out problems."""
    from trl_concise.evaluation import best_of_n, evaluate
    from trl_concise.methods.tdrm import ProcessReward

    sets = {"test": demo.problem_dataset(source.report_problems, operations=OPERATIONS)}
    folder = f"{output_dir}/held_out"
    evaluate(str(demo.model_path()), sets, folder, num_completions=8, seed=seed, **SAMPLING)
    model = ProcessReward(output_dir, before_answer=False, batch_size=64)
    print("held-out problems, accuracy")
    for record in best_of_n(folder, sets, model):
        print(
            f"n = {record['n']}: majority vote {record['majority_accuracy']:.1%}, best of n {record['best_accuracy']:.1%}, "
            f"{record['tokens_mean']:.0f} tokens"
        )


@report_input_errors()
def main(arguments: list[str] | None = None):
    source, args, model_args = parse_arguments((TDRMArguments, TDRMConfig, ModelConfig), arguments, DEMO)
    if source.rollouts is not None and source.dataset_name is None:
        raise ValueError("--rollouts needs the problems that were evaluated: name them with --dataset_name.")
    if model_args.use_peft:
        model_args.lora_task_type = "SEQ_CLS"  # with the value head

    # After the command line: --help does not wait for them.
    from trl_concise.callbacks import show_progress
    from trl_concise.methods.tdrm import TDRMTrainer
    from trl_concise.state.adapters import adapter_config

    if adapter_config(model_args.model_name_or_path, model_args.model_revision) is not None:
        raise ValueError(
            f"{model_args.model_name_or_path} is an adapter, to which no value head can be added. Merge it first: trl-concise merge."
        )
    rows = step_rows(source, args)
    trainer = TDRMTrainer(args=args, train_dataset=rows, **model_arguments(args, model_args))
    show_progress(trainer)
    checkpoint = trainer.find_checkpoint()
    is_demo = not source.dataset_name and source.report_problems and not trainer.is_finished(checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint or False)
    trainer.save_model()
    trainer.create_model_card(dataset_name=source.dataset_name)
    if is_demo and trainer.accelerator.is_main_process:
        report(source, args.output_dir, args.seed)
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=source.dataset_name)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
