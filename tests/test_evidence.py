# SPDX-License-Identifier: Apache-2.0
"""docs/evidence.md is what its command writes, and its figures are those of the pages that it names."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.tools.evidence import HEAD, PAGE, ROOT, VERDICTS, anchor, claims, page, results
from trl_concise.methods.table import METHODS


CLAIMS, RESULTS = claims(), results()
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
# Not the numbers in names and in 1e-4.
FIGURE = re.compile(r"(?<![\w,.-])[+-]?(\d+(?:,\d{3})*(?:\.\d+)?)(?!\w)")
REPORTED = re.compile(r"\b(authors|paper)\b[^.|]*?\breports?\b", re.DOTALL)


def values(texts: list[str]) -> set[float]:
    return {float(text.replace(",", "")) for text in texts}


@cache
def sections(path: Path) -> dict[str, str]:
    """Return the sections of a page by their anchors, each with its subsections."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = list(re.finditer(r"^(#+) (.+)$", text, re.MULTILINE))
    found = {}
    for index, head in enumerate(heads):
        end = next((other.start() for other in heads[index + 1 :] if len(other[1]) <= len(head[1])), len(text))
        found[anchor(head[2])] = text[head.end() : end]
    return found


def section(target: str) -> str:
    page, _, name = target.partition("#")
    return sections((PAGE.parent / page).resolve())[name]


def measured(target: str) -> list[str]:
    """Return the lines of a section, without what a paper reports: the rest of that paragraph, and a table after it."""
    lines, cut = [], False
    for block in re.split(r"\n\s*\n", section(target)):
        if cut and block.lstrip().startswith("|"):
            cut = False
            continue
        reported = REPORTED.search(block)
        cut = reported is not None
        own = block[: reported.start()] if reported else block
        lines += own.splitlines() if own.lstrip().startswith("|") else [" ".join(own.split())]
    return lines


def test_the_page_is_what_its_command_writes():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.tools.evidence"


def test_every_method_has_a_claim_and_every_result_file_is_used():
    assert set(CLAIMS) == {method.name for method in METHODS}
    assert {claim.verdict for claim in CLAIMS.values()} <= set(VERDICTS)
    assert {name for claim in CLAIMS.values() for name in claim.results} == set(RESULTS)
    text = PAGE.read_text(encoding="utf-8")
    for method in METHODS:
        claim = CLAIMS[method.name]
        assert text.count(f"**[{method.name}]({method.page}.md): {claim.verdict}**") == 1
        assert claim.results or claim.verdict == "not tested"  # without figures there is no verdict


def test_every_section_that_is_linked_exists():
    for target in re.findall(r"\]\(([^):]*#[^)]+)\)", PAGE.read_text(encoding="utf-8")):
        assert section(target if not target.startswith("#") else PAGE.name + target)


@pytest.mark.parametrize("name", RESULTS)
def test_every_figure_of_a_result_file_was_measured_on_its_page(name):
    result = RESULTS[name]
    lines = [values(NUMBER.findall(line)) for line in measured(result["page"])]
    for row, cells in result["rows"].items():
        assert len(cells) == len(result["columns"]), row
        for cell in filter(None, cells):
            assert len(cell) == 1 or cell[1] <= cell[0] <= cell[2] or name == "delethink", (row, cell)
            assert any({abs(float(number)) for number in cell} <= line for line in lines), (row, cell)


def test_the_reasons_quote_what_we_measured():
    for method in METHODS:
        claim = CLAIMS[method.name]
        pages = [RESULTS[name]["page"] for name in claim.results] + [method.evidence] * (method.evidence is not None)
        own = values(NUMBER.findall(" ".join(line for target in pages for line in measured(target))))
        assert values(FIGURE.findall(claim.reason)) <= own, (method.name, values(FIGURE.findall(claim.reason)) - own)
    for interval in ("47.2 to 50.8", "64.3 to 69.8"):
        assert interval in section("benchmarks.md#trained-on-short-problems-tested-on-longer-ones")
        assert interval in HEAD.replace("\n ", "")


def test_what_papers_report_is_never_called_ours():
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        for claim in CLAIMS.values():
            if claim.claim in line:
                assert line.startswith(("- *The authors report* (", "- No paper: "))
        assert not (line.startswith(("|", "- *Here:*")) and REPORTED.search(line) and NUMBER.search(line)), line


def test_shorter_methods_called_reproduced_are_shorter_than_any_seed_of_grpo():
    rows = RESULTS["length_methods"]["rows"]
    shorter = [name for name, claim in CLAIMS.items() if claim.verdict == "yes" and name in rows and name != "CRISP"]
    assert len(shorter) > 9
    for name in shorter:
        _, two, _, (_, _, best), three = rows[name]
        assert two[0] < 47.2 and three[0] < 64.3 and best > 0, name


def test_one_missing_claim_is_named(monkeypatch, tmp_path):
    file = tmp_path / "claims.yaml"
    text = (ROOT / "benchmarks" / "claims.yaml").read_text(encoding="utf-8")
    file.write_text(text[: text.index("- method: rStar-Coder")], encoding="utf-8")
    monkeypatch.setattr("tests.tools.evidence.CLAIMS", file)
    with pytest.raises(ValueError, match="rStar-Coder"):
        page()
