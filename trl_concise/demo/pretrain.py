# SPDX-License-Identifier: Apache-2.0
"""Train the embedded model from scratch: `python -m trl_concise.demo.pretrain --output DIR`.

A causal language model of 0.9 million parameters learns the traces of [`~trl_concise.demo.traces`] on problems of the
`train` split, each seen once. The same seed gives the same weights on the same machine and library versions.

The architecture is Llama's and not Qwen2's, although the tokenizer and chat markup follow Qwen: `AutoTokenizer` gives
every Qwen2 checkpoint the stock Qwen2 tokenizer, which normalizes its input, and then not every text round-trips.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.utils import logging

from .evaluate import evaluate_model, render_prompts
from .problems import Problem, draw_problem, generate_problems, split_of
from .settings import model_path
from .tokenizer import build_tokenizer
from .traces import SLIP_SHARE, write_trace


BATCH_SIZE = 32  # traces per optimizer step
BATCHES_PER_POOL = 32  # traces are sorted by length within a pool, so that little is padded
LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
VOCABULARY_TRACES = 20_000  # traces on which the tokenizer is trained
IGNORED = -100  # label that the loss skips


def training_problems(seed: int) -> Iterator[Problem]:
    """Endless stream of distinct problems of the `train` split."""
    rng = random.Random(seed)
    seen: set[str] = set()
    while True:
        problem = draw_problem(rng)
        text = problem.text
        if text not in seen and split_of(text) == "train":
            seen.add(text)
            yield problem


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """Build the untrained model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=416,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def training_batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token ids and labels, `(BATCH_SIZE, T)` each; only the completion carries labels."""
    rng = random.Random(seed)
    problems = training_problems(seed)
    while True:
        pool = list(itertools.islice(problems, BATCH_SIZE * BATCHES_PER_POOL))
        prompt_ids = tokenizer(render_prompts(tokenizer, [problem.text for problem in pool])).input_ids
        completion_ids = tokenizer([write_trace(problem, rng) + tokenizer.eos_token for problem in pool]).input_ids
        rows = sorted(zip(prompt_ids, completion_ids, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        batches = [rows[first : first + BATCH_SIZE] for first in range(0, len(rows), BATCH_SIZE)]
        rng.shuffle(batches)
        for batch in batches:
            # Padding stands on the right here: with causal attention nothing ever looks at it.
            ids = [torch.tensor(prompt + completion) for prompt, completion in batch]
            labels = [torch.tensor([IGNORED] * len(prompt) + completion) for prompt, completion in batch]
            yield (
                pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
                pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            )


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(steps - WARMUP_STEPS, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, *, steps: int, seed: int) -> None:
    """Train the model in place and print the loss as it falls."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    started = time.perf_counter()
    batches = training_batches(tokenizer, seed)
    for step, (ids, labels) in enumerate(itertools.islice(batches, steps), start=1):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {loss.item():.4f}  {time.perf_counter() - started:.0f} s", flush=True)


CARD = """\
---
license: apache-2.0
library_name: transformers
---

# The embedded model of trl_concise

A causal language model of {parameters:,} parameters that solves arithmetic problems such as `What is (47 + 8) * 2 - 36?`
step by step. It was trained from scratch on generated traces and knows nothing else. It is wordy by habit: it
restates problems and checks its work up to three times, which in {slip_share:.0%} of its training traces repaired a
slip.

Made by

    python -m trl_concise.demo.pretrain --steps {steps} --seed {seed}

in {minutes:.1f} minutes on {threads} CPU threads. On {problems:,} problems of the `validation` split:

| decoding | accuracy | mean tokens |
|---|---|---|
{figures}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded model from scratch.")
    parser.add_argument("--output", type=Path, default=model_path(), help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=3500, help=f"optimizer steps of {BATCH_SIZE} traces")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluation_problems", type=int, default=1024, help="held-out problems to evaluate on")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1, got {arguments.steps}")
    logging.set_verbosity_error()
    torch.set_num_threads(2)

    started = time.perf_counter()
    rng = random.Random(arguments.seed)
    texts = (
        f"{problem.text}\n{write_trace(problem, rng)}"
        for problem in itertools.islice(training_problems(arguments.seed), VOCABULARY_TRACES)
    )
    tokenizer = build_tokenizer(texts)
    model = build_model(tokenizer, arguments.seed)
    train(model, tokenizer, steps=arguments.steps, seed=arguments.seed)
    minutes = (time.perf_counter() - started) / 60
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)

    rows = generate_problems(arguments.evaluation_problems, seed=0, split="validation")
    figures = []
    for decoding, temperature in (("sampled, temperature 1.0", 1.0), ("greedy", 0.0)):
        evaluation = evaluate_model(model, tokenizer, rows, temperature=temperature)
        figures.append(f"| {decoding} | {evaluation.accuracy:.1%} | {evaluation.tokens_mean:.1f} |")
        print(f"{decoding}: accuracy {evaluation.accuracy:.1%}, {evaluation.tokens_mean:.1f} tokens", flush=True)
    card = CARD.format(
        parameters=model.num_parameters(),
        slip_share=SLIP_SHARE,
        steps=arguments.steps,
        seed=arguments.seed,
        minutes=minutes,
        threads=torch.get_num_threads(),
        problems=len(rows),
        figures="\n".join(figures),
    )
    (arguments.output / "README.md").write_text(card)


if __name__ == "__main__":
    main()
