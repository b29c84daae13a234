# SPDX-License-Identifier: Apache-2.0
"""
The embedded model taught the two roles of Long(x)Short.

A long turn is a first pass through the problem, as in the pre-training: it may restate the problem, may be verbose, and often contains a slip. A
short turn copies the result, or returns a pass with a slip. So long turns can become shorter and more often correct, and short turns can find slips better.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...demo.problems import Problem, training_problems
from ...demo.traces import RESTATEMENT_SHARE, VERBOSE_SHARE, slipped_results, write_pass
from ...demo.variants import IGNORED, Batch, make_variant
from .turns import ROLES, check_role


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEPS = 250
ROWS = 32  # turns per step
LEARNING_RATE = 1.5e-3
ROWS_PER_POOL = 256  # turns are sorted by length within a pool, so that little is padded
SLIP_SHARE = 0.3  # of the long turns contain a slip
LONGEST = 3  # long turns, the last of them without a slip
TURN_TOKENS = {"long": 64, "short": 16}
CHAT_TEMPLATE = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def write_turns(problem: Problem, rng: random.Random) -> list[str]:
    """
    Write a dialogue that ends with the correct answer.

    Args:
        problem ([`Problem`]): Problem to solve.
        rng (`random.Random`): Source of the verbosity and of slips.

    Returns:
        `list[str]`: Long and short turns in alternation.
    """
    turns = []
    for number in range(1, LONGEST + 1):
        slips = number < LONGEST and rng.random() < SLIP_SHARE
        results = slipped_results(problem, rng) if slips else problem.results
        lines = [f"We need {problem.expression}."] if rng.random() < RESTATEMENT_SHARE else []
        lines += write_pass(problem, results, verbose=rng.random() < VERBOSE_SHARE)
        turns.append("<think>" + "\n".join(lines) + "</think>")
        if results[-1] == problem.results[-1]:
            break
        turns.append("<answer>That differs.</rethink>")
    return [*turns, f"<answer>\\boxed{{{problem.results[-1]}}}</answer>"]


def role_model(role: str, folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model on the turns of a role, and save it. A folder that has a model is returned as it is.

    The problems are of the split `train`, of two and three operations. With several processes, the first one trains, and the others wait.

    Args:
        role (`str`): `"long"` or `"short"`.
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `250`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and turns.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If the role is unknown, or `steps` is less than 1.
    """
    check_role(role)
    return make_variant(
        folder,
        steps,
        lambda tokenizer: _batches(tokenizer, role, seed),
        change_tokenizer=_add_tags,
        learning_rate=LEARNING_RATE,
    )


def _add_tags(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_tokens(["<answer>", "</answer>", "</rethink>"])
    tokenizer.chat_template = CHAT_TEMPLATE


def _batches(tokenizer: PreTrainedTokenizerBase, role: str, seed: int) -> Iterator[Batch]:
    """Yield turns of similar length."""
    rng, problems = random.Random(f"long short {seed}"), training_problems(f"long short {seed}")
    rows = (row for problem in problems for row in _rows(tokenizer, problem, role, rng))
    while True:
        pool = sorted(itertools.islice(rows, ROWS_PER_POOL), key=lambda row: len(row[0]))
        firsts = list(range(0, len(pool), ROWS))
        rng.shuffle(firsts)
        for first in firsts:
            yield pool[first : first + ROWS]


def _rows(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, role: str, rng: random.Random
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield token ids and labels of the turns of a role in one dialogue."""
    prompt = [{"role": "user", "content": problem.text}]
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    for place, turn in enumerate(write_turns(problem, rng)):
        own = tokenizer(turn)["input_ids"]
        if ROLES[place % 2] == role:
            yield [*ids, *own, tokenizer.eos_token_id], [*[IGNORED] * len(ids), *own, tokenizer.eos_token_id]
        ids = [*ids, *own]
