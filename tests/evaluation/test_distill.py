# SPDX-License-Identifier: Apache-2.0
"""Solutions of a teacher that answers, errs, misbehaves or is killed, and training on them."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from tests import tiny
from tests.data.endpoint import Endpoint
from trl_concise import APITeacher, demo
from trl_concise.cli.commands import main
from trl_concise.data import teachers
from trl_concise.data.replies import MAX_FAILURES_IN_A_ROW
from trl_concise.evaluation.distill import Solution, choose_solutions, distill_problems


SUMS = [(2, 3), (4, 5), (6, 6), (7, 1)]


def solve(request: str) -> str:
    left, right = map(int, re.search(r"(\d+) \+ (\d+)", request).groups())
    return rf"{left} + {right} = {left + right}, so it is \boxed{{{left + right}}}."


def write_problems(folder: Path, sums=SUMS, name: str = "problems.jsonl") -> str:
    rows = [{"problem": f"কত: {left} + {right}?", "answer": str(left + right)} for left, right in sums]
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(folder / name)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Distill a teacher behind an endpoint."""
    monkeypatch.setattr(teachers, "FIRST_PAUSE", 0.001)

    def run(
        endpoint: Endpoint, sums=SUMS, *, max_retries=3, concurrency=2, timeout=600.0, temperature=0.6, **arguments
    ):
        teacher = APITeacher(
            "teacher",
            base_url=endpoint.url,
            api_key="secret",
            max_retries=max_retries,
            concurrency=concurrency,
            temperature=temperature,
            timeout=timeout,
        )
        arguments = {"num_completions": 2, "progress": False, **arguments}
        return distill_problems(write_problems(tmp_path, sums), teacher, tmp_path / "out.jsonl", **arguments)

    return run


def test_correct_solutions_are_kept_with_their_cost(ask, tmp_path):
    counter = itertools.count()

    def answer(request: str) -> str:
        return f"Try {next(counter)}. {solve(request)}" if "6 + 6" not in request else r"\boxed{13}"

    with Endpoint(answer) as endpoint:
        report = ask(endpoint, prices=(1.0, 10.0), prompt_suffix="বাংলায় লেখো।")
    rows = read(tmp_path / "out.jsonl")
    assert (report.problems, report.solutions, report.solved, report.kept) == (4, 8, 3, 6)
    assert report.dropped == {"wrong": 2} and (report.requests, report.resumed, report.retries) == (8, 0, 0)
    assert (report.input_tokens, report.output_tokens, report.kept_tokens) == (800, 80, 60)
    assert report.cost == pytest.approx((800 * 1 + 80 * 10) / 1e6)
    said = str(report)
    assert "6 of 8 solutions kept (75.0%), of 3 of 4 problems (75.0%)" in said and "price 0.0016" in said
    assert json.loads((tmp_path / "out_solutions" / "report.json").read_text())["kept"] == 6
    assert [row["prompt"][0]["content"] for row in rows[:2]] == ["কত: 2 + 3? বাংলায় লেখো।"] * 2
    assert all(row["completion"][0]["content"].endswith(rf"\boxed{{{row['solution']}}}.") for row in rows)
    assert all(path.read_text().count("secret") == 0 for path in tmp_path.rglob("*.json*"))
    assert endpoint.requests[0]["messages"] == rows[0]["prompt"]


