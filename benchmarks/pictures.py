# SPDX-License-Identifier: Apache-2.0
"""
Draw the pictures of the method pages from the tables in docs/benchmarks.md, and those of experimental systems from the tables in their pages.

    python benchmarks/pictures.py

Nothing is measured here. Run it after a table has changed.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import experimental_pictures
import matplotlib.pyplot as plt

from trl_concise.evaluation.plots import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION


PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")
GRPO_COLOR = GREY


def tables(page: str, heading: str) -> list[list[list[str]]]:
    """Return the tables of a section: for each, its rows as lists of cells, the header first."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    if section is None:
        raise ValueError(f"{PAGE} has no section {heading!r}. Name one of its headings.")
    blocks = re.findall(r"(?:^\|.*\n)+", section[1], re.MULTILINE)
    rows = [[line.strip().strip("|").split("|") for line in block.splitlines()] for block in blocks]
    return [[[cell.strip() for cell in row] for row in [table[0], *table[2:]]] for table in rows]


def numbers(cell: str) -> list[float]:
    """Return the numbers of a cell, for example `[95.1, 74.5]` for `"95.1 %, 74.5"`."""
    return [float(number.replace(",", "")) for number in NUMBER.findall(re.sub(r",(?=\s)", " ", cell))]


def greso(page: str):
    """Tokens that GRPO and GRESO need to reach an accuracy, for three pools of problems."""
    titles = ("All problems can be learned", "Three quarters too hard", "Seven eighths too hard")
    pools = [table for table in tables(page, "GRESO") if "Target" in table[0]]  # not that of three methods
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
    for ax, title, (_, *rows) in zip(axes, titles, pools, strict=True):
        accuracy = [numbers(row[0])[0] for row in rows]
        for column, name, color, marker in ((1, "GRPO", GRPO_COLOR, "o"), (2, "GRESO", BLUE, "D")):
            ax.plot([numbers(row[column])[0] / 1000 for row in rows], accuracy, color=color, marker=marker, label=name)
        ax.set(title=title, xlabel="Generated tokens, thousands")
        ax.set_xlim(left=0)
    axes[0].set_ylabel("Held-out accuracy, %")
    axes[0].legend(frameon=False, loc="lower right")
    return figure


def redi(page: str):
    """Accuracy and tokens after more SFT, DPO, SimPO and REDI at two learning rates; small marks are seeds."""
    high, low = tables(page, "REDI against SFT, DPO and SimPO")
    start = next(row for row in high if row[0].startswith("start"))
    styles = {"more SFT": (GREEN, "^"), "DPO": (ORANGE, "s"), "SimPO": (PURPLE, "v"), "REDI": (BLUE, "D")}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True, layout="constrained")
    for ax, table, title in ((axes[0], low, "Learning rate 2e-5"), (axes[1], high, "Learning rate 1e-4")):
        for row in [start, *(row for row in table if row[0] in styles)]:
            color, marker = styles.get(row[0], (BLACK, "*"))
            *seeds, mean = map(numbers, row[1:])
            ax.scatter([seed[1] for seed in seeds], [seed[0] for seed in seeds], 18, color, marker=marker, alpha=0.35)
            name = "start (SFT)" if row is start else row[0]
            ax.scatter(mean[2], mean[0], 90, color, marker=marker, label=name)
        ax.set(title=title, xlabel="Mean completion tokens")
    axes[0].set_ylabel("Held-out accuracy, %")
    axes[0].legend(frameon=False, loc="lower right", ncols=2)
    return figure


def cft(page: str):
    """Accuracy and tokens before fine-tuning, after SFT and after CFT; small marks are seeds."""
    (_, *rows), *_ = tables(page, "Critique fine-tuning against imitation")
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    for place, (name, *cells) in enumerate(rows):
        color = {"before": BLACK, "SFT": GREEN, "CFT": BLUE}[name]
        *seeds, mean = map(numbers, cells)
        for which, ax in enumerate(axes):
            ax.scatter([place] * len(seeds), [seed[which] for seed in seeds], 18, color, alpha=0.35)
            ax.scatter(place, mean[which], 90, color)
    for ax, label in zip(axes, ("Held-out accuracy, %", "Mean completion tokens"), strict=True):
        ax.set(ylabel=label, xlim=(-0.5, len(rows) - 0.5))
        ax.set_xticks(range(len(rows)), ["before" if row[0] == "before" else f"after {row[0]}" for row in rows])
    axes[0].set_ylim(90, 100)
    axes[1].set_ylim(60, 100)
    return figure


