# SPDX-License-Identifier: Apache-2.0
"""
Execution of code that a model writes: a calculator without Python, and Python programs in limited processes.

The limits are not a security boundary.
"""

from __future__ import annotations

from .calculator import Calculator
from .executor import FAILED, OK, Executor, Outcome, execute, execute_all, shorten
from .process import Limits, ProgramRun, PythonProcess, run_python


__all__ = [
    "FAILED",
    "OK",
    "Calculator",
    "Executor",
    "Limits",
    "Outcome",
    "ProgramRun",
    "PythonProcess",
    "execute",
    "execute_all",
    "run_python",
    "shorten",
]