def test_faults_of_solutions(ask, tmp_path):
    answers = {
        "2 + 3": {"content": "", "reasoning_content": "hm"},  # no answer after the reasoning
        "4 + 5": "<think>4 + 5 = 9",  # not closed
        "6 + 6": {"content": r"\boxed{১২}", "reasoning": "6 and 6"},
        "7 + 1": "7 and 1</think>" + r"\boxed{8}",  # the prompt opened it
    }
    with Endpoint(lambda request: next(text for sums, text in answers.items() if sums in request)) as endpoint:
        report = ask(endpoint, num_completions=1)
    assert report.dropped == {"empty": 1, "unfinished": 1} and report.kept == 2
    texts = [row["completion"][0]["content"] for row in read(tmp_path / "out.jsonl")]
    assert texts == ["<think>\n6 and 6\n</think>\n\n\\boxed{১২}", "<think>\n7 and 1</think>\\boxed{8}"]
    assert "reasoning" in (tmp_path / "out_solutions" / "replies.jsonl").read_text()
    with Endpoint(solve, ["length", "content_filter"]) as endpoint:
        report = ask(endpoint, num_completions=3, concurrency=1)
    assert report.resumed == 4 and report.dropped["truncated"] == 2
    assert report.dropped["duplicate"] >= 1  # the same text again teaches nothing new


def test_a_misbehaving_endpoint_is_asked_again(ask):
    faults = ["429", "500", "cut", "garbage", "empty", "503"]
    with Endpoint(solve, faults) as endpoint:
        report = ask(endpoint, max_retries=8, num_completions=1)
    assert report.kept == 4 and report.errors == {} and report.retries == len(faults)
    assert len(endpoint.requests) == 4 + len(faults)


def test_permanent_failures_are_asked_for_by_the_next_run_alone(ask):
    with Endpoint(solve, ["500"] * 4) as endpoint:
        report = ask(endpoint, max_retries=1, concurrency=1, num_completions=1)
    assert (
        report.dropped == {"failed": 2} and report.kept == 2 and "failed 2 times: InternalServerError" in str(report)
    )
    with Endpoint(solve) as endpoint:
        report = ask(endpoint, num_completions=1)
        assert (report.resumed, report.requests, len(endpoint.requests), report.kept) == (2, 2, 2, 4)
        more = ask(endpoint, num_completions=2)  # asks for the second solutions only
    assert (more.resumed, more.requests, len(endpoint.requests)) == (4, 4, 6)


def test_a_dead_endpoint_stops_the_run_and_keeps_the_replies(ask, tmp_path):
    sums = [(left, right) for left in range(2, 8) for right in range(6)]
    with Endpoint(solve) as endpoint:
        ask(endpoint, sums[:4], num_completions=1)
        before = (tmp_path / "out.jsonl").read_bytes()
    with pytest.raises(ConnectionError, match=f"{MAX_FAILURES_IN_A_ROW} requests to teacher failed in a row"):
        ask(endpoint, sums, max_retries=0, concurrency=4, num_completions=1)
    assert len(read(tmp_path / "out_solutions" / "replies.jsonl")) == 4
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_a_hanging_endpoint_fails_after_the_timeout(ask):
    hanging = threading.Event()

    def answer(request: str) -> str:
        if "6 + 6" in request:
            hanging.wait(30)
        return solve(request)

    with Endpoint(answer) as endpoint:
        report = ask(endpoint, timeout=0.5, max_retries=0, num_completions=1)
        hanging.set()
    assert report.kept == 3 and report.dropped == {"failed": 1} and "APITimeoutError" in next(iter(report.errors))


def test_a_refused_key_stops_at_once(ask):
    with Endpoint(solve, ["401"] * 50) as endpoint:
        with pytest.raises(ValueError, match="refuses every request: .*fault 401.*OPENAI_API_KEY"):
            ask(endpoint, concurrency=1)
    assert len(endpoint.requests) == 1


