# SPDX-License-Identifier: Apache-2.0
"""Completions with executed code outside of training: sampling, and an evaluation of accuracy and tokens."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.sampling import Sampler, SamplingSettings, TransformersSampler, tokenize_prompts
from ..verification import verify_answers
from ..verification.finished import is_finished, prompt_opens_reasoning
from .code_blocks import CodeCompletion, find_block
from .cort import MAX_CALLS, check_fences
from .execution import Executor


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def complete_with_code(
    sampler: Sampler,
    prompts: Sequence[list[int]],
    settings: SamplingSettings,
    executor: Executor | None,
    max_calls: int = MAX_CALLS,
) -> list[CodeCompletion]:
    """
    Draw one completion per prompt, with its blocks executed as [`CodeReasoning`] does.

    Args:
        sampler (`Sampler`): Draws each round.
        prompts (`Sequence[list[int]]`): Token ids.
        settings (`SamplingSettings`): `max_new_tokens` limits what the model writes, outputs excluded.
        executor ([`Executor`], *optional*): Executes the blocks; `None` executes none.
        max_calls (`int`, *optional*, defaults to `15`): Blocks per completion.
    """
    tokenizer, limit = sampler.tokenizer, settings.max_new_tokens
    calls = max_calls if executor is not None else 0
    completions = [CodeCompletion() for _ in prompts]
    open_rows, rounds = list(range(len(prompts))), 0
    while open_rows:
        rooms = [limit - completions[row].written for row in open_rows]
        seed = int(np.random.SeedSequence([settings.seed, rounds]).generate_state(1)[0]) if rounds else settings.seed
        drawn = sampler.sample(
            [[*prompts[row], *completions[row].ids] for row in open_rows],
            replace(settings, seed=seed, max_new_tokens=max(rooms)),
        )
        for row, ids, room in zip(open_rows, drawn, rooms, strict=True):
            completions[row].continue_with(ids, None, tokenizer, sampler.end_token_ids, room, calls)
        if executor is not None:
            CodeCompletion.execute(completions, executor, tokenizer, calls, [math.inf] * len(prompts))
        open_rows = [row for row in open_rows if not completions[row].done]
        rounds += 1
    return completions


@dataclass(frozen=True)
class JudgedCompletion:
    """
    A completion of an evaluation.

    Attributes:
        problem (`int`): Row of the dataset.
        text (`str`): The completion, with outputs.
        completion ([`CodeCompletion`]): Tokens, mask and outcomes.
        correct (`bool`): Whether it is finished and its answer, after the last `</think>`, is right.
        tokens (`int`): Tokens that the model wrote, terminating EOS excluded.
        truncated (`bool`): Whether it reached the limit.
    """

    problem: int
    text: str
    completion: CodeCompletion
    correct: bool
    tokens: int
    truncated: bool


def evaluate_with_code(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    executor: Executor | None,
    *,
    max_calls: int = MAX_CALLS,
    num_completions: int = 1,
    max_new_tokens: int = 4096,
    temperature: float = 0.6,
    top_p: float = 0.95,
    seed: int = 0,
    batch_size: int = 64,
) -> list[JudgedCompletion]:
    """
    Complete problems with executed code, and judge the answers as [`math_accuracy_reward`] does.

    Args:
        model ([`~transformers.PreTrainedModel`]): Model to evaluate.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        dataset (`Dataset`): Columns `prompt` and `solution`, at least one row.
        executor ([`Executor`], *optional*): Executes the blocks. `None` executes none, and warns if the model writes some.
        max_calls (`int`, *optional*, defaults to `15`): Blocks per completion.
        num_completions (`int`, *optional*, defaults to `1`): Completions per problem, in consecutive entries.
        max_new_tokens, temperature, top_p, seed (*optional*): See `SamplingSettings`.
        batch_size (`int`, *optional*, defaults to `64`): Completions that are drawn at a time.

    Raises:
        `ValueError`: If a number is out of range, the dataset is empty or has no `prompt` and `solution`, or the tokenizer cannot write blocks.
    """
    if min(num_completions, batch_size) < 1 or max_calls < 0:
        raise ValueError(
            f"num_completions and batch_size must be at least 1, and max_calls at least 0; got {num_completions}, {batch_size} and {max_calls}."
        )
    if not len(dataset) or not {"prompt", "solution"} <= set(dataset.column_names):
        raise ValueError(
            f"The dataset has {len(dataset)} rows with the columns {dataset.column_names}. Pass at least one row with prompt and solution."
        )
    check_fences(tokenizer)
    sampler = TransformersSampler(model, tokenizer)
    order = [row for row in range(len(dataset)) for _ in range(num_completions)]
    ids = tokenize_prompts(tokenizer, list(dataset["prompt"]))
    golds = list(dataset["solution"])
    found: list[JudgedCompletion] = []
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        settings = SamplingSettings(max_new_tokens, temperature, top_p, seed + first)
        drawn = complete_with_code(sampler, [ids[row] for row in rows], settings, executor, max_calls)
        found += [_described(sampler, row, own) for row, own in zip(rows, drawn, strict=True)]
    finished = [
        is_finished(
            item.text,
            truncated=item.truncated,
            reasoning_opened=prompt_opens_reasoning(tokenizer, ids[item.problem]),
        )
        for item in found
    ]
    verdicts = verify_answers([golds[item.problem] for item in found], [item.text for item in found], final_form=True)
    ignored = 0 if executor else sum(bool(find_block(tokenizer, item.completion.ids)) for item in found)
    if ignored:
        logger.warning(
            "%d of %d completions have Python blocks, which were not executed. Pass an executor, such as Calculator().",
            ignored,
            len(found),
        )
    return [
        replace(item, correct=bool(verdict) and is_done)
        for item, verdict, is_done in zip(found, verdicts, finished, strict=True)
    ]


def _described(sampler: Sampler, row: int, own: CodeCompletion) -> JudgedCompletion:
    truncated = not own.ids or own.ids[-1] not in sampler.end_token_ids
    text: Any = sampler.tokenizer.decode(own.ids, skip_special_tokens=True)
    return JudgedCompletion(row, text, own, False, own.written - (not truncated), truncated)
