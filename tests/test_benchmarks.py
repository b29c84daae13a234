# SPDX-License-Identifier: Apache-2.0
"""The scripts of the benchmarks run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.evaluation.test_modes import a_run_with_a_card
from trl_concise import demo


ROOT = Path(__file__).parents[1]


def run(module, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
    module.main()


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let tests import the scripts, which set the number of threads to the tests' own."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_the_comparison_has_a_control_and_harder_problems(tmp_path, monkeypatch, capsys):
    import methods

    command = [
        "--operations",
        "2",
        "--tokens",
        "1",
        "--problems",
        "4",
        "--seeds",
        "0",
        "1",
        "--output_dir",
        str(tmp_path),
    ]
    run(methods, monkeypatch, *command, "--methods", "GRPO", "HAPO", "--at_most", "2")
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/training.json")}
    assert len(first) == 2
    capsys.readouterr()
    run(methods, monkeypatch, *command, "--methods", "GRPO", "HAPO")
    assert {path: path.stat().st_mtime_ns for path in first} == first  # not repeated
    printed = capsys.readouterr().out
    tables = printed.split("operations\n\n")[1:]
    assert [word for word in ("2", "3", "4") if f"\n{word} operations\n\n" in printed] == ["2", "3", "4"]
    for table in tables:
        rows = {row.split(" | ")[0].strip("| "): row.split("|") for row in table.splitlines() if row.startswith("| ")}
        assert list(rows) == ["Method", "before training", "GRPO", "HAPO"]
        assert rows["GRPO"][4].strip() == "" and "[" in rows["HAPO"][4]  # against GRPO, with an interval
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("*/training.json")]
    assert all(one["steps"] == 1 and one["generated_tokens"] > 1 for one in runs if one["method"] != "before training")
    datasets = {record["dataset"] for record in json.loads((tmp_path / "HAPO-1" / "summary.json").read_text())}
    assert datasets == {"2 operations", "3 operations", "4 operations"}


@pytest.mark.slow
def test_every_method_takes_a_step(tmp_path, monkeypatch):
    import methods

    run(methods, monkeypatch, "--tokens", "1", "--problems", "4", "--seeds", "0", "--output_dir", str(tmp_path))
    found = [json.loads(path.read_text())["method"] for path in tmp_path.glob("*/training.json")]
    assert sorted(found) == sorted(["before training", *methods.METHODS])


@pytest.mark.slow
def test_the_controls_of_the_demo_are_measured(tmp_path, monkeypatch):
    import demo_controls

    monkeypatch.setattr(demo_controls, "EPOCHS", 1)
    command = ["--tokens", "1", "--problems", "2", "--training_problems", "8", "--seeds", "0", "1"]
    run(demo_controls, monkeypatch, *command, "--work_dir", str(tmp_path / "runs"), "--output_dir", str(tmp_path))
    for name in ("grpo", "sft"):
        records = json.loads((tmp_path / name / "summary.json").read_text())
        assert [record["dataset"] for record in records] == ["demo", "demo_harder", "demo_hardest"]
        assert all(record["problems"] == 2 and record["completions_per_problem"] == 2 for record in records)
        assert ("generated_tokens" in records[0]) == (name == "grpo")


def test_training_the_use_of_a_tool(tmp_path, monkeypatch, capsys):
    import otc

    monkeypatch.setattr(otc, "LIMIT", 24)
    command = ["--seeds", "0", "--methods", "OTC", "--tokens", "1", "--problems", "2", "--training_problems", "8"]
    command += ["--steps_before", "1", "--output_dir", str(tmp_path)]
    run(otc, monkeypatch, *command)
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == ["Model", "before training", "OTC"] * 2
    facts = json.loads((tmp_path / "OTC-0" / "training.json").read_text())
    assert facts["steps"] == 1 and [len(own["calls"]) for own in facts["sets"].values()] == [2, 2]
    run(otc, monkeypatch, *command)
    assert "seed 0" not in capsys.readouterr().out  # not repeated
    with pytest.raises(SystemExit, match="Use the same options, or another --output_dir"):
        run(otc, monkeypatch, *command, "--tokens", "2")


@pytest.mark.slow
def test_thinking_fast_and_slow(tmp_path, monkeypatch, capsys):
    import thinker

    command = ["--steps", "1", "--problems", "2", "--training_problems", "8", "--steps_before", "1"]
    command += ["--methods", "Thinker", "--output_dir", str(tmp_path)]
    for turn in thinker.BUDGETS:
        monkeypatch.setitem(thinker.BUDGETS, turn, 8)
    run(thinker, monkeypatch, *command)
    rows = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(("| 2 op", "| 3 op"))
    ]
    assert [row[1] for row in rows] == ["before training", "Thinker"] * 2
    facts = json.loads((tmp_path / "Thinker-0" / "training.json").read_text())
    assert facts["steps"] == 1 and facts["generated_tokens"] > 64 * 8 and (tmp_path / "thinker.png").is_file()


@pytest.mark.slow
def test_votes_weighted_by_verdicts(tmp_path, monkeypatch, capsys):
    import self_verify

    monkeypatch.setattr(self_verify, "LIMIT", 24)
    command = [
        "--steps",
        "2",
        "--problems",
        "2",
        "--completions",
        "2",
        "--training_problems",
        "24",
        "--steps_before",
        "1",
    ]
    run(self_verify, monkeypatch, *command, "--methods", "Self-verification", "--output_dir", str(tmp_path))
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == [
        *["| Model", "| before training", "| Self-verification"] * 2,
        *["| Method", "| Self-verification"],
    ]
    facts = json.loads((tmp_path / "Self-verification-0" / "training.json").read_text())
    assert facts["steps"] == 2 and len(facts["verdict_accuracy"]) <= 1
    assert (tmp_path / "votes.png").is_file()


def test_learning_when_to_think(tmp_path, monkeypatch, capsys):
    import thinking

    demo.two_mode_model(tmp_path / "two-modes", steps=1)
    command = [
        "--seeds",
        "0",
        "--methods",
        "AdaptThink",
        "--tokens",
        "1",
        "--problems",
        "4",
        "--training_problems",
        "8",
    ]
    command += ["--reference_completions", "1", "--output_dir", str(tmp_path)]
    run(thinking, monkeypatch, *command)
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith(("| 2 operations", "| 3 operations"))]
    assert [row.split(" | ")[1] for row in rows] == ["always thinks", "before training", "AdaptThink"] * 2
    assert (tmp_path / "modes.png").is_file()
    assert json.loads((tmp_path / "AdaptThink-0" / "training.json").read_text())["steps"] == 1
    run(thinking, monkeypatch, *command)
    again = capsys.readouterr().out
    assert "AdaptThink, seed 0" not in again and again.endswith(printed[printed.index("| Problems") :])  # not repeated
    # A folder with other settings, or with none, is refused.
    with pytest.raises(SystemExit, match="has a run with .*'reference_completions': 1}, but this command has"):
        run(thinking, monkeypatch, *command, "--reference_completions", "2")
    path = tmp_path / "AdaptThink-0" / "training.json"
    facts = json.loads(path.read_text())
    assert facts["method_settings"] == {"thinking_start": "We"} and facts.pop("settings")["tokens"] == 1
    path.write_text(json.dumps(facts))
    with pytest.raises(SystemExit, match="has a run with unknown settings"):
        run(thinking, monkeypatch, *command)


def test_crisp_on_a_model_that_follows_an_instruction(tmp_path, monkeypatch, capsys):
    import crisp

    command = ["--teaching_steps", "1", "--tokens", "1", "--problems", "1", "--refresh_every", "1"]
    run(crisp, monkeypatch, *command, "--output", str(tmp_path))
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows] == [
        "Instruction to the embedded model",
        *crisp.INSTRUCTIONS,
        "From the taught model",
        "before training, plain prompt",
        "before training, with the instruction",
        "GRPO, plain prompt, 1 steps",
        "CRISP, plain prompt, 1 steps",
    ]
    figures = [row for row in rows if row[1].endswith("%")]
    assert len(figures) == len(rows) - 2 and all(float(row[2].rstrip(" |")) >= 1 for row in figures)
    results = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert results.keys() == {"instructions", "teaching", "GRPO", "CRISP"}
    assert all(results[method]["generated"] > 1 == results[method]["steps"] for method in ("GRPO", "CRISP"))
    taught = (tmp_path / "taught" / "model.safetensors").read_bytes()
    assert taught != (Path(demo.model_path()) / "model.safetensors").read_bytes()
    run(crisp, monkeypatch, *command, "--output", str(tmp_path))
    assert {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")} == results  # not repeated


@pytest.mark.slow
def test_the_entropy_of_a_policy_that_is_trained_with_forks(tmp_path, monkeypatch, capsys):
    import cure

    command = ["--steps", "2", "--problems", "1", "--completions", "2", "--every", "1", "--entropy_problems", "2"]
    command += ["--methods", "CURE, two stages", "--output_dir", str(tmp_path)]
    run(cure, monkeypatch, *command)
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[1].strip() for row in rows] == ["", "before training", "CURE, two stages"] * 3
    facts = json.loads((tmp_path / "CURE,-two-stages-0" / "training.json").read_text())
    assert facts["steps"] == 2 and facts["entropy_steps"] == [0, 1, 2] and min(facts["entropies"]) > 0
    logged = ["cure/prefix_tokens" in entry for entry in facts["log"] if "loss" in entry]
    assert logged == [True, False]  # stage 1, then stage 2
    assert (tmp_path / "entropy.png").is_file()


BROWSER = """#!/bin/sh
"exec" "{python}" "$0" "$@"
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit
from PIL import Image, ImageDraw

