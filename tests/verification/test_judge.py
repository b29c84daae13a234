# SPDX-License-Identifier: Apache-2.0
"""The processes that run math-verify: deadlines, deaths, order."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from trl_concise.verification.extraction import Answer
from trl_concise.verification.judge import Judge, Judgment, default_workers


TOWER = "5^{5^{5^{5^5}}}"  # one operation on integers, which nothing can interrupt
ENDLESS = (
    TOWER,
    "(1000000000!)!",
    r"\sum_{k=1}^{10^{12}} \frac{1}{k^2 + 1}",
)


def pairs(*texts: tuple[str, str]) -> list[tuple[Answer, Answer]]:
    return [(Answer(gold, is_bare=True), Answer(answer, is_bare=True)) for gold, answer in texts]


def processes(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture(scope="module")
def judge():
    judge = Judge(workers=2)
    yield judge
    judge.close()


def test_verdicts_keep_their_order(judge):
    judgments = judge.judge(
        pairs(*((str(i), f"{i % 3} + {i - i % 3}") for i in range(40)), ("1", "2"), ("", "1")), 20.0
    )
    assert judgments == [Judgment(True, "judged")] * 40 + [Judgment(False, "judged"), Judgment(None, "judged")]


@pytest.mark.parametrize("answer", ENDLESS)
def test_a_deadline_ends_uninterruptible_code(judge, answer):
    judge.judge(pairs(("1", "1")), 20.0)
    assert judge.judge(pairs(("1", answer)), 1.0) == [Judgment(False, "timeout")]


def test_a_hung_pair_does_not_delay_other_pairs(judge):
    texts = [("3", "1 + 2"), ("7", TOWER), ("4", "2 + 2"), ("5", "2 + 2"), ("8", TOWER), ("x", "x")]
    ends = judge.judge(pairs(*texts), 3.0)
    assert [end.verdict for end in ends] == [True, False, True, False, False, True]
    assert [end.end for end in ends] == ["judged", "timeout", "judged", "judged", "timeout", "judged"]


def test_an_unreadable_reference_answer_costs_its_deadline_once():
    judge = Judge(workers=2)
    try:
        judge.judge(pairs(("1", "1")), 20.0)
        start = time.monotonic()
        texts = [*((TOWER, str(number)) for number in range(8)), ("3", "1 + 2")]
        judgments = judge.judge(pairs(*texts), 2.0)
        assert judgments == [*[Judgment(None, "unreadable")] * 8, Judgment(True, "judged")]
        assert time.monotonic() - start < 8 / 2 * 2.0  # a deadline for each would take that long
        start = time.monotonic()
        assert (
            judge.judge(pairs(*((TOWER, str(number)) for number in range(8, 16))), 2.0)
            == [Judgment(None, "unreadable")] * 8
        )
        assert time.monotonic() - start < 2.0
    finally:
        judge.close()


def test_an_answer_that_misses_its_deadline_leaves_its_reference_answer_readable(judge):
    texts = [("11", "5 + 6"), ("11", TOWER), ("11", "4 + 7")]
    ends = judge.judge(pairs(*texts), 2.0)
    assert [end.end for end in ends] == ["judged", "timeout", "judged"]


def test_prose_is_searched(judge):
    pair = (Answer("12", is_bare=True), Answer("Three fours are 12 apples, of course.", is_bare=False))
    assert judge.judge([pair], 20.0) == [Judgment(True, "judged")]


def test_workers_are_capped_and_kept(judge):
    judge.judge(pairs(*((str(i), "1 + 1") for i in range(30))), 20.0)
    before = {process.pid for process in processes(judge._process.pid)}
    judge.judge(pairs(*((str(i), "1 + 1") for i in range(30))), 20.0)
    assert {process.pid for process in processes(judge._process.pid)} == before
    assert 1 <= len(before) <= 2


def in_thread(call) -> tuple[threading.Thread, list]:
    results: list = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def wait_until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def busy_workers(judge: Judge) -> list[psutil.Process]:
    if judge._process is None:
        return []
    return [worker for worker in processes(judge._process.pid) if is_busy(worker)]


def is_busy(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_RUNNING
    except psutil.NoSuchProcess:  # it has just ended
        return False


def test_a_batch_completes_when_a_worker_is_killed(judge):
    judge.judge(pairs(("1", "1")), 20.0)
    thread, results = in_thread(
        lambda: judge.judge(pairs(("7", TOWER), *((str(i), f"{i} + 0") for i in range(20))), 4.0)
    )
    wait_until(lambda: busy_workers(judge))
    for worker in busy_workers(judge):
        worker.kill()
    thread.join()
    assert [judgment.verdict for judgment in results[0]] == [False] + [True] * 20


def test_a_batch_completes_when_the_supervisor_is_killed(judge):
    judge.judge(pairs(("1", "1")), 20.0)
    first = judge._process
    workers = processes(first.pid)
    thread, results = in_thread(
        lambda: judge.judge(pairs(("7", TOWER), *((str(i), f"{i} + 0") for i in range(20))), 4.0)
    )
    wait_until(lambda: busy_workers(judge))
    first.kill()
    thread.join()
    assert [judgment.verdict for judgment in results[0]] == [False] + [True] * 20
    if sys.platform == "linux":  # elsewhere the CPU limit ends them a little later
        assert psutil.wait_procs(workers, timeout=5)[1] == []


def test_a_pair_that_repeatedly_kills_its_worker_is_abandoned():
    judge = Judge(workers=1)
    stop = threading.Event()

    def kill_on_sight() -> None:
        while not stop.is_set():
            for worker in busy_workers(judge):
                worker.kill()
            time.sleep(0.05)

    judge.judge(pairs(("1", "1")), 20.0)
    killer = threading.Thread(target=kill_on_sight)
    killer.start()
    try:
        assert judge.judge(pairs(("7", TOWER)), 30.0) == [Judgment(False, "crash")]
    finally:
        stop.set()
        killer.join()
        judge.close()


GREEDY = """
import time
from trl_concise.verification import judge_process

