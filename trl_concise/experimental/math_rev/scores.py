# SPDX-License-Identifier: Apache-2.0
"""Scores of solutions: the mean log-probability per token under a verifier, and the expected correctness of the best of k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...evaluation.sampling import load_sampler
from ...methods.light_r1 import opened_by_generation_prompt
from ...methods.redi_rows import check_template_keeps_traces
from .config import check_beta_and_gamma


class VerifierScore:
    r"""
    Score of solutions under a verifier, $\beta \, m(y)$: a reward function for [`~trl_concise.evaluation.best_of_n`].

    Rows are encoded as in training: the prompt, the completion, and the end token of the chat template, or the end-of-sequence token for texts.

    Args:
        model (`str`, `Path` or [`~transformers.PreTrainedModel`]): Folder or Hub id of a causal language model or adapter, `demo` for the embedded model,
            or a model in memory.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Tokenizer of a model in memory.
        beta (`float`, *optional*, defaults to `2.0`): $\beta$, above 0. It does not change the order.
        batch_size (`int`, *optional*, defaults to `8`): Solutions that are scored at a time.

    Attributes:
        tokens (`int`): Tokens that were read so far, prompts included: the cost of scoring.

    Raises:
        `FileNotFoundError`: If the model is not found.
        `ValueError`: If an argument is out of range, or the tokenizer is missing.

    Example:

    ```python
    >>> records = best_of_n("outputs/samples", problems, VerifierScore("outputs/verifier"))
    ```
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        beta: float = 2.0,
        batch_size: int = 8,
    ):
        check_beta_and_gamma(beta, 0.0)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if isinstance(model, (str, Path)):
            sampler: Any = load_sampler(str(model))
            model, tokenizer = sampler.model, tokenizer or sampler.tokenizer
        if tokenizer is None:
            raise ValueError("A verifier in memory needs its tokenizer: pass tokenizer=.")
        self.__name__ = "verifier_score"  # of its column in TRL's metrics
        self.model: Any = model
        self.tokenizer = tokenizer
        self.beta = beta
        self.batch_size = batch_size
        self.tokens = 0

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float]:
        """
        Score solutions.

        Args:
            prompts (`Sequence`): Texts or lists of messages.
            completions (`Sequence`): Texts or lists of messages. A `<think>` that the generation prompt opens may be left out.

        Returns:
            `list[float]`: One score per completion, at most 0.

        Raises:
            `ValueError`: If the chat template drops text of a completion.
        """
        rows = [self.encode(*row) for row in zip(prompts, completions, strict=True)]
        device = PartialState().device
        was_training = self.model.training
        self.model.to(device).eval()
        scores: dict[int, float] = {}
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))  # little padding
        for first in range(0, len(order), self.batch_size):
            places = order[first : first + self.batch_size]
            width = max(len(rows[i][0]) for i in places)
            ids = torch.tensor([rows[i][0] + [0] * (width - len(rows[i][0])) for i in places], device=device)
            mask = torch.tensor(
                [[1] * len(rows[i][0]) + [0] * (width - len(rows[i][0])) for i in places], device=device
            )
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
            logps = -cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            for i, own in zip(places, logps.view(len(places), -1), strict=True):
                own = own[rows[i][1] - 1 : len(rows[i][0]) - 1]
                scores[i] = self.beta * own.sum().item() / max(len(own), 1)
            self.tokens += int(mask.sum())
        self.model.train(was_training)
        return [scores[i] for i in range(len(rows))]

    def encode(self, prompt: Any, completion: Any) -> tuple[list[int], int]:
        """
        Encode a prompt and a completion, as TRL does for pairs.

        Args:
            prompt (`str` or `list`): Text or messages.
            completion (`str` or `list`): Text, or messages if the prompt is messages.

        Returns:
            `tuple[list[int], int]`: Token ids, and where the completion begins.
        """
        if isinstance(prompt, str):
            end = self.tokenizer.eos_token or ""
            whole = prompt + completion + ("" if completion.endswith(end) else end)
            begin, ids = (self.tokenizer(text).input_ids for text in (prompt, whole))
        else:
            opened = opened_by_generation_prompt(self.tokenizer, prompt)
            first, *others = completion or [{"role": "assistant", "content": ""}]
            if isinstance(first.get("content"), str) and not first["content"].startswith(opened.strip()):
                first = {**first, "content": opened + first["content"]}
            completion = [first, *others]
            check_template_keeps_traces(self.tokenizer, {"prompt": prompt, "completion": completion})
            texts = (
                self.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False),
                self.tokenizer.apply_chat_template([*prompt, *completion], tokenize=False),
            )
            begin, ids = (self.tokenizer(text, add_special_tokens=False).input_ids for text in texts)
        common = next(
            (i for i, (a, b) in enumerate(zip(begin, ids, strict=False)) if a != b), min(len(begin), len(ids))
        )
        return ids, max(common, 1)  # nothing predicts the first token


def expected_best_of_k(scores: Sequence[float], correct: Sequence[bool], k: int) -> float:
    r"""
    Expected correctness of the best of k solutions that are drawn without replacement from n, exactly.

    $$ \mathbb{E} = \binom{n}{k}^{-1} \sum_{j=1}^{n-k+1} c_j \binom{n-j}{k-1} $$

    $c_j$ is the correctness of the solution of rank j, by score; ties go to the earlier one.

    Args:
        scores (`Sequence[float]`): One per solution.
        correct (`Sequence[bool]`): Whether each is correct.
        k (`int`): Solutions to choose among, from 1 to n.

    Returns:
        `float`: In `[0, 1]`.

    Raises:
        `ValueError`: If k is out of range.

    Examples:
        >>> [round(expected_best_of_k([0.9, 0.1, 0.8, 0.2, 0.5], [1, 0, 0, 0, 1], k), 6) for k in (1, 2, 3, 4, 5)]
        [0.4, 0.6, 0.7, 0.8, 1.0]
    """
    n = len(scores)
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and {n}, the solutions; got {k}.")
    ranked = [correct[i] for i in sorted(range(n), key=lambda i: -scores[i])]
    return sum(bool(c) * math.comb(n - j, k - 1) for j, c in enumerate(ranked[: n - k + 1], 1)) / math.comb(n, k)
