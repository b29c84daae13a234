# SPDX-License-Identifier: Apache-2.0
"""Critiques from a teacher that answers, errs, misbehaves, or stops half-way."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
import time

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.data.endpoint import Endpoint
from trl_concise import APITeacher, LocalTeacher, build_critiques, demo
from trl_concise.data import TeacherPrompt, teachers
from trl_concise.data.replies import MAX_FAILURES_IN_A_ROW
from trl_concise.data.teachers import Reply


def solution(value: int) -> str:
    return rf"I think that it is \boxed{{{value}}}."


def row(question: str, answer: int, *values: int) -> dict:
    return {"question": question, "answer": str(answer), "generations": [solution(value) for value in values]}


ROWS = [row("1+1=?", 2, 2, 3, 4), row("2+2=?", 4, 4, 5)]  # two right solutions, three wrong ones


def true_critique(request: str) -> str:
    """What a good teacher says."""
    left, right = map(int, re.search(r"(\d)\+(\d)=\?", request).groups())
    claimed = int(re.search(r"it is \\boxed{(\d+)}", request)[1])
    if claimed == left + right:
        return "Every step holds.\n\nConclusion: right [END]"
    return rf"It is \boxed{{{left + right}}}." + "\n\nConclusion: wrong [END]"


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build critiques with a teacher behind an endpoint."""
    monkeypatch.setattr(teachers, "FIRST_PAUSE", 0.001)

    def run(endpoint: Endpoint, rows=ROWS, *, max_retries=3, concurrency=2, prices=None, **arguments):
        teacher = APITeacher(
            "teacher",
            base_url=endpoint.url,
            api_key="secret",
            max_retries=max_retries,
            concurrency=concurrency,
            prices=prices,
        )
        return build_critiques(rows, teacher, tmp_path / "replies.jsonl", progress=False, **arguments)

    return run


def test_correct_critiques_are_kept(build, tmp_path):
    with Endpoint(true_critique) as endpoint:
        critiques, report = build(endpoint, prices=(1.0, 10.0))
    assert critiques.column_names == ["question", "solution", "critique", "verdict", "teacher"]
    assert critiques["question"][:] == ["1+1=?"] * 3 + ["2+2=?"] * 2
    assert critiques["solution"][:] == [solution(value) for value in (2, 3, 4, 4, 5)]
    assert critiques["verdict"][:] == [True, False, False, True, False]
    assert set(critiques["teacher"]) == {"teacher"}
    assert (report.candidates, report.requests, report.retries, report.resumed) == (5, 5, 0, 0)
    assert report.kept == {"right": 2, "wrong": 3} and report.dropped == {}
    assert (report.input_tokens, report.output_tokens) == (500, 50)
    assert report.cost == pytest.approx((500 * 1 + 50 * 10) / 1e6)
    assert "5 critiques kept of 5 candidates (2 right, 3 wrong)" in str(report)
    request = endpoint.requests[0]
    assert (request["model"], request["temperature"], request["top_p"], request["max_tokens"]) == (
        "teacher",
        0.3,
        0.95,
        3200,
    )
    assert "secret" not in (tmp_path / "replies.jsonl").read_text()


def test_a_misbehaving_endpoint_is_asked_again(build):
    faults = ["429", "500", "cut", "garbage", "empty", "503", "429"]
    with Endpoint(true_critique, faults) as endpoint:
        critiques, report = build(endpoint, max_retries=8)
    assert len(critiques) == 5 and report.dropped == {} and report.errors == {}
    assert report.retries == len(faults)
    assert len(endpoint.requests) == 5 + len(faults)


