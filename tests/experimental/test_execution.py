# SPDX-License-Identifier: Apache-2.0
"""Executors: exact arithmetic, and programs in limited processes. Golden values: the pages of CoRT and rStar-Coder, run here."""

from __future__ import annotations

import contextlib
import os
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_concise.experimental import execution
from trl_concise.experimental.execution import (
    Calculator,
    Limits,
    Outcome,
    PythonProcess,
    execute,
    execute_all,
    process,
    run_python,
    shorten,
)


SMALL = Limits(memory_mb=256, cpu=1)


# The calculator


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (["print((27 + 8) * 2 - 6)"], ("64", "ok")),
        (["x = 3\nprint(x)", "x = x + 1", "print(x)\nprint(-x)"], ("4\n-4", "ok")),
        (["print(6 / 4)\nprint(6 / 3)"], ("3/2\n2", "ok")),
        (["print(7 // 2)\nprint(-7 % 3)\nprint(2 ** -2)"], ("3\n2\n1/4", "ok")),
        (["print(0.1 + 0.2)  # exact"], ("3/10", "ok")),
        (
            ["print(0.123456789012345 * 10**15)\nprint(000.500)\nprint(0.0)\nprint(1e-20)"],
            (f"123456789012345\n1/2\n0\n1/{10**20}", "ok"),
        ),
        ([""], ("", "ok")),
        (["print(1)\nprint(1 / 0)"], ("1\nZeroDivisionError: division by zero", "error")),
        (["print(1 % 0)"], ("ZeroDivisionError: division by zero", "error")),
        (["print(y)"], ("NameError: name 'y' is not defined", "error")),
    ],
)
def test_arithmetic(blocks, expected):
    assert Calculator()(blocks) == expected


@pytest.mark.parametrize(
    "code",
    [
        "import os",
        "print(__import__('os').getcwd())",
        "print('text')",
        "print(True)",
        "print(1, 2)",
        "print(1, end='')",
        "(x) = y = 1",
        "x.y = 1",
        "print(1 if 1 else 2)",
        "print(1if 1else 2)",
        "print([1])",
        "print((lambda: 1)())",
        "while 1: pass",
        "print(9 ** 9 ** 9)",
        "print(2 ** 1001)",
        "print(2 ** 0.5)",
        "print(10 ** 1000 * 10 ** 1000)",
        "\n".join(["x = 10 ** 900", *["x = x * x"] * 20]),
        "print(1e999)",
        "print(1e-999)",
        "print(0.1234567890123456)",
        "print(" + "1" * 1500,
        "print(" + "9" * 1900 + ")",
        "print(" + "-" * 1900 + "1)",
        "print(" + "(" * 900 + "1" + ")" * 900 + ")",
        "x" * 2001,
        "print(1",
        "print(\x00)",
    ],
)
def test_everything_else_fails_at_once(code):
    start = time.perf_counter()
    output, status = Calculator()([code])
    assert status == "error" and output.startswith("Error: ") and time.perf_counter() - start < 1


def test_the_calculator_neither_evaluates_nor_starts_anything():
    source = Path(execution.calculator.__file__).read_text(encoding="utf-8")
    assert not re.search(r"\b(eval|exec|compile|subprocess|os)\b\(?", source.split('"""', 2)[2])


NUMBERS = st.integers(-50, 50)


@given(NUMBERS, st.lists(st.tuples(st.sampled_from("+-*/"), NUMBERS), max_size=6))
def test_the_calculator_agrees_with_fractions(start, steps):
    value, expression = Fraction(start), f"({start})"
    for sign, number in steps:
        if sign == "/" and number == 0:
            continue
        operations = {"+": value + number, "-": value - number, "*": value * number}
        value = value / number if sign == "/" else operations[sign]
        expression = f"({expression} {sign} ({number}))"
    assert Calculator()([f"print({expression})"]) == (str(value), "ok")


# What executors have in common


@pytest.mark.parametrize("returned", ["4", ("4",), (4, "ok"), ("4", True), None])
def test_an_executor_that_returns_something_else_is_named(returned):
    with pytest.raises(TypeError, match=r"The executor function returned .* Return a tuple of two texts"):
        execute(lambda blocks: returned, ["x"])


def test_outcomes_are_in_the_order_of_the_jobs():
    class Slow:
        workers = 4

        def __call__(self, blocks):
            time.sleep(0.02 if blocks[-1] == "0" else 0)
            return blocks[-1], "ok"

    assert [one.output for one in execute_all(Slow(), [["a", str(i)] for i in range(5)])] == list("01234")
    assert execute_all(Slow(), []) == [] and Outcome("", "timeout").failed


def test_golden_truncation():
    assert [len(shorten("x" * length)) for length in (0, 800, 801, 1000)] == [0, 800, 803, 803]
    assert shorten("a" * 500 + "b" * 500) == "a" * 400 + "..." + "b" * 400


# Programs


@pytest.mark.parametrize(
    ("code", "limits", "status", "said"),
    [
        ("a,b=map(int,input().split());print(a+b)", SMALL, "ok", "7\n"),
        ("bytearray(10**9)", SMALL, "error", "MemoryError"),
        ("open('x','wb').write(b'0'*(2<<20))", SMALL, "error", "Errno 27"),
        ("print('x'*70000)", SMALL, "output", ""),
        ("import os; os.kill(os.getpid(), 11)", SMALL, "killed", ""),
        (
            "import os; print(sorted(os.environ), os.listdir())",
            SMALL,
            "ok",
            "['LC_CTYPE', 'PATH', 'PYTHONHASHSEED'] []\n",
        ),
        ("print(input())\nraise SystemExit(3)", SMALL, "error", "3 4\n"),
    ],
)
def test_golden_programs(code, limits, status, said):
    done = run_python(code, "3 4", limits)
    assert done.status == status and said in done.stdout + done.stderr
    assert done.isolation in ("namespaces", "limits") and done.seconds < 3


