# SPDX-License-Identifier: Apache-2.0
"""Correct and incorrect traces out of raw rows."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
import trl
from datasets import Dataset
from transformers import AutoTokenizer

from trl_concise import build_redi_pairs, demo


CHAT_TEMPLATES = Path(trl.__file__).parent / "chat_templates"
NAN = float("nan")  # a table's missing value
MODEL_SOLUTIONS = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_model_solutions.jsonl"


def row(llama, math, **changes):
    """A row as OpenR1-Math-Raw has them: several generations, two verdicts on each."""
    return {
        "problem": "1 + 1?",
        "answer": "2",
        "problem_is_valid": "Yes ",
        "source": "olympiads",
        "generations": [f"trace {i}" for i in range(len(llama))],
        "correctness": {
            "llama_verification": llama,
            "math_verify_reparsed_answer": math,
            "math_verify_answer": [True] * len(llama),  # not the authors' key
        },
        **changes,
    }


def texts(pairs):
    return [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs]


def test_first_correct_and_first_incorrect():
    good = row([True, False, True], [False, False, True])
    assert texts(build_redi_pairs([good])) == [("trace 2", "trace 0")]


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (row([True], [True], problem_is_valid="no"), "the problem is not valid"),
        (row([True], [True], problem_is_valid=None), "the problem is not valid"),
        (row([True], [True], source="cn_k12"), "the source is cn_k12"),
        (row([True], [True], problem=""), "no problem or no generations"),
        (row([], []), "no problem or no generations"),
        (row([True, False], [True]), "not one verdict per generation"),
        (row([True, False], None), "not one verdict per generation"),
        (row([True], [True], correctness=None, answer=None), "neither verdicts nor an answer"),
        (row([True], [True], correctness=NAN, answer=NAN), "neither verdicts nor an answer"),
        (row([True, True], [True, True]), "no incorrect trace"),
        (row([True, None], [None, True]), "no correct trace"),
    ],
)
def test_each_rule_drops_its_rows(bad, rule):
    pairs = build_redi_pairs([row([True, None], [True, True]), bad])
    assert texts(pairs) == [("trace 0", "trace 1")]
    assert dict(pairs.report.dropped) == {rule: 1} and (pairs.report.rows, pairs.report.written) == (2, 1)
    assert rule in str(pairs.report)


def test_rows_without_verdicts_are_verified():
    rows = [
        {"problem": "Half of 1?", "answer": r"\frac{1}{2}", "generations": ["none", r"\boxed{0.5}", r"\boxed{2}"]},
        {"problem": "2?", "answer": "2", "generations": [r"\boxed{2}", r"\boxed{2.0}"]},
        {"problem": "?", "answer": "  ", "generations": ["1"]},
        row([True, False], [True, True]),
    ]
    pairs = build_redi_pairs(rows)
    assert texts(pairs) == [(r"\boxed{0.5}", "none"), ("trace 0", "trace 1")]
    assert dict(pairs.report.dropped) == {"no incorrect trace": 1, "the reference answer is unreadable": 1}


def test_positives_and_single_traces():
    rows = [row([True, True], [True, False]), row([True], [True], problem="b"), row([False], [True], problem="c")]
    positives = build_redi_pairs(rows, output="positives", system_prompt="Be brief.")
    assert [example["prompt"][0]["content"] for example in positives] == ["Be brief."] * 2
    assert next(iter(positives)).keys() == {"prompt", "completion"}
    single = [(e["prompt"][0]["content"], e["label"]) for e in build_redi_pairs(rows, output="single")]
    assert single == [("1 + 1?", True), ("1 + 1?", False), ("b", True), ("c", False)]
    with pytest.raises(ValueError, match="output must be one of .*, got 'triples'"):
        build_redi_pairs(rows, output="triples")


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"generations": "Two."}, {}, "'generations' must hold a list of texts, got a str: Two."),
        ({"generations": [{"text": "Two."}, "3"]}, {}, "got a dict in it"),
        ({"ok": ["Yes", "No"]}, {"verdict_columns": ["ok"]}, "column 'ok' must be true or false, .* got 'Yes'"),
        ({"ok": [True, False]}, {"verdict_columns": ["okay"]}, "no column 'okay' .* Its columns: problem, .*, ok"),
        ({"c": [{"ok": True}] * 2}, {"verdict_columns": ["c.okay"]}, "No column 'c.okay': .* but there is ok"),
    ],
)
def test_unreadable_files_are_an_error(changes, arguments, message):
    rows = [row([True, False], [True, True], **changes)]
    with pytest.raises(ValueError, match=message):
        list(build_redi_pairs(rows, **arguments))


@pytest.mark.parametrize("name", ["verdict_columns", "exclude_sources"])
def test_one_name_is_not_several(name):
    with pytest.raises(ValueError, match=rf"{name} must be a list of names, got 'ok'. Write \['ok'\]"):
        build_redi_pairs([], **{name: "ok"})


def test_missing_generations_are_skipped_with_their_verdicts():
    rows = [
        row([True, False, True, False], [True] * 4, generations=[None, None, "right", "wrong"]),
        {"problem": "2?", "answer": "2", "generations": [None, r"\boxed{2}", None, r"\boxed{3}"]},
        row([True], [True], generations=[None]),
    ]
    pairs = build_redi_pairs(rows)
    assert texts(pairs) == [("right", "wrong"), (r"\boxed{2}", r"\boxed{3}")]
    assert dict(pairs.report.dropped) == {"no problem or no generations": 1}


def test_verdicts_may_be_numbers_and_missing_in_some_rows():
    rows = [
        {"problem": "1?", "answer": "1", "generations": ["c", "a", "b"], "score": [float("nan"), 0.0, 1]},
        {"problem": "2?", "answer": "2", "generations": [r"\boxed{2}", r"\boxed{3}"], "score": None},
    ]
    pairs = build_redi_pairs(rows, verdict_columns=["score"])
    assert texts(pairs) == [("b", "c"), (r"\boxed{2}", r"\boxed{3}")]


def test_a_dot_steps_into_nested_columns():
    rows = [
        {"task": {"text": "Two?", "gold": "2"}, "samples": [{"text": r"\boxed{2}"}, {"text": None}, {"text": "3"}]},
        {"task": None, "samples": [{"text": "2"}]},
    ]
    columns = {"problem_column": "task.text", "answer_column": "task.gold", "generations_column": "samples.text"}
    pairs = build_redi_pairs(rows, **columns)
    assert [pair["prompt"][0]["content"] for pair in pairs] == ["Two?"] and pairs.report.rows == 2
    assert texts(pairs) == [(r"\boxed{2}", "3")]


def test_length_limits_are_inclusive():
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())

    prompt = [{"role": "user", "content": "1 + 1?"}]
    rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    rows = [row([True, False], [True, True], generations=["a longer trace", "short"])]
    limits = {
        "max_prompt_length": len(tokenizer(rendered).input_ids),
        "max_completion_length": len(tokenizer("a longer trace").input_ids) + 1,
    }
    assert len(list(build_redi_pairs(rows, tokenizer=tokenizer, **limits))) == 1
    for name, rule in [("max_prompt_length", "the prompt"), ("max_completion_length", "the correct trace")]:
        tight = limits | {name: limits[name] - 1}
        pairs = build_redi_pairs(rows, tokenizer=tokenizer, **tight)
        assert list(pairs) == [] and dict(pairs.report.dropped) == {f"{rule} is too long": 1}
    single = build_redi_pairs(rows, tokenizer=tokenizer, output="single", **tight)
    assert [example["label"] for example in single] == [False]


@pytest.mark.parametrize("template", ["deepseek_r1_distill", "qwen3", "gemma"])
def test_the_reasoning_counts_whatever_the_chat_template_makes_of_it(template):
    """DeepSeek's strips what stands before `</think>`, Gemma's refuses a conversation that begins with a reply."""
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    tokenizer.chat_template = (CHAT_TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    long = row([True, False], [True, True], generations=["<think>\n" + "7 " * 200 + "</think>\nok", "no"])
    pairs = build_redi_pairs([long], tokenizer=tokenizer, max_completion_length=100)
    assert list(pairs) == [] and dict(pairs.report.dropped) == {"the correct trace is too long": 1}
    assert len(list(build_redi_pairs([long], tokenizer=tokenizer, max_completion_length=1000))) == 1


def test_deterministic_and_read_again_at_each_iteration():
    dataset = Dataset.from_list([row([i % 2 == 0, True], [True, i % 3 == 0], problem=f"{i}") for i in range(30)])
    pairs = build_redi_pairs(dataset.shuffle(seed=42))
    first = list(pairs)
    assert list(pairs) == first and pairs.report.rows == 30
    order = map(int, dataset.shuffle(seed=42)["problem"])
    one_of_each = [str(i) for i in order if (i % 2 == 0) != (i % 3 == 0)]
    assert [pair["prompt"][0]["content"] for pair in first] == one_of_each


def test_memory_does_not_grow_with_the_rows():
    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in build_redi_pairs(row([True, False], [True, True], problem=str(i)) for i in range(count)):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1_000)  # whatever is made once
    assert peak(10_000) < 2 * peak(1_000)  # ten times the rows


@pytest.mark.skipif(not MODEL_SOLUTIONS.exists(), reason="needs the GSM8K model solutions beside the repository")
def test_gsm8k_model_solutions():
    """The file's own verdicts and ours give the same pairs."""
    rows = [json.loads(line) for line in MODEL_SOLUTIONS.read_text(encoding="utf-8").splitlines()]
    columns = {"generations_column": "completions.solution"}
    given = build_redi_pairs(rows, verdict_columns=["completions.is_correct"], **columns)
    expected = list(given)
    verified = build_redi_pairs(rows[:200], **columns)
    assert list(verified) == expected[: verified.report.written]
    assert given.report.rows == 1319
    assert given.report.written + given.report.dropped.total() == 1319
