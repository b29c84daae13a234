# SPDX-License-Identifier: Apache-2.0
"""
The process that runs math-verify, apart from the one that trains.

A big-integer operation inside sympy cannot be interrupted: it holds the interpreter, so neither a signal nor a thread can
end it. Only its process can be killed. So this file runs as a script in a fresh interpreter, imports math-verify once, and
from then on only forks workers, hands them pairs of answers, and kills the ones that miss their deadline. It does no maths
itself, hence it always answers, and a new worker costs a fork instead of an import. It holds no threads and no CUDA
context, which is what makes forking safe here, whatever the training process holds.

Lines of JSON in: `{"timeout": seconds, "workers": count, "pairs": [[gold, is_bare, answer, is_bare], ...]}`.
Lines of JSON out: `"ready"` once, then `[index, verdict, end]` for every pair, in the order in which they are done, with a
verdict of true, false or null (the gold is unreadable) and an end of "judged", "timeout" or "crash".
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
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
from functools import lru_cache
from typing import Any, NoReturn


Pair = tuple[str, bool, str, bool]  # gold, whether it is bare, answer, whether it is bare

MEMORY = 2 << 30  # bytes of address space for one worker
ATTEMPTS = 2  # a worker that someone else killed says nothing about the pair it was judging
PATIENCE = 1.0  # seconds between two looks at whether the training process is still there

# Judged once before the first fork: the LaTeX parser learns its grammar as it goes, and workers inherit what it knows.
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
)


@lru_cache(maxsize=4096)
def read(text: str, is_bare: bool) -> tuple[Any, ...]:
    """Parse an answer (in a box, so that all of it is taken as LaTeX), or find and parse the one that prose holds."""
    from math_verify import parse

    return tuple(parse(rf"\boxed{{{text}}}" if is_bare else text, parsing_timeout=None))


def equal(parsed_gold: tuple[Any, ...], parsed_answer: tuple[Any, ...]) -> bool:
    """math-verify's verdict, without its own deadline: that one needs a signal, and a signal is not enough."""
    from math_verify import verify

    return verify(list(parsed_gold), list(parsed_answer), timeout_seconds=None)


@contextlib.contextmanager
def termination_held_back() -> Iterator[None]:
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
        self.index: int | None = None  # of the pair in hand
        self.deadline = math.inf  # on the monotonic clock
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
        with contextlib.suppress(BrokenPipeError):  # it has died: listening will tell
            self.channel.sendall(json.dumps([pair, timeout]).encode() + b"\n")

    def answer(self) -> bytes:
        """The verdict as JSON, or nothing from a worker that has died."""
        with contextlib.suppress(ConnectionResetError):
            return self.channel.recv(64)
        return b""

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
    with channel.makefile("rw", encoding="utf-8") as lines:
        for line in lines:
            (gold, gold_is_bare, answer, answer_is_bare), timeout = json.loads(line)
            # Where nobody is left to kill this process, the kernel ends it soon after its deadline all the same.
            usage = resource.getrusage(resource.RUSAGE_SELF)
            _limit(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime + timeout) + 1)
            parsed_gold = read(gold, gold_is_bare)
            verdict = equal(parsed_gold, read(answer, answer_is_bare)) if parsed_gold else None
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

    def serve(self) -> None:
        """Answer requests until the training process is gone."""
        try:
            self.send("ready")
            while True:
                for worker in self.select(math.inf):  # an idle worker has nothing to say: it has died
                    self.dismiss(worker)
                while b"\n" in self.received:
                    line, _, self.received = self.received.partition(b"\n")
                    self.judge_all(**json.loads(line))
        except (EOFError, BrokenPipeError):
            pass  # the training process is gone, and so is the reason to be here
        finally:
            for worker in self.workers:
                worker.kill()

    def judge_all(self, pairs: list[Pair], timeout: float, workers: int) -> None:
        waiting = deque(range(len(pairs)))
        attempts = [0] * len(pairs)
        while waiting or any(worker.index is not None for worker in self.workers):
            while waiting and (worker := self.idle_worker(workers)) is not None:
                index = waiting.popleft()
                attempts[index] += 1
                worker.assign(index, pairs[index], timeout)

            for worker in self.select(min(worker.deadline for worker in self.workers)):
                index, answer = worker.index, worker.answer()
                if answer:
                    self.send([index, json.loads(answer), "judged"])
                    worker.index, worker.deadline = None, math.inf
                    continue
                self.dismiss(worker)
                if index is not None and attempts[index] < ATTEMPTS:
                    waiting.appendleft(index)
                elif index is not None:
                    self.send([index, False, "crash"])

            now = time.monotonic()
            for worker in [worker for worker in self.workers if worker.deadline <= now]:
                self.dismiss(worker)
                self.send([worker.index, False, "timeout"])

    def idle_worker(self, limit: int) -> Worker | None:
        for worker in self.workers:
            if worker.index is None:
                return worker
        if len(self.workers) >= limit:
            return None
        with termination_held_back():
            worker = Worker(self.workers)
            self.workers.append(worker)
        self.selector.register(worker.channel, selectors.EVENT_READ, worker)
        return worker

    def dismiss(self, worker: Worker) -> None:
        self.selector.unregister(worker.channel)
        self.workers.remove(worker)
        worker.kill()

    def select(self, deadline: float) -> list[Worker]:
        """Wait for words from the training process or from workers, until the deadline; return the workers that spoke."""
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
        equal(read(text, True), read("x^2 + 1", True))
    gc.freeze()  # workers share what is there by now, and need not look through it
    gc.set_threshold(50_000, 20, 20)  # parsing makes many small objects and few cycles
    supervisor.serve()


if __name__ == "__main__":
    main()
