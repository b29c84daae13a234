# SPDX-License-Identifier: Apache-2.0
"""What load_problems takes from files of many shapes; every row is ours."""

from __future__ import annotations

import datetime
import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset

from trl_concise.data import load_problems
from trl_concise.verification import verify_answers


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def load(tmp_path):
    """Load rows by way of a file."""

    def write_and_load(*rows: dict, **options) -> Dataset:
        path = tmp_path / "problems.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return load_problems(str(path), check_answers=False, **options)

    return write_and_load


def asked(dataset: Dataset) -> list[str]:
    return [messages[-1]["content"] for messages in dataset["prompt"]]


@pytest.mark.parametrize(
    ("row", "answer", "column"),
    [
        ({"solution": r"so \boxed{A}", "ground_truth": "7"}, "7", "ground_truth"),
        ({"solution": "We get 3 pens, then 7.", "final_answer": "7"}, "7", "final_answer"),
        ({"solution": "7 is close to the sum.", "Answer": "8"}, "8", "Answer"),
        ({"target": "9", "solution": r"\boxed{8}"}, "9", "target"),
        ({"target": "9", "answer": "8"}, "8", "answer"),
        (
            {"answer": "Step by step: 4 + 3 = 7.", "answer_number": 7, "equation_solution": "4 + 3"},
            "7",
            "answer_number",
        ),
        ({"final_answer": None, "solution": r"It is \boxed{6}."}, "6", "solution"),
        ({"answer": "", "solution": "2 * 3 = 6\n#### 6"}, "6", "solution"),
        ({"reward_model": {"ground_truth": "4"}, "solution": r"\boxed{5}"}, "4", "reward_model.ground_truth"),
    ],
)
def test_a_final_answer_is_preferred_to_a_worked_solution(row, answer, column, load, capsys):
    assert load({"question": "How many?"} | row)["solution"][:] == [answer]
    assert f"reference answer from {column}" in capsys.readouterr().err


def test_a_sentence_is_not_a_reference_answer(load):
    with pytest.raises(ValueError, match="No row of .* has both .* Its columns: question, solution"):
        load({"question": "How many?", "solution": "We get 3 pens, then 7."})


@pytest.mark.parametrize("column", ["body", "context", "passage", "Body", "story"])
def test_a_story_in_another_column_comes_first(column, load, capsys):
    dataset = load({"question": "How many are left?", column: "Ann has 9 pens and sells 2.", "answer": "7 (pens)"})
    assert asked(dataset) == ["Ann has 9 pens and sells 2. How many are left?"]
    assert dataset["solution"][:] == ["7"]
    said = f"1 problem, prompt from {column} + question, reference answer from answer (unit removed)"
    assert said in capsys.readouterr().err


def test_a_story_that_the_problem_contains_is_not_repeated(load, capsys):
    dataset = load({"problem": "Ann has 9 pens. How many?", "context": "Ann has 9 pens.", "answer": "9"})
    assert asked(dataset) == ["Ann has 9 pens. How many?"]
    assert "prompt from problem," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("12 (square feet)", "12"),
        ("1,250 (dollars)", "1,250"),
        ("3.5 (km/h)", "3.5"),
        ("1/2 (cup)", "1/2"),
        ("8 (m)", "8"),
        ("-4 (°C)", "-4"),
        ("3 (mod 7)", "3 (mod 7)"),
        ("101 (base 2)", "101 (base 2)"),
        ("2 (x)", "2 (x)"),
        ("f(x)", "f(x)"),
        ("2 (x + 1)", "2 (x + 1)"),
    ],
)
def test_units_in_parentheses_are_removed(answer, read, load):
    assert load({"question": "How many?", "answer": answer})["solution"][:] == [read]


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ({"choices": ["3", "4"], "answer": 1}, "B"),
        ({"choices": ["3", "4"], "answer": "1"}, "B"),
        ({"options": ["3", "4"], "answer": "B"}, "B"),
        ({"options": ["3", "4"], "answer": "(b)"}, "B"),
        ({"options": ["3", "4"], "answer": "4"}, "B"),
        ({"options": ["3", "4"], "answer": "Option B"}, "B"),
        ({"options": ["3", "4"], "answer": "The answer is B."}, "B"),
        ({"options": ["A) 3", "B) 4"], "correct": "B"}, "B"),
        ({"options": {"A": "3", "B": "4"}, "answer": "B. 4"}, "B"),
        ({"choices": {"text": ["3", "4"], "label": ["1", "2"]}, "answerKey": "2"}, "B"),
        ({"choices": [{"label": "A", "text": "3"}, {"label": "B", "text": "4"}], "answer": "B"}, "B"),
        ({"choices": "['3', '4']", "answer": "1"}, "B"),
        ({"options": "(A) 3 (B) 4", "answer": "B"}, "B"),
        ({"options": "a ) 3 , b ) 4", "correct": "b"}, "B"),
        ({"A": "3", "B": "4", "answer": "B"}, "B"),
        ({"option_a": "3", "option_b": "4", "answer": "4"}, "B"),
        ({"choices": ["3", "4"], "solution": r"Two and two make four: \boxed{B}"}, "B"),
    ],
)
def test_options_are_listed_and_the_reference_answer_is_a_letter(row, letter, load):
    dataset = load({"question": "2+2?"} | row)
    assert asked(dataset) == ["2+2?\n\nA. 3\nB. 4"]
    assert dataset["solution"][:] == [letter]
    assert verify_answers([letter], [r"\boxed{B}"]) == [True]


