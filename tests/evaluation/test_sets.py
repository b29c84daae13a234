# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from trl_concise.evaluation import evaluate, load_problem_sets
from trl_concise.evaluation.sets import KNOWN_SETS, is_benchmark


SHARED = Path(__file__).parents[3] / "shared" / "data"  # real problem sets, where a checkout has them


def test_names_of_files_and_of_the_demo(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"problem": "1 + 1", "answer": "2"}) + "\n")
    sets = load_problem_sets([str(file), "demo"], system_prompt="Be brief.")
    assert list(sets) == ["mine", "demo"]
    assert sets["mine"]["solution"] == ["2"]
    assert len(sets["demo"]) == 1024
    for dataset in sets.values():
        assert [message["role"] for message in dataset[0]["prompt"]] == ["system", "user"]


def test_two_sets_of_one_name(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text(json.dumps({"problem": "1 + 1", "answer": "2"}) + "\n")
    with pytest.raises(ValueError, match="Two problem sets have the name 'test'"):
        load_problem_sets([str(tmp_path / "a" / "test.jsonl"), str(tmp_path / "b" / "test.jsonl")])


def test_sets_of_the_hub_say_where_they_are_from(tmp_path, monkeypatch):
    problems = Dataset.from_list([{"prompt": [{"role": "user", "content": "1 + 1"}], "solution": "2"}])
    monkeypatch.setattr("trl_concise.evaluation.sets.load_problems", lambda *_, **__: problems)  # no Hub to load from
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "mine").mkdir(parents=True)
    sets = load_problem_sets(["gsm8k", "user/set", "data/mine", "demo"], split="train[:50]")
    assert list(sets) == ["gsm8k", "user/set", "mine", "demo"]
    assert sets.sources == {
        "gsm8k": {"dataset_id": "openai/gsm8k", "dataset_config": "main", "dataset_split": "test"},
        "user/set": {"dataset_id": "user/set", "dataset_config": None, "dataset_split": "train[:50]"},
    }
    (record, _) = evaluate("demo", sets, limit=1, max_new_tokens=2, progress=False)[:2]
    assert sets.sources["gsm8k"].items() <= record.items() and record["limit"] is None
    sets["gsm8k"] = sets["demo"]
    assert list(sets.sources) == ["user/set"]


def test_which_problems_are_a_benchmark():
    assert is_benchmark("openai/gsm8k", "main", "test") and is_benchmark("HuggingFaceH4/aime_2024", None, "train")
    assert is_benchmark("user/set", None, "test")
    for other in (
        ("openai/gsm8k", "socratic", "test"),
        ("openai/gsm8k", "main", "test[:9]"),
        ("user/set", None, "dev"),
    ):
        assert not is_benchmark(*other)


def test_known_sets():
    assert set(KNOWN_SETS) == {
        "gsm8k",
        "math500",
        "aime24",
        "aime25",
        "amc23",
        "svamp",
        "olympiadbench",
        "minerva",
    } | {
        "demo",
        "demo_harder",
        "demo_hardest",
        "demo_beyond",
        "demo_omega",
    }


@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder with real problem sets")
@pytest.mark.parametrize(
    ("name", "rows"), [("gsm8k_test", 1319), ("math500", 500), ("aime24", 30), ("amc23", 40), ("svamp_test", 300)]
)
def test_real_sets(name, rows):
    dataset = load_problem_sets([str(SHARED / f"{name}.jsonl")])[name]
    assert len(dataset) == rows
    assert all(dataset["solution"])
