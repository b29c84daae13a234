# SPDX-License-Identifier: Apache-2.0
"""
Write the README's table of methods: names from `trl_concise.__all__`; descriptions and questions from the existing table.

    python -m tests.tools.readme_table
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import trl_concise
from trl_concise.components.slots import SLOTS


README = Path(__file__).parents[2] / "README.md"
HEAD = "| Method: what it does | Trainer | Components | Docs |\n|---|---|---|---|\n"
KINDS = (trl_concise.GroupReward, *(slot.kind for slot in SLOTS.values()))

# The modules of a row, and the page that documents them.
ROWS = {
    ("hapo",): "hapo",
    ("laser",): "laser",
    ("laser_d",): "laser",
    ("shorter_better",): "shorter_better",
    ("l1", "kimi", "efficient_reasoning", "grpo_lead", "dler"): "length_rewards",
    ("siri",): "siri",
    ("greso",): "greso",
    ("curriculum",): "curriculum",
    ("one_shot_rlvr",): "one_shot_rlvr",
    ("sgrpo",): "sgrpo",
    ("tspmo",): "tspmo",
    ("redi",): "redi",
    ("cft",): "cft",
}


def exported(module: str) -> tuple[list[str], list[str]]:
    """Return the trainers and components that a method exports, or its functions if it exports neither."""
    here = {name: getattr(trl_concise, name) for name in trl_concise.__all__}
    here = {
        name: thing
        for name, thing in here.items()
        if inspect.getmodule(thing).__name__ == f"trl_concise.methods.{module}"
    }
    trainers = [name for name in here if name.endswith("Trainer")]
    parts = [name for name, thing in here.items() if inspect.isclass(thing) and issubclass(thing, KINDS)]
    return trainers, parts or ([] if trainers else [name for name, thing in here.items() if inspect.isfunction(thing)])


def table(readme: str) -> str:
    """Return the table, its first column taken from the README's own. Rows in bold are the questions that group the methods."""
    rows = re.escape(HEAD) + r"((?:\|.*\n)+)"
    words = [line.split("|")[1].strip() for line in re.search(rows, readme)[1].splitlines()]
    methods = iter(ROWS.items())
    lines = []
    for what in words:
        if what.startswith("**"):
            lines.append(f"| {what} | | | |")
            continue
        modules, page = next(methods)
        trainers, parts = ([name for module in modules for name in exported(module)[kind]] for kind in (0, 1))
        cells = (", ".join(f"`{name}`" for name in names) for names in (trainers, parts))
        lines.append(" | ".join([f"| {what}", *cells, f"[{page}](docs/{page}.md) |"]).replace("|  |", "| |"))
    if left := list(methods):
        raise ValueError(f"The README's table has no row for {left}. Add one with its first column.")
    return HEAD + "\n".join(lines) + "\n"


def rewritten(readme: str) -> str:
    return re.sub(re.escape(HEAD) + r"(?:\|.*\n)+", lambda _: table(readme), readme)


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
