# SPDX-License-Identifier: Apache-2.0
"""
What the site needs beside `mkdocs.yml`: the front page, the API reference, and links that lead out of `docs`.

The pages are written to be read in the repository, where `../README.md` is a good link. On the site such a link leads to
`repo_url`, if `mkdocs.yml` sets one; otherwise it keeps its text and loses its target.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path


ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")


def on_page_markdown(markdown: str, page, config, files) -> str:
    if page.file.src_uri == "index.md":
        markdown = front_page()
    if page.file.src_uri == "api.md":
        markdown += api_reference()
    return _LINK.sub(lambda link: _inside(*link.groups(), config.repo_url), markdown)


def on_page_content(html: str, page, config, files) -> str:
    """Docstrings name other objects as [`Name`]."""
    return re.sub(r"\[<code>~?([\w.]+)</code>\]", r"<code>\1</code>", html)


def front_page() -> str:
    """The README, with its links seen from `docs`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?!https?:|#)(docs/)?", lambda link: "](" if link[1] else "](../", text)


def api_reference() -> str:
    """Every public name, under the module that it comes from; a config under its method."""
    lines, heading = [], None
    for statement in ast.parse((ROOT / "trl_concise" / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom):
            names = [name.name for name in statement.names]
            module = (statement.module or ", ".join(names)).removesuffix("_config")  # `from . import demo` names none
            if module != heading:
                lines.append(f"\n## {(heading := module)}\n")
            package = ".".join(filter(None, ["trl_concise", statement.module]))
            lines += [f"\n::: {package}.{name}\n" for name in names]
    return "".join(lines)


def _inside(text: str, target: str, repo_url: str | None) -> str:
    if not target.startswith("../"):
        return f"[{text}]({target})"
    return f"[{text}]({repo_url.rstrip('/')}/blob/main/{target.lstrip('./')})" if repo_url else text
