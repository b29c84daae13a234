# SPDX-License-Identifier: Apache-2.0
"""
Savings of S-GRPO and T-SPMO in a training step, the cost of building the prefix tree, and the cost of KTAE.

    python benchmarks/token_credit.py

`GRPOTrainer` and ours get the same model and the same batch of completions in one process, and take turns: loss and
backward pass, no generation. The ratio of neighboring turns removes slow drift of the machine. Memory is the amount that a loss keeps
for its backward pass: on a GPU the peak that PyTorch allocates, on a CPU the bytes of the tensors that autograd saves.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import tempfile
import time

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback, Qwen2Config, Qwen2ForCausalLM, set_seed
from trl import GRPOConfig, GRPOTrainer

from trl_concise import SGRPOConfig, SGRPOTrainer, TSPMOConfig, TSPMOTrainer, demo
from trl_concise.batch.rollouts import Rollouts
from trl_concise.methods.ktae import KTAE
from trl_concise.methods.tspmo_prefix_tree import prefix_advantages


VOCABULARY = 4096
DIVERGENCE = 32  # tokens within which the completions of the benchmark have all gone different ways


def make_model(options) -> Qwen2ForCausalLM:
    set_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        intermediate_size=4 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config)


def diverging_completions(count: int, length: int, within: int) -> list[list[int]]:
    """Completions that share beginnings of random length, the longest of them `within - 1` tokens."""
    rng = random.Random(0)
    rows = [[rng.randrange(10, VOCABULARY) for _ in range(length)]]
    for i in range(1, count):
        fork = within - 1 if i == 1 else rng.randrange(within)
        parent = rng.choice(rows)
        rows.append(parent[:fork] + [rng.randrange(10, VOCABULARY) for _ in range(length - fork)])
    return rows


class Contender:
    """One trainer, its batch and its turns."""

    def __init__(self, name: str, trainer_class, config_class, options, folder: str, **settings):
        self.name, self.seconds = name, []
        tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
        on_gpu = torch.cuda.is_available()
        args = config_class(
            output_dir=folder,
            use_cpu=not on_gpu,
            bf16=on_gpu,
            per_device_train_batch_size=options.generations,
            num_generations=options.generations,
            max_completion_length=options.completion,
            gradient_checkpointing=False,
            max_steps=1,
            learning_rate=0.0,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **settings,
        )
        completions = diverging_completions(options.generations, options.completion, DIVERGENCE)
        rewards = [float(i % 2) for i in range(options.generations)]

        def rollout(prompts, trainer):
            return {
                "prompt_ids": [[7] * options.prompt] * len(prompts),
                "completion_ids": completions,
                "logprobs": None,
            }

        def reward(completion_ids, **kwargs):
            return rewards

        class Capturing(trainer_class):
            batch: dict

            def compute_loss(self, model, inputs, *args, **kwargs):
                self.batch = inputs
                return super().compute_loss(model, inputs, *args, **kwargs)

        problems = Dataset.from_list([{"prompt": "?"}] * 2)
        self.trainer = Capturing(
            make_model(options), reward, args, problems, processing_class=tokenizer, rollout_func=rollout
        )
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.train()  # one step that changes nothing: it makes the batch

    def turn(self) -> None:
        self.trainer.model.zero_grad()
        gc.collect()
        start = time.perf_counter()
        self.trainer.compute_loss(self.trainer.model, self.trainer.batch).backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - start)

    def activation_bytes(self) -> int:
        if torch.cuda.is_available():
            self.trainer.model.zero_grad()
            gc.collect()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.trainer.compute_loss(self.trainer.model, self.trainer.batch).backward()
            return torch.cuda.max_memory_allocated() - before
        parameters = {parameter.untyped_storage().data_ptr() for parameter in self.trainer.model.parameters()}
        saved = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.trainer.compute_loss(self.trainer.model, self.trainer.batch)
        loss.backward()
        return sum(saved.values())

    def last_kept(self) -> int:
        keep = self.trainer.batch["completion_mask"] * self.trainer.batch.get("tool_mask", 1)
        return int(keep.any(0).nonzero().max()) + 1


def compare(options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        full, *others = [
            Contender("GRPOTrainer", GRPOTrainer, GRPOConfig, options, folder),
            Contender(
                "S-GRPO, kept within the first 100",
                SGRPOTrainer,
                SGRPOConfig,
                options,
                folder,
                cutoff=100,
                max_tokens=100,
            ),
            Contender("S-GRPO, shipped defaults", SGRPOTrainer, SGRPOConfig, options, folder),
            Contender("T-SPMO, shipped defaults", TSPMOTrainer, TSPMOConfig, options, folder),
        ]
        for turn in range(options.warmup + options.turns):
            for contender in (full, *others):
                contender.turn()
            if turn < options.warmup:
                for contender in (full, *others):
                    contender.seconds.clear()
        memory = full.activation_bytes()
        seconds = statistics.median(full.seconds)
        print(
            f"G = {options.generations}, P = {options.prompt}, T = {options.completion}; GRPOTrainer: {seconds:.2f} s a "
            f"step, {memory / 2**20:.0f} MiB of activations; {options.turns} turns each, median of the ratios (range)"
        )
        print("| | last kept token | (P + last) / (P + T) | time | activations |\n|---|---|---|---|---|")
        for contender in others:
            ratios = [ours / theirs for ours, theirs in zip(contender.seconds, full.seconds, strict=True)]
            last = contender.last_kept()
            limit = (options.prompt + last) / (options.prompt + options.completion)
            print(
                f"| {contender.name} | {last} | {limit:.3f} | {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f} to {max(ratios):.3f}) | {contender.activation_bytes() / memory:.3f} |"
            )
        ktae = time_ktae(options.generations, options.completion)
        print(f"\nKTAE, on a CPU: {1e3 * ktae:.1f} ms, {100 * ktae / seconds:.2f} % of GRPOTrainer's step")


def time_tree(count: int, length: int, repeats: int = 5) -> float:
    """Return the median seconds of `prefix_advantages` for completions that split anywhere."""
    completions = diverging_completions(count, length, length)
    rewards = [float(i % 2) for i in range(count)]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        prefix_advantages(completions, rewards)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def time_ktae(count: int, length: int, repeats: int = 5) -> float:
    """Return the median seconds of `KTAE.assign` for a group whose token ids occur as often as words in a text (Zipf's law)."""
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.zipf(1.3, (count, length)).clip(max=150_000))
    batch = {"completion_ids": ids, "completion_mask": torch.ones_like(ids)}
    lengths, correct = torch.full((count,), length), torch.arange(count) % 2.0
    rollouts = Rollouts(("prompt",) * count, lengths, correct, count)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        KTAE().assign(rollouts, batch, torch.zeros(count))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=8, help="completions of the batch: one group")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--completion", type=int, default=1024, help="tokens of every completion")
    parser.add_argument("--hidden", type=int, default=128, help="width of the model, a Qwen2 with random weights")
    parser.add_argument("--layers", type=int, default=4, help="layers of the model")
    parser.add_argument("--turns", type=int, default=7, help="measured turns of each trainer")
    parser.add_argument("--warmup", type=int, default=1, help="turns of each trainer before them")
    options = parser.parse_args()

    compare(options)
    print("\nprefix_advantages\n| completions | tokens each | tokens | time | per token |\n|---|---|---|---|---|")
    for count, length in [(64, 16), (64, 160), (64, 1600), (64, 4096), (64, 16_000)]:
        seconds, tokens = time_tree(count, length), count * length
        print(f"| {count} | {length:,} | {tokens:,} | {1e3 * seconds:.2f} ms | {1e9 * seconds / tokens:.0f} ns |")


if __name__ == "__main__":
    main()
