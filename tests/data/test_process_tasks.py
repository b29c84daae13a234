# SPDX-License-Identifier: Apache-2.0
"""Tasks about worked solutions: what is left blank, which order is shown, and what cannot be used."""

from __future__ import annotations

import logging
import re

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise.data.process_tasks import TASKS, build_process_tasks, find_pieces


GSM8K = {
    "question": "Natalia sold clips to 48 friends in April, and half as many in May. She kept 5. How many did she have?",
    "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips.\n"
    "With those that she kept, it is 72+5 = <<72+5=77>>77.\n#### 77",
}
MATH = {
    "problem": "A right triangle has legs 3 and 4. Find the hypotenuse.",
    "solution": "Let $c$ be the hypotenuse.\n\nBy the Pythagorean Theorem, $c^2 = 3^2 + 4^2 = 25$.\n\nThus $c = \\boxed{5}$.",
    "answer": "5",
}


def make(*rows, **options):
    return build_process_tasks(Dataset.from_list(list(rows)), **options)


def text_of(task) -> str:
    return task["prompt"][-1]["content"]


def varied(row, count: int = 40) -> list[dict]:
    """Return the row with problems that differ, so that each has a task of its own."""
    name = "question" if "question" in row else "problem"
    return [{**row, name: f"{row[name]} {'I' * i}"} for i in range(count)]


def test_a_filled_task_is_the_solution_and_its_answer_stays():
    blanks = set()
    for task in make(*varied(GSM8K), tasks=["fill"]):
        shown = text_of(task).split("\n\n")[1].partition("\n")[2]
        assert "<<" not in shown and "#### 77" not in shown and task["order"] is None
        assert re.findall(r"\[blank (\d)\]", shown) == [str(i + 1) for i in range(len(task["blanks"]))]
        for number, piece in enumerate(task["blanks"], start=1):
            shown = shown.replace(f"[blank {number}]", piece)
        assert shown == re.sub("<<.*?>>", "", GSM8K["answer"]).replace("\n#### 77", "")
        assert 1 <= len(task["blanks"]) <= 3 and not any("77" in piece for piece in task["blanks"])
        blanks.update(task["blanks"])
    assert {"48/2 = 24", "24", "48+24 = 72", "72"} <= blanks
    tasks = make(*varied(GSM8K), tasks=["fill"], blank_answer=True, max_blanks=2)
    assert {"72+5 = 77", "77"} <= {piece for task in tasks for piece in task["blanks"]}
    assert {len(task["blanks"]) for task in tasks} == {1, 2}


def test_an_answer_without_a_mark_is_not_left_blank_either():
    row = {"problem": "What is 2 * 9 + 5?", "solution": "2 * 9 = 18\nIt is 18 + 5 = 23 in all."}
    assert not any("23" in piece for task in make(*varied(row)) for piece in task["blanks"])
    row = {**row, "solution": "2 * 9 = 18\n18 + 5 = 23\nSo there are 23 of them, or 46 shoes.", "answer": 23}
    found = {piece for task in make(*varied(row), tasks=["fill"]) for piece in task["blanks"]}
    assert "46" in found and not any("23" in piece for piece in found)  # the column says what the answer is


@pytest.mark.parametrize(
    ("step", "pieces"),
    [
        ("So 48/2 = 24 clips are left.", ["48/2 = 24", "24"]),
        ("She paid $5 and $10, which makes $5 + $10 = $15.", ["$5 + $10 = $15", "15"]),
        ("Let $x$ be $\\frac{1}{2}$.", ["\\frac{1}{2}"]),
        ("By the Pythagorean theorem, \\(a^2 = 9\\).", ["Pythagorean theorem", "a^2 = 9"]),
        ("She buys 3 of them.", []),  # as the problem says
        ("That leaves 1,024 of 3.", ["1,024"]),
        ("7 + 7 = 14, so 14 it is.", ["7 + 7 = 14"]),  # 14 would be read off
        ("We add both.", []),
        ("He eats 1.5/3 = 0.5 of it.", ["1.5", "1.5/3 = 0.5", "0.5"]),
        ("Thus \\[x = 1.5,\\] as needed.", ["x = 1.5"]),
        ("1+" * 5000, []),  # quickly
    ],
)
def test_pieces(step, pieces):
    assert [piece.text for piece in find_pieces(step, "Of 48, she buys 3 for $5, or $10.")] == pieces


def test_steps_are_shown_without_what_gives_their_order_away():
    row = {"problem": "2 * 3 + 4?", "solution": "Step 1: multiply\n**Step 2**: add\n3. be done\n\\boxed{10}"}
    (task,) = make(row, tasks=["order"])
    lines = text_of(task).split("\n\n")[1].splitlines()[1:]
    steps = [re.fullmatch(rf"{number}\. (.*)", line)[1] for number, line in enumerate(lines, start=1)]
    assert [steps[number - 1] for number in task["order"]] == ["multiply", "add", "be done", "\\boxed{10}"]


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        ("Step 1: -5 + 3 = -2", "-5 + 3 = -2"),
        ("Step 2: \\(x = 3\\)", "\\(x = 3\\)"),
        ("step 3) $y$ is 4", "$y$ is 4"),
        ("### **Step 4:** **Add** both", "**Add** both"),
        ("(Step 5) (3 + 4) = 7", "(3 + 4) = 7"),
        ("Step 6 - multiply", "multiply"),
        ("[Step 7] [0, 1] is closed", "[0, 1] is closed"),
        ("8. -1 is left", "-1 is left"),
        ("Steps follow", "Steps follow"),
    ],
)
def test_a_label_is_removed_and_nothing_else(step, shown):
    row = {"problem": "?", "solution": f"{step}\nFirst.\nLast."}
    (task,) = make(row, tasks=["order"])
    lines = text_of(task).split("\n\n")[1].splitlines()[1:]
    assert shown in [line.partition(". ")[2] for line in lines]