read = judge_process.equality.read

def greedy_read(text, is_bare, *options):
    if text == "all memory":
        bytearray(1 << 62)
    if text == "2 + 5":
        time.sleep(1)
    return read(text, is_bare, *options)

judge_process.equality.read = greedy_read
judge_process.main()
"""


def test_a_failing_worker_does_not_stop_the_others(monkeypatch, tmp_path):
    """What it raises is its own: unwound in the fork, the supervisor's clean-up would kill the workers beside it."""
    script = tmp_path / "greedy.py"
    script.write_text(GREEDY, encoding="utf-8")
    monkeypatch.setattr("trl_concise.verification.judge.SCRIPT", script)
    judge = Judge(workers=2)
    assert judge.judge(pairs(("7", "2 + 5"), ("1", "1")), 20.0) == [Judgment(True, "judged")] * 2
    before = {process.pid for process in processes(judge._process.pid)}
    # The older worker is at its slow pair all the while.
    judgments = judge.judge(pairs(("7", "2 + 5"), *[("1", "all memory")] * 3), 20.0)
    after = {process.pid for process in processes(judge._process.pid)}
    judge.close()
    assert judgments == [Judgment(True, "judged"), *[Judgment(False, "crash")] * 3]
    assert len(before) == 2 and before & after


def test_an_idle_worker_that_dies_is_replaced(judge):
    judge.judge(pairs(("1", "1"), ("2", "2")), 20.0)
    dead = processes(judge._process.pid)
    for worker in dead:
        worker.kill()
    assert psutil.wait_procs(dead, timeout=10)[1] == []
    assert judge.judge(pairs(("3", "1 + 2"), ("4", "5")), 20.0) == [
        Judgment(True, "judged"),
        Judgment(False, "judged"),
    ]


def test_threads_take_turns(judge):
    calls = [in_thread(lambda i=i: judge.judge(pairs((str(i), f"{i} + 0"), (str(i), "x")), 20.0)) for i in range(4)]
    for thread, results in calls:
        thread.join()
        assert results == [[Judgment(True, "judged"), Judgment(False, "judged")]]


def test_async_code(judge):
    async def call():
        return await asyncio.gather(*(asyncio.to_thread(judge.judge, pairs(("3", "1 + 2")), 20.0) for _ in range(3)))

    assert asyncio.run(call()) == [[Judgment(True, "judged")]] * 3


def test_close_ends_all_processes_and_the_next_call_restarts_them():
    judge = Judge(workers=2)
    assert judge._process is None  # nothing runs before it is needed
    judge.judge(pairs(("1", "1"), ("2", "2")), 20.0)
    running = [psutil.Process(judge._process.pid), *processes(judge._process.pid)]
    judge.close()
    assert psutil.wait_procs(running, timeout=10)[1] == []
    assert judge.judge(pairs(("3", "1 + 2")), 20.0) == [Judgment(True, "judged")]
    judge.close()


TERMINATED_AMID_FORK = """
import os, signal, sys
from trl_concise.verification import judge_process

signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
os.register_at_fork(**{sys.argv[1]: lambda: os.getpid() == supervisor and os.kill(supervisor, signal.SIGTERM)})
supervisor = os.getpid()
judge_process.Supervisor().idle_worker(1)
print("ran on")
"""


@pytest.mark.parametrize("moment", ["before", "after_in_parent"])
def test_a_termination_signal_during_a_fork_is_not_lost(moment):
    """Python ignores what a signal handler raises inside its own fork callbacks."""
    ended = subprocess.run(
        [sys.executable, "-c", TERMINATED_AMID_FORK, moment], input=b"", capture_output=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, b"", b"")


