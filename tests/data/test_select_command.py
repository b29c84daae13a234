# SPDX-License-Identifier: Apache-2.0
"""`trl-concise select`: rows are read one at a time and written as they were, reports add up, and the results train."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from datasets import Dataset, Value
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from tests import tiny
from tests.data.endpoint import Endpoint
from trl_concise.cli.commands import main
from trl_concise.data import load_problems
from trl_concise.data.selection.source import Source
from trl_concise.data.selection.texts import find_fields, read_question, read_traces


LENGTHS = ["--length_unit", "characters"]


def pool(folder: Path) -> str:
    """12 rows with odd spelling that must survive; row i has difficulty i / 12, and a longer trace the larger i is."""
    lines = []
    for i in range(12):
        traces = [f"Trace {i}{'.' * i} \\boxed{{{2 * i}}}", f"Wrong \\boxed{{{2 * i + 1}}}"]
        row = {"problem": f"What is {i} + {i}?", "answer": str(2 * i), "generations": traces, "hard": i / 12}
        row |= {"domain": "even" if i % 2 == 0 else "odd", "skills": ["addition"] if i < 6 else ["large numbers"]}
        lines.append(json.dumps(row).replace('"hard": ', '"hard":   ') + ("\r\n" if i == 3 else "\n"))
    path = folder / "pool.jsonl"
    path.write_text("\ufeff" + "".join(lines) + "\n")
    return str(path)


def select(method: str, dataset: str, output: Path, *words: str) -> dict:
    """Run the command; return its report."""
    assert main(["select", method, dataset, "--output", str(output), *words]) == 0
    report = json.loads(output.with_name(f"{output.stem}_report.json").read_text())
    assert report["kept"] + sum(report["dropped"].values()) == report["rows"] and all(report["dropped"].values())
    return report


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_select2reason_keeps_the_lines_of_the_file(tmp_path, capsys):
    data, output = pool(tmp_path), tmp_path / "kept.jsonl"
    report = select("select2reason", data, output, "--difficulty_column", "hard", "--share", "0.25", *LENGTHS)
    lines = Path(data).read_bytes().replace(b"\xef\xbb\xbf", b"").replace(b"\r", b"").splitlines(keepends=True)
    assert output.read_bytes() == b"".join(lines[9:12])
    assert report["share"] == 0.25 and report["dropped"] == {"joint score too low": 9}
    assert report["statistics"]["difficulty"]["after"]["min"] == pytest.approx(9 / 12)
    assert report["statistics"]["length in characters"]["before"]["count"] == 12
    assert report["settings"]["problem"] == "problem" and report["settings"]["trace"] == "generations"
    printed = capsys.readouterr().out
    assert "select2reason: 3 of 12 rows kept" in printed and "joint score too low" in printed
    before = output.read_bytes()
    select("select2reason", data, output, "--difficulty_column", "hard", "--share", "0.25", *LENGTHS)
    assert output.read_bytes() == before


def test_a_judge_and_a_pass_rate_give_the_difficulty(tmp_path, tiny_model):
    data, output = pool(tmp_path), tmp_path / "kept.parquet"
    report = select("select2reason", data, output, "--judge", tiny_model, "--share", "0.5", "--to", "grpo")
    assert Dataset.from_parquet(str(output)).column_names == ["prompt", "solution"] and report["kept"] == 6
    assert len((tmp_path / "kept_difficulty.jsonl").read_text().splitlines()) == 12
    assert report["statistics"]["length in tokens"]["before"]["min"] > 0  # of the judge's tokenizer
    rated = tmp_path / "rated.jsonl"
    rows = [{"question": f"q{i}", "pass_rate": rate} for i, rate in enumerate([0.5, float("nan"), 0.1, None, "x"])]
    rated.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = select(
        "select2reason", str(rated), tmp_path / "hard.jsonl", *"--weight 1 --difficulty_column pass_rate".split()
    )
    assert read(tmp_path / "hard.jsonl") == [rows[2]]
    assert report["dropped"] == {"no finite difficulty": 3, "joint score too low": 1}


def test_parquet_keeps_its_types_and_a_split_is_a_part(tmp_path):
    rows = [{"prompt": f"q{i}", "completion": "x" * i, "level": i, "when": None} for i in range(1, 7)]
    source = tmp_path / "rows.parquet"
    Dataset.from_list(rows).cast_column("level", Value("int8")).to_parquet(source)
    words = ["--weight", "0", "--share", "0.4", *LENGTHS, "--dataset_split", "train[:5]"]
    report = select("select2reason", str(source), tmp_path / "kept.parquet", *words)
    kept = Dataset.from_parquet(str(tmp_path / "kept.parquet"))
    assert report["rows"] == 5 and kept["level"][:] == [4, 5]
    assert kept.features == Dataset.from_parquet(str(source)).features
    select("select2reason", str(source), tmp_path / "kept.jsonl", *words)
    assert read(tmp_path / "kept.jsonl") == rows[3:5]


def test_infialign_meets_quotas_and_verifies(tmp_path, monkeypatch):
    data, output = pool(tmp_path), tmp_path / "kept.jsonl"
    words = ["--domain_column", "domain", "--clusters", "1", *LENGTHS]
    report = select("infialign", data, output, *words, "--size", "6", "--verify")
    assert [(group["group"], group["quota"], group["kept"]) for group in report["groups"]] == [
        ("even", 3, 3),
        ("odd", 3, 3),
    ]
    rows = [json.loads(line) for line in Path(data).read_text(encoding="utf-8-sig").splitlines() if line]
    assert [row for row in rows if row in read(output)] == read(output)  # a subset, in the order of the rows
    wrong = tmp_path / "wrong.jsonl"  # the odd domain has two correct traces only
    for i, row in enumerate(rows):
        row["generations"] = row["generations"][:1] if i % 2 == 0 or i < 4 else row["generations"][1:]
    wrong.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    report = select("infialign", str(wrong), output, *words, "--quotas", "even=1", "odd=4", "--verify")
    assert [(g["group"], g["kept"], g["shortfall"], g["rejected"]) for g in report["groups"]] == [
        ("even", 1, 0, 0),
        ("odd", 2, 2, 4),
    ]
    assert report["notes"] == ["odd: 2 of 4 rows. There were not enough that could be kept."]
    assert report["dropped"]["the same question and trace as an earlier row"] == 1
    assert all("Wrong" not in row["generations"][0] for row in read(output))
    with Endpoint(lambda request: "Yes" if "Trace 4." in request else "No") as endpoint:
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        words += ["--judge_model", "judge", "--judge_base_url", endpoint.url]
        report = select("infialign", data, output, *words, "--share", "1")
        asked = len(endpoint.requests)
        select("infialign", data, output, *words, "--share", "1")  # with the judgments of the first run
        assert asked == len(endpoint.requests) == 12 and report["failed_judgments"] == 0
    assert [row["answer"] for row in read(output)] == ["8"] and report["dropped"] == {"rejected by the judge": 11}


def test_shape_of_thought_writes_sets_of_the_same_problems(tmp_path, tiny_model):
    data = pool(tmp_path)
    report = select("shape_of_thought", data, tmp_path / "sets.jsonl", "--student", tiny_model)
    correct, incorrect = read(tmp_path / "sets_correct.jsonl"), read(tmp_path / "sets_incorrect.jsonl")
    assert [row["prompt"] for row in correct] == [row["prompt"] for row in incorrect] and len(correct) == 12
    assert all("Wrong" not in row["completion"][0]["content"] for row in correct)
    assert all("Wrong" in row["completion"][0]["content"] for row in incorrect)
    assert [group["rows"] for group in report["groups"]] == [12, 12]
    assert all(
        3 < group["student_nll_per_token"] < 8 for group in report["groups"]
    )  # log 259 = 5.6 for a random model


def test_stat_sel_writes_pairs(tmp_path):
    data, profile = pool(tmp_path), tmp_path / "profile.jsonl"
    rows = [{"question": f"{i}?", "missing_skills": ["large numbers", "division"], "score": i} for i in range(2)]
    profile.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--profile", str(profile), "--hard_questions", "1", "--questions_per_skill", "3"]
    report = select("stat_sel", data, tmp_path / "kept.jsonl", *words)
    assert len(read(tmp_path / "kept.jsonl")) == 3
    assert all(row["skills"] == ["large numbers"] for row in read(tmp_path / "kept.jsonl"))
    assert [(g["group"], g["quota"], g["kept"]) for g in report["groups"]] == [
        ("division", 3, 0),
        ("large numbers", 3, 3),
    ]
    report = select("stat_sel", data, tmp_path / "pairs.jsonl", *words, "--to", "sft", "--pairs", "4")
    pairs = read(tmp_path / "pairs.jsonl")
    assert len(pairs) == 4 == report["written"][str(tmp_path / "pairs.jsonl")]
    assert report["kept"] == len({row["prompt"][0]["content"] for row in pairs})
    select("stat_sel", data, tmp_path / "pairs.jsonl", *words, "--to", "sft", "--verify")
    assert all("Trace" in row["completion"][0]["content"] for row in read(tmp_path / "pairs.jsonl"))


@pytest.mark.parametrize("form", ["sft", "grpo", "rows"])
def test_the_output_trains(form, tmp_path, tiny_model):
    output = tmp_path / "kept.jsonl"
    words = ["--difficulty_column", "hard", "--share", "0.7", *LENGTHS, "--to", form]
    select("select2reason", pool(tmp_path), output, *words)
    arguments = tiny.settings(tmp_path / "out", max_steps=1)
    if form == "sft":
        for name in ("num_generations", "max_completion_length"):
            arguments.pop(name)
        trainer = SFTTrainer(tiny_model, SFTConfig(**arguments), train_dataset=Dataset.from_json(str(output)))
    else:
        problems = Dataset.from_json(str(output)) if form == "grpo" else load_problems(str(output))
        assert problems["solution"][0] == "8"
        trainer = GRPOTrainer(tiny_model, tiny.even_reward, GRPOConfig(**arguments), train_dataset=problems)
    trainer.train()
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    ("row", "question", "traces"),
    [
        ({"problem": " q ", "solution": "worked", "answer": "2"}, "q", ["worked"]),
        ({"problem": "q", "answer": "2"}, "q", []),
        ({"prompt": "q", "solution": "2"}, "q", []),
        (
            {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "completion": "t"},
            "q",
            ["t"],
        ),
        ({"prompt": "q", "completion": [{"role": "assistant", "content": "t"}]}, "q", ["t"]),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "t"}]}, "q", ["t"]),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "t"}]}, "q", ["t"]),
        ({"Question": "q", "generations": ["a", None, " ", "b"]}, "q", ["a", "b"]),
        ({"instruction": "q", "input": "", "output": "t"}, "q", ["t"]),
    ],
)
def test_rows_in_the_usual_formats(row, question, traces):
    fields = find_fields(list(row), "rows")
    assert read_question(row, fields) == question and read_traces(row, fields) == traces


def test_a_large_file_is_not_held_in_memory(tmp_path):
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for i in range(1_500):
            file.write(json.dumps({"problem": f"q{i}", "completion": "x" * (4_000 + i)}) + "\n")
    tracemalloc.start()
    try:
        report = select("select2reason", str(path), tmp_path / "kept.jsonl", "--weight", "0", *LENGTHS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report["kept"] == 150 and peak < path.stat().st_size / 4


def test_lines_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    for content, message in [
        (b'{"a": 1}\n\n{"a": \n', "line 3 is not JSON"),
        (b'{"a": 1}\n[1]\n', "line 2 is not a JSON object"),
        (b'{"a": 1}\n{"a": "\xe9"}\n', "line 2 is not UTF-8 text"),
        (b"\n \n", "it has no data"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            list(Source(str(path)))
