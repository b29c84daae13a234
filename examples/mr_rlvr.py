# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft,plots]"]
# ///
"""
Train with MR-RLVR: first on tasks about worked solutions (fill in missing pieces, restore the order of the steps), then on final answers.

Without arguments: the embedded model on generated problems, on a CPU, in a few minutes, with a report before and after the second stage. At
the start, the embedded model is trained for a minute or two to answer such tasks:

    accelerate launch examples/mr_rlvr.py

A real model on GSM8K, whose answers are worked solutions, on one GPU; `--max_steps` are those of the second stage:

    accelerate launch examples/mr_rlvr.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --dataset_name openai/gsm8k --dataset_config main \
        --solution_column answer --process_steps 100 --max_steps 200 --use_vllm --output_dir outputs/mr-rlvr

The first stage is saved in <output_dir>/process. `--resume_from_checkpoint auto` continues the stage that was interrupted.

Time and memory: 54 GiB planned for full fine-tuning on a card of 80 GiB, not measured on a GPU yet.

    trl-concise plan --method mr_rlvr --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --card_gib 80 --use_vllm
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trl_concise import ConciseGRPOConfig, TrainingScript, demo
from trl_concise.errors import report_input_errors


if TYPE_CHECKING:
    from datasets import Dataset


MODEL_ARGUMENTS = ("model", "processing_class", "quantization_config", "peft_config")


@dataclass
class MRRLVRConfig(ConciseGRPOConfig):
    process_steps: int = field(default=100, metadata={"help": "Steps of the first stage, at least 1."})
    process_tasks: list[str] = field(
        default_factory=lambda: ["fill", "order"],
        metadata={"help": "Tasks of the first stage; one is drawn for each solution.", "choices": ["fill", "order"]},
    )
    max_blanks: int = field(default=3, metadata={"help": "Largest number of blanks in a solution."})
    blank_answer: bool = field(default=False, metadata={"help": "Whether the final answer may be a blank."})
    solution_column: str | None = field(
        default=None, metadata={"help": "Column of the worked solutions: solution, then answer, by default."}
    )
    step_separator: str = field(default="\n", metadata={"help": "Text between the steps of a solution."})
    demo_steps: int = field(
        default=200, metadata={"help": "Of the demo: steps that teach the embedded model to answer the tasks."}
    )

    def __post_init__(self):
        if self.process_steps < 1:
            raise ValueError(f"--process_steps must be at least 1, got {self.process_steps}.")
        super().__post_init__()


def process_tasks(script: TrainingScript) -> Dataset:
    """The tasks of the first stage, from the worked solutions of the dataset or of the demo."""
    from trl_concise.data.problems import load_rows
    from trl_concise.methods.mr_rlvr import build_process_tasks

    args, source = script.training_args, script.problem_args
    options = {
        "tasks": args.process_tasks,
        "max_blanks": args.max_blanks,
        "blank_answer": args.blank_answer,
        "separator": args.step_separator,
        "seed": args.seed,
    }
    if source.dataset_name is None:
        return demo.process_tasks(demo.worked_solutions(seed=args.seed, operations=(3,)), **options)
    rows = load_rows(source.dataset_name, source.dataset_config, source.dataset_train_split)
    columns = {"problem_column": source.problem_column, "solution_column": args.solution_column}
    return build_process_tasks(rows, system_prompt=source.system_prompt, **columns, **options)


@report_input_errors()
def main():
    script = TrainingScript(MRRLVRConfig, output_dir="outputs/mr-rlvr-demo", report_problems=256)
    args, model_args = script.training_args, script.model_args
    if args.resume_from_checkpoint not in (None, "auto"):
        raise ValueError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint} does not name a stage. Give auto, which continues the one that was "
            "interrupted."
        )

    # After the command line: --help does not wait for them.
    from trl_concise import ConciseGRPOTrainer
    from trl_concise.callbacks import show_progress
    from trl_concise.cli.script import model_arguments
    from trl_concise.methods.mr_rlvr import fill_reward, order_reward

    tasks = process_tasks(script)  # before the embedded model is trained: unusable solutions are reported at once
    is_demo = model_args.model_name_or_path == str(demo.model_path())
    if is_demo:
        start = demo.process_model(Path(args.output_dir, "process-model"), steps=args.demo_steps)
        model_args.model_name_or_path = str(start)
    arguments = script.trainer_arguments()
    if script.problem_args.dataset_name is None:
        arguments["train_dataset"] = demo.train_dataset(seed=args.seed, operations=(3,))

    first_args = copy.deepcopy(args)
    first_args.output_dir = f"{args.output_dir}/process"
    first_args.max_steps = args.process_steps
    first_args.reward_weights = None
    first_args.eval_strategy, first_args.eval_on_start, first_args.push_to_hub = "no", False, False
    first = ConciseGRPOTrainer(
        reward_funcs=[fill_reward, order_reward],
        **{
            **arguments,
            "args": first_args,
            "train_dataset": tasks,
            "eval_dataset": None,
            "watch_dataset": None,
        },
    )
    show_progress(first)
    first.train(resume_from_checkpoint=first.find_checkpoint() or False)
    first.save_model()
    first.accelerator.wait_for_everyone()  # the second stage reads what the main process writes

    # With --use_peft that is an adapter, which the second stage trains further.
    model_args.model_name_or_path, model_args.use_peft = first_args.output_dir, False
    arguments = {name: value for name, value in arguments.items() if name not in MODEL_ARGUMENTS}
    arguments |= model_arguments(args, model_args, padding_side="left", truncation_side="left")
    trainer = ConciseGRPOTrainer(reward_funcs=script.accuracy_reward(), **arguments)
    script.train(trainer)


if __name__ == "__main__":
    main()
