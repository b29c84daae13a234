# SPDX-License-Identifier: Apache-2.0
"""Evaluation with a thinking budget: reasoning is stopped, and the model answers."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from tests.evaluation import runs
from trl_concise.cli.commands import main
from trl_concise.demo import problem_dataset
from trl_concise.evaluation import evaluate, read_completions
from trl_concise.evaluation.printing import print_records
from trl_concise.evaluation.report import report
from trl_concise.evaluation.runs import read_measurements
from trl_concise.evaluation.thinking_budget import (
    FILE,
    Budgeted,
    ThinkingBudgets,
    describe_origin,
    read_budgeted,
    stop_thinking,
    thinking_start,
    write_budgeted,
)
from trl_concise.verification.finished import MARKERS, ThinkingMarkers


@pytest.mark.parametrize(
    ("ids", "budget", "outcome"),
    [
        ([11, 12, 9], 4, ("closed", 2)),
        ([11, 12, 13, 14, 9], 4, ("closed", 4)),
        ([11, 12, 13, 14, 15], 4, ("stopped", 4)),
        ([11, 12, 0], 4, ("ended", 2)),
        ([11, 12, 13, 14, 0], 4, ("ended", 4)),
        ([11], 0, ("stopped", 0)),
        ([9], 0, ("closed", 0)),
        ([0], 0, ("ended", 0)),
        ([11, 12, 13, 14, 15, 9, 16, 0], 4, ("stopped", 4)),  # the end comes one token late
    ],
)
def test_golden_outcomes(ids, budget, outcome):
    assert stop_thinking(ids, budget, end_of_thinking=9, end_of_turn={0}) == outcome


HOW = ThinkingBudgets((0, 20, 40, 150), closing="\n</think>\n", answer_tokens=8)
SETTINGS = {"progress": False, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 200, "batch_size": 5}


@pytest.fixture(scope="module")
def measured(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("budgets")
    problems = {"problems": problem_dataset(12, split="validation")}
    records = evaluate(model, problems, folder, tokenizer=tokenizer, thinking_budgets=HOW, budgets=[40], **SETTINGS)
    return folder, problems, records


def stopped(folder) -> dict[int, list[Budgeted]]:
    head, *lines = (folder / FILE).read_text().splitlines()
    origin = {"closing": "\n</think>\n", "answer_cue": "\\boxed{", "answer_tokens": 8}
    assert json.loads(head) == {**origin, "evaluation": json.loads((folder / "settings.json").read_text())}
    items = [Budgeted.of_line(line) for line in lines]
    return {budget: [item for item in items if item.budget == budget] for budget in HOW.budgets}


def test_completions_within_a_budget(measured, tokenizer):
    folder, _, _ = measured
    whole = read_completions(folder / "completions.jsonl")
    end = tokenizer.convert_tokens_to_ids("</think>")
    forced = tokenizer("\n</think>\n\\boxed{").input_ids
    found = stopped(folder)
    assert {item.outcome for items in found.values() for item in items} == {"closed", "stopped"}
    for budget, items in found.items():
        for own, item in zip(whole, items, strict=True):
            ids = item.completion.completion_ids
            assert item.thinking <= budget and item.thinking + item.forced + item.answer == len(ids)
            assert (item.completion.problem, item.completion.gold) == (own.problem, own.gold)
            thoughts = own.completion_ids.index(end) if end in own.completion_ids else len(own.completion_ids)
            if thoughts <= budget:  # enough for this one: nothing changes
                assert item.completion == own and (item.outcome, item.forced) == ("closed", 0)
                assert item.thinking == thoughts
                continue
            assert item.outcome == "stopped" and item.thinking == budget and item.forced == len(forced)
            # The first thoughts are those of the whole completion, so they are the same at any budget.
            assert ids[:budget] == own.completion_ids[:budget] and ids[budget : budget + len(forced)] == forced
            assert 1 <= item.answer <= 8
            assert item.completion.text == tokenizer.decode(ids, skip_special_tokens=True)


def test_records(measured):
    _, _, records = measured
    assert [(record["budget"], record.get("thinking_budget")) for record in records] == [
        (None, None),
        (40, None),
        *((budget, budget) for budget in HOW.budgets),
    ]
    whole, cut, *budgeted = records
    assert budgeted[-1]["stopped_fraction"] < budgeted[0]["stopped_fraction"] == 1
    assert budgeted[0]["thinking_tokens"] == 0 < budgeted[1]["thinking_tokens"] <= 20
    for record in budgeted:
        parts = sum(record[name] for name in ("thinking_tokens", "forced_tokens", "answer_tokens"))
        assert parts == pytest.approx(record["tokens_mean"])
    assert budgeted[2]["accuracy"] > cut["accuracy"]  # the model answers instead of being truncated
    assert whole["accuracy"] > budgeted[0]["accuracy"]  # without a thought


def test_nothing_is_drawn_twice(measured, model, tokenizer, monkeypatch):
    folder, problems, records = measured
    calls = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **kwargs: calls.append(kwargs) or generate(**kwargs))
    again = {"tokenizer": tokenizer, **SETTINGS}
    before = (folder / FILE).read_text()
    assert evaluate(model, problems, folder, thinking_budgets=HOW, budgets=[40], **again) == records
    assert not calls and (folder / FILE).read_text() == before
    lines = before.splitlines(True)
    (folder / FILE).write_text("".join(lines[:15] + lines[16:]))  # without one completion of the second budget
    assert evaluate(model, problems, folder, thinking_budgets=HOW, budgets=[40], **again) == records
    assert calls and (folder / FILE).read_text() == before


def test_answers_of_another_origin_are_drawn_again(measured, model, tokenizer, monkeypatch, tmp_path):
    """A changed text, length, sampling setting, model or completion: the file of the answers alone remains."""
    folder, problems, _ = measured
    small = {"problems": problems["problems"].select(range(2))}
    how = ThinkingBudgets((20,), closing="\n</think>\n", answer_tokens=8)
    again = {"tokenizer": tokenizer, **SETTINGS, "batch_size": 2}
    before = evaluate(model, small, tmp_path, thinking_budgets=how, **again)
    saved = {path.name: path.read_text() for path in tmp_path.iterdir()}
    calls = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **kwargs: calls.append(kwargs) or generate(**kwargs))

    def drawn(changed_how=how, removed=(), completions=None, **changes) -> int:
        for name, text in saved.items():
            (tmp_path / name).write_text(text)
        for name in removed:
            (tmp_path / name).unlink()
        if completions is not None:
            (tmp_path / "completions.jsonl").write_text(completions)
        calls.clear()
        evaluate(model, small, tmp_path, thinking_budgets=changed_how, **{**again, **changes})
        return len(calls)

    assert drawn() == 0
    assert drawn(replace(how, answer_cue="Final Answer:")) == 1
    assert drawn(replace(how, closing="</think>")) == 1
    assert drawn(replace(how, answer_tokens=9)) == 1
    assert drawn(replace(how, budgets=(20, 30))) == 1  # the second budget only
    # Other completions, of which the first tokens are others, or settings: the answers are drawn too.
    settings = ("completions.jsonl", "settings.json")
    assert drawn(removed=settings, seed=1) == drawn(removed=settings, top_p=0.9) == 2
    assert drawn(removed=settings, model_name="another") == 2
    other = [json.loads(line) for line in saved["completions.jsonl"].splitlines()]
    other[0]["completion_ids"][3] += 1
    assert drawn(completions="".join(json.dumps(record) + "\n" for record in other)) == 1
    with monkeypatch.context() as patch:
        weight = next(model.parameters())
        patch.setattr(weight, "data", weight.data * 1.001)
        assert drawn(removed=settings) == 2
    assert drawn() == 0 and evaluate(model, small, tmp_path, thinking_budgets=how, **again) == before
    (tmp_path / FILE).write_text(saved[FILE] + "{}\n")
    with pytest.raises(ValueError, match=r"thinking_budgets\.jsonl is damaged"):
        evaluate(model, small, tmp_path, thinking_budgets=how, **again)


def test_a_marker_may_be_a_special_token(measured, model, tokenizer):
    """Decoding leaves it out of the text, as with Qwen3 and DeepSeek-R1."""
    _, problems, records = measured
    special = copy.deepcopy(tokenizer)
    special.add_special_tokens({"additional_special_tokens": ["</think>"]})
    again = evaluate(model, problems, tokenizer=special, thinking_budgets=HOW, budgets=[40], **SETTINGS)
    of_budgets = [[record["accuracy"] for record in run if record.get("thinking_budget")] for run in (records, again)]
    assert of_budgets[0] == of_budgets[1] and max(of_budgets[0]) > 0.5


def test_any_text_can_be_saved_and_read(measured, tmp_path):
    item = stopped(measured[0])[20][0]
    strange = replace(item, completion=replace(item.completion, text="one\u2028two\x85three"))
    key = (strange.completion.dataset, 20)
    write_budgeted(tmp_path, describe_origin(HOW), {key: [strange]})
    assert read_budgeted(tmp_path, describe_origin(HOW)) == {key: [strange]}


def test_where_the_thinking_begins(tokenizer):
    """Of a model without a template that opens it: anywhere in the completion."""
    opened, plain = tokenizer("6 * 7?<think>\n").input_ids, tokenizer("6 * 7?").input_ids
    text = tokenizer("We<think>6 * 7 = 42</think>42").input_ids
    assert thinking_start(tokenizer, opened, text, MARKERS) == 0
    start = thinking_start(tokenizer, plain, text, MARKERS)
    assert tokenizer.decode(text[start:]).startswith("6") and tokenizer.decode(text[:start]).endswith("<think>")
    assert thinking_start(tokenizer, plain, tokenizer("42</think>").input_ids, MARKERS) is None
    with pytest.raises(ValueError, match="A thinking budget needs markers of one token"):
        thinking_start(tokenizer, plain, text, ThinkingMarkers("<reasoning>", "</think>"))


def test_a_model_without_markers_is_refused(model, tokenizer):
    problems = {"problems": problem_dataset(2, split="validation")}
    template, tokenizer.chat_template = tokenizer.chat_template, "{{ messages[0]['content'] }}"
    try:
        with pytest.raises(ValueError, match="No completion thinks between"):
            evaluate(
                model,
                problems,
                tokenizer=tokenizer,
                thinking_budgets=ThinkingBudgets((2,)),
                **{**SETTINGS, "max_new_tokens": 4},
            )
    finally:
        tokenizer.chat_template = template


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ThinkingBudgets(()), "Thinking budgets are one or more rising numbers"),
        (lambda: ThinkingBudgets((8, 4)), r"got \[8, 4\]"),
        (lambda: ThinkingBudgets((4,), answer_tokens=0), "answer_tokens must be at least 1, got 0"),
        (
            lambda: ThinkingBudgets((64,)).check(64, MARKERS),
            "A thinking budget of 64 tokens needs completions of more",
        ),
        (lambda: ThinkingBudgets((4,), closing="\n").check(64, MARKERS), "does not contain the end of the thinking"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--thinking_close </think>", "--thinking_close has no effect without --thinking_budget"),
        ("--answer_cue Answer:", "--answer_cue has no effect without --thinking_budget"),
        ("--answer_tokens 64 --budgets 4", "--answer_tokens has no effect without --thinking_budget"),
        ("--max_model_len 512", "--max_model_len has no effect without --use_vllm"),
        ("--dataset_split train", "split = 'train' has no effect on demo"),
    ],
)
def test_options_without_effect_are_refused(given, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "demo", "demo", "--output_dir", str(tmp_path / "e"), *given.split()])
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1 and not (tmp_path / "e").exists()


def test_command_and_report(measured, tmp_path, capsys):
    _, _, records = measured
    print_records(records)
    shown = capsys.readouterr().out
    assert "thinking stopped at 20" in shown and "truncated at 40" in shown
    run = runs.evaluated(tmp_path / "concise")
    path = run / "eval_base" / "summary.json"
    budgeted = {**runs.record("org/base", 0.7, 60, budget=50), "thinking_budget": 50}
    path.write_text(json.dumps([*json.loads(path.read_text()), budgeted]))
    kinds = [item.point.kind for item in read_measurements(run) if item.dataset == "gsm8k"]
    assert kinds.count("stopped") == kinds.count("cut") == 1
    written = report([run], tmp_path / "plots")
    assert "| gsm8k | org/base, thinking stopped at a budget: 50 | 70.0%" in written["report.md"].read_text()
    assert "#cc79a7" in written["frontier_gsm8k.svg"].read_text()  # the color of the curve
    with pytest.raises(SystemExit):
        main(
            [
                "eval",
                "demo",
                "demo",
                "--output_dir",
                str(tmp_path / "e"),
                "--thinking_budget",
                "64",
                "--max_new_tokens",
                "64",
            ]
        )
    assert "needs completions of more tokens" in capsys.readouterr().err
