# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.hub.test_card import a_run
from trl_concise.cli.commands import main
from trl_concise.evaluation.acceptance import ACCEPTANCE_FILE, Limits, accept, read_acceptance
from trl_concise.evaluation.bounds import problems_needed
from trl_concise.evaluation.completions import Completion, judge, summarize
from trl_concise.evaluation.folder import COMPLETIONS_FILE
from trl_concise.evaluation.summaries import SUMMARY_FILE


REAL = Path(__file__).parents[3] / "shared" / "gpu_lane" / "results"
SETTINGS = {
    "model": "new",
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": 64,
    "seed": 0,
    "limit": None,
    "answer_format": "auto",
    "final_form": True,
}


def write(folder: Path, sets: dict[str, list[Completion]], **changes) -> Path:
    """Write the files of an evaluation."""
    folder.mkdir(parents=True)
    records = [
        {"dataset": name, **summarize(items), "budget": None, **SETTINGS, **changes} for name, items in sets.items()
    ]
    (folder / SUMMARY_FILE).write_text(json.dumps(records))
    lines = [item.line() for items in sets.values() for item in items]
    (folder / COMPLETIONS_FILE).write_text("".join(lines), encoding="utf-8")
    return folder


def completions(
    lengths: list[list[int]], correct: list[list[bool]] | None = None, name: str = "sums"
) -> list[Completion]:
    """One problem per row, one completion per length."""
    return [
        Completion(
            dataset=name,
            problem=problem,
            completion=k,
            gold=str(problem),
            text="",
            completion_ids=[0] * length,
            truncated=False,
            correct=correct[problem][k] if correct is not None else True,
            prompt_sha256=f"{name} {problem}",
        )
        for problem, row in enumerate(lengths)
        for k, length in enumerate(row)
    ]


LENGTHS = [[20 + problem % 7] for problem in range(200)]
BASE_LENGTHS = [[40 + problem % 11] for problem in range(200)]


def outcomes(lost: int, gained: int, problems: int = 200) -> tuple[list[list[bool]], list[list[bool]]]:
    """Verdicts of the base and of the model."""
    base = [[i >= gained] for i in range(problems)]
    return base, [[not was] if i < gained or i >= problems - lost else [was] for i, [was] in enumerate(base)]


@pytest.fixture
def pair(tmp_path):
    """A base and a model that loses 6 of 200 problems and gains 4."""
    before, after = outcomes(6, 4)
    base = write(tmp_path / "base", {"sums": completions(BASE_LENGTHS, before)}, model="base")
    return write(tmp_path / "new", {"sums": completions(LENGTHS, after)}), base


def test_the_tests_of_every_limit(pair):
    new, base = pair
    limits = Limits(max_tokens=24, max_token_share=0.6, max_accuracy_loss=0.06, min_accuracy=0.9)
    [result] = accept([new], limits, base=base)
    tests = {test.limit_name: test for test in result.tests}
    assert result.accepted and len(tests) == 4
    assert tests["max_accuracy_loss"].upper == pytest.approx(0.058675, abs=1e-6)
    assert tests["max_accuracy_loss"].deviation == pytest.approx(0.223944, abs=1e-6)
    assert tests["max_tokens"].bound == "t" and 22 < tests["max_tokens"].upper < 24
    share = [own[0] - 0.6 * other[0] for own, other in zip(LENGTHS, BASE_LENGTHS, strict=True)]
    assert tests["max_token_share"].mean == pytest.approx(sum(share) / 200)
    assert tests["min_accuracy"].bound == "exact"
    assert not accept([new], replace(limits, max_accuracy_loss=0.05), base=base)[0].accepted
    written = json.loads((new / ACCEPTANCE_FILE).read_text())
    assert written["accepted"] is False and written["limits"]["max_accuracy_loss"] == 0.05
    assert read_acceptance(new.parent) == written


def test_golden_bound_of_several_completions_per_problem(tmp_path):
    lengths = [[40, 50], [60, 64], [50, 54]] + [[45, 45]] * 27
    folder = write(tmp_path / "new", {"sums": completions(lengths)})
    [once] = accept([folder], Limits(max_tokens=60))
    copies = [[length for length in row for _ in range(3)] for row in lengths]
    [copied] = accept([write(tmp_path / "copies", {"sums": completions(copies)})], Limits(max_tokens=60))
    assert copied.tests[0].upper == pytest.approx(once.tests[0].upper)  # the unit is the problem
    assert once.tests[0].problems == 30


