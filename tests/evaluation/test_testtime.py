# SPDX-License-Identifier: Apache-2.0
"""Procedures at test time: golden values, and the saved completions of an evaluation."""

from __future__ import annotations

import json
import math
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_concise.cli.commands import main
from trl_concise.evaluation import Completion, Vote, evaluate
from trl_concise.evaluation.early_exit import TrimRules, stop_early
from trl_concise.evaluation.selection import SUBSETS, choose_majority, longest_of, share_of_majority, subsets
from trl_concise.evaluation.testtime import _best, measure_test_time, votes_until_decided
from trl_concise.evaluation.voting import choose_weighted


SETTINGS = {
    "limit": 6,
    "max_new_tokens": 160,
    "temperature": 1.0,
    "top_p": 1.0,
    "num_completions": 3,
    "progress": False,
}


def test_golden_values_of_votes():
    a, b = 0, 1
    assert choose_majority([a, b, None, b, a]) == 0 and choose_majority([None, None]) is None
    votes, scores = [a, a, b, b, b], [0.9, 0.8, 0.2, 0.3, 0.25]
    assert [votes[choose_weighted(votes, scores, alpha)] for alpha in (0, 0.1, 1)] == [b, b, a]
    assert _best([0, 1, 2], [0.2, 0.7, 0.7]) == 1 and _best([None, 1], [9, 0.1]) == 1
    found = [votes_until_decided(own) for own in ([a] * 16, [a, b, a, a, a, a, a, a], [a, b] * 4, [None] * 4)]
    assert found == [9, 6, 8, 4]


def of_answers(answers, gold="A", scores=None):
    return [
        Completion("set", 0, k, gold, answer, [1] * 100, False, answer == gold) for k, answer in enumerate(answers)
    ]


def test_golden_values_of_subsets():
    def share(votes, k, choose):
        chosen = list(subsets(len(votes), k))
        return sum(choose(places) for places in chosen) / len(chosen)

    def by_majority(votes):
        return lambda places: votes[places[choose_majority([votes[place] for place in places])]] == 0

    assert share([0, 0, 0, 1, 1], 3, by_majority([0, 0, 0, 1, 1])) == pytest.approx(0.7)
    votes, scores = [0, 0, 1, 1, 2], [0.9, 0.1, 0.8, 0.2, 0.5]
    assert share(votes, 3, by_majority(votes)) == pytest.approx(0.7)
    assert share(votes, 3, lambda places: votes[max(places, key=lambda p: scores[p])] == 0) == pytest.approx(0.6)
    assert share(votes, 3, lambda places: any(votes[place] == 0 for place in places)) == pytest.approx(0.9)
    assert len(list(subsets(16, 8))) == SUBSETS < math.comb(16, 8)
    assert list(subsets(3, 1)) == [(0,), (1,), (2,)]


@settings(max_examples=60)
@given(st.data())
def test_means_over_subsets(data):
    n = data.draw(st.integers(1, 6))
    k = data.draw(st.integers(1, n))
    votes = data.draw(st.lists(st.sampled_from([0, 1, 2, None]), min_size=n, max_size=n))
    right = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    tokens = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    found = list(subsets(n, k))
    chosen = [(places, choose_majority([votes[place] for place in places])) for places in found]
    expected = [place is not None and right[places[place]] for places, place in chosen]
    assert share_of_majority(votes, right, k) == pytest.approx(sum(expected) / len(found))
    assert longest_of(tokens, k) == pytest.approx(sum(max(tokens[p] for p in places) for places in found) / len(found))


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0, 1, 2, None]), min_size=1, max_size=9))
def test_the_leader_has_the_answer_of_the_whole_vote(votes):
    tries = votes_until_decided(votes)
    whole, early = choose_majority(votes), choose_majority(votes[:tries])
    assert 1 <= tries <= len(votes)
    assert (whole is None) == (early is None) and (whole is None or votes[whole] == votes[early])


