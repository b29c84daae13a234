# SPDX-License-Identifier: Apache-2.0
"""Correct and incorrect traces for offline methods, sampled from the embedded model."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ..evaluation.sampling import SamplingSettings, TransformersSampler, tokenize_prompts
from .problems import OPERATIONS, generate_problems
from .settings import EVALUATION, model_path


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
