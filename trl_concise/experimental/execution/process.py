# SPDX-License-Identifier: Apache-2.0
"""
Python programs in processes with limits on time, memory and output.

The limits are NOT a security boundary: a program runs as the user of the trainer and can read, and outside its working folder change, what
that user can. Where the namespaces of Linux are available, it has no network and cannot signal other processes, though it may list them in `/proc`;
elsewhere, a process that it moves to another session survives it. How many processes and files it creates is not limited, and memory is limited
per process. Code of a model that you do not trust belongs in a container or a virtual machine.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from .executor import FAILED, OK


logger = logging.getLogger(__name__)

LAUNCHER = Path(__file__).with_name("launcher.py")
# A user, network and process namespace. The processes in it end with the first one, also those in a session of their own.
NAMESPACES = ("--user", "--map-current-user", "--net", "--pid", "--fork", "--kill-child=KILL", "--")
TIMEOUT, KILLED, TOO_LONG, UNAVAILABLE = "timeout", "killed", "output", "unavailable"
_REMOVAL_PAUSES = (0.02, 0.1, 0.5)  # seconds
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.01  # seconds between two looks at a running program


@dataclass(frozen=True)
class Limits:
    """
    Limits of one run.

    Args:
        wall (`float`, *optional*, defaults to `4.0`): Seconds until the process and its group are killed.
        cpu (`int`, *optional*): Seconds of processor time; one more is the hard limit. Default: `wall`, rounded up.
        memory_mb (`int`, *optional*, defaults to `512`): Address space in MiB. Not limited on macOS.
        file_mb (`int`, *optional*, defaults to `1`): Size of a file in MiB.
        open_files (`int`, *optional*, defaults to `64`): Files that may be open.
        output_bytes (`int`, *optional*, defaults to `65536`): Bytes of standard output, and of standard error, that are read. A program that
            writes more fails.

    Raises:
        `ValueError`: If a limit is not above 0.
    """

    wall: float = 4.0
    cpu: int | None = None
    memory_mb: int = 512
    file_mb: int = 1
    open_files: int = 64
    output_bytes: int = 65536

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite, got {value}. Raise it.")

    def as_json(self) -> str:
        """Return soft and hard limits by name, for the launcher."""
        cpu = self.cpu if self.cpu is not None else max(1, -int(-self.wall // 1))
        same = {
            "RLIMIT_FSIZE": self.file_mb << 20,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
            **({"RLIMIT_AS": self.memory_mb << 20} if sys.platform == "linux" else {}),
        }
        return json.dumps({"RLIMIT_CPU": [cpu, cpu + 1], **{name: [value, value] for name, value in same.items()}})


@dataclass(frozen=True)
class ProgramRun:
    """
    What became of a program.

    Attributes:
        stdout, stderr (`str`): What it wrote, at most `Limits.output_bytes` of each. Bytes that are not UTF-8 are replaced.
        status (`str`): `"ok"`; `"error"` (non-zero exit); `"timeout"`; `"killed"` (by a signal, such as that of the CPU limit); `"output"`
            (wrote too much); or `"unavailable"` (no process could be started).
        exit_code (`int`): Exit status; minus the signal of a killed program.
        seconds (`float`): Processor time of the program, start of Python included.
        isolation (`str`): `"namespaces"` or `"limits"`.
    """

    stdout: str
    stderr: str
    status: str
    exit_code: int
    seconds: float
    isolation: str


def default_workers() -> int:
    """Return the number of cores that this process may use, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def python_options(packages: bool) -> tuple[str, ...]:
    """Return options of Python: no user packages, no files next to the program, and no installed packages unless asked for."""
    return ("-s", "-B", "-X", "utf8") if packages else ("-s", "-S", "-B", "-X", "utf8")


def check_platform(name: str) -> None:
    """
    Raises:
        `ValueError`: If the platform cannot limit processes.
    """
    if not hasattr(os, "waitid") or not hasattr(os, "killpg"):
        raise ValueError(
            f"{name} needs Linux or macOS (there with Python 3.13): this platform, {sys.platform}, cannot limit a process. Use Calculator, or "
            "run on another machine."
        )


