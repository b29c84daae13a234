# SPDX-License-Identifier: Apache-2.0
"""
Critique fine-tuning against imitation, both on solutions of one problem.

    python benchmarks/cft.py

The embedded model is fine-tuned on generated candidate solutions of one problem: by CFT on critiques of all of them, right
and wrong, and by SFT on the correct ones, repeated to the same number of rows. Rows, steps, batches and
learning rate are the same. Then it solves problems of the `test` split, one completion each at temperature 1. Another seed
means another problem, other candidates and another sampling.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from statistics import fmean

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from trl_concise import CFTConfig, CFTTrainer, demo
from trl_concise.demo.traces import END_OF_THINKING
from trl_concise.methods.cft import critique_example


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256, help="candidate solutions")
    parser.add_argument("--problems", type=int, default=1, help="problems they are solutions of")
    parser.add_argument("--steps", type=int, default=50, help="optimizer steps")
    parser.add_argument("--learning_rates", type=float, nargs=2, default=[1e-4, 3e-5], help="of SFT and of CFT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--evaluation_problems", type=int, default=512)
    parser.add_argument("--split", default="test", help="'validation' to choose settings")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    held_out = demo.problem_dataset(options.evaluation_problems, split=options.split, operations=demo.OPERATIONS)
    runs: dict[str, list[dict[str, float]]] = {"before": [], "SFT": [], "CFT": []}
    for seed in options.seeds:
        candidates = demo.generate_critiques(options.rows, seed, problems=options.problems)
        for name in runs:
            model = AutoModelForCausalLM.from_pretrained(demo.model_path())
            tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
            if name == "SFT":
                rows, rate = sft_rows(candidates, tokenizer), options.learning_rates[0]
                fine_tune(SFTTrainer, SFTConfig, model, tokenizer, rows, rate, options.steps, seed)
            elif name == "CFT":
                rows, rate = critiques(candidates), options.learning_rates[1]
                fine_tune(CFTTrainer, CFTConfig, model, tokenizer, rows, rate, options.steps, seed)
            figures = demo.evaluate_model(model, tokenizer, held_out, seed=seed)
            runs[name].append(figures)
            print(
                f"seed {seed}, {name}: accuracy {figures['accuracy']:.1%}, {figures['tokens_mean']:.1f} tokens",
                flush=True,
            )

    print(f"\nmean of seeds {options.seeds}, {len(held_out):,} problems of the {options.split} split")
    for name, figures in runs.items():
        accuracy, tokens = (fmean(run[key] for run in figures) for key in ("accuracy", "tokens_mean"))
        print(f"{name:<8}accuracy {accuracy:6.1%} {tokens:8.1f} tokens")


def critiques(candidates: list[dict]) -> list[dict]:
    """Every candidate, with what a teacher says about it."""
    return [critique_example(row["question"], row["solution"], row["critique"]) for row in candidates]


def sft_rows(candidates: list[dict], tokenizer) -> list[dict]:
    """The right candidates, in the model's own format, repeated until they are as many as all."""
    right = []
    for row in candidates:
        if row["correct"]:
            # As text: rendered by TRL, prompt and completion would lack the `<think>` that the template opens.
            messages = [{"role": "user", "content": row["question"]}]
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            reasoning, _, answer = row["solution"].rpartition("\n")
            right.append({"prompt": prompt, "completion": f"{reasoning}\n{END_OF_THINKING}{answer}"})
    return list(itertools.islice(itertools.cycle(right), len(candidates)))


def fine_tune(
    trainer_class, config_class, model, tokenizer, rows, learning_rate: float, steps: int, seed: int
) -> None:
    """Fine-tune a model in place."""
    with tempfile.TemporaryDirectory() as folder:
        args = config_class(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=16,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=5,
            seed=seed,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer_class(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()


if __name__ == "__main__":
    main()
