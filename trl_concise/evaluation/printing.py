# SPDX-License-Identifier: Apache-2.0
"""Prints the records of an evaluation as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .modes import describe_modes, shows_modes


def print_records(records: Sequence[dict[str, Any]]) -> None:
    """Print the records of [`evaluate`] as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    scored = "accuracy_efficiency_weights" in records[0]
    k = records[0]["completions_per_problem"]
    caption = "[ ]: 95 % interval, cluster bootstrap over problems."
    if scored:
        weights = ", ".join(f"{name} = {value:g}" for name, value in records[0]["accuracy_efficiency_weights"].items())
        bases = dict.fromkeys(record["base_model"] for record in records if record["base_model"] is not None)
        against = f" against {', '.join(bases)}" if bases else ""
        caption += f" AES: accuracy-efficiency score{against}, {weights}."
    votes = "vote" in records[0]
    if votes:
        caption += (
            f" Vote: accuracy of {describe_vote(records[0]['vote'])}, and tokens per problem, verifications included."
        )
    modes = shows_modes(records)
    if modes:
        caption += (
            " Thinking: share of the completions that thought; accuracy and tokens of those, then of the others."
        )
    title = f"{records[0]['model']}, {k} completion{'s' * (k > 1)} per problem"
    table = Table(title=escape(title), caption=escape(caption))
    table.add_column("Problems", no_wrap=True)
    for heading in [
        "Accuracy",
        *([f"pass@{k}"] * (k > 1)),
        *(["Vote"] * votes),
        "Tokens",
        "Truncated",
        "Empty",
        *(["Thinking"] * modes),
        *(["AES"] * scored),
    ]:
        table.add_column(heading, justify="right")
    for record in records:
        table.add_row(*map(escape, _cells(record, k, scored, modes, votes)))
    Console().print(table)


def _cells(record: dict[str, Any], k: int, scored: bool, modes: bool, votes: bool) -> list[str]:
    whole = f"{record['dataset']} ({record['problems']:,})"
    low, high = record["accuracy_interval"]
    shortest, longest = record["tokens_interval"]
    score = record.get("accuracy_efficiency_score")
    cells = [
        _budget_name(record) or whole,
        f"{record['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}]",
        *([f"{list(record['pass_at_k'].values())[-1]:.1%}"] * (k > 1)),
        *([_vote_cell(record.get("vote"))] * votes),
        f"{record['tokens_mean']:,.1f} [{shortest:,.1f}, {longest:,.1f}]",
        f"{record['truncated_fraction']:.1%}",
        f"{record['empty_fraction']:.1%}",
        *([describe_modes(record)] * modes),
    ]
    return [*cells, f"{score:+.3f}" if score is not None else "-"] if scored else cells


def _vote_cell(vote: dict[str, Any] | None) -> str:
    if vote is None:
        return "-"
    low, high = vote["accuracy_interval"]
    return f"{vote['accuracy']:.1%} [{100 * low:.1f}, {100 * high:.1f}], {vote['tokens_mean']:,.0f}"


def describe_vote(vote: dict[str, Any]) -> str:
    """Return the name of a vote, with its exponent."""
    exponent = f", alpha = {vote['alpha']:g}" if vote["alpha"] is not None else ""
    return f"{vote['method']} vote{exponent}"


def _budget_name(record: dict[str, Any]) -> str | None:
    if record.get("thinking_budget") is not None:
        return f"  thinking stopped at {record['thinking_budget']:,}"
    return f"  truncated at {record['budget']:,}" if record["budget"] is not None else None
