# SPDX-License-Identifier: Apache-2.0
"""
Every Python block of the README and the docs runs, and every example of a docstring.

The blocks of a page share their names, and the tests among them are called. A block that needs a GPU or the Hub opens with
```` ```python notest ````. In a docstring, an example in a fence is not run.
"""

from __future__ import annotations

import doctest
import re
import runpy
import subprocess
import sys
import types
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from trl_concise.methods.table import METHODS


ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[int, str]]:
    """Line number and code of each block that is to run."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the examples write to `outputs`
    module = types.ModuleType(f"docs_{page.stem.lower()}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    for line, code in blocks(page):
        exec(compile("\n" * line + code, str(page), "exec"), vars(module))  # tracebacks name the page's line
    for name, value in list(vars(module).items()):
        if name.startswith("test_"):
            value()


def modules_with_examples() -> list[str]:
    files = sorted((ROOT / "trl_concise").rglob("*.py"))
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if "    Examples:\n        >>>" in file.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of_docstrings_print_their_output(name):
    for example in doctest.DocTestFinder().find(import_module(name)):
        if "```" not in example.docstring:
            said = []
            assert doctest.DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_are_valid(page):
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_fits_into_the_column_of_the_site(page):
    for kind, code in re.findall(
        r"^```(\w*)[^\n]*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    ):
        if kind != "text":  # what a program prints
            assert not [line for line in code.splitlines() if len(line) > 88]


def test_vllm_is_started_as_trl_asks():
    """`trl vllm-serve` is deprecated in TRL 1.16: vLLM's own server receives the weights by `--weight-transfer-config`."""
    commands = [
        command
        for page in PAGES
        for code in re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for command in code.replace("\\\n", " ").splitlines()
        if "vllm serve" in command or "vllm-serve" in command
    ]
    assert len(commands) >= 2
    for command in commands:
        assert "vllm serve" in command and "--weight-transfer-config" in command, command


def test_every_method_page_with_results_has_a_picture():
    for page in {f"{method.page}.md" for method in METHODS}:
        _, _, results = (ROOT / "docs" / page).read_text(encoding="utf-8").partition("\n## Results\n")
        assert (
            re.search(r"\]\((\.\./)?images/", results)
            or not results
            or results.lstrip().startswith("Not reproduced yet.")
        ), page


def test_pictures_are_drawn_from_the_tables_of_the_benchmarks(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "pictures.py"), "--output", str(tmp_path)]
    subprocess.run(command, check=True)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn and all((ROOT / "docs" / "images" / name).is_file() for name in drawn)


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: page.stem)
def test_the_site_keeps_pictures_links_and_fences(page):
    """Also on pages in folders, whose `../` is still in `docs`."""
    hooks = runpy.run_path(str(ROOT / "docs" / "mkdocs_hooks.py"))
    text = page.read_text(encoding="utf-8")
    file = types.SimpleNamespace(src_uri=page.relative_to(ROOT / "docs").as_posix())
    shown = hooks["on_page_markdown"](
        text, types.SimpleNamespace(file=file), types.SimpleNamespace(repo_url=None), None
    )
    for target in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", text):
        inside = (page.parent / target.partition("#")[0]).resolve().is_relative_to(ROOT / "docs")
        assert (f"]({target})" in shown) == inside, target
    assert not re.search(r"^```\w+ ", shown, re.MULTILINE)  # a fence takes one word
    assert r"\arg" not in text  # latex2mathml shows it as it is
    code = "<code>```python\nprint(2 * 3)\n```</code>"
    if page.stem != "api":
        assert hooks["on_page_content"](code, types.SimpleNamespace(file=file), None, None) == code


def test_every_page_is_on_the_site():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert set(re.findall(r"[\w/]+\.md", str(nav))) == pages
