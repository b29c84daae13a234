# SPDX-License-Identifier: Apache-2.0
"""
The process that runs math-verify, apart from the one that trains.

A big-integer operation inside sympy cannot be interrupted: it holds the interpreter, so neither a signal nor a thread can
end it. Only its process can be killed. So this file runs as a script in a fresh interpreter, imports math-verify once, and
from then on only forks workers, hands them pairs of answers, and kills the ones that miss their deadline. It does no math
itself, so it always answers, and a new worker costs a fork instead of an import. It holds no threads and no CUDA
context, which is what makes forking safe here, whatever the training process holds.

Lines of JSON in: `{"timeout": seconds, "workers": count, "pairs": [[reference, is_bare, answer, is_bare], ...]}`.
Lines of JSON out: `"ready"` once, then `[index, verdict, end]` for every pair, in the order in which they are done, with a
verdict of true, false or null (the reference answer is unreadable) and an end of "judged", "timeout", "crash" or "unreadable".
A reference answer that costs a worker its deadline before the answer is looked at is "unreadable" from then on.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import json
import logging
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn


Pair = tuple[str, bool, str, bool]  # reference answer, whether it is bare, answer, whether it is bare

MEMORY = 2 << 30  # bytes of address space for one worker
ATTEMPTS = 2  # a worker killed by another program implies no verdict on its pair
PATIENCE = 1.0  # seconds between two looks at whether the training process is still there

# Judged once before the first fork: the LaTeX parser builds its grammar while parsing, and workers inherit it.
WARM_UP = (
    r"\frac{1}{2}",
    r"-\frac{3\sqrt{3}}{4} + 2^{10}",
    r"x^2 - 3x + \pi",
    r"\left( 3, \frac{\pi}{2} \right)",
    r"(-\infty, 2) \cup [3, 5]",
    r"\begin{pmatrix} 1 & -2 \\ 0 & x \end{pmatrix}",
    r"y = 2x + 3",
    r"\{1, 2, 3\}",
    r"\text{(C)}",
    r"50\%",
    r"\frac{q_{0}}{\sqrt{2LC}} - \frac{\sqrt{2}v_0^2}{5\pi g}",
    r"7\cdot\sin(\pi\cdot x/5) + 3\cos(\frac{2x}{3})",
    r"\frac{(n-1)!}{k!(n-k)!} + \binom{n}{k}",
    r"1 < x \le 2, x \ne 3",
    r"11z^{7}(5 + 11z^{7})^{-\frac{1}{2}}",
    r"|x - 1| + \sqrt[3]{2} \cdot e^{2x}",
    r"\frac{1 \pm \sqrt{5}}{2}",
    r"f(x) = \log_2(x) + \ln x",
    r"x_{1} = 3, x_{2} = -4",
    r"\mathbb{R} \setminus \{-4\}",
    r"\sum_{k=1}^{n} k^2",
)


def load_equality() -> ModuleType:
    """Load `equality.py`, which is next to this file, without the package: it would import much more than math-verify."""
    path = Path(__file__).with_name("equality.py")
    spec = importlib.util.spec_from_file_location("trl_concise_equality", path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


equality = load_equality()


@contextlib.contextmanager
def termination_delayed() -> Iterator[None]:
    """SIGTERM waits until the block is done: what a signal handler raises while Python forks is ignored."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


class Worker:
    """A fork that judges one pair after another. To be made with termination held back."""

    def __init__(self, others: list[Worker]):
        self.channel, channel = socket.socketpair()
        self.index: int | None = None  # of the current pair
        self.deadline = math.inf  # on the monotonic clock
        self.received = b""
        supervisor = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for worker in (*others, self):
                    worker.channel.close()
                _work(channel, supervisor)
            finally:  # an exception must not get from here to the supervisor's clean-up, which kills the other workers
                os._exit(1)
        channel.close()

    def assign(self, index: int, pair: Pair, timeout: float) -> None:
        self.index, self.deadline = index, time.monotonic() + timeout
        with contextlib.suppress(BrokenPipeError):  # it has died, which the next read detects
            self.channel.sendall(json.dumps([pair, timeout]).encode() + b"\n")

    def messages(self) -> list[Any]:
        """Return the worker's messages: `"read"`, a verdict, or both; nothing from a worker that has died."""
        with contextlib.suppress(ConnectionResetError):
            self.received += self.channel.recv(64)
        *lines, self.received = self.received.split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.channel.close()


def _work(channel: socket.socket, supervisor: int) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # standard input and output belong to the supervisor
        os.dup2(nothing, stream)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        _limit(resource.RLIMIT_AS, MEMORY)
    if os.getppid() != supervisor:  # it died before the lines above took hold
        os._exit(1)
    known: set[tuple[str, bool]] = set()  # reference answers
    one = equality.read("1", True)
    with channel.makefile("rw", encoding="utf-8") as lines:
        for line in lines:
            (gold, gold_is_bare, answer, answer_is_bare), timeout = json.loads(line)
            # If the supervisor is gone, the kernel ends this process soon after its deadline.
            usage = resource.getrusage(resource.RUSAGE_SELF)
            _limit(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime + timeout) + 1)
            keeps_case = gold_is_bare and answer_is_bare  # math-verify's search of prose does not
            reference = equality.read(gold, gold_is_bare, keeps_case)
            if (gold, gold_is_bare) not in known:
                equality.equal(reference, one)
                known.add((gold, gold_is_bare))
                lines.write('"read"\n')  # from here on, a timeout is caused by the answer
                lines.flush()
            verdict = None
            if reference:
                verdict = equality.equal(reference, equality.read(answer, answer_is_bare, keeps_case))
            lines.write(json.dumps(verdict) + "\n")
            lines.flush()
    os._exit(0)


