# SPDX-License-Identifier: Apache-2.0
"""Reports invalid input of a command: one line on stderr, and exit status 2."""

from __future__ import annotations

import argparse
import difflib
import dis
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from safetensors import SafetensorError


COMMAND = "TRL_CONCISE_COMMAND"  # environment variable: the name of the command that launched this process
_OTHERS_WAIT = 10.0  # seconds


class Parser(argparse.ArgumentParser):
    """[`argparse.ArgumentParser`] that reports an error in one line, without the usage, and suggests an option for an unknown one."""

    def error(self, message: str) -> NoReturn:
        fail(message, self.prog)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(name_unknown_options(unknown, list(self._option_string_actions)))
        return parsed


def name_unknown_options(
    words: Sequence[str], options: Sequence[str], closest: Mapping[str, str] | None = None
) -> str:
    """
    Name the options that do not exist, each with the closest one.

    Args:
        words (`Sequence[str]`): Words of a command line that were not understood, for example `["--limt", "8"]`.
        options (`Sequence[str]`): The options that exist, with their hyphens.
        closest (`Mapping[str, str]`, *optional*): Suggestions that spelling does not find.
    """
    found = []
    for name in (word.partition("=")[0] for word in words if word.startswith("-")):
        close = [closest[name]] if closest and name in closest else difflib.get_close_matches(name, options, n=1)
        found.append(f"no option {name}" + (f"; did you mean {close[0]}?" if close else ""))
    return " ".join(found) or f"unexpected argument {' '.join(words)}"


def command_name() -> str:
    """Return the name of the running command, for example `trl-concise hapo`, or `hapo.py` where that file was started."""
    return os.environ.get(COMMAND) or Path(sys.argv[0]).name


def fail(message: str | Exception, command: str | None = None) -> NoReturn:
    """
    Print an error in one line on stderr and exit with status 2.

    Several processes print the same error once: the launcher ends the others as soon as the first one of a machine has
    exited. They print theirs only if that takes longer than ten seconds, because the first one has no error.

    Args:
        message (`str` or `Exception`): What to print. Line breaks become spaces.
        command (`str`, *optional*): Name of the command. Defaults to [`command_name`].
    """
    if isinstance(message, SafetensorError):
        message = f"Weights that were to be loaded are damaged ({message}). Save or download the model again."
    if isinstance(message, OSError) and message.strerror and message.filename is not None:
        message = f"{message.strerror}: {str(message.filename)!r}"
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(_OTHERS_WAIT)
    print(f"{command or command_name()}: error: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def check_folder(option: str, folder: str | Path) -> None:
    """
    Check that a folder can be created.

    Raises:
        `ValueError`: If the path, or one of its parents, is a file.
    """
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{option} {folder} cannot be a folder: {existing} is a file. Choose another one.")


@contextmanager
def report_input_errors(command: str | None = None) -> Iterator[None]:
    """
    Report invalid input in one line, with exit status 2, and an interruption (Ctrl+C) with status 130.

    Also a decorator: `@report_input_errors()`. See [`is_input_error`] for what counts as such an error. All others keep their
    traceback.

    Args:
        command (`str`, *optional*): Name of the command. Defaults to [`command_name`].

    Raises:
        `SystemExit`: In place of an input error or a `KeyboardInterrupt`.
    """
    try:
        yield
    except Exception as error:
        if not is_input_error(error):
            raise
        fail(error, command)
    except KeyboardInterrupt:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"\n{command or command_name()}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def is_input_error(error: Exception) -> bool:
    """
    Return whether an error is caused by the user's input: an option, a file, a dataset, a model.

    These are, before training begins, an `OSError`, an `ImportError`, a YAML error, damaged weights, a tracker that is not installed, and a
    `ValueError` that a `raise` statement has raised. In training they are only those that this package or TRL raises. A
    `ValueError` of Python itself, such as `int("x")`, and any other exception are errors in a program.
    """
    entries = []
    entry = error.__traceback__
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    if not entries:
        return False
    functions = [(entry.tb_frame.f_globals.get("__name__", ""), entry.tb_frame.f_code.co_name) for entry in entries]
    is_training, raised_in = ("transformers.trainer", "train") in functions, functions[-1][0]
    if is_training and raised_in.partition(".")[0] not in (__package__, "trl"):
        return False
    if isinstance(error, (OSError, ImportError, yaml.YAMLError, SafetensorError)):
        return True
    if isinstance(error, RuntimeError):
        return raised_in.startswith("transformers.integrations")
    last = entries[-1]
    instruction = last.tb_frame.f_code.co_code[last.tb_lasti : last.tb_lasti + 1]
    return isinstance(error, ValueError) and instruction == bytes([dis.opmap["RAISE_VARARGS"]])
