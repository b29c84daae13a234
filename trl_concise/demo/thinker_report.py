# SPDX-License-Identifier: Apache-2.0
"""Evaluate a trainer of Thinker before and after training: the fast answer alone, and the whole dialogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .settings import EVALUATION, problem_dataset
from .thinker import turn_settings


if TYPE_CHECKING:
    from ..trainer import ConciseGRPOTrainer


class ThinkerReport:
    """
    Evaluate a trainer's model before and after training, on problems that training never saw, and print a table.

    Args:
        trainer ([`ConciseGRPOTrainer`]): Trainer of a [`thinker_model`].
        problems (`int`, *optional*, defaults to `256`): Largest number of problems of two and of three operations.
        control (`bool`, *optional*, defaults to `False`): Not available.

    Raises:
        `ValueError`: If a control is requested.
    """

    def __init__(self, trainer: ConciseGRPOTrainer, problems: int = 256, *, control: bool = False):
        if control:
            raise ValueError(
                "--control is not available here. Leave it out, and run benchmarks/thinker.py to compare with GRPO."
            )
        self.trainer = trainer
        self.problems = min(problems, 256)

    def __enter__(self) -> ThinkerReport:
        self.before = self.measure()
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is not None or not self.trainer.is_world_process_zero():
            return
        table = Table(title=f"{self.problems} problems of each kind, one dialogue each")
        for heading in ("", "Accuracy", "Tokens"):
            table.add_column(heading, justify="right" if heading else "left")
        for when, records in {"before": self.before, "after": self.measure()}.items():
            for record in records:
                table.add_row(
                    f"{record['dataset']}, {when} training",
                    f"{record['accuracy']:.1%}",
                    f"{record['tokens_mean']:.1f}",
                )
        Console().print(table)

    def measure(self) -> list[dict[str, Any]]:
        """Return the records of [`evaluate_thinker`]; none on other processes than the first."""
        from ..evaluation.thinker import ThinkerTurns, evaluate_thinker

        if not self.trainer.is_world_process_zero():
            return []
        return evaluate_thinker(
            self.trainer.accelerator.unwrap_model(self.trainer.model),
            {f"{n} operations": problem_dataset(self.problems, operations=(n,)) for n in (2, 3)},
            turns=ThinkerTurns(**turn_settings("fast", "verification", "slow")),
            tokenizer=self.trainer.processing_class,
            model_name="model",
            progress=False,
            **{name: value for name, value in EVALUATION.items() if name != "max_new_tokens"},
        )