def running(folder: Path) -> list[bytes]:
    """Return the commands of processes that run a program of a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            found += [Path(entry, "cmdline").read_bytes()] if entry.name.isdecimal() else []
    return [command for command in found if str(folder).encode() in command]


def test_a_program_that_sleeps_is_killed_with_its_children_and_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path))
    code = "import os, time\nif os.fork() == 0: os.setsid()\nopen('x', 'w')\ntime.sleep(30)"
    start = time.monotonic()
    assert run_python(code, "", Limits(wall=0.6)).status == "timeout"
    assert time.monotonic() - start < 1.6 and list(tmp_path.iterdir()) == []
    if process.namespaces():  # otherwise a child in a session of its own survives
        while running(tmp_path):  # the kernel ends them one after the other
            assert time.monotonic() - start < 5
            time.sleep(0.01)


WRITES_ON = """
import itertools, os
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        break
for i in itertools.count():
    os.mkdir(f"{os.getpid()}-{i}")
    if i >= 9:
        os.rmdir(f"{os.getpid()}-{i - 9}")
"""


@pytest.mark.skipif(not process.namespaces(), reason="a child in a session of its own survives")
def test_the_folder_of_a_program_is_removed_though_its_children_write_until_they_are_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(process.tempfile, "tempdir", str(tmp_path))
    assert [run_python(WRITES_ON, "", Limits(wall=0.2)).status for _ in range(2)] == ["timeout"] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_removed_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(process, "_REMOVAL_PAUSES", (0, 0))
    monkeypatch.setattr(process.shutil, "rmtree", lambda folder, ignore_errors: None)
    process._remove(str(tmp_path))
    assert f"{tmp_path} could not be removed" in caplog.text


@pytest.mark.slow
def test_golden_processor_time():
    start = time.monotonic()
    assert run_python("while True: pass", "", SMALL).status == "killed"
    assert time.monotonic() - start < 3.5


@pytest.mark.skipif(os.getuid() == 0 and not process.namespaces(), reason="root may raise limits")
def test_a_program_cannot_raise_its_limits():
    done = run_python("import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 30, 1 << 30))", "", SMALL)
    assert (done.status, done.exit_code) == ("error", 1) and "ValueError" in done.stderr


def test_without_namespaces_there_are_limits(monkeypatch):
    monkeypatch.setattr(process.shutil, "which", lambda name: None)
    process.namespaces.cache_clear()
    try:
        done = run_python("print(1)\nbytearray(10**9)", "", SMALL)
    finally:
        process.namespaces.cache_clear()
    assert (done.isolation, done.status, done.stdout) == ("limits", "error", "1\n")


def test_a_program_that_cannot_be_started_is_unavailable(monkeypatch):
    def refuse(*args, **kwargs):
        raise BlockingIOError("too many processes")

    monkeypatch.setattr(process.subprocess, "Popen", refuse)
    assert run_python("print(1)", "").status == "unavailable"


# Blocks of Python


@pytest.fixture(scope="module")
def python():
    return PythonProcess(unsafe=True, wall=2)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        (["import math; x = 3; print(x)", "print(x + 1)"], ("4", "ok")),  # `print(y)` between them failed
        (["print(y)"], ("NameError: name 'y' is not defined", "error")),
        (["for i in range(3): print(i)\nz = 5", "print(z)"], ("5", "ok")),
        (["raise SystemExit", "print(1)\n1 / 0"], ("1\nZeroDivisionError: division by zero", "error")),
        (["import os; os.kill(os.getpid(), 9)"], ("Error: killed", "killed")),
    ],
)
def test_golden_replay(python, blocks, expected):
    assert python(blocks) == expected


def test_a_replay_is_the_same_again(python):
    blocks = ["import random\nprint(random.random())", "print(random.random(), {'a', 'b', 'c'}, hash('a'))"]
    assert python(blocks) == python(blocks)


def test_installed_packages_are_imported_only_if_asked_for(python):
    assert python(["import torch.version"]) == ("ModuleNotFoundError: No module named 'torch'", "error")
    assert "-S" not in process.python_options(packages=True)


def test_a_hungry_or_hung_block_ends_within_the_limit():
    start = time.monotonic()
    assert PythonProcess(unsafe=True, wall=0.5)(["import time\ntime.sleep(9)"]) == ("Error: timeout", "timeout")
    assert time.monotonic() - start < 1.5
    assert PythonProcess(unsafe=True, memory_mb=128)(["x = bytearray(10**9)"]) == ("MemoryError", "error")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "not a security boundary. Pass unsafe=True"),
        ({"unsafe": 1}, "not a security boundary"),
        ({"unsafe": True, "wall": 0}, "wall must be above 0"),
        ({"unsafe": True, "memory_mb": -1}, "memory_mb must be above 0"),
        ({"unsafe": True, "workers": 0}, "workers must be at least 1"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        PythonProcess(**arguments)


def test_a_platform_without_processes_is_refused(monkeypatch):
    monkeypatch.delattr(process.os, "killpg")
    with pytest.raises(ValueError, match=r"PythonProcess needs Linux or macOS"):
        PythonProcess(unsafe=True)
