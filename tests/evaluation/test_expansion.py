# SPDX-License-Identifier: Apache-2.0
"""The expansion rate: golden values, and what a comparison prints."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise.cli.commands import main
from trl_concise.demo.beyond import generate_beyond
from trl_concise.demo.problems import split_of
from trl_concise.evaluation import Completion, accuracy_interval, bootstrap_interval, evaluate, pass_at_k
from trl_concise.evaluation.comparison import describe_expansion
from trl_concise.evaluation.expansion import expansion, expansion_sizes, pass_curve, powers_of_two, solved_by_chance


BASE, TUNED = [0, 0, 0, 2, 8, 1], [1, 0, 3, 0, 8, 2]


def groups(counts, n=8):
    return [
        [
            Completion("set", row, k, str(100 + row), rf"\boxed{{{100 + row if k < c else row}}}", [1], False, k < c)
            for k in range(n)
        ]
        for row, c in enumerate(counts)
    ]


def test_golden_values_of_pass_at_k():
    found = [
        pass_at_k(*of) for of in ((1024, 1, 512), (1024, 1, 64), (2048, 2, 1024), (1024, 3, 256), (2048, 0, 1024))
    ]
    assert found == pytest.approx([0.5, 0.0625, 0.750122, 0.578538, 0], abs=5e-7)
    assert powers_of_two(12) == [1, 2, 4, 8, 12]
    curve = pass_curve([0, 4, 12], 12)
    assert list(curve) == [1, 2, 4, 8, 12] and curve[12]["value"] == pytest.approx(2 / 3)
    assert all(found["interval"][0] <= found["value"] <= found["interval"][1] for found in curve.values())


def test_golden_values_of_the_sets():
    found = expansion(groups(BASE), groups(TUNED))
    assert (found["expanded"], found["shrunk"], found["preserved"], found["neither"]) == ([0, 2], [3], [4, 5], [1])
    assert found["rate_of_all"] == pytest.approx(1 / 3) and found["rate"] == pytest.approx(2 / 3)
    assert found["preservation"] == pytest.approx(2 / 3) and found["consolidation"] == 0.625
    assert found["shrinkage"] == pytest.approx(1 / 6) and found["unsolved"] == 3 and found["null_rate"] is None
    sizes = expansion_sizes(BASE, TUNED, 8, 4)
    expected = {"expanded": 1.821429, "shrunk": 0.892857, "preserved": 1.392857, "neither": 1.892857}
    assert sizes == pytest.approx(expected, abs=5e-7) and sizes["expanded"] / 6 == pytest.approx(0.303571, abs=5e-7)
    assert found["sizes"][4] == sizes


def test_golden_values_of_the_intervals():
    assert bootstrap_interval([[1.0]] * 9 + [[0.0]] * 106) == pytest.approx((0.034783, 0.130435), abs=5e-7)
    assert bootstrap_interval([[1.0]] * 11 + [[0.0]] * 104) == pytest.approx((0.043478, 0.148043), abs=5e-7)
    assert bootstrap_interval([[1.0], [0.0], [1.0]]) == (0, 1)
    assert accuracy_interval([[0.0]] * 41) == pytest.approx((0, 0.085668), abs=5e-7)


def test_golden_values_of_chance():
    # each problem's reference answer is given 1, 2 and 0 times in 100 guesses to the others
    answers = [["x"] * 50, ["x"] * 50, ["a", "b", "b", *["x"] * 47]]
    found = solved_by_chance(answers, ["a", "b", "c"], 64)
    assert found == pytest.approx([0.474404, 0.725546, 0], abs=5e-7) and sum(found) == pytest.approx(1.19995, abs=5e-6)
    assert 1 - (1 - 0.01) ** 1024 == pytest.approx(0.999966, abs=5e-7)
    assert solved_by_chance([["a"]], ["a"], 4) == [0]  # no other problem


@settings(max_examples=25)
@given(st.integers(1, 6), st.data())
def test_what_must_hold(n, data):
    counts = st.lists(st.tuples(st.integers(0, n), st.integers(0, n)), min_size=1, max_size=6)
    base, tuned = map(list, zip(*data.draw(counts), strict=True))
    for k in range(1, n + 1):
        assert sum(expansion_sizes(base, tuned, n, k).values()) == pytest.approx(len(base))
    found = expansion(groups(base, n), groups(tuned, n))
    whole = expansion_sizes(base, tuned, n, n)
    assert {name: len(found[name]) for name in whole} == pytest.approx(whole)
    assert (found["rate"] is None) == all(base)
    same = expansion(groups(base, n), groups(base, n), groups(base, n))
    assert same["expanded"] == same["shrunk"] == [] and same["null_rate"] in (None, 0)
    unsolved = [row for row, c in enumerate(base) if not c]
    if unsolved:  # there, the rate is pass@n of the tuned model
        assert found["rate"] == pytest.approx(pass_curve([tuned[row] for row in unsolved], n)[n]["value"])


def test_problems_beyond_the_embedded_model():
    rows = generate_beyond(64)
    assert [(row["problem"], row["answer"]) for row in rows[:2]] == [
        ("What is 836 + 9 - 4?", "841"),
        ("What is 688 - 3 - 4?", "681"),
    ]
    assert rows[:16] == generate_beyond(16) and len({row["problem"] for row in rows}) == 64
    for row in rows:
        expression = row["problem"].removeprefix("What is ").removesuffix("?")
        assert eval(expression) == int(row["answer"]) and 200 <= int(row["answer"]) <= 999
        assert split_of(row["problem"]) == "test"
    assert all(split_of(row["problem"]) == "train" for row in generate_beyond(8, split="train"))


def test_the_command_prints_the_expansion_rate(tmp_path, capsys):
    common = {
        "limit": 3,
        "max_new_tokens": 16,
        "temperature": 1.0,
        "top_p": 1.0,
        "num_completions": 2,
        "progress": False,
    }
    for seed in range(3):
        evaluate("demo", "demo_beyond", tmp_path / str(seed), seed=seed, **common)
    arguments = ["compare", str(tmp_path / "0"), str(tmp_path / "1")]
    assert main([*arguments, "--output_dir", str(tmp_path / "out")]) == 0
    assert "pass@1 0.0% -> 0.0%; pass@2 0.0% -> 0.0%." in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["demo_beyond"]["expansion"]
    assert (found["n"], found["rate"], found["neither"]) == (2, 0, [0, 1, 2])
    assert (tmp_path / "out" / "pass_at_k.png").stat().st_size > 1000
    assert main([*arguments, "--null", str(tmp_path / "2")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "Of 3 problems that the first model does not solve in 2 tries, the second solves 0.0% [0.0, 56.1]" in printed
    )
    assert "The first model with another seed solves 0.0%." in printed
    many = {**found, "n": 8, "sizes": {}}
    assert "measure how many with --null" in describe_expansion(many) and "Of 3 problems" in describe_expansion(many)
    evaluate("demo", "demo_beyond", tmp_path / "few", **{**common, "num_completions": 1})
    with pytest.raises(SystemExit):
        main([*arguments, "--null", str(tmp_path / "0")])
    assert (
        "is not the first model with another seed on 'demo_beyond': model 'demo' and seed 0" in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        main([*arguments, "--null", str(tmp_path / "few")])
    assert "got [1, 2]. Evaluate with the same --num_completions" in capsys.readouterr().err
