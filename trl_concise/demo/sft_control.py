# SPDX-License-Identifier: Apache-2.0
"""Control of the demo: supervised fine-tuning on shortest correct completions, `python -m trl_concise.demo.sft_control`.

The embedded model answers each training problem several times; the shortest correct completion of each becomes its
target, on which TRL's `SFTTrainer` trains, without a history or rewards. The figures, means over three seeds, ship as
`sft_control.json` next to this module.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import fmean

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from .evaluate import evaluate_model, judge_completions, render_prompts, sample_completions
from .problems import generate_problems
from .report import EVALUATION_PROBLEMS
from .settings import TRAINING_PROBLEMS, model_path


OUTPUT = Path("outputs/sft-control/sft_control.json")  # not the one that ships
COMPLETIONS_PER_PROBLEM = 8
LEARNING_RATE = 2e-4
EPOCHS = 10
BATCH_SIZE = 16


def shortest_correct(model, tokenizer, rows: list[dict[str, str]], seed: int) -> list[dict[str, str]]:
    """
    Sample completions and keep the shortest correct one of each problem.

    Args:
        model, tokenizer: Model to sample from.
        rows (`list[dict[str, str]]`): Problems.
        seed (`int`): Seed of the sampling.

    Returns:
        `list[dict[str, str]]`: `prompt` and `completion` of each problem that was solved at least once.
    """
    repeated = [row for row in rows for _ in range(COMPLETIONS_PER_PROBLEM)]
    prompts = render_prompts(tokenizer, [row["problem"] for row in repeated])
    completions = sample_completions(model, tokenizer, prompts, seed=seed)
    evaluation = judge_completions(model, tokenizer, repeated, completions)
    shortest: dict[str, list[int]] = {}
    for prompt, ids, correct in zip(prompts, evaluation.completions, evaluation.correct, strict=True):
        if correct and len(ids) < len(shortest.get(prompt, ids + [0])):
            shortest[prompt] = ids
    return [{"prompt": prompt, "completion": tokenizer.decode(ids)} for prompt, ids in shortest.items()]


def fine_tune(problems: int, seed: int) -> dict[str, float]:
    """Fine-tune the embedded model with one seed and evaluate it on problems of the `test` split."""
    model = AutoModelForCausalLM.from_pretrained(model_path())
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    pairs = shortest_correct(model, tokenizer, generate_problems(problems, seed=seed), seed)
    with tempfile.TemporaryDirectory() as output_dir:
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(pairs),
            args=SFTConfig(
                output_dir=output_dir,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH_SIZE,
                learning_rate=LEARNING_RATE,
                seed=seed,
                bf16=False,
                use_cpu=True,
                gradient_checkpointing=False,
                save_strategy="no",
                report_to="none",
            ),
        )
        trainer.train()
    rows = generate_problems(EVALUATION_PROBLEMS, seed=0, split="test")
    return evaluate_model(trainer.model, tokenizer, rows, seed=seed).summary()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the demo's SFT control.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write (%(default)s)")
    parser.add_argument("--problems", type=int, default=TRAINING_PROBLEMS, help="training problems per seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    runs = []
    for seed in arguments.seeds:
        runs.append(fine_tune(arguments.problems, seed))
        print(f"seed {seed}: accuracy {runs[-1]['accuracy']:.1%}, {runs[-1]['tokens_mean']:.1f} tokens", flush=True)
    figures = {
        "command": f"python -m trl_concise.demo.sft_control --problems {arguments.problems}",
        "accuracy": fmean(run["accuracy"] for run in runs),
        "tokens_mean": fmean(run["tokens_mean"] for run in runs),
        "problems": EVALUATION_PROBLEMS,
        "seeds": arguments.seeds,
        "learning_rate": LEARNING_RATE,
        "epochs": EPOCHS,
        "completions_per_problem": COMPLETIONS_PER_PROBLEM,
        "runs": runs,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