def test_permanent_failures_are_counted_and_requested_by_the_next_run(build):
    faults = ["500", "500", "503", "garbage", "garbage", "empty"]  # a try and a retry for each of three requests
    with Endpoint(true_critique, faults) as endpoint:
        critiques, report = build(endpoint, max_retries=1, concurrency=1)
    assert len(critiques) == 2 and report.dropped == {"failed": 3}
    assert sum(report.errors.values()) == 3 and any("InternalServerError" in error for error in report.errors)
    with Endpoint(true_critique) as endpoint:
        critiques, report = build(endpoint)
    assert len(critiques) == 5 and report.dropped == {}
    assert (report.resumed, report.requests, len(endpoint.requests)) == (2, 3, 3)


@pytest.mark.parametrize(
    ("answer", "dropped", "kept"),
    [
        ("Conclusion: right", {"verdict_disagrees": 3}, {"right": 2}),
        ("Conclusion: wrong", {"verdict_disagrees": 2, "no_corrected_answer": 3}, {}),
        (r"\boxed{2} Conclusion: wrong", {"verdict_disagrees": 2, "corrected_answer_disagrees": 1}, {"wrong": 2}),
        ("I cannot tell.", {"no_verdict": 5}, {}),
        (" ", {"empty": 5}, {}),
    ],
)
def test_why_critiques_are_dropped(build, answer, dropped, kept):
    with Endpoint(lambda request: answer) as endpoint:
        critiques, report = build(endpoint)
    assert report.dropped == dropped and report.kept == kept
    assert len(critiques) == sum(kept.values()) and len(critiques.column_names) == 5


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_truncated_critique_is_never_kept(build, reason):
    with Endpoint(true_critique, [reason]) as endpoint:
        critiques, report = build(endpoint, verified_only=False)
    assert len(critiques) == 4 and report.dropped == {"truncated": 1}


def test_truncated_reasoning_is_requested_once(build):
    with Endpoint(true_critique, ["reasoning"]) as endpoint:
        critiques, report = build(endpoint)
    assert len(endpoint.requests) == 5 and report.retries == 0
    assert len(critiques) == 4 and report.dropped == {"truncated": 1}
    assert (report.input_tokens, report.output_tokens) == (500, 50)


def test_unverified_critiques_are_those_of_the_first_paper(build):
    rows = [{"problem": "1+1=?", "solution": solution(value)} for value in (2, 3)]  # no gold answer
    with Endpoint(lambda request: "Fine. Conclusion: right [END]") as endpoint:
        critiques, report = build(endpoint, rows, prompt="cft", verified_only=False)
    assert critiques["verdict"][:] == [True, True] and report.kept == {"right": 2}
    assert endpoint.requests[0]["messages"][0]["content"].startswith("You are a science expert.")


def test_no_request_is_made_without_a_reference_answer_or_a_solution(build):
    with Endpoint(true_critique) as endpoint:
        unreadable, empty = {"answer": "", "solution": solution(2)}, {"answer": 2, "solution": " "}
        critiques, report = build(endpoint, [{"question": "1+1=?"} | row for row in (unreadable, empty)] + ROWS)
    assert (
        report.dropped == {"unreadable_gold": 1, "empty_solution": 1}
        and len(endpoint.requests) == 5
        and len(critiques) == 5
    )


def test_resumes_after_a_crash_within_a_line(build, tmp_path, caplog):
    path = tmp_path / "replies.jsonl"
    with Endpoint(true_critique) as endpoint:
        whole, _ = build(endpoint, concurrency=1)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:3]) + lines[3][:20])
        resumed, report = build(endpoint)
        assert (report.resumed, report.requests) == (3, 2) and "line is incomplete" in caplog.text
        again, report = build(endpoint)
    assert (report.resumed, report.requests) == (5, 0) and len(endpoint.requests) == 7
    assert whole.to_list() == resumed.to_list() == again.to_list()
    assert report.input_tokens == 500  # what earlier runs read is part of the price


def test_another_prompt_is_another_request(build):
    with Endpoint(true_critique) as endpoint:
        build(endpoint)
        _, report = build(endpoint, prompt=TeacherPrompt(user="{question} {solution} Right or wrong?"))
    assert (report.resumed, report.requests) == (0, 5)


