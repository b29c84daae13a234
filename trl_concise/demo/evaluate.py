# SPDX-License-Identifier: Apache-2.0
"""Measure a model on held-out problems: accuracy, tokens, truncated completions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation import accuracy_interval, bootstrap_interval
from ..evaluation.sampling import SamplingSettings, TransformersSampler, end_token_ids
from ..verification.finished import is_finished, opens_reasoning
from ..verification.verify import verify_and_count


BATCH_SIZE = 128
MAX_COMPLETION_LENGTH = 256  # the longest trace of the training distribution has 251 tokens


@dataclass(frozen=True)
class Evaluation:
    """
    One completion per problem, with its verdict.

    Args:
        completions (`list[list[int]]`): Token ids, end-of-turn token included; a completion without it was truncated.
        correct (`list[bool]`): Whether each final answer is correct.
        finished (`list[bool]`): Whether each ended by itself.
    """

    completions: list[list[int]]
    correct: list[bool]
    finished: list[bool]

    @property
    def accuracy(self) -> float:
        """Share of correct answers."""
        return fmean(self.correct)

    @property
    def tokens_mean(self) -> float:
        """Mean completion tokens, EOS included, as TRL counts them."""
        return fmean(map(len, self.completions))

    def summary(self) -> dict[str, Any]:
        """Figures for a table or a file, with 95 % intervals."""
        return {
            "accuracy": self.accuracy,
            "accuracy_interval": accuracy_interval([[float(correct)] for correct in self.correct]),
            "tokens_mean": self.tokens_mean,
            "tokens_interval": bootstrap_interval([[float(len(ids))] for ids in self.completions]),
            "truncated_fraction": 1 - fmean(self.finished),
            "problems": len(self.completions),
        }


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, str]],
    *,
    max_completion_length: int = MAX_COMPLETION_LENGTH,
    temperature: float = 1.0,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """
    Sample one completion per problem and check its answer.

    Args:
        model, tokenizer, max_completion_length, temperature, seed, on_batch: See [`sample_completions`].
        rows (`list[dict[str, str]]`): Problems, as [`generate_problems`] gives them.

    Returns:
        [`Evaluation`]: Completions in the order of `rows`, and whether they are correct.
    """
    prompts = render_prompts(tokenizer, [row["problem"] for row in rows])
    completions = sample_completions(
        model,
        tokenizer,
        prompts,
        max_completion_length=max_completion_length,
        temperature=temperature,
        seed=seed,
        on_batch=on_batch,
    )
    return judge_completions(model, tokenizer, rows, completions)


def judge_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, str]],
    completions: list[list[int]],
) -> Evaluation:
    """Check the final answer of one completion per problem, as the reward does."""
    ends = end_token_ids(model, tokenizer)
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    finished = [ids[-1] in ends for ids in completions]
    opened = opens_reasoning(render_prompts(tokenizer, [rows[0]["problem"]])[0])
    verdicts, _ = verify_and_count(
        [row["answer"] for row in rows],
        texts,
        final_form=True,
        finished=[
            is_finished(text, truncated=not has_ended, reasoning_opened=opened)
            for text, has_ended in zip(texts, finished, strict=True)
        ],
    )
    return Evaluation(completions=completions, correct=[verdict is True for verdict in verdicts], finished=finished)


def evaluate_cut(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, str]],
    evaluation: Evaluation,
    tokens: int,
    *,
    seed: int = 0,
) -> Evaluation:
    r"""
    Truncate a model's completions and let the model answer at once.

    A completion that is longer than `tokens` keeps its beginning, then the reasoning is closed for the model
    (`</think>\n\boxed{`) and it writes the answer. A completion that is shorter stays as it is.

    Args:
        model, tokenizer, rows: As given to [`evaluate_model`].
        evaluation ([`Evaluation`]): The model's completions.
        tokens (`int`): Length of a truncated completion, including the closing tag and up to four tokens of the answer.
        seed (`int`, *optional*, defaults to `0`): Seed of the sampling.

    Returns:
        [`Evaluation`]: The truncated completions.
    """
    closing = tokenizer("</think>\n\\boxed{").input_ids
    kept = max(tokens - len(closing) - 4, 0)  # an answer has up to three digits, a brace and EOS
    prompts = render_prompts(tokenizer, [row["problem"] for row in rows])
    cut = [index for index, ids in enumerate(evaluation.completions) if len(ids) > tokens]
    beginnings = {index: evaluation.completions[index][:kept] + closing for index in cut}
    endings = sample_completions(
        model,
        tokenizer,
        [prompts[index] + tokenizer.decode(beginnings[index]) for index in cut],
        max_completion_length=5,
        seed=seed,
    )
    completions = list(evaluation.completions)
    for index, ending in zip(cut, endings, strict=True):
        completions[index] = beginnings[index] + ending
    return judge_completions(model, tokenizer, rows, completions)


def render_prompts(tokenizer: PreTrainedTokenizerBase, problems: list[str]) -> list[str]:
    """Render problems as user messages, up to the start of the completion."""
    messages = [[{"role": "user", "content": problem}] for problem in problems]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    max_completion_length: int = MAX_COMPLETION_LENGTH,
    temperature: float = 1.0,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """
    Sample one completion per prompt from the model's own distribution (no top-k, no top-p).

    The caller's random state is left as it was.

    Args:
        model ([`~transformers.PreTrainedModel`]): Model to sample from.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        prompts (`list[str]`): Rendered prompts.
        max_completion_length (`int`, *optional*, defaults to `256`): Tokens after which a completion is cut.
        temperature (`float`, *optional*, defaults to `1.0`): Sampling temperature; `0.0` decodes greedily.
        seed (`int`, *optional*, defaults to `0`): Seed of the sampling.
        on_batch (`Callable[[int], None]`, *optional*): Called with the number of completions just sampled.

    Returns:
        `list[list[int]]`: Token ids of each completion in the order of `prompts`. The end-of-turn token is included;
            a completion without it was truncated.
    """
    sampler = TransformersSampler(model, tokenizer)
    completions: list[list[int]] = []
    for first in range(0, len(prompts), BATCH_SIZE):
        settings = SamplingSettings(max_completion_length, temperature, top_p=1.0, seed=seed + first)
        rendered = tokenizer(prompts[first : first + BATCH_SIZE], add_special_tokens=False)
        batch = sampler.sample(rendered.input_ids, settings)
        completions += batch
        if on_batch is not None:
            on_batch(len(batch))
    return completions
