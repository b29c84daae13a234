# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[experimental]"]
# ///
"""
Learn how much of each data source to train on with ScaleBiO.

Without arguments: the embedded model and three sources of traces (correct, with a wrong result, without an answer), on a CPU, in a few minutes. Then the
model is fine-tuned on the learned mixture, on the uniform mixture, on the correct source, and on the validation set, with the same rows and
steps, and the models are compared on held-out problems:

    accelerate launch examples/scale_bio.py

A real model on files of your own, JSON Lines with `prompt` and `completion`; the authors' settings are the defaults:

    accelerate launch examples/scale_bio.py --model_name_or_path Qwen/Qwen2.5-1.5B-Instruct --sources clean.jsonl noisy.jsonl other.jsonl \
        --validation held_out.jsonl --mixture_size 20000 --per_device_train_batch_size 16 --output_dir outputs/mixture

The output folder then has `mixture.json`, `shares.jsonl` and, with `--mixture_size`, `mixed.jsonl` for the run that follows.

Time and memory: the run without arguments takes two minutes of one CPU core. Memory for two models, their gradients and the states of their optimizers; not
measured on a GPU yet.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import ModelConfig

from trl_concise import demo
from trl_concise.cli.arguments import RunArguments, parse_arguments
from trl_concise.cli.script import model_arguments
from trl_concise.errors import report_input_errors
from trl_concise.experimental.scale_bio_config import ScaleBiOConfig


if TYPE_CHECKING:
    from datasets import Dataset


DEMO = {
    "model_name_or_path": str(demo.model_path()),
    "output_dir": "outputs/scale-bio-demo",
    "report_problems": 256,
    "max_steps": 120,
    "per_device_train_batch_size": 48,
    "alpha": 10.0,
    "learning_rate": 3e-4,  # a model of a million parameters needs a higher one than a large model
    "share_learning_rate": 0.1,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}
SETS = {"2 operations": (2,), "3 operations (harder)": (3,)}
TUNING_BATCH = 32


@dataclass
class ScaleBiOArguments(RunArguments):
    """Where the sources come from, and the comparison of the demo."""

    sources: list[str] | None = field(
        default=None,
        metadata={"help": "Files of the sources, or datasets on the Hub, at least two. Default: generated traces."},
    )
    validation: str | None = field(default=None, metadata={"help": "File of the validation set."})
    include_validation: bool = field(
        default=False, metadata={"help": "Whether mixed.jsonl also has the rows of the validation set."}
    )
    demo_rows: int = field(
        default=1024, metadata={"help": "Of the demo: traces of each source, and rows to fine-tune on."}
    )
    demo_validation_rows: int = field(default=128, metadata={"help": "Of the demo: rows of the validation set."})


def load_data(source: ScaleBiOArguments, seed: int) -> tuple[dict[str, Dataset], Dataset]:
    """Return the sources and the validation set: loaded, or generated."""
    from trl_concise.demo.mixture import source_datasets
    from trl_concise.experimental.scale_bio import load_sources

    if source.sources is not None and source.validation is not None:
        (validation,) = load_sources([source.validation]).values()
        return load_sources(source.sources), validation
    rows = source.demo_rows + source.demo_validation_rows
    datasets = source_datasets(rows, seed=seed)
    validation = datasets["correct"].select(range(source.demo_rows, rows))
    return {name: rows.select(range(source.demo_rows)) for name, rows in datasets.items()}, validation


def print_shares(mixture: dict[str, Any]) -> None:
    """Print the learned shares next to uniform ones."""
    rows = mixture["sources"]
    print(f"{'source':<20} {'rows':>8} {'share':>7} {'uniform':>7} {'taken':>7}")
    for row in rows:
        taken = row["taken"] if row["taken"] is not None else ""
        print(f"{row['name']:<20} {row['rows']:>8} {row['share']:>7.3f} {1 / len(rows):>7.3f} {taken:>7}")
    print(f"effective number of sources: {mixture['effective_sources']:.2f} of {len(rows)}")
    print(
        f"validation loss: {mixture['validation_loss_before']:.4f} before, {mixture['validation_loss_after']:.4f} after"
    )
    print(mixture["note"])


def write_mixed(
    source: ScaleBiOArguments, sources: dict[str, Dataset], validation: Dataset, args: ScaleBiOConfig
) -> None:
    """Write `mixed.jsonl`, and into `mixture.json` whether it has the rows of the validation set."""
    from trl_concise.experimental.scale_bio import mix_sources, read_shares
    from trl_concise.experimental.scale_bio_data import join
    from trl_concise.state.checkpoint import write_atomically

    mixed = mix_sources(sources, read_shares(args.output_dir), args.mixture_size, args.seed)
    if source.include_validation:
        added = validation.add_column("source", ["validation"] * len(validation))
        mixed = join({"mixture": mixed, "validation": added}, {"mixture": False, "validation": True}, "is_validation")
    mixed.to_json(f"{args.output_dir}/mixed.jsonl")
    path = Path(args.output_dir, "mixture.json")
    mixture = json.loads(path.read_text(encoding="utf-8")) | {"includes_validation": source.include_validation}
    write_atomically(path, (json.dumps(mixture, indent=2) + "\n").encode())


def compare(source: ScaleBiOArguments, sources: dict[str, Dataset], validation: Dataset, args: ScaleBiOConfig) -> None:
    """Fine-tune the embedded model on each mixture, and print accuracy and tokens on held-out problems."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from trl_concise.evaluation import evaluate
    from trl_concise.evaluation.completions import read_completions
    from trl_concise.experimental.equal_cost import paired_difference
    from trl_concise.experimental.scale_bio import mix_sources, read_shares
    from trl_concise.state.checkpoint import write_atomically

    # The validation set is a baseline: it is all correct, and small enough for several epochs in the same steps.
    size, batch = source.demo_rows, min(TUNING_BATCH, source.demo_rows)
    steps = size // batch
    uniform = dict.fromkeys(sources, 1 / len(sources))
    datasets = {
        "nothing": None,
        "uniform mixture": mix_sources(sources, uniform, size, args.seed),
        "learned mixture": mix_sources(sources, read_shares(args.output_dir), size, args.seed),
        "correct source": sources["correct"],
        "validation set": validation,
    }
    sets = {name: demo.problem_dataset(source.report_problems, operations=length) for name, length in SETS.items()}
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    evaluations = Path(args.output_dir, "evaluation")
    shutil.rmtree(evaluations, ignore_errors=True)  # of an earlier run
    records, correct = [], {}
    for name, rows in datasets.items():
        model = AutoModelForCausalLM.from_pretrained(demo.model_path())
        if rows is not None:
            tuning = SFTConfig(
                f"{args.output_dir}/tuning",
                max_steps=steps,
                per_device_train_batch_size=batch,
                learning_rate=args.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.03,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                disable_tqdm=True,
                seed=args.seed,
            )
            columns = rows.select_columns(["prompt", "completion"])
            SFTTrainer(model, tuning, train_dataset=columns, processing_class=tokenizer).train()
        folder = evaluations / name.replace(" ", "-")
        trained = {"rows": len(rows or []), "steps": steps if rows is not None else 0}
        options = {"seed": args.seed, "model_name": name, "progress": False, **demo.EVALUATION}
        records += [record | trained for record in evaluate(model, sets, folder, tokenizer=tokenizer, **options)]
        for item in read_completions(folder / "completions.jsonl"):
            correct.setdefault((item.dataset, name), {})[item.problem] = float(bool(item.correct))
    for record in records:
        reference, own = (correct[record["dataset"], name] for name in ("learned mixture", record["model"]))
        record["learned_minus_this"], record["learned_minus_this_interval"] = paired_difference(
            [reference[problem] for problem in own], list(own.values())
        )
    print_results(records)
    content = json.dumps(records, indent=2) + "\n"
    write_atomically(Path(args.output_dir, "results.json"), content.encode())