def test_a_file_of_another_kind_is_refused(build, tmp_path):
    (tmp_path / "replies.jsonl").write_text(json.dumps({"text": "?"}) + "\n")
    with Endpoint(true_critique) as endpoint, pytest.raises(ValueError, match="line 1, is not a reply"):
        build(endpoint)


def test_a_refused_key_stops_at_once(build):
    with Endpoint(true_critique, ["401"] * 50) as endpoint:
        message = rf"The teacher 'teacher' at {endpoint.url}/ refuses every request: .*fault 401.*OPENAI_API_KEY"
        with pytest.raises(ValueError, match=message):
            build(endpoint, concurrency=1)
    assert len(endpoint.requests) == 1


def test_a_dead_endpoint_stops_the_run_and_keeps_the_replies(build, tmp_path):
    rows = [row(f"{i}+{j}=?", 0, 1) for i in range(6) for j in range(6)]
    with Endpoint(true_critique, []) as endpoint:
        build(endpoint, rows[:4])
    with pytest.raises(ConnectionError, match=f"{MAX_FAILURES_IN_A_ROW} requests to teacher failed in a row"):
        build(endpoint, rows, max_retries=0, concurrency=4)
    assert len((tmp_path / "replies.jsonl").read_text().splitlines()) == 4


def test_an_interrupt_ends_the_requests(build):
    rows = [row(f"{i}+{j}=?", 0, 1) for i in range(3) for j in range(3)]
    requests = 0

    def interrupt():
        nonlocal requests
        while (requests := len(endpoint.requests)) < 8:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with Endpoint(true_critique, ["500"] * 1000, seconds=0.05) as endpoint:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
        try:
            threading.Thread(target=interrupt, daemon=True).start()
            with pytest.raises(KeyboardInterrupt):
                build(endpoint, rows, max_retries=100, concurrency=4)
        finally:
            signal.signal(signal.SIGINT, before)
        time.sleep(0.5)  # a retry would have come by now, several times
        assert len(endpoint.requests) <= requests + 4  # some may have been on their way


def test_requests_run_side_by_side_and_duplicates_once(build):
    with Endpoint(true_critique, seconds=0.1) as endpoint:
        critiques, report = build(endpoint, [*ROWS, *ROWS], concurrency=3)
    assert endpoint.most_under_way == 3
    assert report.candidates == len(critiques) == len(endpoint.requests) == 5


def test_generations_are_the_candidates_if_there_is_a_reference(build):
    """Rows as OpenR1-Math has them."""
    openr1 = [
        {
            "problem": "1+1=?",
            "question": None,
            "solution": solution(2),
            "answer": "2",
            "generations": [solution(3), None],
        }
    ]
    with Endpoint(true_critique) as endpoint:
        critiques, _ = build(endpoint, openr1)
    assert critiques["question"][:] == ["1+1=?"] and critiques["solution"][:] == [solution(3)]


def test_generations_are_a_list(build):
    rows = [{"question": "1+1=?", "answer": "2", "generations": solution(2)}]
    with Endpoint(true_critique) as endpoint, pytest.raises(ValueError, match="must hold a list of texts, got a str"):
        build(endpoint, rows)
    assert endpoint.requests == []


def test_a_teacher_may_give_any_iterator(tmp_path):
    class Agreeable:
        name = "agreeable"

        def config(self):
            return {}

        def cost(self, input_tokens, output_tokens):
            return None

        def replies(self, conversations):
            return enumerate(Reply("Conclusion: right") for _ in conversations)

    critiques, report = build_critiques(ROWS, Agreeable(), tmp_path / "replies.jsonl", progress=False)
    assert len(critiques) == 2 and report.dropped == {"verdict_disagrees": 3}


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        ([{"solution": "3", "answer": "2"}], "question"),
        ([{"question": "q", "solution": "3"}], "answer"),
        ([{"question": "q", "solution": "3", "answer": float("nan")}], "answer"),
    ],
)
def test_missing_columns(build, rows, missing):
    with Endpoint(true_critique) as endpoint, pytest.raises(ValueError, match=f"Row 0 has no \\['{missing}'\\]"):
        build(endpoint, rows)


