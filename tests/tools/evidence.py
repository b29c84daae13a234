# SPDX-License-Identifier: Apache-2.0
"""
Write docs/evidence.md from the claims in `benchmarks/claims.yaml` and the figures in `benchmarks/results/*.json`.

    python -m tests.tools.evidence

Nothing is measured here. After a table of a page has changed, change its result file, then run the command.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.tools.method_table import row
from trl_concise.methods.method import QUESTIONS, Method
from trl_concise.methods.table import METHODS


ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "benchmarks" / "claims.yaml"
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "evidence.md"
VERDICTS = ("yes", "partly", "no", "not tested")
HEAD = """\
# Evidence

For each method: the claim of its authors, our figures, and whether the direction of the claim is seen here. This page is made from `benchmarks/claims.yaml` and the
result files in `benchmarks/results` by `python -m tests.tools.evidence`. The [benchmarks](benchmarks.md) and the pages of the methods have the details.

**Figures of papers are not ours.** Each sentence that begins with *The authors report* quotes the source in its parentheses. We have not repeated these runs.

## How to read it

**The embedded task.** Most runs train the [embedded model](benchmarks.md#length-methods-side-by-side), of 0.9 million parameters, on generated arithmetic. It knows problems of two and of three
operations, and solves 95 to 97 % of them before training. Most methods are trained on two operations, so those of three are harder than the training problems. It solves 1 % of those of four. All test problems are
different from those in training.

**Direction.** The question is whether a change has the sign that the authors report, not its size.

- **yes**: For methods for shorter completions, there are fewer tokens on problems as in training and on harder ones than with any of three seeds of GRPO without a length reward, for as many generated tokens (47.2 to
  50.8, and 64.3 to 69.8), and no loss of accuracy beyond its interval. A gain in accuracy, which some authors report too, could hardly be seen on a model that solves 95 %. For other methods, the reported
  difference has the same sign here, beyond the intervals where there are any.
- **partly**: only one of two claims, only on problems as in training, or only in one of two settings.
- **no**: not seen, or the opposite. This does not refute a claim about other models and longer training.
- **not tested**: the claim needs something that this task does not have, or no run of ours compares it.

**Limits.** One small model and mostly one seed. The settings are the papers', scaled, and few were tuned. Intervals are over problems, not over seeds, unless the table says otherwise.

**Real models.** On a GPU, step time and memory were measured for HAPO, S-GRPO, T-SPMO and REDI (below), and GRPO without a length reward was trained
([Benchmarks](benchmarks.md#a-real-model-on-a-gpu)); how to run the other arms is in [Benchmarks on a GPU](gpu.md). HAPO was trained on a real model on two CPU cores, with a loss on harder problems
(below, and [What can go wrong](what_can_go_wrong.md)). No other method was trained on a real model for a comparison.
"""


@dataclass(frozen=True)
class Claim:
    """An entry of `benchmarks/claims.yaml`, whose first lines explain the fields."""

    method: str
    short: str
    claim: str
    source: str
    verdict: str
    reason: str
    results: tuple[str, ...] = ()


def claims() -> dict[str, Claim]:
    """Return the claims by the names of the methods."""
    entries = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))
    found = [Claim(**{**entry, "results": tuple(entry.get("results", ()))}) for entry in entries]
    if len({claim.method for claim in found}) < len(found):
        raise ValueError(f"{CLAIMS.name} has two entries of one method. Write one per method.")
    return {claim.method: claim for claim in found}


def results() -> dict[str, dict[str, Any]]:
    """Return the result files by name. A cell is `[value]`, `[value, low, high]`, or `None` where nothing was measured."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def anchor(heading: str) -> str:
    return "".join(c for c in heading.lower() if c.isalnum() or c in " -_").replace(" ", "-")


def table(result: dict[str, Any]) -> str:
    """Return the table of a result file, with its caption."""
    columns = result["columns"]
    cells = list(zip(*result["rows"].values(), strict=True))
    decimals = [
        max(
            (len(str(n).partition(".")[2]) for cell in column if cell for n in cell if isinstance(n, float)), default=0
        )
        for column in cells
    ]

    def written(cell: list[float] | None, column: int) -> str:
        if cell is None:
            return ""
        sign = "+" if "points" in columns[column] else ""
        value, *interval = (f"{number:{sign},.{decimals[column]}f}" for number in cell)
        return f"{value} [{', '.join(interval)}]" if interval else value

    seeds = f"Seeds: {', '.join(map(str, result['seeds']))}" if isinstance(result["seeds"], list) else "One seed"
    problems = (
        " and ".join(f"{n:,}" for n in result["problems"])
        if isinstance(result["problems"], list)
        else result["problems"]
    )
    facts = [
        f"Model: {result['model']}",
        f"Training: {result['training']}",
        f"Problems per set: {problems}" if problems else "",
        seeds if result["seeds"] else "",
        f"Brackets: {result['brackets']}"
        if any(len(c) > 1 for column in cells for c in column if c)
        else "No intervals",
    ]
    commands = ", ".join(f"`{command}`" for command in result["commands"])
    return "\n".join([
        f"**{result['title']}** ([page]({result['page']})). {'. '.join(filter(None, facts))}. Printed by {commands}.",
        "",
        row(["", *columns]),
        "|---|" + "---|" * len(columns),
        *(row([name, *map(written, values, range(len(columns)))]) for name, values in result["rows"].items()),
        "",
    ])  # fmt: skip


def entry(method: Method, claim: Claim, titles: list[str]) -> str:
    """Return the claim and the finding for a method. `titles` are those of its tables that do not follow directly."""
    paper = f"; [{method.paper}](https://huggingface.co/papers/{method.paper})" if method.paper is not None else ""
    reported = "No paper: " if claim.source == "none" else f"*The authors report* ({claim.source}{paper}): "
    return "\n".join([
        f"**[{method.name}]({method.page}.md): {claim.verdict}**\n",
        f"- {reported}{claim.claim}",
        f"- *Here:* {claim.reason}",
        *(["- Golden values only.\n"] if not claim.results else [f"- Table: {'; '.join(titles)}.\n"] if titles else [""]),
    ])  # fmt: skip


def summary(found: dict[str, Claim], files: dict[str, dict[str, Any]]) -> str:
    """Return the table of all methods, and how many have which verdict."""
    counts = Counter(claim.verdict for claim in found.values())
    lines = [
        "## Summary\n",
        f"{len(found)} rows: {', '.join(f'{counts[verdict]} {verdict}' for verdict in VERDICTS)}.\n",
        "| Method | The authors' claim | Seen here | Figures |",
        "|---|---|---|---|",
    ]
    for method in METHODS:
        claim = found[method.name]
        target = method.evidence or (files[claim.results[0]]["page"] if claim.results else None)
        figures = f"[results]({target})" if claim.results else "golden values only"
        lines.append(
            row(
                [
                    f"[{method.name}]({method.page}.md)",
                    claim.short,
                    f"[{claim.verdict}](#{anchor(QUESTIONS[method.question])})",
                    figures,
                ]
            )  # fmt: skip
        )
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the page. A table follows the one method that uses it, or the last method of the first section that does."""
    found, files = claims(), results()
    missing = [method.name for method in METHODS if method.name not in found]
    if missing:
        raise ValueError(
            f"{CLAIMS.name} lacks {', '.join(missing)}. Add an entry for each row of the table of methods."
        )
    uses = Counter(name for claim in found.values() for name in claim.results)
    shown: set[str] = set()
    parts = [HEAD, summary(found, files)]
    for index, question in enumerate(QUESTIONS):
        parts.append(f"## {question}\n")
        shared: dict[str, None] = {}
        for method in (method for method in METHODS if method.question == index):
            claim = found[method.name]
            parts.append(entry(method, claim, [files[name]["title"] for name in claim.results if uses[name] > 1]))
            parts += [table(files[name]) for name in claim.results if uses[name] == 1]
            shared |= dict.fromkeys(name for name in claim.results if uses[name] > 1 and name not in shown)
        parts += [table(files[name]) for name in shared]
        shown |= set(shared)
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
