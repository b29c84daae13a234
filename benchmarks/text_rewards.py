# SPDX-License-Identifier: Apache-2.0
"""
Train for ThinkJSON's reward: the embedded model answers in JSON, half of the time without one of the two keys.

    python benchmarks/text_rewards.py

The model first learns to answer a problem with its first number and its result, as JSON after the reasoning (60 steps); half of the answers that it learns
from lack the first number. Then it is trained with GRPO on `think_json_reward` alone. The reward is measured on problems that training never saw.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from trl_concise import demo
from trl_concise.demo.problems import Problem, draw_problem, split_of
from trl_concise.demo.traces import write_pass
from trl_concise.demo.variants import IGNORED, Batch, make_variant
from trl_concise.methods.text_rewards import think_json_reward


ROWS = 32  # per step
LEARNING_RATE = 1.5e-3


def draw(rng: random.Random, split: str) -> Problem:
    return next(problem for problem in iter(lambda: draw_problem(rng, (2,)), None) if split_of(problem.text) == split)


def dataset(count: int, split: str) -> Dataset:
    rng = random.Random(split)
    rows = []
    for problem in itertools.islice(iter(lambda: draw(rng, split), None), count):
        expected = {"start": problem.start, "result": problem.results[-1]}
        rows.append({"prompt": [{"role": "user", "content": problem.text}], "solution": json.dumps(expected)})
    return Dataset.from_list(rows)


def batches(tokenizer: PreTrainedTokenizerBase) -> Iterator[Batch]:
    rng = random.Random(0)
    while True:
        rows: Batch = []
        for _ in range(ROWS):
            problem = draw(rng, "train")
            answer = {"start": problem.start, "result": problem.results[-1]}
            if rng.random() < 0.5:
                del answer["start"]
            lines = "\n".join(write_pass(problem, problem.results, verbose=False))
            text = f"{lines}\n</think>\n<answer>{json.dumps(answer)}</answer>{tokenizer.eos_token}"
            messages = [{"role": "user", "content": problem.text}]
            prompt = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
            prompt_ids, ids = tokenizer(prompt).input_ids, tokenizer(text).input_ids
            rows.append((prompt_ids + ids, [IGNORED] * len(prompt_ids) + ids))
        yield rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--steps_before", type=int, default=60)
    parser.add_argument("--problems", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits more than it works in a model this small

    with tempfile.TemporaryDirectory() as folder:
        start = make_variant(Path(folder, "start"), options.steps_before, batches, learning_rate=LEARNING_RATE)
        settings: dict[str, Any] = {
            name: value for name, value in demo.SETTINGS.items() if name != "model_name_or_path"
        }
        settings |= {
            "output_dir": folder,
            "max_steps": options.steps,
            "max_completion_length": 96,
            "save_strategy": "no",
            "per_device_eval_batch_size": 64,
            "num_generations_eval": 1,
            "disable_tqdm": True,
        }
        trainer = GRPOTrainer(
            str(start),
            think_json_reward,
            GRPOConfig(**settings),
            dataset(256, "train"),
            dataset(options.problems, "test"),
        )
        trainer.remove_callback(PrinterCallback)
        before = trainer.evaluate()
        trainer.train()
        after = trainer.evaluate()
    print("| | Reward | Tokens |\n|---|---|---|")
    for name, metrics in (("before training", before), (f"after {options.steps} steps", after)):
        print(f"| {name} | {metrics['eval_reward']:.3f} | {metrics['eval_completions/mean_length']:.1f} |")


if __name__ == "__main__":
    main()
