# SPDX-License-Identifier: Apache-2.0
"""
The embedded model with two modes: it thinks, or answers directly, for methods that learn when to think.

The model that ships always thinks. [`two_mode_model`] trains it on, for some seconds, on traces and on direct answers, so that no second
model has to ship.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .problems import Problem, training_problems
from .settings import model_path
from .traces import write_direct_answer, write_trace


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEPS = 45
TRACES, DIRECT_ANSWERS = 24, 8  # per step
LEARNING_RATE = 5e-4  # at the first step after the warm-up; it falls linearly to 0
WARMUP_STEPS = 10
ELLIPSIS = (
    "...\n"  # after the template's `<think>`, in half of the prompts, so that the model knows AutoThink's prompts
)
BATCHES_PER_POOL = 8  # traces are sorted by length within a pool, so that little is padded
IGNORED = -100  # label that the loss skips


def two_mode_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model on traces and direct answers, and save it. A folder that has a model is returned as it is.

    The problems are of the split `train`, of two and three operations. With several processes, the first one trains, and the
    others wait. It runs on the CPU: the 45 steps took 23 s of processor time on one thread of an AMD EPYC.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `45`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and texts.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    from accelerate import PartialState

    folder = Path(folder)
    with PartialState().main_process_first():
        if not (folder / "config.json").is_file():
            _train(folder, steps, seed)
    return folder


def _train(folder: Path, steps: int, seed: int) -> None:
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_path())
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, 1) * (1 - step / steps)
    )
    model.train()
    for rows in itertools.islice(_batches(tokenizer, seed), steps):
        ids = [torch.tensor(prompt + completion) for prompt, completion in rows]
        labels = [torch.tensor([IGNORED] * len(prompt) + completion) for prompt, completion in rows]
        model(
            input_ids=pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
            labels=pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        ).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:  # a run that is stopped leaves no model
        whole = Path(partial, folder.name)
        tokenizer.save_pretrained(whole)
        model.save_pretrained(whole)
        whole.rename(folder)


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Yield token ids of prompts and completions: traces of similar length, and direct answers."""
    rng = random.Random(f"modes {seed}")
    problems = training_problems(f"modes {seed}")

    def tokenized(problem: Problem, completion: str) -> tuple[list[int], list[int]]:
        messages = [{"role": "user", "content": problem.text}]
        prompt = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        prompt += rng.choice(["", ELLIPSIS])
        return tokenizer(prompt).input_ids, tokenizer(completion + tokenizer.eos_token).input_ids

    while True:
        pool = list(itertools.islice(problems, TRACES * BATCHES_PER_POOL))
        traces = sorted(
            (tokenized(problem, write_trace(problem, rng)) for problem in pool), key=lambda row: len(row[1])
        )
        firsts = list(range(0, len(traces), TRACES))
        rng.shuffle(firsts)
        for first in firsts:
            direct = [
                tokenized(problem, write_direct_answer(problem, rng))
                for problem in itertools.islice(problems, DIRECT_ANSWERS)
            ]
            yield [*traces[first : first + TRACES], *direct]
