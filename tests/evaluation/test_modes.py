# SPDX-License-Identifier: Apache-2.0
"""Accuracy and tokens of the completions that thought, next to those that answered directly."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from tests.evaluation import runs
from tests.evaluation.test_completions import completion
from trl_concise.cli.commands import main
from trl_concise.demo import model_path, problem_dataset
from trl_concise.evaluation import evaluate, plots, read_completions, summarize
from trl_concise.evaluation.completions import judge, truncate_at
from trl_concise.evaluation.printing import print_records
from trl_concise.evaluation.report import report
from trl_concise.hub.card import write_card
from trl_concise.verification.finished import ThinkingMarkers


MODES = ("thinking_fraction", "thinking_accuracy", "thinking_tokens_mean", "direct_accuracy", "direct_tokens_mean")


def modes(record):
    return [record[name] for name in MODES]


def test_summary_by_mode():
    items = [
        replace(completion(0, 0, True, 30), thought=True),
        replace(completion(0, 1, False, 50), thought=True),
        replace(completion(1, 0, True, 4), thought=False),
        replace(completion(1, 1, True, 8), thought=None),  # without markers, among others that have them
        replace(completion(2, 0, None, 1000), thought=True),  # not judged
        replace(completion(2, 1, None, 1000), thought=True),
    ]
    assert modes(summarize(items)) == [0.5, 0.5, 40, 1.0, 6]
    assert modes(summarize(items[:2])) == [1.0, 0.5, 40, None, None]
    assert modes(summarize([replace(item, thought=None) for item in items])) == [None] * 5
    cut = truncate_at(items[:3], 5, AutoTokenizer.from_pretrained(model_path()))
    assert [item.thought for item in cut] == [True, True, False]
    assert modes(summarize(cut)) == [2 / 3, 0, 5, 1.0, 4]


def test_evaluation_by_mode(model, tokenizer, tmp_path):
    """The embedded model thinks after its template's `<think>`; with other markers, its checks alone are thinking."""
    settings = {"tokenizer": tokenizer, "progress": False, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 160}
    problems = {"problems": problem_dataset(12, split="validation")}
    (record,) = evaluate(model, problems, **settings)
    assert record["thinking_fraction"] == 1 and record["direct_accuracy"] is None
    assert (record["thinking_accuracy"], record["thinking_tokens_mean"]) == (record["accuracy"], record["tokens_mean"])

    checks = ThinkingMarkers("Wait, let me check.", "That agrees.")
    (record,) = evaluate(model, problems, tmp_path, thinking_markers=checks, **settings)
    items = read_completions(tmp_path / "completions.jsonl")
    thought = [checks.start in item.text for item in items]
    assert [bool(item.thought) for item in items] == thought and 0 < sum(thought) < 12
    assert record["thinking_fraction"] == sum(thought) / 12
    assert record["thinking_tokens_mean"] > record["direct_tokens_mean"]
    share = record["thinking_fraction"]
    assert share * record["thinking_tokens_mean"] + (1 - share) * record["direct_tokens_mean"] == pytest.approx(
        record["tokens_mean"]
    )
    with pytest.raises(ValueError, match="other settings: .*thinking_markers"):
        evaluate(model, problems, tmp_path, **settings)


def test_the_answer_and_the_empty_share_follow_the_markers():
    markers = ThinkingMarkers("[THINK]", "[/THINK]")
    texts = [
        r"[THINK] \boxed{7}? No. [/THINK] So it is 5.",
        r"[THINK] \boxed{5}[/THINK] It is \boxed{7}.",
        r"[THINK] \boxed{5}[/THINK]",
        r"[THINK] \boxed{5}",
    ]
    items = [replace(completion(row, 0, None, 9), text=text, gold="5") for row, text in enumerate(texts)]
    judged = judge(items, markers=markers)
    assert [item.correct for item in judged] == [True, False, False, False]
    assert summarize(judged, markers)["empty_fraction"] == 0.25
    assert summarize(judged)["empty_fraction"] == 0  # no end marker of these


def both(share: float) -> dict:
    return dict(zip(MODES, [share, 0.95, 80.0, 0.8, 25.04], strict=True))


def a_run(folder):
    """A run whose base always thinks."""
    run = runs.evaluated(folder / "concise")
    base = {**runs.record("org/base", 0.92, 100), **both(1.0), "direct_accuracy": None, "direct_tokens_mean": None}
    (run / "eval_base" / "summary.json").write_text(json.dumps([base]))
    (run / "eval" / "summary.json").write_text(json.dumps([{**runs.record("concise", 0.91, 50), **both(0.25)}]))
    return run


def a_run_with_a_card(folder):
    from tests.hub.test_card import a_run as with_facts

    run = with_facts(a_run(folder), base_model="org/base")
    write_card(run)
    return run


def test_bars_of_both_modes(tmp_path, monkeypatch):
    """Thinking, accuracy and tokens of each model; a mode without completions has a bar of length 0."""
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figure)
    always = {**both(1.0), "direct_accuracy": None, "direct_tokens_mean": None}
    figure = plots.plot_modes({"gsm8k": {"base": always, "concise": both(0.25)}}, tmp_path / "modes.png")
    drawn = [[bar.get_width() for bar in axes.patches] for axes in figure.axes]
    # the thinking of both models, then their direct answers
    assert drawn == [[1.0, 0.25], [0.95, 0.95, 0, 0.8], [80, 80, 0, 25.04]]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Thinking", "Accuracy", "Mean tokens"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["base", "concise"]


def test_report_by_mode(tmp_path):
    written = report([a_run(tmp_path)], tmp_path / "plots")
    assert {"modes.png", "modes.svg"} <= written.keys()
    text = written["report.md"].read_text()
    assert "| gsm8k | concise | 25.0% | 95.0% | 80.0 | 80.0% | 25.0 |" in text
    assert "| gsm8k | base (org/base) | 100.0% | 95.0% | 80.0 |  |  |" in text
    drawn = written["modes.svg"].read_text()
    assert all(f"<!-- {label} -->" in drawn for label in ("Thinking", "concise", "direct", "base (org/base)"))


def test_without_direct_answers_the_report_is_as_before(tmp_path):
    run = runs.evaluated(tmp_path / "concise")
    plain = report([run], tmp_path / "plots")["report.md"].read_text()
    (run / "eval" / "summary.json").write_text(json.dumps([{**runs.record("concise", 0.91, 50), **both(1.0)}]))
    written = report([run], tmp_path / "plots")
    assert written["report.md"].read_text() == plain and "modes.png" not in written


def test_table_of_the_command(capsys):
    record = {**runs.record("concise", 0.91, 50), **both(0.25), "problems": 9, "completions_per_problem": 1}
    record["pass_at_k"] = {"1": 0.91}
    print_records([record])
    assert "Thinking" in (shown := capsys.readouterr().out) and "25.0%" in shown
    print_records([{**record, "thinking_fraction": 1.0}, {**record, "thinking_fraction": None}])
    assert "Thinking" not in capsys.readouterr().out


def test_card_by_mode(tmp_path):
    card = (a_run_with_a_card(tmp_path) / "README.md").read_text()
    assert (
        "This model thought in 25.0% of its completions: accuracy 95.0% in 80.0 tokens with thinking, accuracy 80.0% in 25.0 "
        "tokens without. The base model thought in 100.0% of its completions: accuracy 95.0% in 80.0 tokens with thinking."
    ) in card


def test_markers_on_the_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["eval", "demo", "demo", "--output_dir", str(tmp_path), "--thinking_markers", "##", "##"])
    assert "They must be two different texts" in capsys.readouterr().err