def test_an_interrupt_ends_the_processes(judge):
    judge.judge(pairs(("1", "1")), 20.0)
    running = psutil.Process(judge._process.pid)

    def interrupt() -> None:
        wait_until(lambda: busy_workers(judge))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    try:
        thread, _ = in_thread(interrupt)
        with pytest.raises(KeyboardInterrupt):
            judge.judge(pairs(("7", TOWER)), 30.0)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not running.is_running()
    assert judge.judge(pairs(("3", "1 + 2")), 20.0) == [Judgment(True, "judged")]


def test_a_process_that_cannot_start_is_an_error(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.setattr("trl_concise.verification.judge.SCRIPT", broken)
    with pytest.raises(RuntimeError, match="ended 4 times in a row"):
        Judge().judge(pairs(("1", "1")), 1.0)


CALL = r"""
from trl_concise.verification import verify_answers
print(verify_answers(["3", "3"], [r"\boxed{1 + 2}", r"\boxed{x}"], timeout=30.0), flush=True)
"""


def run(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )


def test_scripts_without_a_main_guard_work(tmp_path):
    """Spawned with multiprocessing, the workers would run the script again."""
    script = tmp_path / "script.py"
    script.write_text("print('once')" + CALL, encoding="utf-8")
    with script.open("rb") as file:
        for arguments, stdin in (([str(script)], None), (["-"], file)):
            result = subprocess.run(
                [sys.executable, *arguments], stdin=stdin, capture_output=True, text=True, check=True
            )
            assert result.stdout.splitlines() == ["once", "[True, False]"]
            assert result.stderr == ""


def test_a_fork_has_its_own_processes():
    """Data loaders fork the training process, pipes and all."""
    script = f"""
import os
{CALL}
if os.fork() == 0:
    print(verify_answers(["3"], [r"\\boxed{{1 + 2}}"], timeout=30.0), flush=True)
    os._exit(0)
os.wait()
print(verify_answers(["3"], [r"\\boxed{{2 + 1}}"], timeout=30.0), flush=True)
"""
    assert run(script).communicate(timeout=120)[0].splitlines() == ["[True, False]", "[True]", "[True]"]


FORK = """
import os, time
if os.fork() == 0:
    time.sleep(120)
    os._exit(0)
"""


@pytest.mark.parametrize("fork", ["", FORK], ids=["alone", "with a fork that keeps the pipes open"])
def test_no_worker_outlives_a_killed_parent(fork):
    hung = f"""[r"\\boxed{{{TOWER}}}", r"\\boxed{{1 + {TOWER}}}"]"""
    process = run(f"""{CALL}{fork}verify_answers(["7"] * 2, {hung}, timeout=100.0, guards=False)""")
    assert process.stdout.readline() == "[True, False]\n"
    wait_until(lambda: sum(map(is_busy, processes(process.pid))) >= 2)
    wait_until(lambda: len(processes(process.pid)) == 3 + bool(fork))
    everyone = processes(process.pid)
    judges = [child for child in everyone if any("judge_process" in part for part in child.cmdline())]
    others = [child for child in everyone if child not in judges]
    assert len(judges) == 3 and len(others) == bool(fork)
    process.kill()
    process.wait()
    alive = psutil.wait_procs(judges, timeout=5)[1]
    for child in others:
        child.kill()
    process.stdout.close()
    assert alive == []


@pytest.mark.slow
def test_every_process_of_a_launcher_has_its_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os" + CALL + "assert os.environ['WORLD_SIZE'] == '2'", encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(launcher, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[True, False]"] * 2


@pytest.mark.slow
def test_next_to_a_cuda_context():
    """A process that has used CUDA must not fork, and does not."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}

    def output(script: str) -> list[str]:
        command = [sys.executable, "-c", "import torch\n" + script]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()

    if output("print(torch.cuda.is_available())") == ["False"]:
        pytest.skip("no CUDA device")
    assert output("kept = torch.ones(1, device='cuda')" + CALL + "print(kept.item())") == ["[True, False]", "1.0"]


def test_workers_per_machine(monkeypatch):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert default_workers() == max(2, cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")  # torchrun's: processes that share this machine
    assert default_workers() == 2
    monkeypatch.setenv("TRL_CONCISE_VERIFICATION_WORKERS", "5")
    assert default_workers() == 5
    monkeypatch.setenv("TRL_CONCISE_VERIFICATION_WORKERS", "none")
    with pytest.raises(ValueError, match="must be a positive integer; got 'none'"):
        default_workers()


def test_importing_verification_is_light():
    script = """
import sys
import trl_concise.verification
print(sorted(name for name in ("math_verify", "sympy", "torch", "transformers", "trl", "datasets") if name in sys.modules))
"""
    assert run(script).communicate(timeout=120)[0] == "[]\n"
