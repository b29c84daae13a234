# SPDX-License-Identifier: Apache-2.0
"""Correct and incorrect traces for offline methods, sampled from the embedded model."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from .evaluate import render_prompts, sample_completions
from .problems import generate_problems
from .settings import model_path


THINK_START = "<think>\n"  # the chat template's generation prompt ends in it, so it opens every trace


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
        problems (`int`, *optional*, defaults to `256`): Number of problems.
        generations (`int`, *optional*, defaults to `8`): Traces per problem.
        seed (`int`, *optional*, defaults to `0`): Seed of the problems and of the sampling.
        split (`str`, *optional*, defaults to `"train"`): Split of the problems, see [`generate_problems`].
        model ([`~transformers.PreTrainedModel`], *optional*): Model to sample from. Defaults to the embedded one.

    Returns:
        `list[dict]`: `problem`, `answer` and `generations` (`list[str]`), as [`build_redi_pairs`] takes them.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    model = AutoModelForCausalLM.from_pretrained(model_path()) if model is None else model
    rows = generate_problems(problems, seed, split)
    prompts = render_prompts(tokenizer, [row["problem"] for row in rows for _ in range(generations)])
    completions = sample_completions(model, tokenizer, prompts, seed=seed)
    texts = [THINK_START + text for text in tokenizer.batch_decode(completions, skip_special_tokens=True)]
    return [
        {
            "problem": row["problem"],
            "answer": row["answer"],
            "generations": texts[i * generations : (i + 1) * generations],
        }
        for i, row in enumerate(rows)
    ]