words = st.text(st.sampled_from("abc 12=+."), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.lists(words, min_size=3, max_size=6), min_size=20, max_size=30), st.integers(0, 99))
def test_the_shown_order_is_never_the_right_one(solutions, seed):
    """Must hold 4. The expected order restores the solution."""
    rows = [{"problem": "?", "solution": "\n".join(steps)} for steps in [*solutions, ["a", "b", "c"]]]
    for task in make(*rows, tasks=["order"], seed=seed):
        shown = [line.partition(". ")[2] for line in text_of(task).split("\n\n")[1].splitlines()[1:]]
        restored = [shown[number - 1] for number in task["order"]]
        assert shown != restored and task["order"] != sorted(task["order"]) and len(set(restored)) >= 3


def test_tasks_depend_on_the_row_and_the_seed_alone():
    rows = [{**GSM8K, "question": f"{i} {GSM8K['question']}"} for i in range(24)]
    tasks = list(make(*rows))
    assert {task["task"] for task in tasks} == set(TASKS)
    assert list(make(*rows[::-1])) == tasks[::-1] != list(make(*rows, seed=1))[::-1]
    chosen = [{**row, "task": ("fill", "order", None)[i % 3]} for i, row in enumerate(rows)]
    assert [task["task"] for task in make(*chosen)][:2] == ["fill", "order"]
    streamed = build_process_tasks(Dataset.from_list(rows).to_iterable_dataset())
    assert list(streamed) == tasks


def test_a_stream_that_does_not_know_its_columns():
    stream = Dataset.from_list([GSM8K, MATH]).to_iterable_dataset().map(lambda row: {**row})
    assert stream.column_names is None
    assert len(list(build_process_tasks(stream, problem_column="question", solution_column="answer"))) == 1


def test_conversations_and_system_prompts():
    messages = [{"role": "system", "content": "Think."}, {"role": "user", "content": "2 * 9 + 5?"}]
    row = {"messages": messages, "solution": "2*9=18\n18+5=23\n#### 23"}
    (task,) = make(row)
    assert [message["role"] for message in task["prompt"]] == ["system", "user"] and "2 * 9 + 5?" in text_of(task)
    (task,) = make(row, system_prompt="Fill.", fill_prompt="{problem} {{}} {solution}")
    assert task["prompt"][0]["content"] == "Fill." and text_of(task).startswith("2 * 9 + 5? {} ")


def test_solutions_that_cannot_be_used_are_counted(caplog):
    short = {"problem": "?", "solution": "5 + 5 = 10\nIt is 10.", "answer": "10"}
    prose = {"problem": "?", "solution": "We look.\nWe see.", "answer": "yes"}
    repeats = {"problem": "?", "solution": "Add.\nAdd.\nStop.", "answer": "yes"}
    missing = {"problem": "?", "solution": None, "answer": "1"}
    with caplog.at_level(logging.WARNING):
        assert len(make(MATH, short, prose, repeats, missing)) == 1
    assert (
        "Left out 4 of 5 solutions: 3 without a piece to leave blank and without 3 different steps, 1 without a problem"
        in caplog.text
    )
    with pytest.raises(
        ValueError, match=r"None of the 2 solutions in 'solution' is usable: 2 without 3 different steps"
    ):
        make(short, repeats, tasks=["order"])
    with pytest.raises(ValueError, match="has no rows"):
        build_process_tasks(Dataset.from_dict({"problem": [], "solution": []}))


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"problem": "?", "solution": 5},
            {},
            "Row 0: the column 'solution' must hold worked solutions as text, got a int",
        ),
        ({"problem": "?", "solution": ["a", "b"]}, {}, "got a list"),
        ({"problem": [1, 2], "solution": "1+1=2"}, {}, "Row 0: column 'problem' holds a list"),
        ({"problem": "?", "solution": "1+1=2", "task": "guess"}, {}, "must hold one of"),
        ({"problem": "?", "text": "1+1=2"}, {}, "known to hold the solution"),
        (MATH, {"solution_column": "trace"}, "no column 'trace'"),
        (MATH, {"tasks": "fill"}, "tasks must be"),
        (MATH, {"tasks": ["guess"]}, "tasks must be"),
        (MATH, {"max_blanks": 0}, "max_blanks"),
        (MATH, {"fill_prompt": "{problem}"}, "fill_prompt must contain"),
        (MATH, {"separator": ""}, "separator"),
    ],
)
def test_bad_input(row, options, message):
    with pytest.raises(ValueError, match=message):
        make(row, **options)


def test_a_dataset_of_several_splits_is_refused():
    with pytest.raises(ValueError, match="one split, got"):
        build_process_tasks(DatasetDict(train=Dataset.from_list([MATH])))
