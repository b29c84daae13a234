# SPDX-License-Identifier: Apache-2.0
"""`trl-concise export`: completions in the format of lighteval's details."""

from __future__ import annotations

import shutil

import pyarrow.parquet
import pytest

from trl_concise.cli.commands import main
from trl_concise.evaluation import evaluate, read_completions
from trl_concise.evaluation.export import export_lighteval


DATE = "2026-11-28T12-00-00.000000"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    settings = {"limit": 3, "max_new_tokens": 24, "temperature": 1.0, "num_completions": 2, "progress": False}
    evaluate("demo", ["demo", "demo_harder"], folder, model_name="org/model", **settings)
    return folder


def test_a_row_per_problem_with_its_completions(run, tmp_path):
    path = export_lighteval(run, tmp_path, "sums", dataset="demo", date=DATE)
    assert path == tmp_path / "details" / "org" / "model" / DATE / f"details_sums|0|0_{DATE}.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    items = [item for item in read_completions(run / "completions.jsonl") if item.dataset == "demo"]
    assert len(rows) == 3
    for problem, row in enumerate(rows):
        own = sorted((item for item in items if item.problem == problem), key=lambda item: item.completion)
        assert row["model_response"]["text"] == [item.text for item in own]
        assert row["model_response"]["output_tokens"] == [item.completion_ids for item in own]
        assert row["doc"]["choices"] == [own[0].gold] and row["doc"]["num_samples"] == 2
        assert row["doc"]["query"].startswith("What is ") and row["doc"]["task_name"] == "sums|0"
        assert row["metric"] == {"trl_concise_correct": sum(item.correct for item in own) / 2}
    before = path.read_bytes()
    assert export_lighteval(run, tmp_path, "sums", dataset="demo", date=DATE).read_bytes() == before


def test_the_command_and_its_errors(run, tmp_path, capsys):
    arguments = ["export", str(run), "--task", "sums", "--output_dir", str(tmp_path / "out")]
    assert main([*arguments, "--dataset", "demo_harder"]) == 0
    assert "Model: org/model" in capsys.readouterr().out
    older = shutil.copytree(run, tmp_path / "older")
    (older / "problems.jsonl").unlink()
    for changed, message in (
        (arguments, "several problem sets: demo, demo_harder. Name one with --dataset"),
        ([*arguments, "--dataset", "demo", "--task", "sums|0"], "Give its name only, such as 'aime24'"),
        ([*arguments, "--dataset", "gsm8k"], "no problem set 'gsm8k'"),
        (["export", str(older), *arguments[2:], "--dataset", "demo"], "written by an earlier version"),
        (["export", str(tmp_path / "none"), *arguments[2:]], "does not exist"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(changed)
        assert ended.value.code == 2 and message in capsys.readouterr().err
