# SPDX-License-Identifier: Apache-2.0
"""AdaptMI: golden values of the specification, the choice of examples, and both stages with the embedded model."""

from __future__ import annotations

import json
import math
import random
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from trl_concise import demo
from trl_concise.demo.problems import split_of
from trl_concise.evaluation.completions import Completion, read_completions
from trl_concise.evaluation.sampling import TransformersSampler
from trl_concise.experimental.adapt_mi import (
    Example,
    SelfScorer,
    SkillBank,
    adapt,
    adaptive_examples,
    classify_difficulty,
    find_rule,
    select_examples,
)
from trl_concise.experimental.adapt_mi.bank import few_shot_prompt
from trl_concise.experimental.adapt_mi.demo import (
    PROMPT_OPTIONS,
    SPLIT_OPTIONS,
    example_bank,
    few_shot_model,
    missing_skills,
    skills_of,
)
from trl_concise.experimental.adapt_mi.difficulty import Decision, decide, self_scores, steps_of
from trl_concise.experimental.adapt_mi.stages import check_context, summarize_stages
from trl_concise.experimental.step_scores import RuleScorer, score_steps


EXAMPLE = Path(__file__).parents[2] / "examples" / "adapt_mi.py"
PAPER, RELEASE = (0.85, 0.7), (0.9, 0.7)
FIXED = tuple(Example(f"F{number}?", str(number)) for number in range(1, 6))
BANK = {skill: tuple(Example(f"{skill}{n}?", str(n)) for n in range(7)) for skill in "abcdefg"}
unit = st.floats(0, 1)


# Decisions


@pytest.mark.parametrize(
    ("scores", "paper", "release"),
    [
        ([0.95, 0.92, 0.96], None, None),
        ([0.95, 0.92, 0.90], None, "answer"),
        ([0.9, 0.88, 0.9], None, "answer"),
        ([0.99, 0.69, 0.99, 0.99, 0.99], "step", "step"),
        ([0.6, 0.99, 0.99, 0.99, 0.99], None, None),
        ([0.7, 0.95], "mean", "mean"),
        ([0.99, 0.99, 0.86], None, "answer"),
        ([0.99, 0.99, 0.85], "answer", "answer"),  # equality
    ],
)
def test_decisions(scores, paper, release):
    assert (find_rule(scores, PAPER), find_rule(scores, RELEASE)) == (paper, release)
    assert classify_difficulty(scores) is (paper is not None)


def test_self_scores():
    scores = self_scores([[-0.01, -0.02], [-0.5, -0.1, -0.3], [-0.001]])
    assert scores == pytest.approx([0.98511194, 0.74081822, 0.99900050], abs=1e-8)
    assert sum(scores) / 3 == pytest.approx(0.90831022, abs=1e-8)
    assert [classify_difficulty(scores, tau) for tau in (PAPER, RELEASE)] == [False, False]
    assert [find_rule(scores, tau) for tau in ((0.85, 0.75), (0.92, 0.7))] == ["step", "mean"]


@given(st.lists(unit, min_size=1, max_size=5), unit, unit, unit, unit)
def test_a_higher_threshold_makes_no_difficult_question_easy(scores, first, second, more, more_too):
    if classify_difficulty(scores, (first, second)):
        assert classify_difficulty(scores, (max(first, more), max(second, more_too)))
    assert classify_difficulty(scores, (1.0, second)) and not classify_difficulty(scores, (-1, -1))


def test_steps():
    text = "2 + 2 = 4\n\n4 * 2 = 8\n\nSo it is \\boxed{8}."
    assert len(steps_of(text)) == 4 and steps_of(text)[-1] == "The answer is 8"
    assert steps_of(text, separator="ки") == [text, "The answer is 8"]  # the release's default split
    assert steps_of("") is None and steps_of("7 of 9", answer_format="boxed") is None
    lines = steps_of("27+8=35\n</think>\n\\boxed{35}", **SPLIT_OPTIONS)
    assert lines == ["27+8=35\n", "</think>\n", "\\boxed{35}"]  # the answer is stated already


