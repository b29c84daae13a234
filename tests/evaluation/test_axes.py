# SPDX-License-Identifier: Apache-2.0
"""Axes of generalization: counts, golden values, the generated problems, and what the commands print."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product

import pytest

from trl_concise.cli.commands import main
from trl_concise.data import load_problems
from trl_concise.demo.axes import MOST, PARTS, SETTINGS, generate_axes
from trl_concise.demo.problems import LARGEST_FACTOR, LARGEST_OPERAND, Problem, apply, split_of
from trl_concise.evaluation import Completion, evaluate, load_problem_sets
from trl_concise.evaluation.axes import cells_of, generalization, report_axes, summarize_axes, summarize_cell


def count_problems(limit, operators, most):
    """Count the chains of 1 to `most` operations by their results: exact, because every chain has a text of its own."""
    counts = Counter(range(2, limit + 1))
    found = []
    for _ in range(most):
        following: Counter[int] = Counter()
        for value, count in counts.items():
            for operator in operators:
                for operand in range(2, (LARGEST_FACTOR if operator == "*" else LARGEST_OPERAND) + 1):
                    if 0 <= (result := apply(operator, value, operand)) <= limit:
                        following[result] += count
        counts = following
        found.append(counts.total())
    return found


@pytest.mark.parametrize(
    ("limit", "operators", "expected"),
    [
        (99, "*", [121, 138, 121, 47]),
        (99, "+-", [1_496, 23_113, 358_811, 5_588_175]),
        (99, "+-*", [1_617, 26_948, 449_639, 7_507_002, 125_301_593, 2_090_395_221]),
        (199, "+-*", [3_345, 56_810, 965_602, 16_416_897]),
        (999, "*", [1_276, 1_619, 2_009, 2_316]),
        (999, "+-*", [17_172, 295_789, 5_095_979, 87_801_671]),
    ],
)
def test_numbers_of_distinct_problems(limit, operators, expected):
    assert count_problems(limit, operators, len(expected)) == expected


def test_numbers_of_mixed_problems():
    several = {operators: count_problems(99, operators, 4) for operators in ("+-*", "+-", "*")}
    mixed = [a - b - c for a, b, c in zip(*several.values(), strict=True)]
    assert mixed[1:] == [3_697, 90_707, 1_918_780] and sum(several["+-*"][1:3]) == 476_587


def test_the_count_is_that_of_the_texts():
    texts = set()
    for start, (a, x), (b, y) in product(range(2, 100), *[list(product("+-*", range(2, 10)))] * 2):
        problem = Problem(start, ((a, x), (b, y)))
        factors = [operand for operator, operand in problem.operations if operator == "*"]
        if all(0 <= result <= 99 for result in problem.results) and max(factors, default=0) <= LARGEST_FACTOR:
            texts.add(problem.text)
    assert len(texts) == 26_948


def evaluate_text(text):
    """Return the answer of a problem by Python's own rules."""
    if text.startswith("Let n = "):
        first, _, second = text.removeprefix("Let n = ").partition(". What is ")
        return eval(second.removesuffix("?"), {"n": eval(first)})
    expression = text.removeprefix("What is ").removesuffix("?")
    if expression.startswith("the larger of "):
        return max(map(eval, expression.removeprefix("the larger of ").split(" and ")))
    return eval(expression)


def test_generated_problems():
    parts = {part: generate_axes(6, part=part) for part in PARTS}
    rows = [row for part in parts.values() for row in part]
    assert len({row["problem"] for row in rows}) == len(rows) == 6 * (10 + 10 + 12)
    assert {(row["axis"], row["setting"]) for row in rows} == set(SETTINGS)
    for row in rows:
        assert evaluate_text(row["problem"]) == int(row["answer"]), row
        assert split_of(row["problem"]) == ("train" if row["part"] == "train" else "test")
    for part in PARTS:
        cells = Counter((row["setting"], row["level"]) for row in parts[part])
        assert set(cells.values()) == {6}
        shorter = generate_axes(2, part=part)
        assert shorter == [row for number, row in enumerate(parts[part]) if number % 6 < 2]
    assert generate_axes(2, seed=1) != generate_axes(2)


def test_levels_have_what_their_names_say():
    rows = generate_axes(8, part="test_out")
    texts = {level: [row for row in rows if row["level"] == level] for level in {row["level"] for row in rows}}
    for count in (1, 4, 5, 6):
        name = f"{count} operation{'s' * (count > 1)}"
        assert all(sum(row["problem"].count(f" {sign} ") for sign in "+-*") == count for row in texts[name])
    assert all(any(f" {n}" in row["problem"][10:] for n in range(10, 20)) for row in texts["to 19"])
    assert all("*" in row["problem"] and set("+-") & set(row["problem"]) for row in texts["both"])
    # the answer does not depend on the part that cancels, or is multiplied by 0
    for row in texts["3 pairs"]:
        words = row["problem"].removeprefix("What is ").removesuffix("?").split()
        assert len(words) == 15 and eval(" ".join([words[0], *words[-2:]])) == int(row["answer"])
    assert all(row["answer"] == row["problem"].removesuffix("?").split()[-1] for row in texts["times 0"])
    inside = [row["problem"] for row in generate_axes(8) if row["setting"] != "mixed"]
    for text in inside:
        numbers = [int(word.strip("()?")) for word in text.split() if word.strip("()?").isdigit()]
        assert numbers[0] <= 99 and max(numbers[1:]) <= 9 and 2 <= sum(text.count(f" {sign} ") for sign in "+-*") <= 3


