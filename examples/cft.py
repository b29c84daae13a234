# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[critiques,peft]"]
# ///
"""
Fine-tune a model on critiques of solutions (CFT).

Without arguments: the embedded model on generated critiques of one problem's solutions, on a CPU, in a minute or two, with
accuracy and tokens before and after:

    accelerate launch examples/cft.py

A real model on your critiques, as JSON Lines with `question`, `solution` and `critique`; the authors' settings:

    accelerate launch examples/cft.py --config examples/configs/cft_one_shot_7b.yaml --dataset_name critiques.jsonl

The same from candidate solutions (`question`, `answer`, and `solution` or `generations`), which a teacher critiques. Its
replies are kept in `<output_dir>/replies.jsonl`, so a restarted run does not repeat paid requests:

    OPENAI_API_KEY=... accelerate launch examples/cft.py --config examples/configs/cft_one_shot_7b.yaml \
        --candidates candidates.jsonl --teacher gpt-4.1-mini

Time and memory: not measured on a GPU yet. On one card
examples/configs/cft_1.5b_40gb.yaml takes 8.4 GiB as planned (docs/memory.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from accelerate import PartialState
from trl import ModelConfig

from trl_concise import CFTConfig, demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors


if TYPE_CHECKING:
    from datasets import Dataset


DEMO = {
    "model_name_or_path": str(demo.model_path()),
    "output_dir": "outputs/cft-demo",
    "report_problems": 512,
    "max_steps": 50,
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 5,
    "logging_steps": 5,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


@dataclass
class CritiqueArguments(RunArguments):
    """Where the critiques come from."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Dataset of critiques: id on the Hub, or a local .jsonl, .json or .parquet file."},
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    candidates: str | None = field(
        default=None,
        metadata={"help": "Dataset of candidate solutions for the teacher to critique, named in the same way."},
    )
    teacher: str | None = field(default=None, metadata={"help": "Model that critiques the candidates."})
    teacher_base_url: str | None = field(default=None, metadata={"help": "Its OpenAI-compatible endpoint."})
    concurrency: int = field(default=8, metadata={"help": "Requests to the teacher under way at a time."})


def critiques(source: CritiqueArguments, args: CFTConfig) -> Dataset:
    """The critiques to train on: loaded, asked for, or generated."""
    from datasets import Dataset

    from trl_concise import APITeacher, build_critiques
    from trl_concise.data.problems import load_rows

    if not (source.candidates or source.dataset_name):
        return Dataset.from_list(demo.generate_critiques(256, seed=args.seed))
    rows = load_rows(source.candidates or source.dataset_name, split=source.dataset_train_split)
    if source.candidates is None:
        return rows
    teacher = APITeacher(source.teacher, base_url=source.teacher_base_url, concurrency=source.concurrency)
    with PartialState().main_process_first():  # the others find every reply in the file
        dataset, report = build_critiques(rows, teacher, f"{args.output_dir}/replies.jsonl")
    print(report)
    return dataset


@report_input_errors()
def main(arguments: list[str] | None = None):
    source, args, model_args = parse_arguments((CritiqueArguments, CFTConfig, ModelConfig), arguments, DEMO)
    if (source.candidates is None) != (source.teacher is None):
        raise ValueError("--candidates and --teacher go together: give both, or none of them.")
    if source.dataset_name is not None and source.candidates is not None:
        raise ValueError(
            "--dataset_name names finished critiques and --candidates what a teacher is to critique. Give one of them."
        )

    # After the command line: --help does not wait for them.
    from trl_concise import CFTTrainer
    from trl_concise.callbacks import show_progress

    trainer = CFTTrainer(args=args, train_dataset=critiques(source, args), **model_arguments(args, model_args))
    show_progress(trainer)
    checkpoint = trainer.find_checkpoint()
    is_demo = model_args.model_name_or_path == str(demo.model_path()) and source.report_problems
    is_demo = is_demo and not trainer.is_finished(checkpoint)
    if is_demo:
        held_out = demo.problem_dataset(source.report_problems, operations=demo.OPERATIONS)
        before = demo.evaluate_model(trainer.model, trainer.processing_class, held_out, seed=args.seed)
    trainer.train(resume_from_checkpoint=checkpoint or False)
    if is_demo:
        after = demo.evaluate_model(trainer.model, trainer.processing_class, held_out, seed=args.seed)
        for name, record in {"before": before, "after": after}.items():
            print(
                f"{name}: accuracy {record['accuracy']:.1%}, {record['tokens_mean']:.1f} tokens on held-out problems"
            )

    trainer.save_model()
    trainer.create_model_card(dataset_name=source.dataset_name)
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=source.dataset_name)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