def test_more_candidates_never_turn_a_rejection_into_an_acceptance(pair, tmp_path):
    new, base = pair
    results = [
        accept([new], Limits(max_accuracy_loss=0.059), base=base, earlier_candidates=earlier)[0]
        for earlier in range(3)
    ]
    assert [result.accepted for result in results] == [True, False, False]
    uppers = [result.tests[0].upper for result in results]
    assert uppers == sorted(uppers)
    other = write(tmp_path / "other", {"sums": completions(LENGTHS, outcomes(6, 4)[1])})
    assert [result.candidates for result in accept([new, other], Limits(max_tokens=60))] == [2, 2]


def test_every_problem_set_must_pass(tmp_path):
    easy, hard = completions(LENGTHS), completions([[30]] * 100, [[i % 2 == 0] for i in range(100)], "hard")
    folder = write(tmp_path / "new", {"sums": easy, "hard": hard})
    limits = Limits(min_accuracy=0.9)
    assert not accept([folder], limits)[0].accepted
    assert accept([folder], limits, datasets=["sums"])[0].accepted
    assert "not shown: min_accuracy on hard" in accept([folder], limits)[0].sentence()


def test_the_sentence_names_limits_confidence_problems_and_sampling(pair):
    new, base = pair
    [result] = accept([new], Limits(max_token_share=0.6, max_accuracy_loss=0.1), base=base, delta=0.1)
    assert result.sentence() == (
        "new is accepted at 90 % confidence for at most 60 % of the tokens of base and an accuracy at most 10 points below that "
        "of base, on sums (200 problems), with temperature 1, top-p 1, at most 64 tokens. Overlap of these problems with the training "
        "data was not checked."
    )


def test_without_any_difference_t_is_not_used_for_accuracy(tmp_path):
    base = write(tmp_path / "base", {"sums": completions(BASE_LENGTHS)}, model="base")
    new = write(tmp_path / "new", {"sums": completions(LENGTHS)})
    [test] = accept([new], Limits(max_accuracy_loss=0.05), base=base, accuracy_bound="t")[0].tests
    assert test.bound == "bernstein" and test.upper == pytest.approx(0.086506, abs=1e-6)


def test_only_the_completions_of_the_last_summary_count(tmp_path):
    """An evaluation with fewer problems and completions, in the folder of a larger one, keeps the completions of that one."""
    pairs = completions([row * 2 for row in LENGTHS])
    folder = write(
        tmp_path / "new", {"sums": [item for item in pairs if item.problem < 50 and item.completion == 0]}, limit=50
    )
    (folder / COMPLETIONS_FILE).write_text("".join(item.line() for item in pairs))
    [test] = accept([folder], Limits(max_tokens=60))[0].tests
    assert test.problems == 50 and test.mean == pytest.approx(sum(row[0] for row in LENGTHS[:50]) / 50)


def unreadable(items: list[Completion], row: int) -> list[Completion]:
    return [replace(item, correct=None) if item.problem == row else item for item in items]


def test_unreadable_reference_answers_are_left_out_of_both(tmp_path):
    base = write(tmp_path / "base", {"sums": unreadable(completions(BASE_LENGTHS), 3)}, model="base")
    new = write(tmp_path / "new", {"sums": unreadable(completions(LENGTHS), 3)})
    assert accept([new], Limits(max_accuracy_loss=0.1), base=base)[0].tests[0].problems == 199