def test_positions_of_options_count_from_one_where_they_have_to(load, capsys):
    rows = [{"question": f"{i}?", "choices": ["x", "y", "z"], "answer": i} for i in (1, 2, 3)]
    assert load(*rows)["solution"][:] == ["A", "B", "C"]
    assert "reference answer from answer (position from 1, as a letter)" in capsys.readouterr().err


def test_numbers_that_may_be_options_or_positions_cannot_be_decided(load):
    with pytest.raises(ValueError, match="1 means A or B"):
        load({"question": "0 + 1?", "choices": ["1", "0"], "answer": 1})


def test_numbers_that_are_options_in_every_row_are_options(load):
    rows = [
        {"question": "3 + 4?", "choices": ["6", "7"], "answer": 7},
        {"question": "0 + 1?", "choices": ["1", "0"], "answer": 1},
    ]
    assert load(*rows)["solution"][:] == ["B", "A"]


def test_options_that_the_problem_lists_are_not_repeated(load):
    [text] = asked(load({"question": "2+2?\n(A) 3\n(B) 4", "options": ["3", "4"], "answer": "B"}))
    assert text == "2+2?\n(A) 3\n(B) 4"


def test_an_answer_that_is_not_an_option_is_named(load, caplog):
    rows = [{"question": "2+2?", "choices": ["3", "4"], "answer": answer} for answer in ("B", "E")]
    assert len(load(*rows)) == 1
    assert (
        "left out 1 of 2 rows that cannot be read: row 2, column 'answer' holds 'E', which is not one of"
        in caplog.text
    )


OPENAI = [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": r"It is \boxed{5}."}]
SHAREGPT = [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": r"It is \boxed{5}."}]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("prompt", OPENAI),
        ("messages", OPENAI),
        ("conversations", SHAREGPT),
        ("prompt", json.dumps(OPENAI)),
        ("prompt", str(OPENAI)),
        ("messages", json.dumps(SHAREGPT)),
    ],
)
def test_the_last_message_of_an_assistant_is_the_solution(column, value, load, capsys):
    dataset = load({column: value})
    assert dataset[0] == {"prompt": [{"role": "user", "content": "2+3?"}], "solution": "5"}
    assert f"reference answer from the last message of {column} (boxed)" in capsys.readouterr().err


def test_the_answer_of_a_conversation_does_not_leak_into_the_prompt(load):
    few_shot = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}, *OPENAI]
    [row] = load({"prompt": few_shot, "answer": "5"}).to_list()
    assert row["solution"] == "5"
    assert [message["content"] for message in row["prompt"]] == ["1+1?", "2", "2+3?"]


