# SPDX-License-Identifier: Apache-2.0
"""`trl-concise rescore`: the saved completions of an evaluation under another judge."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from datasets import Dataset

from trl_concise.cli.commands import main
from trl_concise.demo import generate_problems
from trl_concise.evaluation import evaluate, read_completions, read_summary
from trl_concise.evaluation.folder import append_lines
from trl_concise.evaluation.judges import describe_judge
from trl_concise.evaluation.recorded import Evaluation
from trl_concise.evaluation.rescore import print_agreement, rescore
from trl_concise.evaluation.token_scores import TokenScores
from trl_concise.evaluation.uncertainty import describe_tokens


DRAWN = {"num_completions": 2, "max_new_tokens": 96, "temperature": 1.0, "top_p": 1.0, "progress": False}


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    rows = generate_problems(6, seed=3, split="validation")
    sets = {
        "six": Dataset.from_list(
            [{"prompt": [{"role": "user", "content": row["problem"]}], "solution": row["answer"]} for row in rows]
        )
    }
    path = tmp_path_factory.mktemp("judged") / "run"
    evaluate(model, sets, path, tokenizer=tokenizer, budgets=[20], **DRAWN)
    return path, sets


def changed(path, folder, change):
    """A copy of the evaluation in which `change` edits the lines of `completions.jsonl`."""
    shutil.copytree(path, folder)
    lines = [json.loads(line) for line in (path / "completions.jsonl").read_text().splitlines()]
    (folder / "completions.jsonl").write_text("".join(json.dumps(change(line)) + "\n" for line in lines))
    return folder


def test_the_own_judge_reproduces_the_evaluation(folder, model, tokenizer, tmp_path):
    path, sets = folder
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    figures = rescore(path, tmp_path / "again")
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert (figures["six"]["points"], figures["six"]["agreement"]) == (0, 1)
    assert figures["six"]["points_interval"] == [0, 0]
    assert figures["six"]["judge"] == figures["six"]["judge_before"] == read_summary(path)[0]["judge"]
    assert read_summary(tmp_path / "again") == [record for record in read_summary(path) if record["budget"] is None]
    assert (tmp_path / "again" / "disagreements.jsonl").read_text() == ""
    # and the new folder is an evaluation, to which others can be added
    records = evaluate(model, sets, tmp_path / "again", tokenizer=tokenizer, budgets=[20], **DRAWN)
    assert records == read_summary(path)


def test_the_verdicts_of_another_judge_and_where_they_differ(folder, tmp_path, capsys):
    path, _ = folder
    run = changed(path, tmp_path / "run", lambda line: line | {"text": line["text"].replace("boxed{", "boxed{0+")})
    assert main(["rescore", str(run), "--judge", "exact", "--output_dir", str(tmp_path / "exact")]) == 0
    printed = capsys.readouterr().out
    assert "Kappa" in printed and "Now: exact of trl-concise" in printed
    (record,) = read_summary(tmp_path / "exact")
    assert record["accuracy"] == 0 and record["judge"]["name"] == "exact"
    rows = [json.loads(line) for line in (tmp_path / "exact" / "disagreements.jsonl").read_text().splitlines()]
    right = [item for item in read_completions(path / "completions.jsonl") if item.correct]
    assert len(rows) == len(right) > 0
    assert all(row["correct_before"] and not row["correct"] and row["answer"].startswith("0+") for row in rows)
    found = json.loads((tmp_path / "exact" / "agreement.json").read_text())["six"]
    assert found["points"] == pytest.approx(-100 * len(right) / 12) and found["only_second"] == len(right)
    # equal as numbers: math-verify accepts the sum, and the package does where an answer need not be in final form
    for judge, options in (("math-verify", []), ("trl-concise", ["--final_form", "false"])):
        out = tmp_path / judge
        assert main(["rescore", str(run), "--judge", judge, *options, "--output_dir", str(out)]) == 0
        assert read_summary(out)[0]["accuracy"] == pytest.approx(len(right) / 12)


def test_a_judge_of_the_user(folder, tmp_path):
    path, _ = folder

    def lenient_judge(golds, completions):
        return [None if row < 2 else True for row in range(len(golds))]

    figures = rescore(path, tmp_path / "mine", lenient_judge)["six"]
    assert (figures["judge"]["name"], figures["unreadable"], figures["unreadable_before"]) == ("lenient_judge", 1, 0)
    items = read_completions(tmp_path / "mine" / "completions.jsonl")
    assert [item.correct for item in items[:2]] == [None, None]
    assert all(item.correct == (not item.truncated) for item in items[2:])  # a truncated completion is never correct
    with pytest.raises(ValueError, match="returned 1 verdicts for 12 completions"):
        rescore(path, tmp_path / "short", lambda golds, completions: [True])


def test_an_evaluation_of_an_earlier_version(folder, model, tokenizer, tmp_path):
    path, sets = folder
    run = changed(path, tmp_path / "run", lambda line: {k: v for k, v in line.items() if k != "finished"})
    for name in ("settings.json", "summary.json"):
        content = json.loads((run / name).read_text())
        for record in content if isinstance(content, list) else [content]:
            del record["judge"]
        (run / name).write_text(json.dumps(content))
    figures = rescore(run, tmp_path / "now")["six"]
    assert figures["judge_before"] is None and figures["agreement"] == 1
    # Its verdicts are not mixed with those of this version
    with pytest.raises(ValueError, match="did not record its judge. Judge them again with `trl-concise rescore"):
        evaluate(model, sets, run, tokenizer=tokenizer, **DRAWN)
    assert read_summary(run)[0].get("judge") is None
    assert evaluate(model, sets, tmp_path / "now", tokenizer=tokenizer, **DRAWN)[0]["judge"]["name"] == "trl-concise"


def test_results_of_two_judges_are_not_compared(folder, model, tokenizer, tmp_path, capsys):
    path, sets = folder
    rescore(path, tmp_path / "exact", "exact")
    accept = ["accept", str(tmp_path / "exact"), "--base", str(path), "--max_accuracy_loss", "0.5"]
    with pytest.raises(SystemExit):
        main(accept)
    assert "the judge is exact (fingerprint " in capsys.readouterr().err
    with pytest.raises(
        ValueError, match="were judged by exact of trl-concise .* Judge them again with `trl-concise rescore"
    ):
        evaluate(model, sets, tmp_path / "exact", tokenizer=tokenizer, **DRAWN)
    # another version whose verdicts are the same continues
    settings = json.loads((path / "settings.json").read_text())
    older = shutil.copytree(path, tmp_path / "older")
    (older / "settings.json").write_text(
        json.dumps(settings | {"judge": settings["judge"] | {"version": "0.0.9", "packages": {}}})
    )
    assert evaluate(model, sets, older, tokenizer=tokenizer, budgets=[20], **DRAWN) == read_summary(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judge", "math-verify", "--final_form", "true"], "--final_form has no effect with --judge math-verify"),
        (["--judge", "math-verify", "--answer_format", "boxed"], "--answer_format has no effect"),
        (["--judge", "gpt"], "invalid choice: 'gpt'"),
    ],
)
def test_input_errors(folder, arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["rescore", str(folder[0]), "--output_dir", str(tmp_path / "out"), *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_the_output_is_another_folder(folder, tmp_path):
    path, _ = folder
    with pytest.raises(ValueError, match="already contains something"):
        rescore(path, path)
    with pytest.raises(FileNotFoundError):
        rescore(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_figure_of_the_old_verdicts_stays(folder, tmp_path):
    path, _ = folder
    run = shutil.copytree(path, tmp_path / "run")
    items = read_completions(run / "completions.jsonl")
    scores = (TokenScores([float(row)], [row / 10]) for row in range(len(items)))
    append_lines(run / "uncertainty.jsonl", [describe_tokens(*pair, None) for pair in zip(items, scores, strict=True)])
    stale = {"axes": {"cells": []}, "vote": {"accuracy": 1.0}, "uncertainty": {"tokens": {"wrong": -1.0}}}
    summary = [record | stale for record in json.loads((run / "summary.json").read_text())]
    (run / "summary.json").write_text(json.dumps(summary))
    rescore(run, tmp_path / "out", lambda golds, completions: [False] * len(golds))
    (record,) = read_summary(tmp_path / "out")
    assert not {"axes", "vote"} & record.keys()
    assert record["uncertainty"]["tokens"]["wrong"] == pytest.approx(record["tokens_mean"])
    assert (tmp_path / "out" / "uncertainty.jsonl").read_bytes() == (run / "uncertainty.jsonl").read_bytes()


def test_an_unreadable_reference_answer_stays_unreadable(folder, tmp_path):
    """Completions without an answer are wrong whatever the reference answer is, so that their verdicts do not show it."""
    path, _ = folder
    unreadable = {"gold": "", "text": "", "correct": None}
    run = changed(path, tmp_path / "run", lambda line: line | (unreadable if line["problem"] == 0 else {}))
    summary = [record | {"problems": 5} for record in json.loads((run / "summary.json").read_text())]
    (run / "summary.json").write_text(json.dumps(summary))
    figures = rescore(run, tmp_path / "again")["six"]
    assert (figures["unreadable"], figures["unreadable_before"], figures["agreement"]) == (1, 1, 1)


def test_the_judge_of_the_docs():
    code = re.search(
        r"def my_judge.*?(?=\n\n)", Path("docs/beyond_accuracy.md").read_text(encoding="utf-8"), re.DOTALL
    )
    names: dict = {}
    exec(code.group(), names)
    seen: list[str] = []

    def judge(golds, completions):
        seen.extend(completions)
        return names["my_judge"](golds, completions)

    assert len(describe_judge("mine", judge=judge)["fingerprint"]) == 16  # also for a completion without a word
    assert "" in seen and not any("</think>" in text for text in seen)


def test_completions_that_are_in_the_file_twice(folder, tmp_path):
    """Two commands wrote into the same folder."""
    path, _ = folder
    run = shutil.copytree(path, tmp_path / "run")
    text = (run / "completions.jsonl").read_text()
    (run / "completions.jsonl").write_text(text + "".join(reversed(text.splitlines(True))))
    assert rescore(run, tmp_path / "out")["six"]["agreement"] == 1
    assert (tmp_path / "out" / "summary.json").read_text() == json.dumps(read_summary(path)[:1], indent=2) + "\n"


def test_the_table_fits_into_80_columns(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    found = rescore(folder[0], tmp_path / "out")["six"]
    found |= {"points": -15.5, "points_interval": [-20.1, -10.2], "only_first": 12345, "kappa": -0.12}
    print_agreement({f"demo_harder, {level} effort": found for level in ("low", "high")})
    table = capsys.readouterr().out.split("[ ]: 95 %")[0]
    assert "…" not in table and all(len(line) <= 80 for line in table.splitlines())
    assert "[-20.1, -10.2]" in table and "12,345" in table


def test_a_problem_that_is_in_the_set_twice(folder, tmp_path):
    """Its completions are judged and compared all the same; only the bounds of `accept` need distinct problems."""
    run = changed(folder[0], tmp_path / "run", lambda line: line | {"prompt_sha256": "same"})
    assert rescore(run, tmp_path / "out")["six"]["agreement"] == 1
    with pytest.raises(ValueError, match="contains 5 problems twice"):
        Evaluation.read(run).check_distinct()
