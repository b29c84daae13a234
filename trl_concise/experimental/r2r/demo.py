# SPDX-License-Identifier: Apache-2.0
"""A small model for the problems of the demo, with the tokenizer of the embedded model, which is the large one of the pair."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...demo.problems import Problem, training_problems
from ...demo.traces import END_OF_THINKING, write_pass, write_trace
from ...demo.variants import IGNORED, Batch, make_variant


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STEPS = 1500
SHORT_SHARE = 0.55  # of the steps come first and have short solutions: one pass, without checks
SHORT_ROWS, ROWS = 32, 16  # per step
LEARNING_RATE = 4e-3
BATCHES_PER_POOL = 16  # rows are sorted by length within a pool, so that little is padded


def small_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train a model of 234,912 parameters from scratch, and save it. A folder that has a model is returned as it is.

    It has 2 layers, a width of 96 and the tokenizer of the embedded model. It learns from the same texts as the embedded model, in fewer steps: first
    short solutions, then traces, of problems of two and three operations of the split `train`. With several processes, the first
    one trains, and the others wait. It runs on the CPU.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `1500`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the weights and texts.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    return make_variant(
        folder,
        steps,
        lambda tokenizer: _batches(tokenizer, seed, round(SHORT_SHARE * steps)),
        learning_rate=LEARNING_RATE,
        make_model=lambda tokenizer: build_small_model(tokenizer, seed),
    )


def build_small_model(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> PreTrainedModel:
    """Build the untrained model. The random state of the caller does not change."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.1,  # about one over the root of the width
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int, short: int) -> Iterator[Batch]:
    """Yield `short` batches of short solutions, then traces without end, of similar length within a batch."""
    rng, problems = random.Random(f"small {seed}"), training_problems(f"small {seed}")
    yield from itertools.islice(_pools(tokenizer, rng, problems, write_short_solution, SHORT_ROWS), short)
    yield from _pools(tokenizer, rng, problems, write_trace, ROWS)


def _pools(
    tokenizer: PreTrainedTokenizerBase,
    rng: random.Random,
    problems: Iterator[Problem],
    write: Callable[[Problem, random.Random], str],
    rows: int,
) -> Iterator[Batch]:
    while True:
        pool = list(itertools.islice(problems, rows * BATCHES_PER_POOL))
        messages = [[{"role": "user", "content": problem.text}] for problem in pool]
        texts = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompts = tokenizer(texts).input_ids
        completions = tokenizer([write(problem, rng) + tokenizer.eos_token for problem in pool]).input_ids
        encoded = [
            (prompt + completion, [IGNORED] * len(prompt) + completion)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        encoded.sort(key=lambda row: len(row[0]))
        firsts = list(range(0, len(encoded), rows))
        rng.shuffle(firsts)
        for first in firsts:
            yield encoded[first : first + rows]


def write_short_solution(problem: Problem, rng: random.Random) -> str:
    """Write one pass without checks, half of them in words, and the answer."""
    lines = write_pass(problem, problem.results, verbose=rng.random() < 0.5)
    return "\n".join(lines) + f"\n{END_OF_THINKING}\\boxed{{{problem.results[-1]}}}"
