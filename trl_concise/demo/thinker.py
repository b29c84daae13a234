# SPDX-License-Identifier: Apache-2.0
"""
The embedded model taught the four turns of Thinker: a fast answer, its verification, a slow attempt and a summary.

A fast answer is a guess, or a short pass that is wrong now and then. Some verifications look only at the answer, and their verdicts are often wrong. So every turn
can improve.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .problems import Problem, training_problems
from .settings import problem_dataset
from .tools import tokenize_transcript
from .traces import END_OF_THINKING, slipped_results, write_pass, write_trace
from .variants import Batch, make_variant


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

STEPS = 250
DIALOGUES = 32  # per step
LEARNING_RATE = 1.5e-3
BATCHES_PER_POOL = 8  # dialogues are sorted by length within a pool, so that little is padded
GUESS_SHARE = 0.4  # of the fast answers have no steps
WRONG_SHARE = 0.4  # of the dialogues begin with a wrong fast answer, which is not learned
SLIP_SHARE = 0.1  # of the other fast answers with steps have a slip, which is learned
GLANCE_SHARE = 0.4  # of the verifications look at the answer only
GLANCE_ERRORS = 0.3  # of their verdicts are wrong

# What the user says, one token each.
INSTRUCTIONS = {
    "fast": "Be brief.",
    "verification": "Is that correct?",
    "slow": "Think again.",
    "summary": "Summarize.",
}
BUDGETS = {"fast": 48, "verification": 64, "slow": 160, "summary": 48}  # tokens
CHAT_TEMPLATE = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def turn_settings(*turns: str) -> dict[str, Any]:
    """Return budget and instruction of turns, as arguments of [`Thinker`] and [`ThinkerTurns`]."""
    budgets = {f"{turn}_tokens": BUDGETS[turn] for turn in turns}
    return {**budgets, **{f"{turn}_instruction": INSTRUCTIONS[turn] for turn in turns}}


def thinker_dataset(n: int, **options: Any) -> Dataset:
    """
    Generated problems that ask for a fast answer.

    Args:
        n (`int`): Number of problems.
        **options: Arguments of [`problem_dataset`]: `seed`, `split` and `operations`.

    Returns:
        `Dataset`: Columns `prompt` (one user message), `solution` and `prompt_id`.
    """
    from ..data.thinker_turns import with_fast_instruction

    return with_fast_instruction(problem_dataset(n, **options), INSTRUCTIONS["fast"])


def write_dialogue(problem: Problem, rng: random.Random) -> list[dict[str, Any]]:
    """
    Write a dialogue of up to four turns. A slow attempt follows a wrong fast answer or the verdict No.

    Args:
        problem ([`Problem`]): Problem to solve.
        rng (`random.Random`): Source of styles and errors.

    Returns:
        `list[dict]`: Messages. A fast answer that is wrong on purpose has the `weight` 0.
    """
    answer, guesses = problem.results[-1], rng.random() < GUESS_SHARE
    is_ignored = rng.random() < WRONG_SHARE
    slips = is_ignored or (not guesses and rng.random() < SLIP_SHARE)
    results = problem.results
    while slips and results[-1] == answer:
        results = slipped_results(problem, rng)
    is_right = results[-1] == answer
    lines = [] if guesses else write_pass(problem, results, verbose=False)
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": f"{problem.text} {INSTRUCTIONS['fast']}"},
        {"role": "assistant", "content": _boxed(lines, results[-1]), "weight": 0 if is_ignored else 1},
    ]

    def add(turn: str, content: str) -> None:
        messages.append({"role": "user", "content": INSTRUCTIONS[turn]})
        messages.append({"role": "assistant", "content": content})

    glances = rng.random() < GLANCE_SHARE
    verdict = is_right != (glances and rng.random() < GLANCE_ERRORS)
    lines = [] if glances else write_pass(problem, problem.results, verbose=False)
    add("verification", _boxed(lines, "Yes" if verdict else "No"))
    if is_right and verdict:
        return messages
    add("slow", write_trace(problem, rng).replace(END_OF_THINKING, ""))
    add("summary", _boxed(write_pass(problem, problem.results, verbose=False), answer))
    return messages


def _boxed(lines: list[str], answer: object) -> str:
    return "\n".join([*lines, f"\\boxed{{{answer}}}"])


def thinker_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model on dialogues of Thinker, and save it. A folder that has a model is returned as it is.

    The problems are of the split `train`, of two and three operations. With several processes, the first one trains, and the others wait. It runs
    on the CPU: the 250 steps took 168 s of processor time on one thread.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `250`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and dialogues.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    return make_variant(
        folder,
        steps,
        lambda tokenizer: _batches(tokenizer, seed),
        change_tokenizer=_add_instructions,
        learning_rate=LEARNING_RATE,
    )


def _add_instructions(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.add_tokens([*INSTRUCTIONS.values(), "Yes", "No"])
    tokenizer.chat_template = CHAT_TEMPLATE


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[Batch]:
    """Yield dialogues of similar length."""
    rng, problems = random.Random(f"thinker {seed}"), training_problems(f"thinker {seed}")
    while True:
        pool = [
            tokenize_transcript(tokenizer, write_dialogue(problem, rng))
            for problem in itertools.islice(problems, DIALOGUES * BATCHES_PER_POOL)
        ]
        pool.sort(key=lambda row: len(row[0]))
        firsts = list(range(0, len(pool), DIALOGUES))
        rng.shuffle(firsts)
        for first in firsts:
            yield pool[first : first + DIALOGUES]
