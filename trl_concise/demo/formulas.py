# SPDX-License-Identifier: Apache-2.0
"""
Short Boolean formulas, and the embedded model taught to answer them, for SATURN.

The model that ships solves arithmetic problems. [`formula_model`] trains it on, for a minute, to answer a formula with an assignment in a
box, without reasoning. Half of the answers that it learns from satisfy the formula, the others are drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.saturn import Level, draw_formula, saturn_dataset, split_of
from .traces import END_OF_THINKING
from .variants import IGNORED, Batch, make_variant


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from ..trainer import ConciseGRPOTrainer

STEPS = 200
ROWS = 64  # per step
LEARNING_RATE = 1.5e-3
FORMULA_LEVELS: tuple[Level, ...] = ((2, 4, 3), (2, 4, 5), (2, 4, 7))
SATISFYING_SHARE = 0.5  # of the answers


def formula_dataset(
    count: int, *, seed: int = 0, split: str = "train", levels: Sequence[Level] = FORMULA_LEVELS
) -> Dataset:
    """
    Generated formulas for [`formula_model`], whose prompts are the formula alone.

    Args:
        count (`int`): Formulas per level.
        seed, split, levels: See [`~trl_concise.data.saturn_dataset`]. The default levels have clauses of two literals over four variables.

    Returns:
        `Dataset`: The columns of [`~trl_concise.data.saturn_dataset`].
    """
    rows = saturn_dataset(levels, count, split=split, seed=seed)
    return rows.map(lambda row: {"prompt": [{"role": "user", "content": row["clause"]}]})


def formula_model(folder: str | Path, *, steps: int = STEPS, seed: int = 0) -> Path:
    """
    Train the embedded model to answer formulas, and save it. A folder that has a model is returned as it is.

    The formulas are of the split `train`. With several processes, the first one trains, and the others wait. It runs on the CPU.

    Args:
        folder (`str` or `Path`): Where to save model and tokenizer.
        steps (`int`, *optional*, defaults to `200`): Optimizer steps.
        seed (`int`, *optional*, defaults to `0`): Seed of the formulas.

    Returns:
        `Path`: The folder.

    Raises:
        `ValueError`: If `steps` is less than 1.
    """
    return make_variant(folder, steps, lambda tokenizer: _batches(tokenizer, seed), learning_rate=LEARNING_RATE)


def _batches(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[Batch]:
    rng = random.Random(f"formulas {seed}")
    while True:
        level = rng.choice(FORMULA_LEVELS)
        rows: Batch = []
        while len(rows) < ROWS:
            clause, bits = draw_formula(level, rng)
            if split_of(clause) == "train":
                if rng.random() >= SATISFYING_SHARE:
                    bits = "".join(rng.choices("01", k=level[1]))
                rows.append(_tokenized(tokenizer, clause, bits))
        yield rows


def _tokenized(tokenizer: PreTrainedTokenizerBase, clause: str, bits: str) -> tuple[list[int], list[int]]:
    messages = [{"role": "user", "content": clause}]
    prompt = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    prompt_ids = tokenizer(prompt).input_ids
    completion_ids = tokenizer(f"{END_OF_THINKING}\\boxed{{{bits}}}{tokenizer.eos_token}").input_ids
    return prompt_ids + completion_ids, [IGNORED] * len(prompt_ids) + completion_ids


class FormulaReport:
    """
    Measure a trainer's model before and after training, on formulas that training never saw, and print a table.

    Args:
        trainer ([`ConciseGRPOTrainer`]): Trainer with `num_generations_eval=1`.
        problems (`int`, *optional*, defaults to `128`): Largest number of formulas per level.
        control (`bool`, *optional*, defaults to `False`): Not available for formulas.
        sets (`Mapping[str, Dataset]`, *optional*): Formulas by the name of their level. Default: [`formula_dataset`] of each level.

    Raises:
        `ValueError`: If a control is requested.
    """

    def __init__(
        self,
        trainer: ConciseGRPOTrainer,
        problems: int = 128,
        *,
        control: bool = False,
        sets: Mapping[str, Dataset] | None = None,
    ):
        if control:
            raise ValueError(
                "--control is not available for formulas. Leave it out, and run benchmarks/saturn.py to compare with GRPO."
            )
        self.trainer = trainer
        sets = sets or {str(level): formula_dataset(128, split="test", levels=[level]) for level in FORMULA_LEVELS}
        self.sets = {name: rows.select(range(min(problems, len(rows), 128))) for name, rows in sets.items()}

    def __enter__(self) -> FormulaReport:
        self.before = self.measure()
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is not None:
            return
        after = self.measure()
        if not self.trainer.is_world_process_zero():
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(title="Formulas that training never saw, one completion each")
        for heading in ("Level", "Formulas", "Satisfied before", "Satisfied after"):
            table.add_column(heading, justify="left" if heading == "Level" else "right")
        for name, rows in self.sets.items():
            table.add_row(name, str(len(rows)), f"{self.before[name]:.1%}", f"{after[name]:.1%}")
        Console().print(table)

    def measure(self) -> dict[str, float]:
        """Return the share of satisfied formulas of each set. Every process calls this."""
        return {
            name: self.trainer.evaluate(rows, metric_key_prefix=f"eval_{number}")[f"eval_{number}_accuracy"]
            for number, (name, rows) in enumerate(self.sets.items())
        }
