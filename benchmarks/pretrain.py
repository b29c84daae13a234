# SPDX-License-Identifier: Apache-2.0
"""
Train the embedded model from scratch: `python benchmarks/pretrain.py --output DIR`.

A causal language model of 0.9 million parameters first practices single operations, because few tokens of a trace teach
arithmetic, then learns the traces of [`~trl_concise.demo.traces`]. All problems are of the `train` split. The same
seed gives the same weights on the same machine and library versions.
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
from pretrain_tokenizer import build_tokenizer
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from trl_concise.demo import OPERATIONS, evaluate_model, model_path, problem_dataset
from trl_concise.demo.problems import training_problems
from trl_concise.demo.traces import SLIP_SHARE, write_pass, write_trace


BATCH_SIZE = 32  # traces, or sheets of practice, per optimizer step
PRACTICE_SHARE = 9 / 35  # of the optimizer steps: the first ones
SECOND_CYCLE_SHARE = 15 / 35  # of the optimizer steps: the last ones, for which the learning rate starts over
PROBLEMS_PER_SHEET = 2
BATCHES_PER_POOL = 32  # traces are sorted by length within a pool, so that little is padded
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
VOCABULARY_TRACES = 20_000  # traces on which the tokenizer is trained
IGNORED = -100  # label that the loss skips


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen2ForCausalLM:
    """Build the untrained model."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.08,  # about one over the root of the width
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def practice_batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token ids and labels, `(BATCH_SIZE, T)` each: sheets of correct operations, labeled on the results."""
    rng = random.Random(f"practice {seed}")
    problems = training_problems(f"practice {seed}")
    while True:
        rows = []
        for _ in range(BATCH_SIZE):
            sheet = itertools.islice(problems, PROBLEMS_PER_SHEET)
            lines = [line for problem in sheet for line in write_pass(problem, problem.results, rng.random() < 0.5)]
            ids, labels = [], []
            for line in lines:
                operation, result = line.split("=")
                given, wanted = tokenizer(operation + "=").input_ids, tokenizer(result + "\n").input_ids
                ids += given + wanted
                labels += [IGNORED] * len(given) + wanted
            rows.append((ids, labels))
        yield collate(tokenizer, rows)


def trace_batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield token ids and labels, `(BATCH_SIZE, T)` each; only the completion carries labels."""
    rng = random.Random(seed)
    problems = training_problems(seed)
    while True:
        pool = list(itertools.islice(problems, BATCH_SIZE * BATCHES_PER_POOL))
        prompts = [[{"role": "user", "content": problem.text}] for problem in pool]
        prompt_ids = tokenizer(
            tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
        ).input_ids
        completion_ids = tokenizer([write_trace(problem, rng) + tokenizer.eos_token for problem in pool]).input_ids
        rows = sorted(zip(prompt_ids, completion_ids, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        batches = [rows[first : first + BATCH_SIZE] for first in range(0, len(rows), BATCH_SIZE)]
        rng.shuffle(batches)
        for batch in batches:
            yield collate(
                tokenizer,
                [(prompt + completion, [IGNORED] * len(prompt) + completion) for prompt, completion in batch],
            )


def collate(tokenizer: PreTrainedTokenizerBase, rows: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, ...]:
    """Pad ids and labels on the right: with causal attention, no token attends to that padding."""
    ids, labels = zip(*rows, strict=True)
    return (
        pad_sequence([torch.tensor(row) for row in ids], batch_first=True, padding_value=tokenizer.pad_token_id),
        pad_sequence([torch.tensor(row) for row in labels], batch_first=True, padding_value=IGNORED),
    )


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(steps - WARMUP_STEPS, 1)
    return 0.5 * (1 + math.cos(math.pi * progress))


def training_cycles(
    tokenizer: PreTrainedTokenizerBase, steps: int, seed: int
) -> list[tuple[int, Iterator[tuple[torch.Tensor, torch.Tensor]]]]:
    """Steps and batches of the two cycles: practice and traces, then traces alone."""
    practice = round(PRACTICE_SHARE * steps)
    second = round(SECOND_CYCLE_SHARE * steps)
    first_batches = itertools.chain(
        itertools.islice(practice_batches(tokenizer, seed), practice), trace_batches(tokenizer, seed)
    )
    return [(steps - second, first_batches), (second, trace_batches(tokenizer, seed + 1))]


def train(model: Qwen2ForCausalLM, batches: Iterator[tuple[torch.Tensor, torch.Tensor]], steps: int) -> None:
    """Train the model in place for one cycle of the learning rate, and print the loss."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps))
    started = time.perf_counter()
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

A causal language model of {parameters:,} parameters that solves arithmetic problems such as `What is (27 + 8) * 2 - 6?`
step by step. It was trained from scratch on generated traces and knows nothing else. It is verbose: it
restates problems and checks its work up to three times, which in {slip_share:.0%} of its training traces repaired a
slip.

Created by

    python benchmarks/pretrain.py --steps {steps} --seed {seed}

which also measured it on {problems:,} problems of the `validation` split, one completion each:

| decoding | accuracy | mean tokens |
|---|---|---|
{figures}
"""


def write_card(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, arguments: argparse.Namespace) -> str:
    """Evaluate the model on held-out problems, print the figures and return them as a model card."""
    problems = problem_dataset(arguments.evaluation_problems, split="validation", operations=OPERATIONS)
    figures = []
    for decoding, temperature in (("sampled, temperature 1.0", 1.0), ("greedy", 0.0)):
        record = evaluate_model(model, tokenizer, problems, temperature=temperature)
        figures.append(f"| {decoding} | {record['accuracy']:.1%} | {record['tokens_mean']:.1f} |")
        print(f"{decoding}: accuracy {record['accuracy']:.1%}, {record['tokens_mean']:.1f} tokens", flush=True)
    return CARD.format(
        parameters=model.num_parameters(),
        slip_share=SLIP_SHARE,
        steps=arguments.steps,
        seed=arguments.seed,
        problems=len(problems),
        figures="\n".join(figures),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded model from scratch.")
    parser.add_argument("--output", type=Path, default=model_path(), help="folder to write the model to")
    parser.add_argument("--steps", type=int, default=3500, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="more than there are idle cores slow it down")
    parser.add_argument("--evaluation_problems", type=int, default=1024, help="held-out problems to evaluate on")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1, got {arguments.steps}")
    logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)

    rng = random.Random(arguments.seed)
    texts = (
        f"{problem.text}\n{write_trace(problem, rng)}"
        for problem in itertools.islice(training_problems(arguments.seed), VOCABULARY_TRACES)
    )
    tokenizer = build_tokenizer(texts)
    model = build_model(tokenizer, arguments.seed)
    for cycle, (steps, batches) in enumerate(training_cycles(tokenizer, arguments.steps, arguments.seed), start=1):
        print(f"cycle {cycle}")
        train(model, batches, steps)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)

    card = write_card(model, tokenizer, arguments)
    (arguments.output / "README.md").write_text(card)


if __name__ == "__main__":
    main()