def test_the_completion_with_the_highest_mean_score_decides():
    texts = ["27+8=36\n\\boxed{36}", "", "27+8=35\n\\boxed{35}"]
    found = decide("set", 3, "What is 27 + 8?", texts, RuleScorer(), **SPLIT_OPTIONS)
    assert (found.problem, found.completion, found.difficult, found.scores) == (3, 2, False, [1, 1])
    none = decide("set", 0, "2 + 2?", ["", "no idea"], RuleScorer(), **SPLIT_OPTIONS)
    assert (none.difficult, none.rule, none.scores) == (True, "no answer", [])
    assert not decide("set", 0, "2 + 2?", [""], RuleScorer(), (-1, -1)).difficult


@pytest.mark.parametrize("tau", [(0.5,), (1.1, 0.5), (0.5, -0.1), (float("nan"), 0.5)])
def test_thresholds_are_checked(tau):
    with pytest.raises(ValueError, match="tau needs two thresholds between 0 and 1"):
        classify_difficulty([1.0], tau)


def test_scores_are_checked():
    for scores in ([], [float("nan")], [1.1]):
        with pytest.raises(ValueError, match="scores between 0 and 1"):
            classify_difficulty(scores)
    with pytest.raises(ValueError, match="1 scores for 2 steps"):
        decide("set", 0, "2 + 2?", ["a\n\n\\boxed{4}"], lambda problem, steps: [1.0], answer_step="\\boxed{{answer}}")


def test_self_scorer(model, tokenizer):
    scorer = SelfScorer(
        TransformersSampler(model, tokenizer), lambda question: [{"role": "user", "content": question}], "\n"
    )
    right = score_steps(scorer, "What is 27 + 8 - 6?", ["27+8=35\n", "35-6=29\n", "</think>\n", "\\boxed{29}"])
    wrong = score_steps(scorer, "What is 27 + 8 - 6?", ["27+8=35\n", "35-6=28\n", "</think>\n", "\\boxed{28}"])
    assert right[0] == pytest.approx(wrong[0], abs=1e-5) and right[1] > 0.9 > 0.7 > wrong[1]
    assert scorer.tokens > 100


# Examples


def chosen(skills, bank=BANK, **options) -> list[str]:
    found = select_examples(skills, bank, FIXED, random.Random(0), **options)
    return [example.question[0] if example.question[0] != "F" else example.question[:2] for example in found]


@pytest.mark.parametrize(
    ("skills", "slots"),
    [
        (["a"], ["a"] * 5),
        (["a", "b"], ["a"] * 4 + ["b"]),
        (["a", "b", "c"], ["a", "a", "a", "b", "c"]),
        ([], ["F1", "F2", "F3", "F4", "F5"]),
        (["unknown"], ["F1", "F2", "F3", "F4", "F5"]),
        (list("abcdefg"), list("abcde")),
    ],
)
def test_slots(skills, slots):
    assert chosen(skills) == slots


def test_slots_of_missing_skills_and_of_fewer_places():
    without_b = {skill: own for skill, own in BANK.items() if skill != "b"}
    assert chosen(["a", "b", "c"], without_b) == ["a", "a", "a", "c", "F1"]
    assert chosen(["a", "b"], skill_examples=2) == ["a", "b", "F1", "F2", "F3"]


@pytest.mark.parametrize(("size", "chance"), [(7, 0.8500625), (15, 0.5254518), (100, 0.0965498)])
def test_independent_draws_would_repeat_an_example(size, chance):
    assert 1 - math.prod(1 - i / size for i in range(5)) == pytest.approx(chance, abs=1e-7)
    bank = {"a": [Example(str(n), "") for n in range(size)]}
    for seed in range(20):
        assert len(set(select_examples(["a"], bank, FIXED, random.Random(seed)))) == 5  # ours do not


