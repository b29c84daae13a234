# SPDX-License-Identifier: Apache-2.0
"""
The embedded model taught to answer after worked examples, its examples, and its skills by rule.

The model that ships has never seen an example in its prompt. Half of the prompts that [`few_shot_model`] learns from begin with one to three solved problems.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...demo.problems import Problem, draw_problem, split_of, training_problems
from ...demo.traces import write_pass, write_trace
from ...demo.variants import IGNORED, Batch, make_variant
from .bank import Example, SkillBank, few_shot_prompt
from .difficulty import Decision


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEPS = 200
ROWS = 16  # per step
ROWS_PER_POOL = 128  # sorted by length, so that little is padded
LEARNING_RATE = 1e-3
SHOT_SHARE = 0.5  # of the prompts begin with examples
SHOTS = (1, 2, 3)
SUBJECT = "arithmetic"
BANK_OPERATIONS = (2, 3, 4)
OPERATORS = {"+": "addition", "-": "subtraction", "*": "multiplication"}
MARKS = ("Question:", "Response:")  # one token each
PROMPT_OPTIONS: dict[str, Any] = {"system_prompt": None}
SPLIT_OPTIONS: dict[str, Any] = {"separator": "\n", "answer_step": "\\boxed{{answer}}", "answer_format": "boxed"}
_OPERATION = re.compile(r"[-+*](?= ?\d)")


def skills_of(text: str) -> list[str]:
    """
    Return the skills of a problem, or of a step: the number of operations, then the kinds of operators, in order.

    Examples:
        >>> skills_of("What is (27 + 8) * 2 - 6?")
        ['3 operations', 'addition', 'multiplication', 'subtraction']
    """
    operators = _OPERATION.findall(text)
    return [f"{len(operators)} operations", *dict.fromkeys(OPERATORS[operator] for operator in operators)]


def missing_skills(question: str, completion: str, decision: Decision, tau: float = 0.7) -> list[str]:
    """
    Return the skills that a completion lacks, by rule: the operators of its steps with a score of at most `tau`, then the number of operations.

    Args:
        question, completion (`str`): The question and its first completion.
        decision ([`Decision`]): Steps and scores.
        tau (`float`, *optional*, defaults to `0.7`): The second threshold.
    """
    weak = [step for step, score in zip(decision.steps, decision.scores, strict=True) if score <= tau]
    operators = [skill for step in weak for skill in skills_of(step)[1:]]
    return [*dict.fromkeys(operators), skills_of(question)[0]]


def write_example(problem: Problem) -> Example:
    """Return a problem with a short worked solution."""
    lines = write_pass(problem, problem.results, verbose=False)
    return Example(problem.text, "\n".join([*lines, f"\\boxed{{{problem.results[-1]}}}"]))


def example_bank(n: int = 300, *, fixed: int = 5, seed: int = 0) -> SkillBank:
    """
    Return examples by skill, of problems of the split `train` with two to four operations.

    Args:
        n (`int`, *optional*, defaults to `300`): Number of problems, each an example of all of its skills.
        fixed (`int`, *optional*, defaults to `5`): Fixed examples.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems.
    """
    rng = random.Random(f"example bank {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < n + fixed:
        problem = draw_problem(rng, BANK_OPERATIONS)
        if split_of(problem.text) == "train":
            problems[problem.text] = problem
    examples = list(map(write_example, problems.values()))
    skills: dict[str, list[Example]] = {}
    for example in examples[fixed:]:
        for skill in skills_of(example.question):
            skills.setdefault(skill, []).append(example)
    return SkillBank(tuple(examples[:fixed]), {SUBJECT: {skill: tuple(own) for skill, own in skills.items()}})


def few_shot_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model to answer after worked examples, and save it. A folder that has a model is returned as it is.

    The problems are of the split `train`, of two and three operations. With several processes, the first one trains, and the others wait. It runs on the CPU: the 200 steps took 63 s of
    processor time on one thread.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `200`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and texts.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    return make_variant(
        folder,
        steps,
        lambda tokenizer: _batches(tokenizer, seed),
        change_tokenizer=lambda tokenizer: tokenizer.add_tokens(list(MARKS)),
        learning_rate=LEARNING_RATE,
    )


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[Batch]:
    rng, problems = random.Random(f"few shot {seed}"), training_problems(f"few shot {seed}")

    def row() -> tuple[list[int], list[int]]:
        problem = next(problems)
        prompt: Any = [{"role": "user", "content": problem.text}]
        if rng.random() < SHOT_SHARE:
            examples = list(map(write_example, itertools.islice(problems, rng.choice(SHOTS))))
            prompt = few_shot_prompt(prompt, examples, **PROMPT_OPTIONS)
        text = str(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False))
        prompt_ids = tokenizer(text).input_ids
        completion_ids = tokenizer(write_trace(problem, rng) + tokenizer.eos_token).input_ids
        return prompt_ids + completion_ids, [IGNORED] * len(prompt_ids) + completion_ids

    while True:
        pool = sorted((row() for _ in range(ROWS_PER_POOL)), key=lambda item: len(item[0]))
        firsts = list(range(0, len(pool), ROWS))
        rng.shuffle(firsts)
        for first in firsts:
            yield pool[first : first + ROWS]