BASES = {  # changes to the base -> what the error says
    "other problems": (lambda items: [replace(item, prompt_sha256=f"x{item.problem}") for item in items], {}, "other problems"),
    "other answers": (lambda items: [replace(item, gold="7") for item in items], {}, "other problems, reference answers"),
    "other settings": (lambda items: items, {"temperature": 0.6}, "temperature is 1.0, for the base 0.6"),
    "an unreadable answer": (lambda items: unreadable(items, 3), {}, "problems is 200, for the base 199"),
    "only truncations": (lambda items: items, {"budget": 16}, "no evaluation of whole completions"),
    "a repeated problem": (lambda items: [replace(item, prompt_sha256="same") for item in items[:2]] + items[2:], {}, "1 problem twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BASES)
def test_evaluations_that_cannot_be_compared(case, tmp_path, capsys):
    change, settings, message = BASES[case]
    base = write(tmp_path / "base", {"sums": change(completions(BASE_LENGTHS))}, model="base", **settings)
    new = write(tmp_path / "new", {"sums": completions(LENGTHS)})
    with pytest.raises(SystemExit, match="2"):
        main(["accept", str(new), "--base", str(base), "--max_accuracy_loss", "0.02"])
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not (new / ACCEPTANCE_FILE).exists()


LINES = {
    "{new}": "Nothing to test",
    "{new} --max_accuracy_loss 0.02": "Give the folder of its evaluation",
    "{new} --max_tokens 0": "max_tokens must be a positive number",
    "{new} --max_tokens nan": "max_tokens must be a positive number",
    "{new} --max_accuracy_loss 2 --base {new}": "0.02 are 2 points",
    "{new} --max_tokens 60 --delta 0.5": "delta must lie between 0 and 0.5",
    "{new} --max_tokens 60 --dataset other": "no evaluation on 'other', only on 'sums'",
    "{new} --max_tokens 60 --earlier_candidates -1": "earlier_candidates must be at least 0",
    "{few} --max_tokens 60": "the bound 't' needs at least 30",
    "{several} --min_accuracy 0.5 --accuracy_bound exact": "needs one completion per problem",
    "nowhere --max_tokens 60": "does not exist. Give the output folder of an evaluation",
    "--max_tokens 60": "at least one evaluation, or use --plan",
    "--plan --std 0.25": "--plan needs --margin",
    "--plan --std 0.25 --margin 0": "margin positive",
    "--plan --std 0.25 --margin 0.02 --max_tokens 60": "--max_tokens has no effect with --plan",
    "--plan --std 0.25 --margin 0.02 {new}": "evaluations have no effect with --plan",
    "--plan --std 0.25 --margin 0.02 --earlier_candidates -1": "earlier_candidates must be at least 0",
    "{new} --max_tokens 60 --margin 2": "--margin has no effect without --plan",
    "{new} --max_tokens 60 --accuracy_bound t": "--accuracy_bound has no effect without a limit on the accuracy",
    "{new} --min_accuracy 0.5 --token_bound hoeffding": "--token_bound has no effect without a limit on the tokens",
    "{new} --max_tokens 60 --base {new}": "--base has no effect without --max_token_share or --max_accuracy_loss",
    "{uneven} --min_accuracy 0.5": "problems have [1, 2] completions, expected 2",
    "{lost} --min_accuracy 0.5": "completions of 150 problems, expected 200",
    "{gone} --min_accuracy 0.5": "completions.jsonl does not exist",
}


@pytest.mark.parametrize("line", LINES)
def test_bad_input_is_one_line(line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {
        "new": write(tmp_path / "new", {"sums": completions(LENGTHS)}),
        "few": write(tmp_path / "few", {"sums": completions(LENGTHS[:10])}),
        "several": write(tmp_path / "several", {"sums": completions([[5, 6]] * 40)}),
        "uneven": write(tmp_path / "uneven", {"sums": completions([[5, 6]] * 40)}),
        "lost": write(tmp_path / "lost", {"sums": completions(LENGTHS)}),
        "gone": write(tmp_path / "gone", {"sums": completions(LENGTHS)}),
    }
    for name, lines in {"lost": 150, "uneven": 79}.items():
        kept = (folders[name] / COMPLETIONS_FILE).read_text().splitlines(keepends=True)[:lines]
        (folders[name] / COMPLETIONS_FILE).write_text("".join(kept))
    (folders["gone"] / COMPLETIONS_FILE).unlink()
    with pytest.raises(SystemExit, match="2"):
        main(["accept", *line.format(**folders).split()])
    printed = capsys.readouterr()
    assert LINES[line] in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_the_command_names_the_first_candidate_that_passes(pair, tmp_path, capsys):
    new, base = pair
    long = write(tmp_path / "long", {"sums": completions(BASE_LENGTHS, outcomes(6, 4)[1])}, model="long")
    line = ["accept", str(long), str(new), "--base", str(base), "--max_tokens", "30", "--max_accuracy_loss", "0.1"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "Overlap with training data: not checked." in printed and f"accepted: new ({new})" in printed
    assert printed.count("FAIL") == 1 and "at most 0.025" in printed
    assert main(["accept", str(long), "--max_tokens", "30"]) == 1
    assert "rejected: no model meets the constraints" in capsys.readouterr().out


def test_the_card_of_a_run_quotes_its_own_test_word_for_word(tmp_path):
    run = a_run(tmp_path / "hapo")
    before, after = outcomes(6, 4)
    base = write(run / "base", {"sums": completions(BASE_LENGTHS, before)}, model="base")
    own = write(run / "eval", {"sums": completions(LENGTHS, after)}, model="hapo")
    sentences = []
    for loss in ("0.1", "0.02"):  # accepted, rejected
        main(["accept", str(own), "--base", str(base), "--max_accuracy_loss", loss])
        sentences.append(json.loads((own / ACCEPTANCE_FILE).read_text())["sentence"])
        for name in ("grpo", "hapo/checkpoint-5"):  # tested later
            folder = write(run / f"control-{loss}-{name[-1]}", {"sums": completions(LENGTHS, after)}, model=name)
            main(["accept", str(folder), "--max_tokens", "60"])
        assert main(["card", str(run)]) in (None, 0)
        results, _, rest = (run / "README.md").read_text().partition("## Use")
        assert (
            sentences[-1] in results.partition("| **this model** |")[2]
            and "checkpoint-5 is accepted" not in results + rest
        )
    assert (
        "hapo is accepted" in sentences[0] and "hapo is rejected" in sentences[1] and "grpo is accepted" not in results
    )


def test_the_command_says_how_many_problems_are_needed(capsys):
    plan = ["accept", "--plan", "--std", "0.25", "--margin", "0.02"]
    assert main([*plan, "--delta", "0.05"]) == 0
    assert capsys.readouterr().out.startswith("425 problems: ")
    assert main([*plan, "--earlier_candidates", "4"]) == 0
    assert capsys.readouterr().out.startswith(f"{problems_needed(0.25, 0.02, 0.01)} problems: ")


def test_a_problem_set_that_is_named_twice_is_tested_once(tmp_path):
    folder = write(tmp_path / "new", {"sums": completions(LENGTHS)})
    assert len(accept([folder], Limits(max_tokens=60), datasets=["sums", "sums"])[0].tests) == 1


def test_the_sentence_rounds_nothing_and_names_no_folder(tmp_path):
    """Also of an evaluation whose files have the name of a folder, from an earlier version."""
    name = str(tmp_path / "sums.jsonl")
    folder = write(tmp_path / "new", {name: completions(LENGTHS, name=name)})
    sentence = accept([folder], Limits(max_tokens=1234567.5), datasets=[name], delta=1e-8)[0].sentence()
    assert "at 99.999999 % confidence for at most 1,234,567.5 tokens" in sentence
    assert "on sums (200 problems)" in sentence
    written = (folder / ACCEPTANCE_FILE).read_text()
    assert sentence in written and str(tmp_path) not in written


CANDIDATES = {
    "other settings": (lambda items: items, {"temperature": 0.6}, r"temperature is 0\.6, for .*new 1\.0"),
    "another limit": (lambda items: items, {"max_new_tokens": 32}, r"max_new_tokens is 32, for .*new 64"),
    "another judgment": (lambda items: items, {"final_form": False}, "final_form is False, for .*new True"),
    "other problems": (lambda items: [replace(item, gold="7") for item in items], {}, "have other problems, reference answers"),
    "fewer problems": (lambda items: items[:150], {}, "problems is 150, for .*new 200"),
}  # fmt: skip


@pytest.mark.parametrize("case", CANDIDATES)
def test_candidates_are_evaluated_in_the_same_way(case, pair, tmp_path):
    change, settings, message = CANDIDATES[case]
    new, base = pair
    other = write(tmp_path / "other", {"sums": change(completions(LENGTHS))}, **settings)
    for limits, options in ((Limits(max_tokens=60), {}), (Limits(max_accuracy_loss=0.1), {"base": base})):
        with pytest.raises(ValueError, match=message):
            accept([new, other], limits, **options)
    assert not (new / ACCEPTANCE_FILE).exists() and accept([other], Limits(max_tokens=60))[0].accepted


def test_a_base_that_no_limit_needs_is_refused(pair):
    new, base = pair
    with pytest.raises(ValueError, match="base has no effect: no limit compares with a base model"):
        accept([new], Limits(max_tokens=60), base=base)


# Of 300 problems in the run of 2026-11-28, one completion each: solved by the base and not by the model, by the model and not by the base, by
# both; and the upper bound of the accuracy lost, printed by SciPy 1.17.1:
# beta.ppf(0.975, lost + 1, 300 - lost) - beta.ppf(0.025, gained, 300 - gained + 1)
REAL_COUNTS = [
    ("hapo_cpu", "svamp", True, (67, 44, 63), 0.166112, False),
    ("hapo_cpu", "svamp", False, (54, 62, 76), 0.065961, True),
    ("hapo_cpu", "gsm8k", True, (76, 3, 7), 0.304440, False),
    ("hapo_cpu", "gsm8k", False, (76, 3, 7), 0.304440, False),
    ("grpo", "svamp", True, (37, 70, 93), -0.020677, True),
    ("grpo", "svamp", False, (36, 71, 94), -0.027472, True),
    ("grpo", "gsm8k", True, (40, 20, 43), 0.135915, False),
    ("grpo", "gsm8k", False, (40, 21, 43), 0.133258, False),
]


@pytest.mark.parametrize(("name", "dataset", "final_form", "counts", "upper", "accepted"), REAL_COUNTS)
def test_the_counts_of_the_first_real_models(name, dataset, final_form, counts, upper, accepted, tmp_path):
    """The loss of HAPO on easy problems is at most 10 points only if expressions such as "23 - 9" count as answers."""
    lost, gained, both = counts
    before = [[True]] * (lost + both) + [[False]] * (300 - lost - both)
    after = [[False]] * lost + [[True]] * (both + gained) + [[False]] * (300 - lost - both - gained)
    lengths = [[30]] * 300
    changes = {"max_new_tokens": 1024, "final_form": final_form}
    base = write(tmp_path / "base", {dataset: completions(lengths, before, dataset)}, model="base", **changes)
    new = write(tmp_path / name, {dataset: completions(lengths, after, dataset)}, model=name, **changes)
    [result] = accept([new], Limits(max_accuracy_loss=0.1), base=base)
    [test] = result.tests
    assert (test.bound, test.problems) == ("exact", 300)
    assert test.mean == pytest.approx((lost - gained) / 300)
    assert test.upper == pytest.approx(upper, abs=1e-6)
    assert result.accepted is accepted


def of_real_run(name: str, dataset: str, final_form: bool) -> list[Completion]:
    items = []
    for row, line in enumerate((REAL / f"{name}_{dataset}_test.jsonl").read_text(encoding="utf-8").splitlines()[:300]):
        record = json.loads(line)
        items.append(
            Completion(
                dataset=dataset,
                problem=row,
                completion=0,
                gold=record["solution"],
                text=record["text"],
                completion_ids=[0] * record["tokens"],
                truncated=record["finish"] != "stop",
                prompt_sha256=f"{dataset} {row}",
            )
        )
    return judge(items, final_form=final_form)


@pytest.mark.skipif(
    not REAL.is_dir(), reason="the completions of the run of 2026-11-28 are not next to the repository"
)
@pytest.mark.parametrize("final_form", [True, False])
def test_the_first_real_models(tmp_path, final_form):
    """The counts above are those of the completions."""
    folders = {}
    for name in ("base", "hapo_cpu", "grpo"):
        sets = {dataset: of_real_run(name, dataset, final_form) for dataset in ("svamp", "gsm8k")}
        folders[name] = write(tmp_path / name, sets, model=name, max_new_tokens=1024, final_form=final_form)

    for name, dataset, own_form, (lost, gained, _), upper, accepted in REAL_COUNTS:
        if own_form is final_form:
            limits = Limits(max_accuracy_loss=0.1)
            [result] = accept([folders[name]], limits, base=folders["base"], datasets=[dataset])
            assert result.tests[0].mean == pytest.approx((lost - gained) / 300)
            assert result.tests[0].upper == pytest.approx(upper, abs=1e-6)
            assert result.accepted is accepted, (name, dataset)