@pytest.mark.parametrize(
    ("arguments", "match"), [((1, 0, "dev"), "Unknown part 'dev'"), ((MOST + 1,), f"between 0 and {MOST}, got")]
)
def test_bad_input(arguments, match):
    with pytest.raises(ValueError, match=match):
        generate_axes(*arguments)


def test_golden_values():
    found = generalization({"accuracy": 0.95, "tokens_mean": 2.0}, {"accuracy": 0.19, "tokens_mean": 3.0})
    assert found == {"accuracy": [0.95, 0.19], "gap": pytest.approx(0.76), "retention": 0.2, "token_ratio": 1.5}
    nothing = generalization({"accuracy": 0.0, "tokens_mean": 2.0}, {"accuracy": 0.5, "tokens_mean": 3.0})
    assert nothing["retention"] is None and nothing["gap"] == -0.5
    assert set(generalization({"accuracy": 1.0, "tokens_mean": 2.0}, None).values()) == {None}


def completions(answers, golds, tokens=4):
    return [
        [Completion("set", row, 0, gold, rf"\boxed{{{answer}}}", [1] * tokens, False, answer == gold)]
        for row, (answer, gold) in enumerate(zip(answers, golds, strict=True))
    ]


def test_a_cell():
    found = summarize_cell(completions("1232", "1211"))
    assert (found["problems"], found["accuracy"], found["tokens_mean"]) == (4, 0.5, 4)
    assert found["chance"] == pytest.approx((0 + 1 / 3 + 1 / 3 + 1 / 3) / 4)
    low, high = found["accuracy_interval"]
    assert low < 0.5 < high


def test_names_of_the_public_sets():
    row = {"axis": "explorative", "setting": "gcd", "level": "1", "part": "test"}
    assert list(cells_of([row])) == [("exploratory", None, "test_out", None), ("exploratory", "gcd", "test_out", None)]


def test_any_file_with_the_columns_has_axes(tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [
        {"problem": f"{n} + 1", "answer": str(n + 1), "axis": "a", "setting": "s", "level": n, "part": part}
        for n, part in ((1, "test_in"), (2, "test_out"), (3, "test_out"))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = load_problems(str(file))
    assert dataset["level"] == ["1", "2", "3"]
    items = [item for group in completions(["2", "3", "5"], ["2", "3", "4"]) for item in group]
    found = summarize_axes(items, dataset)
    assert [(cell["setting"], cell["part"], cell["level"], cell["accuracy"]) for cell in found["cells"]] == [
        (None, "test_in", None, 1),
        ("s", "test_in", None, 1),
        (None, "test_out", None, 0.5),
        ("s", "test_out", None, 0.5),
        ("s", "test_out", "2", 1),
        ("s", "test_out", "3", 0),
    ]
    assert [found["settings"][k]["retention"] for k in (0, 1)] == [0.5, 0.5]
    file.write_text(json.dumps({"problem": "1 + 1", "answer": "2", "level": 5}) + "\n")
    plain = load_problems(str(file))
    assert "level" not in plain.column_names and summarize_axes(items[:1], plain) is None


def test_the_commands_print_every_cell(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    whole = load_problem_sets(["demo_omega"])["demo_omega"]
    assert len(whole) == 24 * 22
    some = {"demo_omega": whole.select([0, 24, 240, 264, 265, 480])}
    records = evaluate("demo", some, tmp_path, max_new_tokens=24, temperature=0.0, budgets=[12], progress=False)
    assert [len(record["axes"]["cells"]) for record in records] == [10, 10]
    for cell in records[0]["axes"]["cells"]:
        low, high = cell["accuracy_interval"]
        assert cell["problems"] and low <= cell["accuracy"] <= high and 0 <= cell["chance"] <= 1
    lines = (tmp_path / "problems.jsonl").read_text().splitlines()
    assert json.loads(lines[2]).items() >= {"axis": "exploratory", "setting": "ops", "part": "test_out"}.items()
    report_axes(records)
    printed = capsys.readouterr().out
    for words in ("Gap, retention", "Chance", "exploratory", "4 operations", "truncated at 12"):
        assert words in printed
    assert "…" not in printed
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "demo_omega: change along the axes" in printed
    assert "+0.0 [0.0, 0.0]" in printed
