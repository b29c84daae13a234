# SPDX-License-Identifier: Apache-2.0
"""
Write the README's table of methods and docs/methods.md from `trl_concise/methods/table.py`.

    python -m tests.tools.method_table
"""

from __future__ import annotations

import re
from pathlib import Path

from trl_concise.methods.method import PROVENANCE, QUESTIONS, Method
from trl_concise.methods.table import METHODS


ROOT = Path(__file__).parents[2]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "methods.md"
HEAD = "| Method: what it does | Trainer | Components | Docs |\n|---|---|---|---|\n"
PAGE_HEAD = """\
# Methods

Made from `trl_concise/methods/table.py` by `python -m tests.tools.method_table`. In a terminal: `trl-concise methods`.

A component fills a slot of `ConciseGRPOTrainer`; a group reward goes into `reward_funcs`. Some methods also have a
trainer, a drop-in replacement for TRL's that includes the components. [Choosing a method](choosing.md) compares them.
Experimental systems are in `trl_concise.experimental`, each with one script in `examples/`; their interfaces may change in
any release. The slot `evaluation` means that the system generates with trained models.
"""


def linked(method: Method) -> str:
    if method.paper is None:
        return method.name
    return f"[{method.name}](https://huggingface.co/papers/{method.paper})"


def names(method: Method) -> tuple[str, str]:
    trainer = f"`{method.trainer}`" if method.trainer is not None else ""
    return trainer, ", ".join(f"`{name}`" for name in method.components)


def readme_table() -> str:
    """Return the README's table, without the experimental systems: it is for those who choose between trainers."""
    lines = []
    for index, question in enumerate(QUESTIONS[:-1]):
        lines.append(f"| **{question}** | | | |")
        for method in METHODS:
            if method.question == index:
                trainer, components = names(method)
                cells = [f"{linked(method)}: {method.what}", trainer, components]
                lines.append(row([*cells, f"[{method.page}](docs/{method.page}.md)"]))
    return HEAD + "\n".join(lines) + "\n"


def row(cells: list[str]) -> str:
    return ("| " + " | ".join(cells) + " |").replace("|  |", "| |").replace("|  |", "| |")


def rewritten(readme: str) -> str:
    return re.sub(re.escape(HEAD) + r"(?:\|.*\n)+", lambda _: readme_table(), readme)


def page() -> str:
    lines = [PAGE_HEAD]
    for index, question in enumerate(QUESTIONS):
        lines += [
            f"## {question}\n",
            "| Method | What it does | Slot | Names | Provenance | Evidence |",
            "|---|---|---|---|---|---|",
        ]
        for method in METHODS:
            if method.question == index:
                used = ", ".join(filter(None, names(method)))
                slots = ", ".join(f"`{slot}`" for slot in method.slots)
                evidence = f"[results]({method.evidence})" if method.evidence is not None else "golden values"
                what = f"[{method.what}]({method.page}.md)"
                lines.append(row([linked(method), what, slots, used, method.provenance, evidence]))
        lines.append("")
    lines += ["## Provenance\n", *(f"- **{key}**: {meaning}." for key, meaning in PROVENANCE.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
