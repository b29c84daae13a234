# SPDX-License-Identifier: Apache-2.0
"""`trl-concise compare`: golden values of the paired comparison, and what is not compared."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise.cli.commands import main
from trl_concise.evaluation import Completion, evaluate
from trl_concise.evaluation.comparison import compare, compare_problems, print_comparison
from trl_concise.evaluation.paired import loss_class, paired_figures


GOLDEN = (
    [1, 1, 0.5, 0, 1, 0.5],
    [1, 0.5, 0.5, 0, 0, 1],
    [100, 120, 200, 400, 90, 150],
    [110, 150, 210, 380, 130, 140],
)
SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
PROBLEMS = st.lists(st.tuples(SHARES, SHARES, st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=12)


def test_golden_values():
    found = paired_figures(*GOLDEN)
    assert found["accuracy_difference"] == pytest.approx(-0.166667, abs=5e-7)
    assert found["accuracy_difference_interval"] == pytest.approx([-0.583333, 0.166667], abs=5e-7)
    assert found["token_difference"] == pytest.approx(10)
    assert found["token_difference_interval"] == pytest.approx([-6.666667, 26.666667], abs=5e-7)
    assert found["token_ratio"] == pytest.approx(1.056604, abs=5e-7)
    assert found["token_ratio_interval"] == pytest.approx([0.972826, 1.230769], abs=5e-7)
    assert found["loss_class"] == "risky"
    assert [loss_class(points) for points in (0.9, 1.0, 2.4, 3.0, -0.2)] == ["lossless"] * 2 + [
        "fair",
        "risky",
        "lossless",
    ]


@settings(max_examples=15)
@given(PROBLEMS)
def test_swapping_the_evaluations_and_reordering_the_problems(problems):
    a, b, t, u = map(list, zip(*problems, strict=True))
    found, swapped = paired_figures(a, b, t, u), paired_figures(b, a, u, t)
    for name in ("accuracy_difference", "token_difference"):
        assert swapped[name] == pytest.approx(-found[name])
        low, high = found[f"{name}_interval"]
        assert swapped[f"{name}_interval"] == pytest.approx([-high, -low])
    assert swapped["token_ratio"] == pytest.approx(1 / found["token_ratio"])
    reverse = paired_figures(*(side[::-1] for side in (a, b, t, u)))
    for name in ("accuracy_difference", "token_difference", "token_ratio"):
        assert reverse[name] == pytest.approx(found[name])
    same = paired_figures(a, a, t, t)
    assert same["accuracy_difference_interval"] == [0, 0] and same["token_ratio_interval"] == [1, 1]


def completion(problem, correct, tokens, truncated=False):
    return Completion("set", problem, 0, "1", "", [7] * tokens, truncated, correct)


def test_tokens_by_who_is_correct():
    first = [
        [completion(0, True, 10)],
        [completion(1, True, 20)],
        [completion(2, False, 8)],
        [completion(3, False, 5)],
    ]
    second = [
        [completion(0, True, 5)],
        [completion(1, False, 40, True)],
        [completion(2, True, 4)],
        [completion(3, False, 5)],
    ]
    found = compare_problems(first, second)
    assert found["outcomes"] == {
        "both_correct": {"problems": 1, "token_ratio": 0.5},
        "only_first": {"problems": 1, "token_ratio": 2.0},
        "only_second": {"problems": 1, "token_ratio": 0.5},
        "both_wrong": {"problems": 1, "token_ratio": 1.0},
    }
    assert (found["correct_token_ratio"], found["truncated"], found["mcnemar_p"]) == (0.5, [0, 0.25], 1)
    # Several completions: the correct ones of the problems that both solve
    several = compare_problems(
        [[completion(0, True, 10), completion(0, False, 90)]], [[completion(0, True, 4), completion(0, True, 6)]]
    )
    assert several["correct_token_ratio"] == 0.5 and "outcomes" not in several
    assert compare_problems([first[2]], [second[3]])["correct_token_ratio"] is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    common = {"limit": 6, "temperature": 0.0, "progress": False}
    for name, tokens in {"long": 64, "again": 64, "short": 32}.items():
        evaluate("demo", "demo", root / name, max_new_tokens=tokens, model_name=name, **common)
    return root


def test_an_evaluation_and_itself(runs, tmp_path, capsys):
    arguments = [str(runs / "long"), str(runs / "again")]
    assert main(["compare", *arguments, "--output_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "again (float32) compared with long (float32)" in printed and "demo: lossless" in printed
    found = json.loads((tmp_path / "comparison.json").read_text())["demo"]
    assert found == compare(*arguments)["demo"]
    assert (found["accuracy_difference"], found["token_ratio"], found["mcnemar_p"]) == (0, 1, 1)
    assert found["accuracy_difference_interval"] == [0, 0] and found["token_ratio_interval"] == [1, 1]
    assert (found["modes"], found["models"], found["problems"]) == (["float32"] * 2, ["long", "again"], 6)
    assert sum(outcome["problems"] for outcome in found["outcomes"].values()) == 6
    assert found["judge"]["name"] == "trl-concise"


def test_what_is_not_compared(runs, tmp_path, capsys):
    def error(first, second):
        with pytest.raises(SystemExit) as ended:
            main(["compare", str(first), str(second)])
        assert ended.value.code == 2
        return capsys.readouterr().err

    assert "max_new_tokens is 32, for the base 64" in error(runs / "long", runs / "short")
    assert "does not exist" in error(runs / "long", tmp_path / "none")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("completions.jsonl", "summary.json", "settings.json"):
        text = (runs / "again" / name).read_text()
        (other / name).write_text(text.replace('"demo"', '"sums"') if name != "settings.json" else text)
    assert "have no problem set in common: demo, and sums" in error(runs / "long", other)
    for name in ("completions.jsonl", "summary.json", "settings.json"):
        (other / name).write_text(
            (runs / "again" / name).read_text().replace('"engine": "transformers"', '"engine": "vllm"')
        )
    assert "whose kernels differ" in error(runs / "long", other)


def test_the_table_fits_into_80_columns(runs, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    found = compare(runs / "long", runs / "again")["demo"]
    found |= {"accuracy_difference": -0.155, "accuracy_difference_interval": [-0.201, -0.102]}
    print_comparison({f"demo_harder, {level} effort": found for level in ("low", "high")})
    table = capsys.readouterr().out.split("[ ]: 95 %")[0]
    assert "…" not in table and all(len(line) <= 80 for line in table.splitlines())
    assert "-15.5 points [-20.1, -10.2]" in table and "demo_harder, high effort (6)" in table