@pytest.mark.slow  # imports everything in a process of its own
def test_a_killed_run_continues_and_asks_for_nothing_twice(ask, tmp_path, caplog):
    sums = [(left, right) for left in range(2, 8) for right in range(4)]
    data = write_problems(tmp_path, sums)
    with Endpoint(solve, seconds=0.1) as endpoint:
        command = [
            "distill",
            data,
            "--teacher",
            "teacher",
            "--teacher_base_url",
            endpoint.url,
            "--output",
            "out.jsonl",
        ]
        code = f"from trl_concise.cli.commands import main; main({[*command, '-n', '1', '--concurrency', '2']})"
        environment = {**os.environ, "OPENAI_API_KEY": "secret"}
        run = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        while len(endpoint.requests) < 6 and run.poll() is None:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
        time.sleep(0.3)  # what was on its way
        assert not (tmp_path / "out.jsonl").exists() and len(endpoint.requests) < 12
        replies = tmp_path / "out_solutions" / "replies.jsonl"
        answered = len(read(replies))
        assert answered >= 1
        replies.write_bytes(replies.read_bytes() + b'{"key": "0000')  # killed within a line
        endpoint.seconds = 0.0
        asked = len(endpoint.requests)
        teacher = APITeacher("teacher", base_url=endpoint.url, api_key="secret", max_tokens=4096, temperature=0.6)
        with caplog.at_level(logging.WARNING):
            report = distill_problems(data, teacher, tmp_path / "out.jsonl", num_completions=1, progress=False)
    assert "line is incomplete" in caplog.text
    assert report.resumed == answered and len(endpoint.requests) - asked == report.requests == 24 - answered
    assert Counter(record["key"] for record in read(replies)).most_common(1)[0][1] == 1
    assert report.kept == 24 and [row["solution"] for row in read(tmp_path / "out.jsonl")] == [
        str(a + b) for a, b in sums
    ]


def test_a_problem_without_a_readable_answer_is_not_asked(ask, tmp_path):
    with Endpoint(solve) as endpoint:
        data = write_problems(tmp_path)
        Path(data).write_text('{"problem": "2 + 2?", "answer": "$"}\n' + Path(data).read_text())
        teacher = APITeacher("teacher", base_url=endpoint.url, api_key="none")
        report = distill_problems(data, teacher, tmp_path / "out.jsonl", num_completions=1, progress=False)
    assert report.unreadable == 1 and len(endpoint.requests) == 4 and "not asked: 1 problems" in str(report)


def test_the_shortest_of_each_problem():
    solutions = [Solution(0, "ab", 9), Solution(0, "abc", 5), Solution(0, "abc ", 4), Solution(0, "", 1, "wrong")]
    solutions += [Solution(1, "abcd", 0), Solution(1, "abc", 7), Solution(2, "x", 3, "failed")]
    assert [solution.fault for solution in choose_solutions(solutions, "shortest")] == (
        ["longer", None, "duplicate", "wrong", "longer", None, "failed"]
    )
    assert [solution.fault for solution in choose_solutions(solutions, "all")] == (
        [None, None, "duplicate", "wrong", None, None, "failed"]
    )


