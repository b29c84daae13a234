# SPDX-License-Identifier: Apache-2.0
"""Client of the process that runs math-verify."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from .extraction import Answer


SCRIPT = Path(__file__).with_name("judge_process.py")
STARTING = 120.0  # seconds; importing sympy takes about one on an idle machine
SLACK = 30.0  # seconds of silence beyond a deadline after which the process counts as dead
RESTARTS = 3  # in a row, without a verdict in between


class Judgment(NamedTuple):
    """The verdict on one pair."""

    verdict: bool | None  # None: the reference answer is unreadable
    end: str  # "judged", "timeout", "crash" or "unreadable"


class Silence(Exception):
    """The process died or stopped answering."""


class Judge:
    """
    math-verify in separate processes, which are started when first needed and end with this one.

    Calls from several threads take turns. An exception while waiting (such as a `KeyboardInterrupt`) ends the processes, so
    that the next call starts afresh.

    Args:
        workers (`int`, *optional*): How many pairs are judged at a time. Defaults to [`default_workers`].
    """

    def __init__(self, workers: int | None = None):
        self.workers = workers
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""

    def judge(self, pairs: Sequence[tuple[Answer, Answer]], timeout: float) -> list[Judgment]:
        """
        Ask whether the answer of each pair equals its reference answer.

        Args:
            pairs (`Sequence[tuple[Answer, Answer]]`): Reference answer and answer.
            timeout (`float`): Seconds one pair may take before its worker is killed.

        Returns:
            `list[Judgment]`: In the order of the pairs.

        Raises:
            `RuntimeError`: If the process cannot be started or dies again and again.
        """
        judgments: dict[int, Judgment] = {}
        with self._lock:
            deaths = 0
            while len(judgments) < len(pairs):
                left = [index for index in range(len(pairs)) if index not in judgments]
                before = len(judgments)
                try:
                    self._ask([pairs[index] for index in left], timeout)
                    for _ in left:
                        index, verdict, end = self._receive(timeout + SLACK)
                        judgments[left[index]] = Judgment(verdict, end)
                except (Silence, BrokenPipeError) as error:
                    self.close()
                    deaths = 1 if len(judgments) > before else deaths + 1
                    if deaths > RESTARTS:
                        raise RuntimeError(
                            f"The process that verifies answers ended {deaths} times in a row ({error}). Its own message is "
                            f"on stderr; `{sys.executable} {SCRIPT} < /dev/null` shows whether it can start."
                        ) from error
                except BaseException:
                    self.close()  # unread verdicts may still be in the pipe
                    raise
        return [judgments[index] for index in range(len(pairs))]

    def close(self) -> None:
        """End the processes. The next call of [`judge`] starts new ones."""
        if self._process is not None:
            self._process.terminate()  # and it ends its workers
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._release()

    def start_over(self) -> None:
        """Drop processes and lock without closing them: in a fork they belong to the parent."""
        self._release()
        self._lock = threading.Lock()

    def _release(self) -> None:
        if self._process is not None:
            for pipe in self._pipes():
                pipe.close()
        self._process, self._received = None, b""

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        """Standard input and output of the process, which must have been started."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _ask(self, pairs: Sequence[tuple[Answer, Answer]], timeout: float) -> None:
        if self._process is None:
            self._start()
        request = {
            "pairs": [(*gold, *answer) for gold, answer in pairs],
            "timeout": timeout,
            "workers": self.workers or default_workers(),
        }
        unsent = memoryview(json.dumps(request).encode() + b"\n")
        stdin, _ = self._pipes()
        while unsent:
            unsent = unsent[stdin.write(unsent) :]

    def _start(self) -> None:
        if not hasattr(os, "fork"):
            raise RuntimeError(
                "This operating system has no fork(), with which the time for checking an answer is limited. Use Linux, macOS "
                "or WSL, or a reward function and a verifier of your own."
            )
        # A script of its own, not multiprocessing: nothing imports the user's main module again, so notebooks, scripts read
        # from stdin and scripts without `if __name__ == "__main__"` work. -P keeps the script's folder off the path.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._receive(STARTING)  # "ready"

    def _receive(self, patience: float) -> Any:
        _, stdout = self._pipes()
        deadline = time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise Silence(f"no answer for {patience:g} seconds")
                received = os.read(stdout.fileno(), 1 << 16)
                if not received:
                    raise Silence("its output closed")
                self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)


def default_workers() -> int:
    """
    How many pairs are judged at a time: one per core, and two at least.

    The processes that one launcher starts on a machine share its cores. `TRL_CONCISE_VERIFICATION_WORKERS` overrides it.
    """
    override = os.environ.get("TRL_CONCISE_VERIFICATION_WORKERS")
    if override is not None:
        if not override.isdecimal() or int(override) < 1:
            raise ValueError(f"TRL_CONCISE_VERIFICATION_WORKERS must be a positive integer; got {override!r}.")
        return int(override)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


JUDGE = Judge()
atexit.register(JUDGE.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=JUDGE.start_over)