@given(st.lists(st.sampled_from("abcdefgxy"), max_size=8), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_a_prompt_has_exactly_k_examples_without_the_question(skills, k, places, seed):
    small = {"a": BANK["a"][:2], **{skill: BANK[skill] for skill in "bc"}}
    fixed = (*FIXED, BANK["a"][0])
    found = select_examples(skills, small, fixed, random.Random(seed), k=k, skill_examples=places, question="a0?")
    assert len(found) == k and BANK["a"][0] not in found


def test_too_few_fixed_examples():
    with pytest.raises(ValueError, match="5 examples per prompt need as many fixed ones, but there are 4"):
        select_examples(["a"], BANK, FIXED, random.Random(0), question="F1?")
    with pytest.raises(ValueError, match="at least 1"):
        select_examples(["a"], BANK, FIXED, random.Random(0), k=0)


def test_prompts():
    examples = [Example("2 + 2?", "\\boxed{4}")]
    text = "Question: 2 + 2?\nResponse: \\boxed{4}\n\nQuestion: 3 + 3?"
    assert few_shot_prompt("3 + 3?", examples) == text
    system, user = few_shot_prompt([{"role": "user", "content": "3 + 3?"}], examples)
    assert (system["role"], user) == ("system", {"role": "user", "content": text})
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 3?"}]
    assert few_shot_prompt(own, examples)[0] == own[0]


def test_the_same_seed_gives_the_same_prompts_in_any_order():
    rows = demo.problem_dataset(6)
    bank = SkillBank(FIXED, {"letters": BANK})
    skills = [["a", "b"], None, [], ["c"], ["unknown"], ["a"]]
    found = adaptive_examples(rows, skills, bank)
    order = [5, 3, 0, 1, 4, 2]
    other = adaptive_examples(rows.select(order), [skills[place] for place in order], bank)
    assert [other[place] for place in range(6)] == [found[place] for place in order]
    assert found["prompt_id"] == rows["prompt_id"]
    assert adaptive_examples(rows, skills, bank, seed=1)["prompt"] != found["prompt"]
    one = adaptive_examples(rows, ["a"] * 6, bank)  # as in the authors' tables
    assert one["prompt"] == adaptive_examples(rows, [["a"]] * 6, bank)["prompt"]
    plain = Dataset.from_list([{"prompt": "3 + 3?", "solution": "6"}])
    (row,) = adaptive_examples(plain, [["a"]], bank, 2)
    assert row["prompt"].endswith("Question: 3 + 3?") and row["prompt"].count("Question") == 3 and row["prompt_id"]
    with pytest.raises(ValueError, match="5 lists of skills for 6 rows"):
        adaptive_examples(rows, skills[:5], bank)


def test_banks(tmp_path):
    path = tmp_path / "bank.json"
    example = {"question": "2 + 2?", "response": "4"}
    path.write_text(json.dumps({"fixed": [example], "skills": {"algebra": {"sums": [example]}}}))
    bank = SkillBank.load(path)
    assert bank.subject("algebra") == bank.subject(None) == {"sums": (Example("2 + 2?", "4"),)}
    assert bank.subject("geometry") == {}
    path.write_text(json.dumps({"fixed": [], "skills": {"algebra": {"sums": []}}}))
    with pytest.raises(ValueError, match="The skill 'sums' of the subject 'algebra' has 0 examples"):
        SkillBank.load(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="is not a bank of examples"):
        SkillBank.load(path)


# The demo


def test_skills_and_examples_of_the_demo():
    assert skills_of("What is 27 + 8 + 6?") == ["2 operations", "addition"]
    decision = Decision("set", 0, 0, ["27+8=36\n", "36-6=30\n"], [0.5, 0.9], True, "mean")
    assert missing_skills("What is 27 + 8 - 6?", "", decision) == ["addition", "2 operations"]
    bank = example_bank(40)
    questions = {example.question for own in bank.skills["arithmetic"].values() for example in own}
    questions |= {example.question for example in bank.fixed}
    assert len(questions) == 45 and {split_of(question) for question in questions} == {"train"}
    assert set(bank.skills["arithmetic"]) == {
        *(f"{n} operations" for n in (2, 3, 4)),
        *("addition", "subtraction", "multiplication"),
    }


def test_few_shot_model(tmp_path):
    folder = few_shot_model(tmp_path / "model", steps=1)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer("Question:").input_ids) == len(tokenizer("Response:").input_ids) == 1
    with pytest.raises(ValueError, match="steps must be at least 1"):
        few_shot_model(tmp_path / "other", steps=0)


