# SPDX-License-Identifier: Apache-2.0
"""
Verified distillation of the embedded model into itself: all correct solutions, or the shortest correct one of each problem.

    python benchmarks/distill.py

The embedded model solves problems of two operations several times (`trl-concise distill`). Then it is fine-tuned with TRL's SFTTrainer on what
was kept, with the same number of steps for both choices, and evaluated on problems that it never saw: of two operations, as in training, and of
three. Nothing was tuned.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from comparison import one_decimal, percent
from datasets import disable_progress_bars, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import SFTConfig, SFTTrainer

from trl_concise import demo
from trl_concise.evaluation import evaluate
from trl_concise.evaluation.distill import distill_problems


SETS = {"2 operations": (2,), "3 operations": (3,)}


def train(rows: Path, options: argparse.Namespace, folder: Path):
    """Fine-tune the embedded model on the rows of a file."""
    args = SFTConfig(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=16,
        learning_rate=1e-4,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        seed=options.seed,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    dataset = load_dataset("json", data_files=str(rows), split="train")
    trainer = SFTTrainer(str(demo.model_path()), args, train_dataset=dataset)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--problems", type=int, default=512, help="problems to solve")
    parser.add_argument("--completions", type=int, default=4, help="solutions per problem")
    parser.add_argument("--steps", type=int, default=64, help="optimizer steps of the fine-tuning")
    parser.add_argument("--evaluation_problems", type=int, default=512)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/distill"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small
    disable_progress_bars()

    options.output_dir.mkdir(parents=True, exist_ok=True)
    data = options.output_dir / "problems.jsonl"
    rows = demo.generate_problems(options.problems, options.seed, "train", (2,))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["| Model | 2 operations | Tokens | 3 operations | Tokens |", "|---|---|---:|---|---:|"]
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    for name, choose in (("before", None), ("SFT on all correct", "all"), ("SFT on the shortest correct", "shortest")):
        if choose is None:
            model = AutoModelForCausalLM.from_pretrained(demo.model_path())
        else:
            output = options.output_dir / "solutions.jsonl"  # the same solutions for both choices
            report = distill_problems(
                str(data),
                "demo",
                output,
                num_completions=options.completions,
                choose=choose,
                progress=False,
                seed=options.seed,
                **demo.EVALUATION,
            )
            print(f"{choose}: {report}\n", flush=True)
            model = train(output, options, options.output_dir / choose)
        records = evaluate(
            model,
            {
                key: demo.problem_dataset(options.evaluation_problems, operations=lengths)
                for key, lengths in SETS.items()
            },
            tokenizer=tokenizer,
            seed=options.seed,
            model_name=name,
            progress=False,
            **demo.EVALUATION,
        )
        cells = [
            f"{percent(record['accuracy'])} % [{', '.join(map(percent, record['accuracy_interval']))}] | {one_decimal(record['tokens_mean'])}"
            for record in records
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