(target,) = [one.partition("=")[2] for one in sys.argv if one.startswith("--screenshot=")]
assert "<table>" in Path(unquote(urlsplit(sys.argv[-1]).path)).read_text(encoding="utf-8")
picture = Image.new("RGB", (870, 6000), "white")
ImageDraw.Draw(picture).rectangle((0, 0, 100, 199), fill="black")
picture.save(target)
"""


@pytest.mark.slow  # 10 s
def test_curves_of_realignment(tmp_path, monkeypatch, capsys):
    """Another variant takes the place of the HAPO run, which is not repeated."""
    import realignment

    demo.concise_model(tmp_path / "hapo", steps=1)
    command = [
        "--lambdas",
        "2",
        "--inra_lambdas",
        "0.5",
        "--steps",
        "2",
        "--problems",
        "4",
        "--output_dir",
        str(tmp_path),
    ]
    run(realignment, monkeypatch, *command, "--picture", str(tmp_path / "curves.png"))
    printed = capsys.readouterr().out
    for row in ("before training | 0", "aligned (HAPO) | 1", "TrRa | 2", "InRa | 0.5", "mix | 2"):
        assert f"| {row} |" in printed
    assert (tmp_path / "curves.png").stat().st_size > 1000 and (tmp_path / "layer" / "inra.safetensors").is_file()
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("points/*.json")}
    run(realignment, monkeypatch, *command)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("points/*.json")} == first and len(first) == 5
    with pytest.raises(SystemExit, match="this command has"):
        run(realignment, monkeypatch, *command, "--seed", "1")


def test_the_picture_of_a_card_of_two_modes(tmp_path, monkeypatch):
    """A script in the place of Chromium draws 200 pixels, to which the picture is reduced."""
    import card_picture

    folder = a_run_with_a_card(tmp_path)
    page = card_picture.page((folder / "README.md").read_text(encoding="utf-8"), "Use")
    assert "This model thought in 25.0% of its completions: accuracy 95.0% in 80.0 tokens with thinking" in page
    assert page.count("<table>") >= 1 and '<span class="tag">text-generation</span>' in page
    assert "<h2>Results</h2>" in page and "<h2>Use</h2>" not in page and "\n| " not in page

    browser = tmp_path / "browser"
    browser.write_text(BROWSER.format(python=sys.executable))
    browser.chmod(0o755)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    picture = tmp_path / "card.png"
    run(card_picture, monkeypatch, str(folder), "--browser", str(browser), "--output", str(picture))
    assert Image.open(picture).size == (870, 230)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_thinking_in_chunks(tmp_path, monkeypatch, capsys):
    import delethink

    command = ["--seeds", "0", "--steps", "1", "--problems", "2", "--steps_before", "1", "--output_dir", str(tmp_path)]
    run(delethink, monkeypatch, *command)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[2] for row in rows[1:]] == ["before training", "GRPO", "Delethink"] * 4
    longest = {
        environment: max(int(row[-1].strip(" |")) for row in rows if row[1] == environment)
        for environment in delethink.ENVIRONMENTS
    }
    assert longest["chunks"] <= longest["one context"]
    monkeypatch.setattr(delethink, "COST_LIMITS", (256, 512))
    run(delethink, monkeypatch, "--cost")
    assert "| 512 | 147,200 | 98,048 | 544 | 288 |" in capsys.readouterr().out
