# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset

from trl_concise.data import load_problems
from trl_concise.data.columns import read_answer, read_problem
from trl_concise.data.problems import as_messages, find_columns


SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

# One row in the shape of each dataset, in our own words.
ROWS = {
    "gsm8k": {"question": "Two and three pens?", "answer": "2 + 3 = <<2+3=5>>5 pens.\n#### 5"},
    "math": {"problem": "Two and three?", "solution": r"They make \boxed{5}.", "level": "Level 1", "type": "Algebra"},
    "math with answer": {"problem": "Two and three?", "solution": "They make five.", "answer": "5"},
    "svamp": {"ID": "a", "Body": "Ann has 2 pens.", "Question": "And with 3 more?", "Answer": "5", "Type": "Addition"},
    "svamp on the Hub": {
        "Body": "Ann has 2.",
        "Question": "3 more?",
        "question_concat": "Ann has 2. 3 more?",
        "Answer": "5",
    },
    "deepscaler": {"problem": "Two and three?", "answer": "5", "solution": ""},
    "dapo": {
        "data_source": "pens",
        "prompt": [{"role": "user", "content": "Two and three?"}],
        "reward_model": {"ground_truth": "5", "style": "rule"},
    },
    "dapo processed": {
        "prompt": "Two and three?",
        "solution": "5",
        "reward_model": {"ground_truth": "5", "style": "rule"},
        "source_prompt": [{"role": "user", "content": "Solve: two and three?"}],
    },
    "openr1": {
        "problem": "Two and three?",
        "solution": "They make five.",
        "answer": "5",
        "uuid": "x",
        "generations": ["5"],
    },
    "trl": {"prompt": [{"role": "user", "content": "Two and three?"}], "solution": "5"},
}


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("shape", ROWS)
def test_usual_shapes(shape, tmp_path):
    dataset = load_problems(write_jsonl(tmp_path / "problems.jsonl", [ROWS[shape]]))
    assert dataset.column_names == ["prompt", "solution"]
    [message] = dataset[0]["prompt"]
    assert message["role"] == "user"
    assert "pens" in message["content"] or "3" in message["content"] or message["content"] == "Two and three?"
    assert dataset[0]["solution"] == "5"


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_local_files(suffix, tmp_path):
    rows = [{"problem": "Two and three?", "answer": "5"}, {"problem": "Two and four?", "answer": "6"}]
    path = tmp_path / f"problems{suffix}"
    if suffix == ".jsonl":
        write_jsonl(path, rows)
    elif suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    dataset = load_problems(str(path))
    assert dataset["solution"][:] == ["5", "6"]
    assert [messages[0]["content"] for messages in dataset["prompt"]] == ["Two and three?", "Two and four?"]


def test_split_of_a_local_file_may_be_a_slice(tmp_path):
    path = write_jsonl(
        tmp_path / "problems.jsonl", [{"problem": f"{i} and 1?", "answer": str(i + 1)} for i in range(5)]
    )
    assert load_problems(path, split="test[:2]")["solution"][:] == ["1", "2"]


def test_a_file_name_is_not_a_pattern(tmp_path):
    for name in ("set[a].jsonl", "seta.jsonl", "s*.jsonl"):
        (tmp_path / name).write_text(json.dumps({"problem": name, "answer": "5"}) + "\n")
        assert load_problems(str(tmp_path / name))["prompt"][0][0]["content"] == name


def test_explicit_columns_win(tmp_path):
    row = {"question": "wrong", "answer": "wrong", "text": "Two and three?", "meta": {"label": 5}}
    path = write_jsonl(tmp_path / "problems.jsonl", [row])
    dataset = load_problems(path, problem_column="text", answer_column="meta.label")
    assert dataset[0] == {"prompt": [{"role": "user", "content": "Two and three?"}], "solution": "5"}