@pytest.mark.parametrize(
    ("answers", "tokens", "expected"),
    [
        ([7, 7, 7], [100, 200, 300], ("agreement", 3)),
        ([None, 7, None, 7, 8, 7, 7, 7], range(100, 900, 100), ("agreement", 8)),
        ([1, 2, 3, 4, 5], range(1000, 6000, 1000), ("no agreement", 5)),
        ([None] * 20, range(50, 1050, 50), ("no agreement", 20)),
        ([7, 7, 8, 7, 7], range(100, 600, 100), None),
    ],
)
def test_golden_values_of_the_early_exit(answers, tokens, expected):
    assert TrimRules().stop(answers, list(tokens), 8000) == expected


def test_reasoning_stops_where_its_answer_agrees(tokenizer):
    check = "\nWait, let me check.\n2+3=5"
    text = f"2+3=5{check * 3}\nThat agrees.\n</think>\n\\boxed{{5}}"
    item = Completion("set", 0, 0, "5", text, [1] * 90, False, True)
    reason, is_right, used = stop_early(item, tokenizer, TrimRules(), 1000)
    assert (reason, is_right) == ("agreement", True)
    assert used == len(tokenizer(f"2+3=5{check * 2}\n", add_special_tokens=False).input_ids)
    wrong = Completion("set", 0, 0, "6", text, [1] * 90, False, False)
    assert stop_early(wrong, tokenizer, TrimRules(), 1000)[:2] == ("agreement", False)
    # Rules that are never met leave every completion as it is
    never = TrimRules(agreements=99, budget_share=1, segments=99)
    assert stop_early(item, tokenizer, never, 1000) == (None, True, 90)
    with pytest.raises(ValueError, match="TrimR needs agreements >= 1"):
        TrimRules(agreements=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("testtime") / "run"
    evaluate("demo", "demo", folder, uncertainty=True, vote=Vote("verify"), **SETTINGS)
    return folder


def test_every_procedure_is_charged_for_all_tokens(run, tokenizer, tmp_path):
    records = measure_test_time(run, tmp_path, tokenizer=tokenizer)
    assert json.loads((tmp_path / "testtime.json").read_text()) == records
    found = {(record["method"], record["k"]): record for record in records}
    assert set(found) == {
        *((method, k) for method in ("majority", "any") for k in (1, 2, 3)),
        *((method, 3) for method in ("leader", "best_of_n", "weighted", "verified")),
        ("early_exit", 1),
    }
    (summary,) = json.loads((run / "summary.json").read_text())
    assert found["majority", 1]["accuracy"] == pytest.approx(summary["accuracy"])
    assert found["any", 3]["accuracy"] == pytest.approx(summary["pass_at_k"]["3"])
    assert found["majority", 3]["tokens"] == pytest.approx(3 * summary["tokens_mean"])
    assert found["leader", 3]["accuracy"] == found["majority", 3]["accuracy"]
    assert found["leader", 3]["tokens"] <= found["majority", 3]["tokens"]
    assert found["verified", 3]["tokens"] == pytest.approx(summary["vote"]["tokens_mean"])
    assert found["verified", 3]["accuracy"] == pytest.approx(summary["vote"]["accuracy"])
    assert found["early_exit", 1]["tokens"] <= summary["tokens_mean"]
    for record in records:
        assert record["tokens"] == record["tokens_model"] + record["tokens_verifier"]
        assert record["accuracy"] <= found["any", record["k"]]["accuracy"] + 1e-9 or record["method"] == "early_exit"
    plain = measure_test_time(run, alpha=0.0)
    weighted = next(record for record in plain if record["method"] == "weighted")
    assert weighted["accuracy"] == found["majority", 3]["accuracy"]


def test_the_command_and_its_errors(run, tmp_path, capsys):
    assert main(["testtime", str(run), "--tokenizer", "demo", "--segments", "2"]) == 0
    printed = capsys.readouterr().out
    assert all(
        word in printed for word in ("majority", "leader", "verified", "best_of_n", "early_exit", "Per correct")
    )
    assert all(len(line) <= 80 for line in printed.splitlines())
    partial = shutil.copytree(run, tmp_path / "partial")
    lines = (run / "uncertainty.jsonl").read_text().splitlines(True)
    (partial / "uncertainty.jsonl").write_text("".join(lines[:-1]))
    for arguments, message in (
        ([str(run), "--segments", "2"], "--segments has no effect without --tokenizer"),
        ([str(run), "--tokenizer", "demo", "--budget_share", "2"], "TrimR needs"),
        ([str(partial)], "uncertainty.jsonl lacks 1 completions of 'demo'"),
        ([str(tmp_path / "none")], "does not exist"),
        ([str(run), "--alpha", "-1"], "alpha must be a finite number of at least 0; got -1.0"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["testtime", *arguments])
        assert ended.value.code == 2 and message in capsys.readouterr().err


def altered(run, folder, change, **settings):
    """A copy of the evaluation with other completions and settings."""
    shutil.copytree(run, folder)
    lines = (change(json.loads(line)) for line in (run / "completions.jsonl").read_text().splitlines())
    (folder / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = json.loads((run / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(found | settings))
    (folder / "uncertainty.jsonl").unlink()
    return folder


def test_a_missing_verification_is_an_error_where_there_is_a_vote(run, tmp_path):
    """For example of completions that were added without `--vote verify`."""
    folder = altered(run, tmp_path / "run", lambda line: line)
    lines = [json.loads(line) for line in (run / "verifications.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["completion"] != 2]
    (folder / "verifications.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    with pytest.raises(ValueError, match=r"verifications.jsonl lacks \d+ completions"):
        measure_test_time(folder)
    # An empty or unfinished completion has no vote, and needs neither
    empty = {"completion_ids": [], "text": "", "finished": False, "correct": False}
    folder = altered(run, tmp_path / "empty", lambda line: line | (empty if line["completion"] == 2 else {}))
    shutil.copy(run / "uncertainty.jsonl", folder)
    (folder / "verifications.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert {"verified", "best_of_n"} <= {record["method"] for record in measure_test_time(folder)}


def test_votes_follow_the_thinking_markers_and_the_judge_of_the_evaluation(run, tokenizer, tmp_path):
    text = "[T]It is 1.\nWait, it is 1.\nBut it is 1.\nWait, it is 2.[/T] {}"
    folder = altered(
        run,
        tmp_path / "run",
        lambda line: (
            line
            | {
                "text": text.format(r"\boxed{1.0}"),
                "gold": "1.0",
                "correct": True,
                "truncated": False,
                "finished": True,
            }
        ),
        thinking_markers=["[T]", "[/T]"],
    )
    (folder / "verifications.jsonl").unlink()
    found = {(record["method"], record["k"]): record for record in measure_test_time(folder, tokenizer=tokenizer)}
    assert found["majority", 3]["accuracy"] == found["early_exit", 1]["accuracy"] == 1
    assert found["early_exit", 1]["stopped"]["agreement"] == 1
    (record,) = json.loads((folder / "summary.json").read_text())
    for name, accuracy in (("exact", 0), ("math-verify", 1)):  # 1 is not the text 1.0
        (folder / "summary.json").write_text(json.dumps([record | {"judge": record["judge"] | {"name": name}}]))
        assert measure_test_time(folder, tokenizer=tokenizer)[-1]["accuracy"] == accuracy
    (folder / "summary.json").write_text(json.dumps([record | {"judge": record["judge"] | {"name": "mine"}}]))
    with pytest.raises(ValueError, match="judged by 'mine', which cannot be found by its name"):
        measure_test_time(folder, tokenizer=tokenizer)