@lru_cache(maxsize=1)
def namespaces() -> tuple[str, ...]:
    """Return the beginning of a command that runs in namespaces of its own; empty where that is not possible."""
    unshare = shutil.which("unshare")
    if sys.platform != "linux" or unshare is None:
        return ()
    command = (unshare, *NAMESPACES)
    try:
        done = subprocess.run([*command, "true"], capture_output=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return command if done.returncode == 0 else ()


_warning = threading.Lock()
_has_warned = False


def warn_once() -> None:
    """Warn, once per process, that programs of a model run here."""
    global _has_warned
    with _warning:
        if not _has_warned:
            _has_warned = True
            logger.warning(
                "Programs that a model writes run on this machine, with limits that are not a security boundary (isolation: %s). Use a "
                "container for a model that you do not trust.",
                "namespaces" if namespaces() else "limits",
            )


def run_python(
    source: str, stdin: str = "", limits: Limits | None = None, *, hash_seed: int | None = None, packages: bool = False
) -> ProgramRun:
    """
    Run a Python program in a process of its own: no site packages, an empty folder, an environment of `PATH` only.

    The process group is killed when the program ends or its time is over. Then the working folder is removed, which takes its time if there are many
    files. **Not a security boundary**, see the module.

    Args:
        source (`str`): The program.
        stdin (`str`, *optional*): Its standard input.
        limits ([`Limits`], *optional*): Default: those of [`Limits`].
        hash_seed (`int`, *optional*): Seed of Python's hashes, on which the order of a set depends. Default: a random one.
        packages (`bool`, *optional*, defaults to `False`): Whether installed packages can be imported. Without them, `exit()` is missing too:
            `sys.exit()` is not.

    Raises:
        `ValueError`: If the platform has no such processes.
    """
    check_platform("run_python")
    limits = limits or Limits()
    seed = str(hash_seed) if hash_seed is not None else "random"
    isolated = namespaces()
    isolation = "namespaces" if isolated else "limits"
    try:
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            program, work = Path(folder, "program.py"), Path(folder, "work")
            program.write_bytes(source.encode("utf-8", "replace"))
            work.mkdir()
            given.write(stdin.encode("utf-8", "replace"))
            given.seek(0)
            python = [sys.executable, *python_options(packages)]
            process = subprocess.Popen(
                [*isolated, *python, str(LAUNCHER), limits.as_json(), *python, str(program)],
                stdin=given,
                stdout=out,
                stderr=err,
                cwd=work,
                env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONHASHSEED": seed},
                start_new_session=True,
            )
            exit_code, seconds, in_time = _wait(process, limits.wall)
            stdout, stderr = (_read(stream, limits.output_bytes) for stream in (out, err))
    except OSError as error:
        logger.warning("A program could not be started: %s.", error)
        return ProgramRun("", str(error), UNAVAILABLE, -1, 0.0, isolation)
    _remove(folder)
    if not in_time:
        status = TIMEOUT
    elif None in (stdout, stderr):
        status = TOO_LONG
    elif exit_code:
        # A shell, and `unshare`, report a signal as 128 + its number.
        status = KILLED if exit_code < 0 or exit_code > 128 else FAILED
    else:
        status = OK
    return ProgramRun(stdout or "", stderr or "", status, exit_code, seconds, isolation)


def _remove(folder: str) -> None:
    """Remove a folder until it is gone: for a short time, killed processes may write into it."""
    for pause in _REMOVAL_PAUSES:
        if not os.path.exists(folder):
            return
        time.sleep(pause)
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(folder):
        logger.warning("%s could not be removed, because a process of the program still writes there.", folder)


def _wait(process: subprocess.Popen[bytes], wall: float) -> tuple[int, float, bool]:
    """Wait for a process, kill its group, and return exit code, processor time, and whether it ended in time."""
    deadline, pause, has_ended = time.monotonic() + wall, _SHORTEST_PAUSE, False
    try:
        while not has_ended and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)
            # It stays a zombie, so that no other process can have its number when the group is killed.
            has_ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS refuses where only a zombie is left
            pass
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime, has_ended


def _read(stream: IO[bytes], limit: int) -> str | None:
    """Return what a program wrote; `None` if it is more than the limit."""
    stream.seek(0)
    data = stream.read(limit + 1)
    return data.decode("utf-8", "replace") if len(data) <= limit else None


# Runs the earlier blocks without their output, then the last one. Random numbers are the same in every replay.
_REPLAY = """\
import os, random, sys
random.seed(0)
names = {{"__name__": "__main__"}}
*earlier, last = {blocks!r}
kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
os.dup2(nothing, 1)
for block in earlier:
    try:
        exec(compile(block, "<block>", "exec"), names)
    except SystemExit:
        pass
sys.stdout.flush()
os.dup2(kept, 1)
exec(compile(last, "<block>", "exec"), names)
"""


class PythonProcess:
    """
    Executes blocks of Python, each call in a process of its own that has time and memory limits.

    **The limits are not a security boundary**: the code runs as the user of the trainer, and can read what that user can. It must be asked for
    with `unsafe=True`. Variables persist: the earlier blocks are run again first, without their output, with the same random numbers and hashes.
    What depends on time or on files may differ.

    Args:
        unsafe (`bool`, *optional*, defaults to `False`): Must be `True`: you know that code of the model runs on this machine.
        wall (`float`, *optional*, defaults to `5.0`): Seconds of a call, replay included. The authors use 5 in training and 30 in evaluation.
        memory_mb (`int`, *optional*, defaults to `1024`): Address space in MiB.
        workers (`int`, *optional*): Blocks that are executed at a time. Default: the number of cores.
        packages (`bool`, *optional*, defaults to `False`): Whether blocks can import installed packages, such as SymPy.

    Raises:
        `ValueError`: If `unsafe` is not `True`, a limit is not above 0, or the platform has no such processes.
    """

    def __init__(
        self,
        unsafe: bool = False,
        wall: float = 5.0,
        memory_mb: int = 1024,
        workers: int | None = None,
        packages: bool = False,
    ) -> None:
        if unsafe is not True:
            raise ValueError(
                "PythonProcess runs code of the model on this machine, with limits that are not a security boundary. Pass unsafe=True if "
                "the machine is a container or the model is trusted, or use Calculator()."
            )
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}.")
        check_platform(type(self).__name__)
        self.unsafe = unsafe
        self.packages = packages
        self.limits = Limits(wall=wall, memory_mb=memory_mb)
        self.workers = workers or default_workers()

    def __call__(self, blocks: Sequence[str]) -> tuple[str, str]:
        """
        Execute the last block after the earlier ones.

        Args:
            blocks (`Sequence[str]`): The earlier blocks without a failure, then the new one.

        Returns:
            `tuple[str, str]`: What the last block printed, with the error as its last line, and the status.
        """
        warn_once()
        done = run_python(_REPLAY.format(blocks=list(blocks)), limits=self.limits, hash_seed=0, packages=self.packages)
        lines = [done.stdout.rstrip("\n")] if done.stdout.strip() else []
        if done.status == FAILED:
            lines += done.stderr.strip().splitlines()[-1:]
        elif done.status != OK:
            lines.append(f"Error: {done.status}")
        return "\n".join(lines), done.status
