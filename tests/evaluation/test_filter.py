# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from trl_concise.cli.commands import main
from trl_concise.data import load_problems
from trl_concise.demo import generate_problems
from trl_concise.evaluation.completions import read_completions
from trl_concise.evaluation.filter import filter_problems


SAMPLING = ["--model", "demo", "--num_completions", "4", "--max_new_tokens", "96", "--batch_size", "16"]


def write(path: Path, answers_of_no_use: int = 2) -> str:
    rows = [
        {"level": i, "question": row["problem"], "answer": row["answer"]}
        for i, row in enumerate(generate_problems(12, seed=0))
    ]
    rows[3:3] = [{"level": -1, "question": "2 + 2?", "answer": "$"}] * answers_of_no_use
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with a dataset, and everything about it: all problems lie in the band from 0 to 1."""
    folder = tmp_path_factory.mktemp("filter")
    data = write(folder / "data.jsonl")
    assert main(["filter", data, *SAMPLING, "--keep", "0", "1", "--output", str(folder / "all.jsonl")]) == 0
    return folder


def test_rows_keep_their_columns_and_get_two(whole, capsys):
    rows = read(whole / "all.jsonl")
    assert [row["level"] for row in rows] == list(range(12))  # in their order, without the unverifiable ones
    completions = read_completions(whole / "all_completions" / "completions.jsonl")
    for place, row in enumerate(rows):
        items = [item for item in completions if item.problem == place]
        assert len(items) == 4 and row.keys() == {"level", "question", "answer", "pass_rate", "tokens_mean"}
        assert row["pass_rate"] == sum(item.correct for item in items) / 4
        assert row["tokens_mean"] == sum(item.tokens for item in items) / 4
    assert len({row["pass_rate"] for row in rows}) > 1
    assert load_problems(str(whole / "all.jsonl"))["solution"][:] == [row["answer"] for row in rows]


def test_the_band_includes_its_bounds_and_another_band_draws_nothing(whole, capsys):
    before = read(whole / "all.jsonl")
    rates = sorted({row["pass_rate"] for row in before})
    low, high = rates[0], rates[-2]
    drawn = (whole / "all_completions" / "completions.jsonl").read_bytes()
    command = ["filter", str(whole / "data.jsonl"), *SAMPLING, "--keep", str(low), str(high)]
    assert main([*command, "--output", str(whole / "all.parquet")]) == 0
    said = capsys.readouterr()
    kept = load_problems(str(whole / "all.parquet"))
    wanted = [row for row in before if low <= row["pass_rate"] <= high]
    assert 0 < len(wanted) < len(before)
    assert kept["solution"][:] == [row["answer"] for row in wanted]
    above = len(before) - len(wanted)
    assert f"{len(wanted)} kept, 0 below, {above} above, 2 dropped because" in said.out
    assert "the reference answers of 2 of 14 problems cannot be read" not in said.out
    assert (whole / "all_completions" / "completions.jsonl").read_bytes() == drawn


def test_an_interrupted_run_continues_to_the_same_result(whole, tmp_path):
    data = write(tmp_path / "data.jsonl")
    folder = tmp_path / "again_completions"
    folder.mkdir()
    for name in ("settings.json", "completions.jsonl"):
        content = (whole / "all_completions" / name).read_bytes()
        (folder / name).write_bytes(content if name == "settings.json" else content[: len(content) // 2])
    assert main(["filter", data, *SAMPLING, "--keep", "0", "1", "--output", str(tmp_path / "again.jsonl")]) == 0
    assert read(tmp_path / "again.jsonl") == read(whole / "all.jsonl")
    completions = "completions.jsonl"
    assert (folder / completions).read_bytes() == (whole / "all_completions" / completions).read_bytes()


def test_an_empty_band_is_an_error_and_keeps_the_completions(whole, capsys):
    rates = {row["pass_rate"] for row in read(whole / "all.jsonl")}
    free = next(rate for rate in (0.1, 0.3, 0.6, 0.9) if rate not in rates)
    output = whole / "all.jsonl"
    before = output.read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(["filter", str(whole / "data.jsonl"), *SAMPLING, "--keep", str(free), str(free), "--output", str(output)])
    assert stop.value.code == 2
    assert "No problem has a pass rate from" in capsys.readouterr().err.splitlines()[-1]
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": (0.8, 0.2)}, "0 <= LOW <= HIGH <= 1; got 0.8 and 0.2"),
        ({"output": "rows.txt"}, r"must end in \.jsonl or \.parquet"),
        ({"output": "data.jsonl"}, "or the dataset itself"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"num_completions": 0}, "must be at least 1"),
        ({"problem_options": {"answer_column": "gold"}}, "no column 'gold' for the answer"),
    ],
)
def test_invalid_arguments_are_named_before_sampling(changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data.jsonl")
    arguments = {"dataset": "data.jsonl", "model": "demo", "output": "kept.jsonl", **changes}
    with pytest.raises(ValueError, match=message):
        filter_problems(**arguments)
    assert not list(tmp_path.glob("*_completions"))


def test_the_problems_can_be_shown_first(whole, capsys):
    assert main(["filter", str(whole / "data.jsonl"), "--show", "1"]) == 0
    assert capsys.readouterr().out.startswith("--- problem 1 of 14\n[user] ")
