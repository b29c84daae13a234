# SPDX-License-Identifier: Apache-2.0
# /// script
# dependencies = ["trl-concise[peft]"]
# ///
"""
GRPO, Stochastic GRPO and T-SPMO side by side on multiplication: the synthetic task of "Token-Efficient RL for LLM
Reasoning" (https://huggingface.co/papers/2504.20834), at the size of the embedded model, with LoRA.

    python examples/multiplication.py

Every method trains the same adapter from the same weights on the same problems for the same number of steps. Problems of
the test set are never trained on. The table gives means over the seeds.

Time and memory: minutes on a CPU. The embedded model needs no GPU.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from statistics import fmean

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from trl_concise import (
    ConciseGRPOConfig,
    ConciseGRPOTrainer,
    SGRPOConfig,
    SGRPOTrainer,
    TSPMOConfig,
    TSPMOTrainer,
    demo,
    math_accuracy_reward,
)


# Two digits times one, within the numbers that the embedded model knows. It was pre-trained on chains of two or three
# operations only: asked for one, it mostly invents another.
FACTORS = [(a, b) for a in range(10, 50) for b in range(2, 6) if a * b <= 99]
TEST_SAMPLES = 8  # completions per test problem

METHODS = {
    "GRPO, all tokens": (ConciseGRPOTrainer, ConciseGRPOConfig, {"loss_type": "grpo"}),
    "S-GRPO": (SGRPOTrainer, SGRPOConfig, {"cutoff": 8, "max_tokens": 24, "probability": 0.5}),
    "T-SPMO": (TSPMOTrainer, TSPMOConfig, {}),
}


def problems(test_share: float = 0.3) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the problems to train on and those to test on, in random order: the same in every run."""
    rows = [{"prompt_id": f"{a}*{b}", "problem": f"What is {a} * {b}?", "answer": str(a * b)} for a, b in FACTORS]
    random.Random(0).shuffle(rows)
    cut = int(test_share * len(rows))
    return rows[cut:], rows[:cut]


def dataset(rows: list[dict[str, str]]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["problem"]}],
                "solution": row["answer"],
                "prompt_id": row["prompt_id"],
            }
            for row in rows
        ]
    )


def train(method: str, seed: int, options, rows, folder: str) -> tuple[torch.nn.Module, float]:
    """Train one adapter; return the model and the share of the tokens of its completions that were in the loss."""
    trainer_class, config_class, settings = METHODS[method]
    args = config_class(
        output_dir=folder,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.completions,
        num_generations=8,
        max_completion_length=options.tokens,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        **settings,
    )
    trainer = trainer_class(
        model=str(demo.model_path()),
        reward_funcs=math_accuracy_reward,
        args=args,
        train_dataset=dataset(rows),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    kept = [
        entry.get("sgrpo/kept_fraction", entry.get("tspmo/kept_fraction", 1.0))
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return trainer.model, fmean(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--max_steps", type=int, default=30, help="optimizer steps of each run")
    parser.add_argument("--completions", type=int, default=64, help="completions per step, in groups of 8")
    parser.add_argument("--tokens", type=int, default=96, help="longest completion, in training and in the test")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="of every method")
    options = parser.parse_args()

    rows, test_rows = problems()
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())

    def accuracy(model, seed: int) -> float:
        changes = {"num_completions": TEST_SAMPLES, "max_new_tokens": options.tokens, "seed": seed}
        return demo.evaluate_model(model, tokenizer, dataset(test_rows), **changes)["accuracy"]

    base = AutoModelForCausalLM.from_pretrained(demo.model_path(), dtype=torch.float32)
    results = {"base": [(accuracy(base, seed), 0.0) for seed in options.seeds]}
    for method in options.methods:
        results[method] = []
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                model, kept = train(method, seed, options, rows, folder)
            results[method].append((accuracy(model, seed), kept))
            print(f"{method}, seed {seed}: accuracy {results[method][-1][0]:.1%}", flush=True)

    print(f"\n{len(rows)} training problems, {len(test_rows)} test problems, {options.max_steps} steps\n")
    print("| | test accuracy | each seed | tokens in the loss |\n|---|---|---|---|")
    for method, runs in results.items():
        accuracies = [run[0] for run in runs]
        kept = "" if method == "base" else f"{fmean(run[1] for run in runs):.1%}"
        print(f"| {method} | {fmean(accuracies):.1%} | {', '.join(f'{a:.1%}' for a in accuracies)} | {kept} |")


if __name__ == "__main__":
    main()
