# SPDX-License-Identifier: Apache-2.0
"""Golden values: the page of rStar-Coder, computed by hand."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trl_concise import ConciseGRPOConfig, ConciseGRPOTrainer
from trl_concise.experimental import code_problems, rstar_coder
from trl_concise.experimental.code_problems import build_code_problems, generate_inputs
from trl_concise.experimental.execution import Limits, ProgramRun, run_python
from trl_concise.experimental.execution.outputs import normalize_output, same_output
from trl_concise.experimental.rstar_coder import (
    CodeReward,
    agree,
    label_outputs,
    last_program,
    needed,
    pass_probability,
    run_candidates,
)
from trl_concise.experimental.rstar_demo import PROBLEMS, measure, table


EXAMPLE = Path(__file__).parents[2] / "examples" / "rstar_coder.py"
QUICK = Limits(wall=1, memory_mb=256)
ECHO = "print(input())"
SUM = "a, b = map(int, input().split())\nprint(a + b)"
TESTS = [{"input": f"{i} 1", "output": f"{i + 1}"} for i in range(4)]


# Agreement


def test_golden_numbers_that_have_to_agree():
    sizes = (5, 8, 10, 15, 16)
    assert [needed(n) for n in sizes] == [3, 5, 6, 9, 10]
    assert [needed(n, 0.4) for n in sizes] == [2, 4, 4, 6, 7]
    assert [needed(n, 1) for n in sizes] == list(sizes)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.6, {0.3: 0.007130, 0.5: 0.227249, 0.6: 0.527174, 0.7: 0.824687, 0.8: 0.973343, 0.9: 0.999495}),
        (0.4, {0.3: 0.175313, 0.5: 0.772751, 0.7: 0.992870}),
    ],
)
def test_golden_pass_probabilities(threshold, expected):
    assert {q: round(pass_probability(16, q, threshold), 6) for q in expected} == expected


@pytest.mark.parametrize(
    ("right", "threshold", "accepted"), [(10, 0.6, True), (9, 0.6, False), (7, 0.4, True), (6, 0.4, False)]
)
def test_golden_sizes(right, threshold, accepted):
    outputs = [["1"]] * right + [[f"wrong {i}"] for i in range(16 - right)]
    assert agree(outputs, threshold).accepted == accepted


def test_golden_agreement():
    outputs = [["3", "8", "15"], ["3\n", "8", "15 "], ["3", "8", "15"], ["3", "8", "14"], ["3", None, "15"]]
    found = agree(outputs, seconds=[3, 1, 2, 0, 0])
    assert found.accepted and found.labels == ["3", "8", "15"] and found.members == [0, 1, 2]
    assert found.kept == 1 and found.failed == [4] and found.share == 0.6 and not found.constant


def test_the_whole_set_has_to_agree():
    outputs = [list(row) for row in ("123", "129", "183", "723", "123")]
    assert agree(outputs, 0.6).reason == "no agreement"
    assert agree(outputs, 0.4).labels == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ([["1"], ["1"], ["2"], ["2"], [None]], "tie"),
        ([[None], [None]], "all failed"),
        ([[""], ["\n "], ["1"]], "empty outputs"),
        ([["1"], ["2"]], "tie"),
    ],
)
def test_rejections(outputs, reason):
    found = agree(outputs, 0.4)
    assert (found.accepted, found.reason, found.labels, found.kept) == (False, reason, [], None)


def test_constant_labels_are_counted():
    assert agree([["1", "1"]] * 2).constant and not agree([["1"]] * 2).constant


OUTPUTS = st.integers(1, 3).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from(["1", "2", None]), min_size=width, max_size=width), min_size=2, max_size=7
    )
)


@given(OUTPUTS, st.sampled_from([0.3, 0.4, 0.6, 1.0]), st.randoms(use_true_random=False))
def test_the_order_changes_no_label_and_a_failure_accepts_nothing(outputs, threshold, rng):
    found = agree(outputs, threshold)
    order, places = list(range(len(outputs))), list(range(len(outputs[0])))
    rng.shuffle(order)
    rng.shuffle(places)
    shuffled = agree([[outputs[i][j] for j in places] for i in order], threshold)
    assert shuffled.accepted == found.accepted and shuffled.reason == found.reason
    assert shuffled.labels == [found.labels[j] for j in places if found.labels]
    more = agree([*outputs, [None] * len(places)], threshold)
    assert found.accepted or not more.accepted
    if found.accepted:
        assert all(outputs[i] == found.labels for i in found.members)
        assert threshold < 1 or len(found.members) == len(outputs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: needed(1), "at least 2 candidates, got 1"),
        (lambda: needed(4, 0), "threshold must be above 0 and at most 1, got 0"),
        (lambda: needed(4, 1.1), "at most 1, got 1.1"),
        (lambda: agree([["1"], ["1", "2"]]), "one output per input"),
        (lambda: agree([[], []]), "at least one"),
        (lambda: label_outputs([ECHO] * 2, []), "at least one input, got none"),
    ],
)
def test_bad_agreements(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_golden_outputs():
    assert normalize_output("1 2\n3 \n\n") == "1 2\n3" and normalize_output(" 1\r\n\n2\x0c3") == " 1\n\n2\x0c3"
    assert not same_output("1.0", "1.00") and same_output("1.0", "1.00", 1e-6)
    assert same_output("a 0.1\n2", "a 0.10000001\n2.0", 1e-6) and not same_output("1\n2", "1", 1e-6)
    assert not same_output("1 2", "1", 1e-6) and not same_output("a", "b", 1e-6)


def test_programs_are_labeled_and_the_number_of_workers_changes_nothing():
    candidates = [
        SUM,
        "print(sum(map(int, input().split())))",
        "print(1 / 0)",
        "import random\nprint(random.random())",
    ]
    found = [label_outputs(candidates, ["1 2"], 0.5, limits=QUICK, workers=workers) for workers in (1, 3)]
    for one in found:
        assert one.labels == ["3"] and one.members == [0, 1] and one.failed == [2, 3] and one.kept in (0, 1)


def unavailable(*args, **kwargs):
    return ProgramRun("", "", "unavailable", -1, 0.0, "limits")


def test_a_sandbox_that_fails_labels_nothing_and_leaves_completions_out(monkeypatch):
    monkeypatch.setattr(rstar_coder, "run_python", unavailable)
    assert label_outputs([ECHO] * 2, ["1"]).reason == "unavailable"
    logged = {}
    assert CodeReward()([f"```\n{ECHO}\n```", "no program"], [TESTS] * 2, logged.__setitem__) == [None, 0.0]
    assert logged["code/unavailable"] == 0.5 and logged["code/no_program"] == 0.5


# Inputs

GENERATOR = "import random\nprint('noise')\ndef generate(n, width):\n    if n > 10: return None\n    return f'{random.randint(1, width)} {n}'\n"
VALID = "def validate(text):\n    print('noise')\n    return len(text) < 9"


def test_inputs_are_valid_distinct_and_the_same_again():
    found = generate_inputs(GENERATOR, VALID, most=12)
    assert len(found.inputs) == len(set(found.inputs)) == 12 and found.error == ""
    assert all(len(text) < 9 and int(text.split()[1]) in (1, 10) for text in found.inputs)
    assert generate_inputs(GENERATOR, VALID, most=12) == found


def test_a_generator_that_raises_is_skipped_and_large_inputs_are_counted():
    generator = "def generate(n):\n    if n == 10: raise KeyError\n    return 'x' * n\n"
    found = generate_inputs(generator, "def validate(text): return True", attempts=1, max_input_bytes=1000)
    assert [len(text) for text in found.inputs] == [1, 100, 1000] and found.too_large == 2
    hung = generate_inputs("def generate(n):\n    while n > 1: pass\n    return str(n)\n", VALID, timeout=1.0)
    assert hung.inputs == ["1"] and hung.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"generator": "x = 1"}, "does not define the function 'generate'"),
        ({"validator": "x = 1"}, "does not define the function 'validate'"),
        ({"most": 0}, "most must be at least 1"),
        ({"max_input_bytes": 0}, "max_input_bytes must be at least 1"),
    ],
)
def test_bad_generators(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate_inputs(**{"generator": GENERATOR, "validator": VALID, **arguments})


# Problems


def row(**changes):
    return {"prompt": "Sum", "generator": GENERATOR, "validator": VALID, "candidates": [SUM, SUM, ECHO], **changes}


def test_problems_are_verified_or_rejected_with_a_reason(tmp_path):
    problems = [
        row(),
        row(prompt="Hard", rating=1700, candidates=[SUM, SUM, "x", ECHO, "y"]),
        row(prompt="Trusted", candidates=[], solution=SUM),
        row(prompt="Broken", candidates=[SUM, ECHO], solution="1 / 0"),
        row(prompt="Tie", candidates=[SUM, ECHO]),
        row(prompt="Few", validator="def validate(text): return False"),
    ]
    verified, rejected, summary = build_code_problems(problems, tmp_path, least_inputs=1, most=1, limits=QUICK)
    assert [one["prompt"] for one in verified] == ["Sum", "Hard", "Trusted"]
    assert [(one["prompt"], one["reason"]) for one in rejected] == [
        ("Broken", "all failed"),
        ("Tie", "tie"),
        ("Few", "too few inputs"),
    ]
    for one in verified:
        assert one["solution"] == SUM and len(one["tests"]) == 1
        assert all(int(test["output"]) == sum(map(int, test["input"].split())) for test in one["tests"])
    assert [one["share"] for one in verified] == [2 / 3, 2 / 5, None]
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["verified"] == 3 and summary["rejected"]["tie"] == 1 and not summary["constant"]
    lines = (tmp_path / "verified.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == verified
    assert CodeReward(timeout=1)([f"```python\n{SUM}\n```"], [verified[0]["tests"]]) == [1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validator": None, "prompt": ""}, "Row 1 of the problems has no prompt, validator"),
        ({"candidates": [SUM]}, "Row 1 of the problems has 1 candidates"),
        ({"candidates": None}, "Row 1 of the problems has 0 candidates"),
        ({"generator": "x = 1"}, "does not define the function 'generate'"),
    ],
)
def test_a_problem_without_its_parts_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build_code_problems([row(), row(**changes)])


# Reward


def answer(program: str) -> str:
    return f"<think>\n```python\n1 / 0\n```\n</think>\nSo:\n```python\n{program}\n```\nDone."


WRONG_ONCE = f"{SUM.replace('print(a + b)', 'print(a + b + (a == 3))')}"


@pytest.mark.parametrize(
    ("completion", "partial", "reward"),
    [
        (answer(SUM), False, 1),
        (answer(WRONG_ONCE), False, 0),
        (answer(WRONG_ONCE), True, 0.75),
        ([{"role": "assistant", "content": answer("print(1 / 0)")}], False, 0),
        ("no program", False, 0),
        (f"<think>\n```python\n{SUM}\n```\n</think>\n3", True, 0),
    ],
)
def test_golden_rewards(completion, partial, reward):
    assert CodeReward(partial=partial)([completion], [TESTS]) == [reward]


def test_the_number_of_workers_changes_no_reward():
    completions = [answer(SUM), answer(ECHO), "", answer(SUM)]
    rewards = [CodeReward(workers=workers)(completions, [TESTS[:1]] * 4) for workers in (1, 3)]
    assert rewards == [[1.0, 0.0, 0.0, 1.0]] * 2


def test_the_first_failure_ends_the_tests_and_the_program_sees_no_output(monkeypatch):
    seen = []

    def spy(program, stdin, limits):
        seen.append((program, stdin))
        return run_python(program, stdin, limits)

    monkeypatch.setattr(rstar_coder, "run_python", spy)
    assert CodeReward(workers=1)([answer(ECHO)], [TESTS]) == [0.0]
    assert seen == [(f"{ECHO}\n", TESTS[0]["input"])]


def test_a_program_is_the_last_block_after_the_reasoning():
    assert last_program("```py\n1\n```\n```bash\nls\n```") == "1\n"
    assert last_program("```python\n1") is None and last_program("") is None


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (None, 'needs a dataset with the column "tests"'),
        ([[]], "Give a list of at least one"),
        (["text"], "Give a list of at least one"),
        ([[{"input": "1"}]], 'needs the texts "input" and "output"'),
        ([[{"input": 1, "output": "1"}]], 'needs the texts "input" and "output"'),
    ],
)
def test_bad_tests(tests, message):
    with pytest.raises(ValueError, match=message):
        CodeReward()([""], tests)


@pytest.mark.parametrize(
    "arguments",
    [{"timeout": 0}, {"memory_mb": -1}, {"workers": 0}, {"float_tolerance": -1}, {"timeout": float("inf")}],
)
def test_bad_rewards(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        CodeReward(**arguments)


def test_another_platform_is_refused(monkeypatch):
    monkeypatch.delattr("trl_concise.experimental.execution.process.os.killpg")
    with pytest.raises(ValueError, match="CodeReward needs Linux or macOS"):
        CodeReward()


def test_grpo_with_a_scripted_rollout(tiny_model, tmp_path):
    def rollout(prompts, trainer):
        tokenizer = trainer.processing_class
        texts = [answer(SUM), answer(ECHO), "no program", answer(WRONG_ONCE)] * (len(prompts) // 4)
        return {
            "prompt_ids": [tokenizer(prompt).input_ids for prompt in prompts],
            "completion_ids": [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts],
            "logprobs": None,
        }

    rows = Dataset.from_list([{"prompt": "Sum\n", "tests": TESTS[2:], "prompt_id": "a"}] * 4)
    args = ConciseGRPOConfig(**tiny.settings(tmp_path, max_steps=1, max_completion_length=256, num_generations=4))
    trainer = ConciseGRPOTrainer(tiny_model, CodeReward(), args, rows, rollout_func=rollout)
    trainer.train()
    logs = trainer.state.log_history[0]
    assert logs["rewards/code_reward/mean"] == logs["code/passed"] == logs["code/no_program"] == 0.25
    assert (
        logs["accuracy"] == 0.25
        and logs["code/seconds"] > 0
        and logs["code/timeouts"] == logs["code/unavailable"] == 0
    )
    with pytest.raises(ValueError, match="tests"):
        ConciseGRPOTrainer(tiny_model, CodeReward(), args, rows.remove_columns("tests"))


# The hand-written problems


@pytest.mark.slow
def test_hand_written_candidates_are_what_they_are_called():
    for problem in PROBLEMS:
        given = generate_inputs(problem.generator, problem.validator, most=12).inputs
        assert len(given) == 12
        pool = {**problem.right, **problem.wrong}
        reference, *others = run_candidates([*pool.values()], given, limits=Limits(wall=2))
        assert None not in reference.outputs
        for kind, found in zip([*pool][1:], others, strict=True):
            assert (found.outputs == reference.outputs) == (kind in problem.right), (problem.prompt, kind)


def test_rules_are_compared_over_the_same_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = measure(tmp_path, inputs=1, candidates=4, draws=20, shares=(0.5,), timeout=0.8, problems=PROBLEMS[:1])
    (found,) = results["rows"]
    assert found["set"] == "easy" and len(found["rules"]) == 5 and "| whole set, 0.6 |" in table(results)
    assert found["rules"]["whole set, 0.6"]["accepted"] <= found["rules"]["whole set, 0.4"]["accepted"]
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(results))


def test_the_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "problems.jsonl").write_text(json.dumps(row()) + "\n")
    monkeypatch.setattr(
        sys, "argv", ["rstar_coder.py", "--problems", "problems.jsonl", "--inputs", "2", "--output_dir", "out"]
    )
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "1 of 1 problems verified" in capsys.readouterr().out
    flags = (
        "--tests out/verified.jsonl --output_dir it --max_steps 1 --per_device_train_batch_size 4 --num_generations 4"
    )
    monkeypatch.setattr(sys, "argv", ["rstar_coder.py", *flags.split(), "--max_completion_length", "4"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert (tmp_path / "it" / "model.safetensors").is_file()
    monkeypatch.setattr(sys, "argv", ["rstar_coder.py", "--model_name_or_path", "x", "--output_dir", "it"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_code_problems_use_the_sandbox_only():
    source = Path(code_problems.__file__).read_text(encoding="utf-8") + Path(rstar_coder.__file__).read_text(
        encoding="utf-8"
    )
    outside = source.replace(code_problems._GENERATE.replace("{{", "{"), "")
    assert "subprocess" not in outside and "eval(" not in outside
