# SPDX-License-Identifier: Apache-2.0
"""Evaluate a trainer with tools before and after training: accuracy, tool calls and tokens, by kind of problem."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .tools import KINDS, tool_dataset


if TYPE_CHECKING:
    from ..trainer import ConciseGRPOTrainer


class ToolReport:
    """
    Evaluate a trainer's model before and after training, with its tools, on problems that training never saw, and print a table.

    Args:
        trainer ([`ConciseGRPOTrainer`]): Trainer with `num_generations_eval=1`.
        problems (`int`, *optional*, defaults to `256`): Largest number of problems of each kind.
        control (`bool`, *optional*, defaults to `False`): Not available with tools.

    Raises:
        `ValueError`: If a control is requested.
    """

    def __init__(self, trainer: ConciseGRPOTrainer, problems: int = 256, *, control: bool = False):
        if control:
            raise ValueError(
                "--control is not available with tools. Leave it out, and run benchmarks/otc.py to compare with GRPO."
            )
        self.trainer = trainer
        self.problems = min(problems, 256)

    def __enter__(self) -> ToolReport:
        self.before = self.measure()
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error_type is not None:
            return
        after = self.measure()
        if not self.trainer.is_world_process_zero():
            return
        table = Table(title=f"{self.problems} problems of each kind, one completion each")
        for heading in ("", "Accuracy", "Tool calls", "Tokens"):
            table.add_column(heading, justify="right" if heading else "left")
        for kind in KINDS:
            for when, measured in {"before": self.before, "after": after}.items():
                accuracy, calls, tokens = measured[kind]
                table.add_row(f"{kind}, {when} training", f"{accuracy:.1%}", f"{calls:.2f}", f"{tokens:.1f}")
        Console().print(table)

    def measure(self) -> dict[str, tuple[float, float, float]]:
        """Return accuracy, and tool calls and tokens per problem, by kind. Every process calls this."""
        measured = {}
        for kind in KINDS:
            dataset = tool_dataset(self.problems, split="test", kinds=(kind,))
            metrics = self.trainer.evaluate(dataset, metric_key_prefix=f"eval_{kind}")
            names = (f"eval_{kind}_accuracy", "eval_tools/call_frequency", f"eval_{kind}_tokens_mean")
            accuracy, calls, tokens = (metrics[name] for name in names)
            measured[kind] = (accuracy, calls, tokens)
        return measured