def test_unknown_prompt(build):
    with Endpoint(true_critique) as endpoint, pytest.raises(ValueError, match="'one_shot'"):
        build(endpoint, prompt="shot")


def test_a_local_model_can_be_the_teacher(tmp_path):
    """The embedded model cannot criticise, but it reads and writes."""
    teacher = LocalTeacher(str(demo.model_path()), max_new_tokens=160, batch_size=2, temperature=1.0)
    prompt = TeacherPrompt(user="What is {question}?")
    rows = [{"question": question, "solution": "?"} for question in ("2 + 3 - 4", "8 * 2 + 1", "9 - 2 - 3")]
    arguments = {"prompt": prompt, "verified_only": False, "progress": False}
    critiques, report = build_critiques(rows, teacher, tmp_path / "replies.jsonl", **arguments)
    assert len(critiques) + report.dropped.get("truncated", 0) == report.candidates == 3
    assert all(r"\boxed{" in text and "<|im_end|>" not in text for text in critiques["critique"])
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    rendered = tokenizer.apply_chat_template(
        prompt.messages("2 + 3 - 4", "?"), add_generation_prompt=True, tokenize=False
    )
    assert report.input_tokens == 3 * len(tokenizer(rendered).input_ids)
    assert report.cost is None and 0 < report.output_tokens <= 3 * 160

    again, report = build_critiques(rows, teacher, tmp_path / "replies.jsonl", **arguments)
    assert report.requests == 0 and again.to_list() == critiques.to_list()


def test_a_truncated_local_reply_is_marked(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(demo.model_path())
    teacher = LocalTeacher(model, max_new_tokens=4, temperature=0.0)
    ((index, reply),) = teacher.replies([[{"role": "user", "content": "What is 2 + 3 - 4?"}]])
    assert (index, reply.complete, reply.output_tokens) == (0, False, 4)


def test_replies_end_at_a_timeout():
    conversations = [[{"role": "user", "content": "1+1=? it is \\boxed{2}"}]] * 6
    answered = iter(range(2))
    hanging = threading.Event()

    def answer(request: str) -> str:
        if next(answered, None) is None:
            hanging.wait(30)
        return true_critique(request)

    with Endpoint(answer) as endpoint:
        teacher = APITeacher("teacher", base_url=endpoint.url, api_key="none", concurrency=2)
        start = time.monotonic()
        replies = list(teacher.replies(conversations, timeout=1.0))
        assert 0.9 < time.monotonic() - start < 15
        hanging.set()
    assert len(replies) == 2 and all(reply.error is None for _, reply in replies)
    local = LocalTeacher(str(demo.model_path()), max_new_tokens=4000, batch_size=2, temperature=0.0)
    local.model.generation_config.suppress_tokens = [local.tokenizer.eos_token_id]  # would write for a long time
    replies = list(local.replies(conversations, timeout=0.2))
    assert len(replies) == 2 and all(reply.output_tokens < 4000 and not reply.complete for _, reply in replies)


def test_a_local_teacher_without_a_padding_token():
    model = AutoModelForCausalLM.from_pretrained(demo.model_path())
    conversations = [[{"role": "user", "content": f"What is {text}?"}] for text in ("2 + 3 - 4", "8 * 2")]
    answers = []
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    for pad_token in (tokenizer.pad_token, None):
        tokenizer.pad_token = pad_token
        teacher = LocalTeacher(model, tokenizer, max_new_tokens=32, temperature=0.0)
        answers.append(list(teacher.replies(conversations)))
        assert tokenizer.pad_token == pad_token
    assert answers[0] == answers[1]


def test_without_the_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"pip install 'trl-concise\[critiques\]'"):
        APITeacher("teacher")