@given(
    st.lists(
        st.builds(
            Solution, st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 5), st.sampled_from([None, "wrong"])
        )
    )
)
def test_a_choice_keeps_one_shortest_solution_of_every_solved_problem(solutions):
    every, shortest = (choose_solutions(solutions, choose) for choose in ("all", "shortest"))
    for problem in range(4):
        usable = [one for one in solutions if one.problem == problem and one.fault is None]
        kept = [one for one in shortest if one.problem == problem and one.fault is None]
        texts = [one.text for one in every if one.problem == problem and one.fault is None]
        assert (
            len(kept) == bool(usable) and set(texts) == {one.text for one in usable} and len(set(texts)) == len(texts)
        )


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A folder in which the embedded model has distilled itself."""
    folder = tmp_path_factory.mktemp("distilled")
    rows = demo.generate_problems(8, seed=0, operations=(2,))
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["distill", str(folder / "data.jsonl"), "--teacher", "demo", "--output", str(folder / "all.jsonl")]
    assert main([*command, "-n", "4", "--max_new_tokens", "96", "--temperature", "1", "--batch_size", "16"]) == 0
    return folder


def test_a_model_distills_itself_and_a_second_choice_asks_for_nothing(distilled, capsys):
    rows, drawn = read(distilled / "all.jsonl"), (distilled / "all_solutions" / "completions.jsonl").read_bytes()
    assert all(row["completion"][0]["content"].startswith("<think>\n") and row["prompt_id"] for row in rows)
    command = ["distill", str(distilled / "data.jsonl"), "--teacher", "demo", "--output", str(distilled / "all.jsonl")]
    options = ["-n", "4", "--max_new_tokens", "96", "--temperature", "1", "--batch_size", "16", "--prices", "1", "2"]
    assert main([*command, *options, "--shortest"]) == 0
    shortest, said = read(distilled / "all.jsonl"), capsys.readouterr().out
    assert (distilled / "all_solutions" / "completions.jsonl").read_bytes() == drawn
    assert "0 requests, 0 retries, 32 replies of earlier runs" in said and "price" in said
    fewest = {}
    for row in rows:
        fewest[row["prompt_id"]] = min(row["tokens"], fewest.get(row["prompt_id"], 10**6))
    assert {row["prompt_id"]: row["tokens"] for row in shortest} == fewest and len(shortest) == len(fewest)


def test_a_folder_is_a_dataset_and_a_model_has_one_setting_per_output(tmp_path):
    (tmp_path / "set").mkdir()
    rows = demo.generate_problems(4, seed=0, operations=(2,))
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(max_new_tokens):
        return distill_problems(
            str(tmp_path / "set"),
            "demo",
            tmp_path / "out.jsonl",
            num_completions=1,
            max_new_tokens=max_new_tokens,
            progress=False,
        )

    assert run(96).kept == len(read(tmp_path / "out.jsonl")) > 0
    with pytest.raises(ValueError, match="now .'max_new_tokens': 97.. Choose another output, or delete this folder"):
        run(97)


def test_the_result_trains_with_trl_as_it_is(distilled, tmp_path):
    dataset = load_dataset("json", data_files=str(distilled / "all.jsonl"), split="train", cache_dir=str(tmp_path))
    settings = tiny.settings(tmp_path, max_steps=1)
    settings = {name: settings[name] for name in settings.keys() - {"num_generations", "max_completion_length"}}
    trainer = SFTTrainer(str(demo.model_path()), SFTConfig(**settings), train_dataset=dataset)
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    row, trained = dataset[0], trainer.train_dataset[0]
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(trained["input_ids"]).startswith(prompt)  # as the model is asked when it generates
    written = tokenizer.decode([token for token in trained["labels"] if token != -100])
    assert written.rstrip("\n") == row["completion"][0]["content"].removeprefix("<think>\n") + "<|im_end|>"
    trainer.train()
    assert tiny.losses(trainer)[0] < 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"choose": "best"}, "choose must be one of 'all', 'shortest'"),
        ({"num_completions": 0}, "num_completions"),
        ({"prices": (1.0, float("nan"))}, "prices"),
        ({"temperature": 0.0}, "would be the same"),
        ({"max_new_tokens": 5}, "max_new_tokens are options of a model"),
        ({"limit": 0}, "limit"),
    ],
)
def test_bad_arguments(ask, arguments, message):
    with Endpoint(solve) as endpoint, pytest.raises(ValueError, match=message):
        ask(endpoint, **arguments)
    assert endpoint.requests == []


def test_no_solution_at_all_is_an_error_that_keeps_what_was_paid_for(ask, tmp_path):
    with Endpoint(lambda request: "I cannot tell.") as endpoint:
        with pytest.raises(ValueError, match="None of the 8 solutions can be kept: dropped: 8 wrong"):
            ask(endpoint)
    assert len(read(tmp_path / "out_solutions" / "replies.jsonl")) == 8 and not (tmp_path / "out.jsonl").exists()


def test_parquet(ask, tmp_path):
    with Endpoint(solve) as endpoint:
        teacher = APITeacher("teacher", base_url=endpoint.url, api_key="none")
        distill_problems(write_problems(tmp_path), teacher, tmp_path / "out.parquet", progress=False)
    assert Dataset.from_parquet(str(tmp_path / "out.parquet"))["solution"][:] == ["5", "9", "12", "8"]