def test_a_dot_steps_into_nested_columns(tmp_path):
    rows = [{"task": {"text": "Two and three?", "gold": 5}}, {"task": None}]
    path = write_jsonl(tmp_path / "problems.jsonl", rows)
    dataset = load_problems(path, problem_column="task.text", answer_column="task.gold")
    assert dataset.to_list() == [{"prompt": [{"role": "user", "content": "Two and three?"}], "solution": "5"}]
    with pytest.raises(ValueError, match="No column 'task.txt': 'txt' was looked for, but there is text, gold"):
        load_problems(path, problem_column="task.txt", answer_column="task.gold")


def test_system_prompt_comes_first_and_only_once(tmp_path):
    theirs = [{"role": "system", "content": "theirs"}, {"role": "user", "content": "Two and three?"}]
    path = write_jsonl(tmp_path / "problems.jsonl", [{"prompt": theirs, "solution": "5"}])
    ours = load_problems(path, system_prompt="ours")[0]["prompt"]
    assert ours == [{"role": "system", "content": "ours"}, {"role": "user", "content": "Two and three?"}]
    assert load_problems(path)[0]["prompt"] == theirs


def test_prompt_id_is_kept_where_it_identifies_a_row(tmp_path):
    rows = [{"id": i, "problem": f"{i}?", "answer": str(i)} for i in range(3)]
    assert load_problems(write_jsonl(tmp_path / "unique.jsonl", rows))["prompt_id"][:] == ["0", "1", "2"]
    repeated = [row | {"id": 7} for row in rows]
    assert "prompt_id" not in load_problems(write_jsonl(tmp_path / "repeated.jsonl", repeated)).column_names


def test_a_table_is_kept_as_text(tmp_path):
    tables = [{"columns": ["k", "v"], "rows": [["a", 1], ["b", "x"]]}, None, "k,v\na,2"]
    path = tmp_path / "problems.jsonl"
    path.write_text(
        "".join(json.dumps({"problem": f"{i}?", "answer": "1", "table": t}) + "\n" for i, t in enumerate(tables))
    )
    assert load_problems(str(path))["table"] == [json.dumps(tables[0]), None, "k,v\na,2"]


def test_rows_without_an_answer_are_dropped_with_one_warning(tmp_path, caplog):
    rows = [{"problem": "a?", "answer": "1"}, {"problem": "b?", "answer": " "}, {"problem": "c?", "answer": None}]
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        dataset = load_problems(write_jsonl(tmp_path / "problems.jsonl", rows))
    assert dataset["solution"][:] == ["1"]
    [record] = caplog.records
    assert "left out 2 of 3 rows" in record.getMessage()


def test_a_non_numeric_answer_is_none(tmp_path):
    path = str(tmp_path / "problems.parquet")
    Dataset.from_dict({"problem": ["a?", "b?", "c?"], "answer": [1.0, float("nan"), 3.5]}).to_parquet(path)
    assert load_problems(path)["solution"][:] == ["1", "3.5"]


def test_rows_without_a_problem_are_dropped_too(tmp_path, caplog):
    rows = [{"problem": text, "answer": "1"} for text in (None, "a?", "", " ")]
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        dataset = load_problems(write_jsonl(tmp_path / "problems.jsonl", rows))
    assert [messages[0]["content"] for messages in dataset["prompt"]] == ["a?"]
    assert "left out 3 of 4 rows without a problem or an answer" in caplog.text


def test_no_answer_at_all_is_an_error(tmp_path):
    path = write_jsonl(tmp_path / "problems.jsonl", [{"problem": "a?", "solution": "A long story.\nNo end."}])
    with pytest.raises(ValueError, match="--answer_column"):
        load_problems(path)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl"):
        load_problems("nowhere.jsonl")


def test_unknown_file_type(tmp_path):
    path = tmp_path / "problems.txt"
    path.write_text("2 + 3 = 5", encoding="utf-8")
    with pytest.raises(ValueError, match=r"\.jsonl, \.json, \.parquet, \.csv"):
        load_problems(str(path))


