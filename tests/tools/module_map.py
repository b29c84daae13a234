# SPDX-License-Identifier: Apache-2.0
"""
Write the module map of docs/architecture.md: every module of the package with the first sentence of its docstring.

    python -m tests.tools.module_map
"""

from __future__ import annotations

import ast
import re
from pathlib import Path


ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
START, END = "<!-- module map -->\n", "<!-- end of the module map -->\n"


def summary(path: Path) -> str:
    """Return the first sentence of a module's docstring on one line, without links and full stop."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    text = " ".join(docstring.split("\n\n")[0].split())
    text = re.sub(r" \(https?://\S+\)|,? https?://[^\s)]+", "", text)
    text = re.sub(r"\[`~?([\w.]+)`\]", r"`\1`", text)
    text = re.split(r": (?=`(?:python|trl-concise))|(?<=\.) (?=[A-Z`\[])", text)[0].rstrip(".:")
    return text.replace("|", "\\|")


def module_map() -> str:
    """Return the map: a table per folder, the package's own modules first."""
    package = ROOT / "trl_concise"
    folders: dict[Path, list[Path]] = {}
    for path in sorted(package.rglob("*.py")):
        folders.setdefault(path.parent.relative_to(package), []).append(path)
    parts = []
    for folder, paths in sorted(folders.items()):
        parts.append(f"**`{(Path('trl_concise') / folder).as_posix()}/`**\n\n| Module | Contents |\n|---|---|\n")
        parts += [f"| `{path.name}` | {summary(path)} |\n" for path in paths]
        parts.append("\n")
    return "".join(parts)


def rewritten(page: str) -> str:
    before, rest = page.split(START)
    return before + START + "\n" + module_map() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
