# SPDX-License-Identifier: Apache-2.0
"""
MkDocs hooks: the front page, the API reference, formulas as MathML, and links to files outside `docs`.

The pages are written for the repository, where `../README.md` is a valid link. On the site such a link points to
`repo_url`, if `mkdocs.yml` sets one. Otherwise only its text is shown.
"""

from __future__ import annotations

import ast
import html
import posixpath
import re
from pathlib import Path


ROOT = Path(__file__).parents[1]
_FORMULA = re.compile(
    r'class="arithmatex">\\\((.+?)\\\)|class="arithmatex">\s*\\\[(.+?)\\\]', re.DOTALL
)
# Markdown in a docstring's types is not rendered.
_TYPE = re.compile(r"<code>([^<]*`[^<]*)</code>")
_MARKUP = re.compile(r"[`*]|\[(?=`)|(?<=`)\]|(?<=`)~")
# Browsers break lines after the hyphens of an option.
_CODE = re.compile(r"<code>([^<]*--[^<]*)</code>")
_OPTION = re.compile(r"(?<!\S)--\w+")
# Docstrings refer to other objects as [`Name`].
_REFERENCE = re.compile(r"\[<code>~?([\w.]+)</code>\]")
_NOTEST = re.compile(r"^(```\w+) notest$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")


def on_page_markdown(markdown: str, page, config, files) -> str:
    if page.file.src_uri == "index.md":
        markdown = front_page()
    if page.file.src_uri == "api.md":
        markdown += api_reference()
    # "notest" is for the tests; the site's fences take one word.
    markdown = _NOTEST.sub(r"\1", markdown)
    folder = posixpath.dirname(page.file.src_uri)
    return _LINK.sub(
        lambda link: _inside(*link.groups(), folder, config.repo_url), markdown
    )


def on_page_content(content: str, page, config, files) -> str:
    content = _FORMULA.sub(_mathml, content)
    if page.file.src_uri == "api.md":
        content = _TYPE.sub(
            lambda cell: f"<code>{_MARKUP.sub('', cell[1])}</code>", content
        )
    content = _CODE.sub(
        lambda code: f"<code>{_OPTION.sub(_unbroken, code[1])}</code>", content
    )
    return _REFERENCE.sub(r"<code>\1</code>", content)


def _unbroken(option: re.Match) -> str:
    return f'<span class="unbroken">{option[0]}</span>'


def _mathml(formula: re.Match) -> str:
    """Convert a formula to MathML, which browsers render without a script."""
    import latex2mathml.converter  # the tests read this file without it

    latex = html.unescape(formula[1] or formula[2])
    display = "inline" if formula[1] else "block"
    mathml = latex2mathml.converter.convert(latex, display=display)
    return f'class="arithmatex">{mathml}'


def front_page() -> str:
    """Return the README, with its links relative to `docs`."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    target = re.compile(r"\]\((?!https?:|#)(docs/)?")
    return target.sub(lambda link: "](" if link[1] else "](../", text)


def api_reference() -> str:
    """
    Return a section per module with its public names; a config is listed under its method.

    They are those of `trl_concise`, and the equations and helpers that are imported from their modules.
    """
    stub = (ROOT / "trl_concise" / "__init__.pyi").read_text(encoding="utf-8")
    found = [
        (statement.module or "demo", name.name)
        for statement in ast.parse(stub).body
        if isinstance(statement, ast.ImportFrom)
        for name in statement.names
    ]
    source = (ROOT / "trl_concise" / "__init__.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and "_MODULES" in map(
            ast.unparse, statement.targets
        ):
            modules = ast.literal_eval(statement.value)
            found += [(module, name) for name, module in modules.items()]
    sections: dict[str, list[str]] = {}
    for module, name in found:
        package = f"trl_concise.{module}" if name != "demo" else "trl_concise"
        section = sections.setdefault(module.removesuffix("_config"), [])
        section.append(f"\n::: {package}.{name}\n")
    return "".join(
        f"\n## {heading}\n" + "".join(sections[heading]) for heading in sorted(sections)
    )


def _inside(text: str, target: str, folder: str, repo_url: str | None) -> str:
    """Return a link of a page in a folder of `docs` as the site shows it."""
    path = posixpath.normpath(posixpath.join("docs", folder, target))
    if path.startswith("docs/"):
        return f"[{text}]({target})"
    if not repo_url:
        return text
    return f"[{text}]({repo_url.rstrip('/')}/blob/main/{path})"
