# SPDX-License-Identifier: Apache-2.0
"""What perturbations cost: golden values, pairs, and what the commands print."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from trl_concise.cli.commands import main
from trl_concise.data.perturbations import perturb_sets
from trl_concise.evaluation import Completion, evaluate
from trl_concise.evaluation.rescore import rescore
from trl_concise.evaluation.stress import above_chance, add_stress, compare_with_original, over_variants, shift


def test_golden_values():
    found = shift([1, 1, 0.5, 0, 1], [1, 0, 0.5, 0.5, 0.75])
    assert found["accuracy"] == pytest.approx([0.7, 0.55]) and found["drop"] == pytest.approx(0.15)
    assert found["consistency"] == pytest.approx(0.55)
    assert (found["right_to_wrong"], found["wrong_to_right"]) == pytest.approx((0.428571, 0.5), abs=5e-7)
    assert shift([1, 1], [1, 0])["wrong_to_right"] is None and shift([0], [1])["right_to_wrong"] is None
    several = over_variants([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0]])
    assert several["mean"] == pytest.approx(0.583333, abs=5e-7) and several["variants"] == [0.75, 0.5, 0.5]
    assert (several["worst_case"], several["any"], several["spread"]) == (0.25, 0.75, 0.25)
    assert over_variants([[1, 0.5]])["worst_case"] is None
    assert above_chance(0.62, 0.25) == pytest.approx(0.493333, abs=5e-7) and above_chance(0.5, 0.5) == 0


def completion(name, row, answer, gold, correct="judged", tokens=4):
    correct = answer == gold if correct == "judged" else correct
    return Completion(name, row, 0, gold, rf"\boxed{{{answer}}}", [1] * tokens, False, correct)


def test_pairs_with_skipped_and_unreadable_problems():
    problems = ["What is 2 * 3?", "2 + 2 = ?", "What is 2 + 3?", "What is 3 + 3?"]  # the second is skipped
    golds = ["6", "4", "5", "6"]
    dataset = Dataset.from_list([{"prompt": p, "solution": g} for p, g in zip(problems, golds, strict=True)])
    variant = perturb_sets({"s": dataset}, ["times_sign"])["s, times_sign"]
    original = {row: [completion("s", row, gold, gold)] for row, gold in enumerate(golds)}
    original[3] = [completion("s", 3, "6", "6", correct=None)]
    perturbed = {
        0: [completion("v", 0, "7", "6", tokens=6)],
        1: [completion("v", 1, "5", "5")],
        2: [completion("v", 2, "6", "6")],
    }
    found = compare_with_original(variant, original, perturbed)
    assert (found["problems"], found["unchanged"], found["skipped"]) == (2, 1, 1)
    assert found["accuracy"] == [1, 0.5] and found["drop"] == 0.5 and found["drop_changed"] == 1
    assert found["drop_interval"] == [0, 1] and found["token_ratio"] == 1.25
    assert found["same_answer"] == 0.5 and found["chance"] is None and found["above_chance"] is None  # fmt: skip


def test_answers_are_mapped_back_and_chance_is_known():
    text = "Which?\n\nA. 3 apples\nB. 4 pears\nC. five"
    dataset = Dataset.from_list([{"prompt": text, "solution": letter} for letter in "ABC"])
    variants = perturb_sets({"s": dataset}, ["number_labels", "two_options"])
    numbers, two = variants.values()
    original = {row: [completion("s", row, "B", letter)] for row, letter in enumerate("ABC")}
    perturbed = {row: [completion("n", row, "2", gold)] for row, gold in enumerate(numbers.problems["solution"])}
    found = compare_with_original(numbers, original, perturbed)
    assert (found["same_answer"], found["drop"], found["consistency"], found["kind"]) == (1, 0, 1, "mapped")
    assert found["chance"] == pytest.approx([1 / 3, 1 / 3]) and found["above_chance"] == pytest.approx([0, 0])
    halves = {row: [completion("t", row, gold, gold)] for row, gold in enumerate(two.problems["solution"])}
    found = compare_with_original(two, original, halves)
    assert found["chance"] == pytest.approx([1 / 3, 1 / 2]) and found["above_chance"][1] == 1

    drawn = {"s": original, "s, number_labels": perturbed, "s, two_options": halves}
    records = [{"dataset": name, "budget": None} for name in drawn]
    add_stress(
        records,
        variants,
        {name: [item for items in found.values() for item in items] for name, found in drawn.items()},
    )
    overall = records[0]["stress"]
    assert overall["variants"] == {"number_labels": pytest.approx(1 / 3), "two_options": 1}
    assert (overall["worst_case"], overall["any"]) == (pytest.approx(1 / 3), 1)  # fmt: skip


def test_the_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    common = [
        "--limit",
        "3",
        "--temperature",
        "0",
        "--max_new_tokens",
        "24",
        "--perturb",
        "identity,times_sign,compute",
    ]
    assert main(["eval", "demo", "demo", *common, "--show", "1"]) == 0
    assert "[user] Compute " in capsys.readouterr().out
    assert main(["eval", "demo", "demo", *common, "--output_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for words in (
        "demo: demo under perturbations",
        "times_sign: ",
        "Over 2 perturbations (3 problems)",
        "right under all",
    ):
        assert words in printed
    assert "…" not in printed
    records = {record["dataset"]: record for record in json.loads((tmp_path / "summary.json").read_text())}
    assert list(records) == ["demo", "demo, identity", "demo, times_sign", "demo, compute"]
    same = records["demo, identity"]["stress"]
    assert (same["drop"], same["consistency"], same["token_ratio"], same["unchanged"]) == (0, 1, 1, 3)
    assert [record["limit"] for record in records.values()] == [3] * 4
    rows = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert {"perturbation", "parent", "gold_map"} <= rows[-1].keys() and "parent" not in rows[0]
    before = (tmp_path / "completions.jsonl").read_bytes()
    assert main(["eval", "demo", "demo", *common, "--output_dir", str(tmp_path)]) == 0
    assert (tmp_path / "completions.jsonl").read_bytes() == before
    capsys.readouterr()
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Drop of accuracy under perturbations" in printed and "…" not in printed and "demo, compute" in printed
    rescore(tmp_path, tmp_path / "again")  # other verdicts: the drop before would be wrong
    assert all("stress" not in record for record in json.loads((tmp_path / "again" / "summary.json").read_text()))
    with pytest.raises(ValueError, match="perturb and effort are not possible in one evaluation"):
        evaluate("demo", "demo", perturb=["compute"], effort=["low"])
