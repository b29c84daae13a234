# SPDX-License-Identifier: Apache-2.0
"""The control of a length method: GRPO with the correctness reward alone, at the same number of generated tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from ..callbacks import show_progress
from ..verification import math_accuracy_reward


if TYPE_CHECKING:
    from datasets import Dataset


class TokenBudget(TrainerCallback):
    """
    Ends training after the step in which the generated tokens reach a budget.

    Pass [`~TokenBudget.accuracy_reward`] as the first reward function, where the tokens are counted, and the object itself as
    a callback. It counts on one process.

    Args:
        budget (`int`): In tokens.

    Attributes:
        tokens, completions (`int`): Number of tokens and completions so far.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self.tokens = self.completions = 0

    def accuracy_reward(self, completions: list[Any], completion_ids: list[list[int]], **kwargs: Any):
        """Return [`math_accuracy_reward`] of the completions, and count their tokens."""
        self.completions += len(completion_ids)
        self.tokens += sum(map(len, completion_ids))
        return math_accuracy_reward(completions, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= self.tokens >= self.budget


def train_control(
    model: str, train_dataset: Dataset, tokens: int, settings: dict[str, Any]
) -> tuple[GRPOTrainer, TokenBudget]:
    """
    Train with TRL's `GRPOTrainer` and the correctness reward alone until the tokens are generated.

    Args:
        model (`str`): Path of the model to start from.
        train_dataset (`Dataset`): Columns `prompt` and `solution`.
        tokens (`int`): Tokens to generate.
        settings (`dict[str, Any]`): Arguments of `GRPOConfig`. Training ends after `max_steps` at the latest.

    Returns:
        `tuple`: The trainer after training, and the counter.
    """
    budget = TokenBudget(tokens)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=budget.accuracy_reward,
        args=GRPOConfig(**settings),
        train_dataset=train_dataset,
        callbacks=[budget],
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log entry
    show_progress(trainer)
    trainer.train()
    return trainer, budget
