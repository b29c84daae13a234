# SPDX-License-Identifier: Apache-2.0
"""Traces for offline methods: correct and incorrect ones of the embedded model, and correct ones of a teacher that solves longer problems."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ..evaluation.sampling import SamplingSettings, TransformersSampler, tokenize_prompts
from .problems import OPERATIONS, draw_distinct_problems, generate_problems
from .settings import EVALUATION, model_path, problem_dataset
from .traces import write_trace


if TYPE_CHECKING:
    from datasets import Dataset

THINK_START = "<think>\n"  # the chat template's generation prompt ends with it, so it opens every trace


def sample_traces(
    problems: int = 256,
    *,
    generations: int = 8,
    seed: int = 0,
    split: str = "train",
    model: PreTrainedModel | None = None,
) -> list[dict[str, Any]]:
    """
    Sample several traces of each problem, correct and incorrect.

    Args:
        problems (`int`, *optional*, defaults to `256`): Number of problems, of two or three operations.
        generations (`int`, *optional*, defaults to `8`): Traces per problem.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and of the sampling.
        split (`str`, *optional*, defaults to `"train"`): Split of the problems, see [`generate_problems`].
        model ([`~transformers.PreTrainedModel`], *optional*): Model to sample from. Defaults to the embedded one.

    Returns:
        `list[dict]`: `problem`, `answer` and `generations` (`list[str]`), as [`build_redi_pairs`] takes them.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    model = model if model is not None else AutoModelForCausalLM.from_pretrained(model_path())
    sampler = TransformersSampler(model, tokenizer)
    rows = generate_problems(problems, seed, split, OPERATIONS)
    repeated = [row for row in rows for _ in range(generations)]
    prompts = tokenize_prompts(tokenizer, [[{"role": "user", "content": row["problem"]}] for row in repeated])
    texts: list[str] = []
    batch_size, limit = EVALUATION["batch_size"], EVALUATION["max_new_tokens"]
    for first in range(0, len(prompts), batch_size):
        settings = SamplingSettings(limit, temperature=1.0, top_p=1.0, seed=seed + first)
        drawn = sampler.sample(prompts[first : first + batch_size], settings)
        texts += [THINK_START + text for text in tokenizer.batch_decode(drawn, skip_special_tokens=True)]
    return [
        {
            "problem": row["problem"],
            "answer": row["answer"],
            "generations": texts[i * generations : (i + 1) * generations],
        }
        for i, row in enumerate(rows)
    ]


def teacher_dataset(n: int, *, seed: int = 0, operations: Sequence[int] = (2, 3, 4)) -> Dataset:
    """
    Training problems with the solution of a teacher, who solves problems of four operations too. The embedded model solves 1 % of those.

    Args:
        n (`int`): Number of problems.
        seed, operations: See [`generate_problems`].

    Returns:
        `Dataset`: Columns `prompt` (one user message), `solution`, `prompt_id` and `generations` (a list of one reply, whose answer is correct).
    """
    rng = random.Random(f"teacher {seed}")
    problems = draw_distinct_problems(n, seed, "train", operations)
    replies = [[THINK_START + write_trace(problem, rng)] for problem in problems]
    return problem_dataset(n, seed=seed, split="train", operations=operations).add_column("generations", replies)
