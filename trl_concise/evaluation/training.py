# SPDX-License-Identifier: Apache-2.0
"""Metrics of a trainer's evaluation: accuracy and tokens of whole problem sets, compared with the run's first evaluation."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from ..verification.finished import has_thought
from ..verification.reward import completion_text
from .completions import has_no_answer
from .metrics import accuracy_efficiency_score


logger = logging.getLogger(__name__)


def measure_completions(
    completions: list[Any],
    completion_ids: list[list[int]],
    tool_mask: list[list[int]] | None,
    end_token_ids: set[int],
    reasoning_opened: list[bool] | None = None,
) -> Tensor:
    """
    Measure the b completions of one process.

    Args:
        completions (`list`): Strings or lists of messages.
        completion_ids (`list[list[int]]`): Token ids, terminating EOS included.
        tool_mask (`list[list[int]]`, *optional*): 1 where the model wrote the token; `None` without tools.
        end_token_ids (`set[int]`): Tokens that end a completion, and padding.
        reasoning_opened (`list[bool]`, *optional*): Whether the prompt ends with an open `<think>`. Default: none does.

    Returns:
        `torch.Tensor`: `(b, 4)` float64: tokens written by the model (EOS included, as TRL counts them), 1 if truncated,
        1 if without an answer (see [`has_no_answer`]), 1 if it thought (see [`has_thought`]; NaN: unknown).
    """
    tokens = [sum(mask) for mask in tool_mask] if tool_mask is not None else [len(ids) for ids in completion_ids]
    truncated = [not ids or ids[-1] not in end_token_ids for ids in completion_ids]
    texts = [completion_text(completion) for completion in completions]
    empty = [has_no_answer(text) for text in texts]
    opened = reasoning_opened or [False] * len(texts)
    thought = [has_thought(text, reasoning_opened=is_open) for text, is_open in zip(texts, opened, strict=True)]
    known = [one if one is not None else math.nan for one in thought]
    return torch.tensor([tokens, truncated, empty, known], dtype=torch.float64).T


class EvaluationLog:
    """
    Sums up the completions of an evaluation over batches and processes.

    Averages are over completions, the same number for each problem, so they do not depend on how the problems are split
    into batches and processes. The base of the accuracy-efficiency score is the first evaluation in the run's log, which
    is saved with every checkpoint.

    Args:
        best_metric (`str`, *optional*): Metric that the best checkpoint is chosen by, which has to have a value.
    """

    def __init__(self, best_metric: str | None = None):
        self._best_metric = best_metric
        self._prefix = "eval"
        self._batches: list[Tensor] = []  # (B, 5) each: correct (NaN: unknown), tokens, truncated, empty, thought
        self._first: dict[str, dict[str, float]] = {}  # metric prefix -> entry, also of evaluations before training
        self._warned = False

    def start(self, prefix: str) -> None:
        """Begin an evaluation whose metrics have the prefix (`eval`, or `eval_<name>` with several sets)."""
        self._prefix, self._batches = prefix, []

    def add(self, correct: Tensor, measures: Tensor, rows: int | None) -> None:
        """
        Add a batch, gathered in the order of the dataset.

        Args:
            correct (`torch.Tensor`): `(B,)`, 1 correct, 0 wrong, NaN unknown.
            measures (`torch.Tensor`): `(B, 4)`, see [`measure_completions`].
            rows (`int`, *optional*): Completions of the whole evaluation, if known. Additional rows are repetitions that
                give every process a full batch.
        """
        batch = torch.cat([correct[:, None].to(measures), measures], dim=1).cpu()
        if rows is not None:
            batch = batch[: max(0, rows - sum(map(len, self._batches)))]
        self._batches.append(batch)

    def finish(self, log_history: list[dict[str, Any]], step: int) -> dict[str, float]:
        """
        Return the metrics of the evaluation; an empty dict without one.

        Args:
            log_history (`list[dict]`): The run's log. Its first evaluation is the base; an evaluation before training,
                which has a separate log, precedes it.
            step (`int`): Optimizer steps done.

        Returns:
            `dict[str, float]`: `accuracy`, `tokens_mean`, `tokens_correct_mean`, `truncated_fraction`, `empty_fraction`,
            `thinking_fraction`, accuracy and tokens by mode as in [`summarize_modes`], and `accuracy_efficiency`, each with the
            prefix and `_`. Undefined figures are left out: the mean over correct completions if none is correct, a mode without
            completions, and the score against a base without a correct one. The fraction is left out if no completion has thinking
            markers, and the modes also if all of them thought.

        Raises:
            `ValueError`: If the best checkpoint is to be chosen by a score that is undefined.
        """
        if not self._batches:
            return {}
        correct, tokens, truncated, empty, thought = torch.cat(self._batches).T
        self._batches = []
        figures = {
            "accuracy": correct.nanmean(),
            "tokens_mean": tokens.mean(),
            "tokens_correct_mean": tokens[correct == 1].mean(),
            "truncated_fraction": truncated.mean(),
            "empty_fraction": empty.mean(),
        }
        if not thought.isnan().all():
            thought = thought.nan_to_num(nan=0.0)
            figures["thinking_fraction"] = thought.mean()
        if (thought == 0).any():
            for mode, is_own in (("thinking", thought == 1), ("direct", thought == 0)):
                figures |= {
                    f"{mode}_accuracy": correct[is_own].nanmean(),
                    f"{mode}_tokens_mean": tokens[is_own].mean(),
                }
        metrics = {f"{self._prefix}_{name}": value.item() for name, value in figures.items() if not value.isnan()}
        return metrics | self._efficiency(metrics, log_history, step)

    def _efficiency(self, metrics: dict[str, float], log_history: list[dict[str, Any]], step: int) -> dict[str, float]:
        accuracy, tokens, score = (
            f"{self._prefix}_{name}" for name in ("accuracy", "tokens_mean", "accuracy_efficiency")
        )
        if accuracy not in metrics:
            return {}
        base = next((entry for entry in log_history if accuracy in entry and tokens in entry), None)
        if base is None and (base := self._first.get(self._prefix)) is not None:
            log_history.insert(0, base)
        if base is None:
            base = self._first[self._prefix] = {**metrics, "step": step}
        if base[accuracy] <= 0:
            if self._best_metric in (score, score.removeprefix("eval_")):
                raise ValueError(
                    f"metric_for_best_model={self._best_metric!r} is undefined: the first evaluation, which it compares "
                    f"with, has no correct completion. Set metric_for_best_model={accuracy!r}, or evaluate on problems "
                    "of which the model solves some before training."
                )
            if not self._warned:
                logger.warning("%s is not logged: the first evaluation has no correct completion.", score)
            self._warned = True
            return {}
        return {score: accuracy_efficiency_score(metrics[accuracy], metrics[tokens], base[accuracy], base[tokens])}