def test_a_message_of_an_unknown_role_is_named(load, caplog):
    strange = [{"role": "narrator", "content": "2+3?"}]
    assert len(load({"prompt": OPENAI, "answer": "5"}, {"prompt": strange, "answer": "5"})) == 1
    assert "row 2, column 'prompt' holds a message with the role 'narrator'" in caplog.text


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (["5"], "5"),
        ([5], "5"),
        ('["5"]', "5"),
        ("['$5$']", "$5$"),
        ([r"\boxed{5}"], "5"),
        (["5", "5"], "5"),
        (["1", "2"], r"\{1, 2\}"),
        (["$1$", "1,200"], r"\{1, 1200\}"),
        ("[1, 2]", "[1, 2]"),  # an interval
    ],
)
def test_lists_of_answers(value, answer, load):
    assert load({"question": "How many?", "final_answer": value})["solution"][:] == [answer]
    assert load({"question": "How many?", "x": value}, answer_column="x")["solution"][:] == [answer]


def test_several_answers_are_judged_as_a_set(load):
    [gold] = load({"question": "Roots?", "answer": ["1", "-2"]})["solution"]
    assert verify_answers([gold, gold], [r"\boxed{-2, 1}", r"\boxed{1}"]) == [True, False]


BIG = 12345678901234567891


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (
            ".jsonl",
            '{"problem": "a?", "answer": "2024-01-01"}\n{"problem": "b?", "answer": BIG}\n{"problem": "c?"}\n',
        ),
        (".json", '[{"problem": "a?", "answer": "2024-01-01"}, {"problem": "b?", "answer": BIG}]'),
        (".csv", "problem,answer\na?,2024-01-01\nb?,BIG\nc?,\n"),
    ],
)
def test_dates_and_long_integers_stay_as_written(suffix, text, tmp_path):
    path = tmp_path / f"problems{suffix}"
    path.write_text(text.replace("BIG", str(BIG)))
    assert load_problems(str(path), check_answers=False)["solution"][:] == ["2024-01-01", str(BIG)]


def test_numbers_stay_as_written(tmp_path):
    path = tmp_path / "problems.csv"
    path.write_text("problem,answer\na?,0110\nb?,1.50\nc?,NA\n")
    assert load_problems(str(path), check_answers=False)["solution"][:] == ["0110", "1.50", "NA"]
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "a?", "answer": 0.12345678901234567890}\n{"problem": "b?", "answer": 0.10}\n')
    assert load_problems(str(path), check_answers=False)["solution"][:] == ["0.12345678901234567890", "0.10"]


def test_a_date_of_a_table(tmp_path):
    path = str(tmp_path / "problems.parquet")
    Dataset.from_dict({"problem": ["a?"], "answer": [datetime.datetime(2024, 1, 1)]}).to_parquet(path)
    assert load_problems(path, check_answers=False)["solution"][:] == ["2024-01-01"]


def test_the_text_of_a_choice_stays_with_its_letter(load):
    assert load({"question": "Which?", "answer": "C. {x | x > 1}"})["solution"][:] == ["C. {x | x > 1}"]


@pytest.mark.parametrize("value", [["a"], {"key": 1}])
def test_an_id_that_is_not_a_value_is_left_out(value, load, caplog):
    assert load({"id": value, "problem": "a?", "answer": "1"}).column_names == ["prompt", "solution"]
    assert "row 1, column 'id' holds a" in caplog.text


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_file_in_another_encoding_is_named_with_its_line(suffix, tmp_path):
    path = tmp_path / f"problems{suffix}"
    text = {
        ".jsonl": '{"problem": "a?", "answer": "1"}\n{"problem": "é?", "answer": "1"}\n',
        ".json": '[{"problem": "a?", "answer": "1"},\n{"problem": "é?", "answer": "1"}]',
        ".csv": "problem,answer\né?,1\n",
    }[suffix]
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"problems{suffix}: line 2 is not UTF-8 text \(byte 0xe9\)"):
        load_problems(str(path))


def test_one_row_that_holds_a_dictionary_is_named_and_left_out(load, caplog):
    rows = [{"problem": "a?", "answer": "1"}, {"problem": "b?", "answer": {"value": "2"}}]
    assert load(*rows)["solution"][:] == ["1"]
    assert (
        "problems.jsonl: left out 1 of 2 rows that cannot be read: row 2, column 'answer' holds a dict" in caplog.text
    )
    with pytest.raises(ValueError, match="Row 1: column 'answer' holds a dictionary .*answer.value"):
        load(rows[1])