def print_results(records: list[dict[str, Any]]) -> None:
    """Print a row per model and problem set."""
    print(
        "\n| Set | Fine-tuned on | Rows, steps | Accuracy | Tokens | Learned minus this, points |\n|---|---|---|---|---|---|"
    )
    for record in sorted(records, key=lambda record: list(SETS).index(record["dataset"])):
        low, high = (100 * value for value in record["accuracy_interval"])
        least, most = (100 * value for value in record["learned_minus_this_interval"])
        compared = f"{100 * record['learned_minus_this']:+.1f} [{least:+.1f}, {most:+.1f}]"
        print(
            f"| {record['dataset']} | {record['model']} | {record['rows']}, {record['steps']} | {record['accuracy']:.1%} [{low:.1f}, {high:.1f}] | "
            f"{record['tokens_mean']:.1f} | {compared if record['model'] != 'learned mixture' else ''} |"
        )


@report_input_errors()
def main(arguments: list[str] | None = None):
    source, args, model_args = parse_arguments((ScaleBiOArguments, ScaleBiOConfig, ModelConfig), arguments, DEMO)
    if (source.sources is None) != (source.validation is None):
        raise ValueError("--sources and --validation belong together: give both, or neither for the demo.")
    is_demo = source.sources is None
    if is_demo and model_args.model_name_or_path != str(demo.model_path()):
        raise ValueError(
            "The generated traces are for the embedded model. Give --sources and --validation for another one."
        )
    if is_demo and args.mixture_size is None:
        args.mixture_size = source.demo_rows

    # After the command line: --help does not wait for them.
    from trl_concise.callbacks import show_progress
    from trl_concise.experimental.scale_bio import ScaleBiOTrainer

    sources, validation = load_data(source, args.seed)
    trainer = ScaleBiOTrainer(
        args=args, train_dataset=sources, validation_dataset=validation, **model_arguments(args, model_args)
    )
    show_progress(trainer)
    checkpoint = trainer.find_checkpoint()
    trainer.train(resume_from_checkpoint=checkpoint or False)
    if trainer.accelerator.is_main_process:
        print_shares(json.loads(Path(args.output_dir, "mixture.json").read_text(encoding="utf-8")))
        if args.mixture_size is not None:
            write_mixed(source, sources, validation, args)
        if is_demo and source.report_problems:
            compare(source, sources, validation, args)
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