# Both stages


def completion(problem: int, correct: bool, tokens: int) -> Completion:
    return Completion("set", problem, 0, "1", "", [7] * tokens, False, correct)


def test_accuracy_and_tokens_of_both_stages():
    decisions = [Decision("set", n, 0, [], [], n >= 60, "step" if n >= 60 else None) for n in range(100)]
    first = {n: [completion(n, n < 54 or 60 <= n < 70, 120)] for n in range(100)}
    second = {n: completion(n, n < 76, 150) for n in range(60, 100)}
    summary = summarize_stages(decisions, first, second)
    assert (summary["accuracy"], summary["generated_tokens"]) == (pytest.approx(0.70), 180)
    assert (summary["easy_accuracy"], summary["difficult_accuracy"]) == (pytest.approx(0.9), pytest.approx(0.4))
    assert (summary["difficult_accuracy_before"], summary["rules"]) == (pytest.approx(0.25), {"step": 40})
    assert (summary["precision"], summary["recall"]) == (pytest.approx(30 / 40), pytest.approx(30 / 36))
    fixed = [replace(decision, difficult=False, rule=None) for decision in decisions]
    alone = summarize_stages(fixed, first, {})
    assert (alone["accuracy"], alone["generated_tokens"], alone["difficult_accuracy"]) == (
        pytest.approx(0.64),
        120,
        None,
    )
    everywhere = {n: [completion(n, n < 51 or 60 <= n < 76, 150)] for n in range(100)}
    assert summarize_stages(fixed, everywhere, {})["accuracy"] == pytest.approx(0.67)


def run(folder: Path, sets, **changes) -> list[dict]:
    options = {
        **{"scorer": RuleScorer(first=1.0), "bank": example_bank(40), "stage1": folder.parent / "stage1", "k": 2},
        **{"skill_examples": 2, "max_new_tokens": 96, "progress": False, "batch_size": 8},
        **{"prompt_options": PROMPT_OPTIONS, "split_options": SPLIT_OPTIONS},
        "skills": {
            row["prompt_id"]: skills_of(row["prompt"][-1]["content"]) for rows in sets.values() for row in rows
        },
    }
    return adapt("demo", sets, folder, **{**options, **changes})


@pytest.fixture(scope="module")
def sets():
    return {"easy": demo.problem_dataset(4), "harder": demo.problem_dataset(3, operations=(4,))}


@pytest.fixture(scope="module")
def stages(sets, tmp_path_factory) -> Path:
    """Folder of a finished first stage, and of three calls that share it."""
    folder = tmp_path_factory.mktemp("adapt-mi")
    run(folder / "none", sets, tau=(-1, -1))
    run(folder / "all", sets, tau=(1, 1))
    run(folder / "some", sets)
    return folder


def lines(folder: Path, file: str = "completions.jsonl") -> list[str]:
    return sorted((folder / file).read_text(encoding="utf-8").splitlines())


def test_thresholds_below_0_are_the_first_stage(stages):
    assert lines(stages / "none") == lines(stages / "stage1")
    assert not (stages / "none" / "stage2").exists()
    for record in json.loads((stages / "none" / "summary.json").read_text()):
        assert record["difficult_share"] == record["stage2_tokens"] == 0


def test_a_threshold_of_1_repeats_every_question(stages, sets):
    records = json.loads((stages / "all" / "summary.json").read_text())
    first, second = (
        read_completions(stages / "all" / name) for name in ("../stage1/completions.jsonl", "completions.jsonl")
    )
    for record in records:
        assert record["difficult_share"] == 1 and record["without_skills"] == 0
        tokens = [sum(item.tokens for item in items if item.dataset == record["dataset"]) for items in (first, second)]
        assert record["generated_tokens"] == pytest.approx(sum(tokens) / record["problems"])
        assert record["generated_tokens"] == pytest.approx(record["stage1_tokens"] + record["stage2_tokens"])
    prompts = [json.loads(line) for line in lines(stages / "all", "prompts.jsonl")]
    assert len(prompts) == 14 and all(item["prompt"][-1]["content"].count("Question:") == 3 for item in prompts)
    assert {item["prompt_id"] for item in prompts} == {key for rows in sets.values() for key in rows["prompt_id"]}


