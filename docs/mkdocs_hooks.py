# SPDX-License-Identifier: Apache-2.0
"""
What the site needs beside `mkdocs.yml`: the front page, the API reference, formulas, and links that lead out of `docs`.

The pages are written to be read in the repository, where `../README.md` is a good link. On the site such a link leads to
`repo_url`, if `mkdocs.yml` sets one; otherwise it keeps its text and loses its target.
"""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path


ROOT = Path(__file__).parents[1]
_FORMULA = re.compile(r'class="arithmatex">\\\((.+?)\\\)|class="arithmatex">\s*\\\[(.+?)\\\]', re.DOTALL)
_TYPE = re.compile(r"<code>([^<]*`[^<]*)</code>")  # Markdown in a docstring's types is not rendered
_MARKUP = re.compile(r"[`*]|\[(?=`)|(?<=`)\]|(?<=`)~")
_REFERENCE = re.compile(r"\[<code>~?([\w.]+)</code>\]")  # docstrings name other objects as [`Name`]
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")


def on_page_markdown(markdown: str, page, config, files) -> str:
    if page.file.src_uri == "index.md":
        markdown = front_page()
    if page.file.src_uri == "api.md":
        markdown += api_reference()
    markdown = markdown.replace("```python notest", "```python")  # for the tests; the site's fences take one word
    return _LINK.sub(lambda link: _inside(*link.groups(), config.repo_url), markdown)


def on_page_content(content: str, page, config, files) -> str:
    content = _FORMULA.sub(_mathml, content)
    content = _TYPE.sub(lambda cell: f"<code>{_MARKUP.sub('', cell[1])}</code>", content)
    return _REFERENCE.sub(r"<code>\1</code>", content)


def _mathml(formula: re.Match) -> str:
    """Every browser of today draws MathML, without a script."""
    import latex2mathml.converter  # the tests read this file without it

    latex, display = html.unescape(formula[1] or formula[2]), "inline" if formula[1] else "block"
    return 'class="arithmatex">' + latex2mathml.converter.convert(latex, display=display)


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