def test_unknown_columns_name_what_is_there_and_what_to_do():
    with pytest.raises(ValueError, match=r"Its columns: text, label\. Known ones: prompt, .*--problem_column"):
        find_columns(["text", "label"])
    with pytest.raises(ValueError, match=r"Its columns: problem, label\. .*--answer_column"):
        find_columns(["problem", "label"])


def test_a_prompt_without_a_known_answer_column(tmp_path):
    path = write_jsonl(tmp_path / "problems.jsonl", [{"prompt": "a?", "label": "1"}])
    with pytest.raises(ValueError, match=r"Its columns: prompt, label\. .*--answer_column"):
        load_problems(path)


def test_chosen_column_must_exist():
    with pytest.raises(ValueError, match="no column 'txt' for the problem"):
        find_columns(["text", "answer"], problem_column="txt")


@pytest.mark.parametrize(
    ("row", "column", "answer"),
    [
        ({"answer": "48 / 2\n#### 1,024"}, "answer", "1,024"),
        ({"answer": r"\frac{1}{2}"}, "answer", r"\frac{1}{2}"),
        ({"answer": 5}, "answer", "5"),
        ({"answer": 5.0}, "answer", "5"),  # SVAMP stores integers as floats
        ({"answer": 2.5}, "answer", "2.5"),
        ({"solution": "No mark\nanywhere."}, "solution", ""),
        ({"solution": "42"}, "solution", "42"),
        (
            {"solution": r"First \boxed{1}. " + "More words. " * 9 + r"Last \boxed{\frac{3}{4}}."},
            "solution",
            r"\frac{3}{4}",
        ),
        ({"reward_model": {"ground_truth": "34"}}, "reward_model.ground_truth", "34"),
        ({"reward_model": None}, "reward_model.ground_truth", ""),
    ],
)
def test_read_answer(row, column, answer):
    assert read_answer(row, column).text == answer


def test_read_problem_joins_columns():
    assert read_problem({"Body": "Ann has 2. ", "Question": "3 more?"}, "Body+Question")[0] == "Ann has 2. 3 more?"
    assert read_problem({"Body": None, "Question": "3 more?"}, "Body+Question")[0] == ""


def test_as_messages_does_not_change_a_conversation():
    conversation = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert as_messages(conversation, None) == conversation


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the benchmark files are not at {SHARED}")
@pytest.mark.parametrize(
    ("name", "rows"),
    [("gsm8k_test.jsonl", 1319), ("svamp_test.jsonl", 300), ("math500.jsonl", 500), ("dsr_sub.jsonl", 1208)],
)
def test_real_files(name, rows):
    dataset = load_problems(str(SHARED / name))
    assert len(dataset) == rows  # one row of dsr_sub has no answer
    assert dataset.column_names == ["prompt", "solution", "prompt_id"]
    source = [json.loads(line) for line in (SHARED / name).open(encoding="utf-8")]
    answers = {row["id"]: row["answer"].strip() for row in source}
    assert all(row["solution"] == answers[row["prompt_id"]] for row in dataset)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("no.jsonl", "", "Cannot read no.jsonl: it is empty"),
        ("no.jsonl", "\n\n", "Cannot read no.jsonl: .*no data"),
        (
            "no.jsonl",
            '{"problem": "1 + 1?", "answer": "2"}\n{"problem": "1 + 2?", "answer": }\n',
            "no.jsonl: line 2 is not JSON:",
        ),
        ("no.jsonl", '{"problem": "1 + 1?", "answer": "2"}\n3\n', "no.jsonl: line 2 is not a JSON object"),
        ("no.json", '[{"problem" "1 + 1?"}]', "Cannot read no.json: .*':'"),
        ("no.csv", "problem,answer\n1 + 1?,2\n1 + 2?,3,4\n", "Cannot read no.csv: .*line 3"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_problems(name)
