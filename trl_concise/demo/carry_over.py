# SPDX-License-Identifier: Apache-2.0
"""
The embedded model taught to continue from a part of what it wrote, for methods that reset the context (Delethink).

It learns from the traces of its pre-training, of which it sees what is left in the context after a reset: the problem, the first tokens and
the last ones. Chunks of several sizes are used, so that no boundary is at a fixed place.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.chunks import Chunking
from .problems import draw_problem, split_of
from .traces import write_trace
from .variants import IGNORED, Batch, make_variant


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEPS = 300
ROWS = 32  # per step
POOL = 8  # batches that are sorted by length, so that little is padded
OPERATIONS = (2, 3, 4, 5)
HEAD = 8  # carried tokens that are the first of the completion
SIZES = range(48, 97, 8)  # tokens of a chunk


def carry_over_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model to continue its reasoning after a reset of the context, and save it. A folder that has a model is returned as
    it is.

    It carries over `HEAD` = 8 first tokens, in chunks of 48 to 96. The problems are of the split `train`, of two to five operations. With
    several processes, the first one trains, and the others wait.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `300`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and traces.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    return make_variant(folder, steps, lambda tokenizer: _batches(tokenizer, seed))


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[Batch]:
    """Yield chunks of similar length, with what precedes them in the context."""
    rows = _rows(tokenizer, random.Random(f"carry over {seed}"))
    order = random.Random(f"order {seed}")
    while True:
        pool = sorted(itertools.islice(rows, ROWS * POOL), key=lambda row: len(row[0]))
        firsts = list(range(0, len(pool), ROWS))
        order.shuffle(firsts)
        for first in firsts:
            yield pool[first : first + ROWS]


def _rows(tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> Iterator[tuple[list[int], list[int]]]:
    """Yield token ids and labels of one chunk of each trace, the first one included: only what it adds is learned."""
    while True:
        problem = draw_problem(rng, OPERATIONS)
        if split_of(problem.text) != "train":
            continue
        prompt = tokenizer(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": problem.text}], add_generation_prompt=True, tokenize=False
            )
        ).input_ids
        trace = tokenizer(write_trace(problem, rng) + tokenizer.eos_token).input_ids
        carried, own = rng.choice(Chunking(rng.choice(SIZES), HEAD).split(trace))
        yield [*prompt, *carried, *own], [IGNORED] * (len(prompt) + len(carried)) + own
