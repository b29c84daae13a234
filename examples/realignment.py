# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft]"]
# ///
"""
Realign a model with TrRa: distill it towards a mix of itself and an aligned model that reasons in fewer tokens.

Without arguments: the embedded model and a concise variant, which is trained first, on generated traces, on a CPU, in a few minutes, with accuracy and
tokens of all three:

    accelerate launch examples/realignment.py

A real pair of models, on completions of your own (JSON Lines with `prompt` and `completion`); the authors' settings:

    accelerate launch examples/realignment.py --config examples/configs/realignment_1.5b.yaml --dataset_name completions.jsonl

Time and memory: not measured on a GPU yet. `trl-concise plan --method realignment` counts the two frozen models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trl import ModelConfig

from trl_concise import demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors
from trl_concise.methods.realignment_config import TrRaConfig


if TYPE_CHECKING:
    from datasets import Dataset


DEMO = {
    "model_name_or_path": str(demo.model_path()),
    "output_dir": "outputs/realignment-demo",
    "report_problems": 256,
    "max_steps": 100,
    "per_device_train_batch_size": 16,
    "learning_rate": 5e-4,  # a model of a million parameters needs a higher one than a large model
    "lr_scheduler_type": "linear",
    "warmup_steps": 10,
    "max_completion_length": 256,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
TRACES = 1600


@dataclass
class RealignmentArguments(RunArguments):
    """Which completions to train on, and the variant of the embedded model."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Completions, with `prompt` and `completion`: a dataset id on the Hub, or a local .jsonl, .json or .parquet file. "
            "Default: generated traces."
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    ref_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Reference model. Default: the model to train, as it is at the start."}
    )
    demo_steps: int = field(
        default=40, metadata={"help": "Steps that make the concise variant of the embedded model."}
    )


def completions(source: RealignmentArguments, args: TrRaConfig) -> Dataset:
    """The completions to train on: loaded, or generated."""
    from trl_concise.data.problems import load_rows

    if source.dataset_name is None:
        return demo.trace_dataset(TRACES, seed=args.seed)
    return load_rows(source.dataset_name, source.dataset_config, source.dataset_train_split)


@report_input_errors()
def main(arguments: list[str] | None = None):
    source, args, model_args = parse_arguments((RealignmentArguments, TrRaConfig, ModelConfig), arguments, DEMO)
    is_demo = model_args.model_name_or_path == str(demo.model_path()) and args.teacher_model_name_or_path is None
    if not is_demo and args.teacher_model_name_or_path is None:
        raise ValueError("--teacher_model_name_or_path is missing: name the aligned model.")

    # After the command line: --help does not wait for them.
    from trl_concise.callbacks import show_progress
    from trl_concise.methods.realignment import TrRaTrainer, check_columns
    from trl_concise.state.adapters import check_model

    aligned = args.teacher_model_name_or_path
    for name, revision in ((aligned, args.teacher_model_revision), (source.ref_model_name_or_path, None)):
        if name is not None:
            check_model(name, revision)
    rows = completions(source, args)
    check_columns(rows, "train")  # before a model is trained
    if is_demo:
        aligned = str(demo.concise_model(f"{args.output_dir}/aligned", steps=source.demo_steps))
    trainer = TrRaTrainer(
        args=args,
        teacher_model=aligned,
        ref_model=source.ref_model_name_or_path,
        train_dataset=rows,
        **model_arguments(args, model_args),
    )
    show_progress(trainer)
    checkpoint = trainer.find_checkpoint()
    reports = is_demo and source.report_problems and not trainer.is_finished(checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint or False)
    trainer.save_model()
    trainer.create_model_card(dataset_name=source.dataset_name)
    if reports and trainer.accelerator.is_main_process:
        from transformers import AutoModelForCausalLM

        held_out = demo.problem_dataset(source.report_problems, operations=demo.OPERATIONS)
        models = {
            "reference": AutoModelForCausalLM.from_pretrained(demo.model_path()),
            "aligned": AutoModelForCausalLM.from_pretrained(aligned),
            f"lambda {args.lambda_:g}": trainer.accelerator.unwrap_model(trainer.model),
        }
        for name, model in models.items():
            record = demo.evaluate_model(model, trainer.processing_class, held_out, seed=args.seed)
            print(
                f"{name}: accuracy {record['accuracy']:.1%}, {record['tokens_mean']:.1f} tokens on held-out problems"
            )
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=source.dataset_name)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