def test_easy_questions_keep_their_first_completion(stages):
    records = json.loads((stages / "some" / "summary.json").read_text())
    decisions = [json.loads(line) for line in lines(stages / "some", "difficulty.jsonl")]
    easy = {(item["dataset"], item["problem"]) for item in decisions if not item["difficult"]}
    assert 0 < len(easy) < 7
    kept = {
        (item.dataset, item.problem): item.line() for item in read_completions(stages / "some" / "completions.jsonl")
    }
    first = {
        (item.dataset, item.problem): item.line() for item in read_completions(stages / "stage1" / "completions.jsonl")
    }
    assert len(kept) == 7 and all(kept[key] == first[key] for key in easy)
    again = read_completions(stages / "some" / "stage2" / "completions.jsonl")
    assert len(again) == 7 - len(easy)
    assert sum(record["stage2_tokens"] * record["problems"] for record in records) == pytest.approx(
        sum(item.tokens for item in again)
    )


def test_no_decision_and_no_example_depends_on_the_reference_answer(stages, sets, tmp_path):
    other = {
        name: rows.remove_columns("solution").add_column("solution", ["1"] * len(rows)) for name, rows in sets.items()
    }
    run(tmp_path / "own", other, stage1=None)
    for file in ("difficulty.jsonl", "prompts.jsonl"):
        assert lines(stages / "some", file) == lines(tmp_path / "own", file)


def test_the_oracle_and_adapt_mi_plus(stages, sets):
    records = run(stages / "oracle", sets, oracle=True)
    for record in records:
        assert record["uses_reference_answers"] and record["easy_accuracy"] in (None, 1.0)
        assert record["precision"] in (None, 1.0) and record["recall"] in (None, 1.0)
    seen = []

    def labeler(question, text, decision):
        seen.append((question, text))
        return ["addition"] if len(seen) > 1 else []

    assert run(stages / "oracle", sets, oracle=True) == records  # a repeated call
    (*_, last) = run(stages / "plus", sets, plus=True, labeler=labeler, tau=(1, 1))
    assert (
        len(seen) == 7
        and seen[0][0] == sets["easy"][0]["prompt"][-1]["content"]
        and not last["uses_reference_answers"]
    )
    records = json.loads((stages / "plus" / "summary.json").read_text())
    assert [record["without_skills"] for record in records] == [1, 0]


def test_invalid_calls(stages, sets, tokenizer):
    with pytest.raises(ValueError, match=r"AdaptMI\+ \(plus=True\) needs a labeler"):
        run(stages / "invalid", sets, plus=True)
    with pytest.raises(ValueError, match="tau needs two thresholds"):
        run(stages / "invalid", sets, tau=(0.5, 2))
    with pytest.raises(
        ValueError,
        match=r"ends with '.*' has \d+ tokens, and with max_new_tokens 2048 it exceeds the context of 2048",
    ):
        run(stages / "invalid", sets, max_new_tokens=2048)
    assert check_context(tokenizer, ["27 + 8"], 10**6, None) == [len(tokenizer("27 + 8").input_ids)]


def test_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = "--demo_steps 1 --report_problems 1 --votes 1 --max_new_tokens 8 --k 1"
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, *flags.split()])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "| 4 operations | majority vote |" in capsys.readouterr().out
    results = json.loads((tmp_path / "outputs" / "adapt-mi-demo" / "results.json").read_text())
    assert [row["name"] for row in results["3 operations"]] == [
        "AdaptMI, self scores, stricter",
        *("AdaptMI, self scores", "AdaptMI, rule", "AdaptMI+, self scores", "AdaptMI+, rule"),
        "AdaptMI+, self scores, stricter",
        *("oracle (uses reference answers)", "fixed examples", "skill examples", "random examples", "majority vote"),
    ]