def token_credit(page: str):
    """Step time and peak memory relative to GRPO on a GPU; accuracy of a small task before and after training."""
    gpu = {row[0]: row for row in tables(page, "Memory and time on a GPU")[0]}
    (_, *task), *_ = tables(page, "Multiplication: GRPO, S-GRPO, T-SPMO")
    colors = {"GRPO": GRPO_COLOR, "S-GRPO": BLUE, "T-SPMO": VERMILLION, "before": BLACK}
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), layout="constrained")
    for place, (name, row) in enumerate((("GRPO", "GRPO (TRL)"), ("S-GRPO", "S-GRPO"), ("T-SPMO", "T-SPMO"))):
        for offset, column in ((-1, 2), (3, 4)):
            bar = left.bar(offset + place, numbers(gpu[row][column])[0], color=colors[name], width=0.8)
            left.bar_label(bar, fmt="%.2f")
    left.set(title="4,096 tokens, LoRA, H100", ylabel="Relative to GRPO", ylim=(0, 1.15))
    left.set_xticks([0, 4], ["step time", "peak memory"])
    names = ["before", "GRPO", "S-GRPO", "T-SPMO"]
    for place, (name, (_, mean, seeds, *_)) in enumerate(zip(names, task, strict=True)):
        values = numbers(seeds)
        right.scatter([place] * len(values), values, 18, colors[name], alpha=0.35)
        right.scatter(place, numbers(mean)[0], 90, colors[name])
    right.set(title="Multiplication, 30 steps", ylabel="Test accuracy, %", xlim=(-0.5, 3.5), ylim=(0, 60))
    right.set_xticks(range(4), ["before", *names[1:]])
    return figure


def selection(page: str):
    """Accuracy after fine-tuning on selected traces, on problems that the model can solve and on longer ones."""
    measured = tables(page, "Selected training data")
    styles = (("1e-4", "o"), ("1e-3", "D"))
    colors = {"none": BLACK, "random": GREY, "Select2Reason": BLUE, "InfiAlign": GREEN, "STAT-Sel": PURPLE}
    names = [row[0] for row in measured[0][1:]]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for ax, column, title in ((axes[0], 2, "2 or 3 operations"), (axes[1], 3, "4 operations")):
        for (_, *rows), (rate, marker) in zip(measured, styles, strict=False):
            for place, row in enumerate(rows):
                color = colors.get(row[0], ORANGE)
                label = rate if row[0] == "random" else None
                ax.plot(numbers(row[column])[0], -place, marker, color=color, label=label)
        ax.set(title=title, xlabel="Accuracy, %")
    axes[0].set_yticks([-place for place in range(len(names))], names)
    axes[1].legend(frameon=False, title="Learning rate", loc="lower right")
    return figure


PICTURES = {"greso": greso, "redi": redi, "cft": cft, "token_credit": token_credit, "selection": selection}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n")[0])
    parser.add_argument("--output", type=Path, default=PAGE.parent / "images", help="folder of the pictures")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    page = PAGE.read_text(encoding="utf-8")
    with plt.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "axes.axisbelow": True,
        }
    ):
        figures = {name: partial(draw, page) for name, draw in PICTURES.items()}
        for name, draw in experimental_pictures.PICTURES.items():
            own = (PAGE.parent / "experimental" / f"{name}.md").read_text(encoding="utf-8")
            figures[name] = partial(draw, tables(own, "Results"), numbers)
        for name, draw in figures.items():
            figure = draw()
            figure.savefig(options.output / f"{name}.png", dpi=120, metadata={"Software": None})
            plt.close(figure)


if __name__ == "__main__":
    main()