def _limit(kind: int, amount: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (amount if hard == resource.RLIM_INFINITY else min(amount, hard), hard))


class Supervisor:
    """Shares pairs out among workers and keeps the time."""

    def __init__(self) -> None:
        self.training_process = os.getppid()
        self.workers: list[Worker] = []
        self.selector = selectors.DefaultSelector()
        self.selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        self.received = b""
        self.readable: set[tuple[str, bool]] = set()  # reference answers
        self.unreadable: dict[tuple[str, bool], float] = {}  # the deadline that each of them missed

    def serve(self) -> None:
        """Answer requests until the training process is gone."""
        try:
            self.send("ready")
            while True:
                for worker in self.select(math.inf):  # an idle worker sends nothing, so it has died
                    self.dismiss(worker)
                while b"\n" in self.received:
                    line, _, self.received = self.received.partition(b"\n")
                    request = json.loads(line)
                    request["pairs"] = [tuple(pair) for pair in request["pairs"]]
                    self.judge_all(**request)
        except (EOFError, BrokenPipeError):
            pass  # the training process has ended
        finally:
            for worker in self.workers:
                worker.kill()

    def judge_all(self, pairs: list[Pair], timeout: float, workers: int) -> None:
        waiting = deque(range(len(pairs)))
        attempts = [0] * len(pairs)
        while waiting or any(worker.index is not None for worker in self.workers):
            while waiting and (worker := self.idle_worker(workers)) is not None:
                index = waiting.popleft()
                if self.is_unreadable(pairs[index], timeout):
                    self.send([index, None, "unreadable"])
                    continue
                attempts[index] += 1
                worker.assign(index, pairs[index], timeout)

            for worker in self.select(min((worker.deadline for worker in self.workers), default=math.inf)):
                current, messages = worker.index, worker.messages()
                if not messages:  # it has died
                    self.dismiss(worker)
                if current is None:
                    continue
                if not messages and attempts[current] < ATTEMPTS:
                    waiting.appendleft(current)
                elif not messages:
                    self.give_up(current, pairs[current], timeout, "crash")
                for message in messages:
                    if message == "read":
                        self.readable.add(pairs[current][:2])
                        continue
                    self.send([current, message, "judged"])
                    worker.index, worker.deadline = None, math.inf

            now = time.monotonic()
            for worker in [worker for worker in self.workers if worker.deadline <= now]:
                self.dismiss(worker)
                if worker.index is not None:
                    self.give_up(worker.index, pairs[worker.index], timeout, "timeout")

    def give_up(self, index: int, pair: Pair, timeout: float, end: str) -> None:
        """Report a pair without a verdict. Before the reference answer was read, the reference answer is the reason."""
        if pair[:2] in self.readable:
            self.send([index, False, end])
        else:
            self.unreadable[pair[:2]] = max(timeout, self.unreadable.get(pair[:2], 0.0))
            self.send([index, None, "unreadable"])

    def is_unreadable(self, pair: Pair, timeout: float) -> bool:
        return pair[:2] not in self.readable and self.unreadable.get(pair[:2], 0.0) >= timeout

    def idle_worker(self, limit: int) -> Worker | None:
        for worker in self.workers:
            if worker.index is None:
                return worker
        if len(self.workers) >= limit:
            return None
        with termination_delayed():
            worker = Worker(self.workers)
            self.workers.append(worker)
        self.selector.register(worker.channel, selectors.EVENT_READ, worker)
        return worker

    def dismiss(self, worker: Worker) -> None:
        self.selector.unregister(worker.channel)
        self.workers.remove(worker)
        worker.kill()

    def select(self, deadline: float) -> list[Worker]:
        """Wait for messages from the training process or workers until the deadline; return the workers that sent one."""
        wait = min(PATIENCE, max(0.0, deadline - time.monotonic()))
        spoke = []
        for key, _ in self.selector.select(wait):
            if key.data is not None:
                spoke.append(key.data)
                continue
            received = os.read(sys.stdin.fileno(), 1 << 20)
            if not received:
                raise EOFError
            self.received += received
        # A process forked off the training process can hold its end of the pipe open: the end of file is not the only sign.
        if os.getppid() != self.training_process:
            raise EOFError
        return spoke

    def send(self, message: Any) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process, whose end ends this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    logging.disable(logging.CRITICAL)
    supervisor = Supervisor()
    for text in WARM_UP:
        equality.equal(equality.read(text, True), equality.read("x^2 + 1", True))
    gc.freeze()  # workers share the present objects, which their garbage collector can skip
    gc.set_threshold(50_000, 20, 20)  # parsing makes many small objects and few cycles
    supervisor.serve()


if __name__ == "__main__":
    main()