def test_fields_that_a_header_does_not_name(tmp_path):
    path = tmp_path / "problems.csv"
    path.write_text("problem,answer\na?,1,2\nb?,2,3\n")
    with pytest.raises(ValueError, match=r"Cannot read .*problems\.csv"):
        load_problems(str(path))


@pytest.mark.parametrize(
    ("row", "listed"),
    [
        ({"question": "a?", "answer": "1", "context": "x", "passage": "y"}, "context, passage"),
        ({"question": "a?", "answer": "A", "choices": ["1"], "options": ["2"]}, "choices, options"),
        ({"QUESTION": "a?", "Question": "b?", "answer": "1"}, "QUESTION, Question"),
    ],
)
def test_ambiguous_columns_are_an_error_that_lists_them(row, listed, load):
    with pytest.raises(ValueError, match=f"[Ss]everal columns.*: {listed}. Its columns: {', '.join(row)}"):
        load(row)


def test_a_wrong_guess_can_be_overridden(load):
    row = {
        "question": "a?",
        "answer": "1",
        "context": "x.",
        "passage": "y.",
        "choices": ["1", "2"],
        "pair": ["3", "1"],
    }
    assert asked(load(row, context_column="passage", choices_column="none")) == ["y. a?"]
    dataset = load(row, context_column="none", choices_column="pair")
    assert asked(dataset) == ["a?\n\nA. 3\nB. 1"]
    other = load(row | {"text": "b?", "label": 2}, problem_column="text", answer_column="label", context_column="none")
    assert (asked(other), other["solution"][:]) == (["b?\n\nA. 1\nB. 2"], ["B"])
    with pytest.raises(ValueError, match="has no column 'story' for the context. Its columns: question, answer"):
        load(row, context_column="story")


def test_reference_answers_that_cannot_be_read_are_counted_and_named(tmp_path, caplog):
    path = tmp_path / "problems.jsonl"
    answers = ["1", "$", "2", r"\text{}"]
    path.write_text("".join(json.dumps({"problem": f"{i}?", "answer": a}) + "\n" for i, a in enumerate(answers)))
    with caplog.at_level(logging.WARNING, logger="trl_concise"):
        assert len(load_problems(str(path))) == 4
    [record] = caplog.records
    assert "the reference answers of 2 of 4 problems cannot be read" in record.getMessage()
    assert "row 2, '$'; row 4" in record.getMessage()
    path.write_text('{"problem": "a?", "answer": "$"}\n')
    with pytest.raises(ValueError, match=r"No reference answer of .* can be read; the first is '\$'"):
        load_problems(str(path))


def test_problems_are_shown_as_the_trainer_sees_them(tmp_path, capsys):
    from trl_concise.cli.commands import main

    path: Path = tmp_path / "problems.jsonl"
    rows = [{"body": f"Ann has {i} pens.", "question": "How many?", "answer": f"{i} (pens)"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["eval", "demo", str(path), "--show", "2", "--system_prompt", "Be brief."]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "--- problem 1 of 4",
        "[system] Be brief.",
        "[user] Ann has 0 pens. How many?",
        "[reference answer] 0",
        "--- problem 2 of 4",
        "[system] Be brief.",
        "[user] Ann has 1 pens. How many?",
        "[reference answer] 1",
    ]


def test_a_column_that_is_not_needed_does_not_block_a_row(load, caplog):
    rows = [
        {"problem": "a?", "answer": "1", "solution": {"steps": 3}, "reward_model": {"style": "rule"}},
        {"problem": "b?", "answer": None, "solution": {"steps": 3}, "reward_model": {"style": "rule"}},
    ]
    assert load(*rows)["solution"][:] == ["1"]
    assert "left out 1 of 2 rows that cannot be read: row 2" in caplog.text


def test_a_problem_in_a_list_of_one(load):
    assert asked(load({"problem": ["a?"], "answer": "1"})) == ["a?"]
