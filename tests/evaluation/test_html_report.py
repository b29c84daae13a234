# SPDX-License-Identifier: Apache-2.0
"""`trl-concise report --html`, opened from disk in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from datasets import Dataset

from trl_concise.cli.commands import main
from trl_concise.evaluation import Completion, evaluate
from trl_concise.evaluation.html_report import LONGEST, _shown, failure_kind
from trl_concise.evaluation.report import report


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "What is </script><b id=injected>1 + 1</b>?"


@pytest.fixture(scope="module")
def page(model, tokenizer, tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    questions = [HOSTILE, *(f"What is {n} + 4 - 2?" for n in range(10, 33))]
    sets = {
        "sums": Dataset.from_list(
            [
                {"prompt": [{"role": "user", "content": text}], "solution": str(row + 11)}
                for row, text in enumerate(questions)
            ]
        )
    }
    for name, tokens in {"base": 64, "short": 64}.items():
        settings = {
            "max_new_tokens": tokens,
            "temperature": 1.0,
            "seed": len(name),
            "progress": False,
            "batch_size": 24,
        }
        evaluate(model, sets, root / name, tokenizer=tokenizer, model_name=name, **settings)
    arguments = [str(root / "short"), "--base", str(root / "base"), "--html", str(root / "out" / "page.html")]
    assert main(["report", *arguments]) == 0
    return root / "out" / "page.html"


def opened(page, tmp_path, script, width=1200):
    """Open a copy of the page in a browser after it ran a script, and return what the script wrote into the title."""
    if BROWSER is None:
        pytest.skip("needs a browser: chromium or google-chrome on the PATH")
    copy = tmp_path / "copy.html"
    script = f"<script>document.title = JSON.stringify((() => {{ {script} }})());</script></body>"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},900",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run([*command, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=120)
    (title,) = re.findall(r"<title>(.*?)</title>", done.stdout)
    return title


SCRIPT = """
const set = (id, value) => { at(id).value = value; at("filters").dispatchEvent(new Event("input", { bubbles: true })); };
const count = () => parseInt(at("count").textContent);
const all = count(), first = document.querySelectorAll("article").length;
const kinds = ["11", "10", "01", "00"].map(outcome => { set("outcome", outcome); return count(); });
set("outcome", "");
at("next").click();
const second = document.querySelectorAll("article").length;
set("to", 30); const short = count(); set("to", ""); set("from", 31); const long = count(); set("from", "");
set("text", "injected"); const found = count(); set("text", "");
set("order", "shorter");
const tokens = [...document.querySelectorAll("article")].map(one => [...one.querySelectorAll("p")].map(p => parseInt(p.textContent.match(/, ([0-9,]+) tokens/)[1])));
const saved = tokens.map(([left, right]) => left - right);
const phone = document.documentElement.scrollWidth <= document.documentElement.clientWidth;
const isText = document.getElementById("injected") === null;
const head = document.querySelector("article header").textContent;
return [all, first, kinds.reduce((a, b) => a + b), second, short + long, found, saved.every((s, i) => !i || s <= saved[i - 1]), phone, isText, document.images.length, document.images[0] && document.images[0].naturalWidth > 0, /What is/.test(document.body.textContent)];
"""


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_in_a_browser(page, tmp_path, width):
    assert opened(page, tmp_path, SCRIPT, width) == "[24,20,24,4,24,1,true,true,true,1,true,true]"


def test_the_page_is_one_file(page):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text) and "http" not in re.sub(r"base64,[\w+/=]+", "", text)
    assert text.count("</script>") == 2  # what the problem says does not end the data
    for heading in ("Results", "Failures by kind", "Completions"):
        assert f"<h2>{heading}</h2>" in text


def test_without_completions_and_without_pictures(page, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(page.parents[1] / "base" / "summary.json", run)
    monkeypatch.setattr("trl_concise.evaluation.report.can_plot", lambda what: False)
    text = report([run], html=tmp_path / "page.html")["html"].read_text(encoding="utf-8")
    assert "<h2>Results</h2>" in text and "<h2>Completions</h2>" not in text and "<img" not in text


def read_sets(page):
    return json.loads(
        re.search(r'<script id="data"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1]
    )


def test_each_completion_is_on_the_page_once(page, tmp_path, monkeypatch):
    """The base is in the folder of the run, too, and a copy of the run has the same model."""
    run = tmp_path / "short"
    for name in ("short", "base"):
        shutil.copytree(page.parents[1] / name, run / f"eval-{name}")
    shutil.copytree(run / "eval-short", run / "rescored")
    lines = (run / "eval-base" / "completions.jsonl").read_text()
    (run / "eval-base" / "completions.jsonl").write_text(lines * 2)
    monkeypatch.setattr("trl_concise.evaluation.report.can_plot", lambda what: False)
    main(["report", str(run), "--base", str(run / "eval-base"), "--html", str(tmp_path / "page.html")])
    (found,) = read_sets(tmp_path / "page.html")
    monkeypatch.setattr("trl_concise.evaluation.html_report.MOST_COMPLETIONS", 5)
    main(["report", str(run), "--html", str(tmp_path / "few.html")])
    assert "the first 5 of 24 problems" in (tmp_path / "few.html").read_text(encoding="utf-8")
    assert len(read_sets(tmp_path / "few.html")[0]["problems"]) == 5
    assert len(found["models"]) == 3 and found["models"][2].endswith("(rescored)")
    assert all(len(own) == 1 for problem in found["problems"] for own in problem["answers"])


def test_a_folder_in_place_of_the_page(page, tmp_path):
    with pytest.raises(ValueError, match="is a folder. Name a file, for example .*report.html"):
        report([page.parents[1] / "base"], html=tmp_path)


def test_one_model_in_two_evaluations(page, tmp_path):
    for name in ("cold", "warm"):  # one model name, as after two `trl-concise eval demo`
        shutil.copytree(page.parents[1] / "base", tmp_path / name)
    (found,) = read_sets(report([tmp_path / "cold", tmp_path / "warm"], html=tmp_path / "page.html")["html"])
    assert found["models"] == ["base (cold)", "base (warm)"]
    assert all(len(own) == 1 for problem in found["problems"] for own in problem["answers"])


@pytest.mark.parametrize(
    ("text", "changes", "kind"),
    [
        ("It is 8.", {}, "wrong answer"),
        ("It is", {"truncated": True}, "truncated"),
        ("<think>a</think> ", {}, "no answer"),
        ("<think>It is 8.", {"finished": False}, "reasoning not finished"),
        ("It is 7.", {"correct": True}, None),
        ("It is 7.", {"correct": None}, None),
    ],
)
def test_failures_by_kind(text, changes, kind):
    given = {"truncated": False, "correct": False, **changes}
    assert failure_kind(Completion("set", 0, 0, "7", text, [1, 2], **given)) == kind


def test_a_long_completion_keeps_its_beginning_and_its_end():
    shown = _shown(Completion("set", 0, 0, "7", "a" * LONGEST + "b" * LONGEST, [1], False, True))["text"]
    assert (
        shown.startswith("aaa")
        and shown.endswith("bbb")
        and "20,000 characters" in shown
        and len(shown) < LONGEST + 100
    )
