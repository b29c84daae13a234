# SPDX-License-Identifier: Apache-2.0
"""
The training commands: `trl-concise hapo --model_name_or_path ...` is `accelerate launch examples/hapo.py ...`.

The scripts are those of the `examples` folder, which a wheel contains inside the package. Read them to see what a command
does, or copy one with `trl-concise init hapo`.
"""

from __future__ import annotations

import difflib
import io
import logging
import os
import random
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib import resources
from pathlib import Path

from ..errors import COMMAND, Parser, check_folder, fail
from .commands import LAUNCHER_FLAGS, TRAINING
from .quiet import QUIET, hide_messages


def examples_folder() -> Path:
    """Return the folder of the training scripts: inside an installed package, or next to it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / "examples"
    return inside if inside.is_dir() else package.parent / "examples"


def train(method: str, argv: Sequence[str]) -> int:
    """
    Launch the training script of a method, or one of the user's.

    Args:
        method (`str`): Stem of a script in the examples folder, or path of a script, which ends in `.py`.
        argv (`Sequence[str]`): Flags of the script, among them those of `accelerate launch` in `LAUNCHER_FLAGS`.
            `--accelerate_config` names a file, or one of the configurations that TRL ships (`fsdp2`, `zero3`, ...).

    Returns:
        `int`: Exit status.
    """
    script = Path(method) if method.endswith(".py") else examples_folder() / f"{method}.py"
    if not script.is_file():
        raise FileNotFoundError(
            f"No script {method} (looked in {Path.cwd()}). Write one with trl-concise init METHOD."
        )
    launcher, rest = split_launcher_flags(argv)
    is_verbose = bool({"--verbose", "--verbose=True", "--verbose=true"} & set(rest))
    if not is_verbose:
        hide_messages()
    if {"-h", "--help", "--dry_run", "--dry-run"} & set(rest):  # nothing to launch
        sys.argv = [f"trl-concise {method}", *rest]
        runpy.run_path(str(script), run_name="__main__")
        return 0
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    set_master_port()
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the script reports its errors itself
    command = f"trl-concise {method}"
    launcher = _with_defaults(launcher)
    given = dict(zip(launcher[::2], launcher[1::2], strict=True))
    rank, machines = given.get("--machine_rank", "0"), given.get("--num_machines")
    if machines is not None and int(rank) >= int(machines):
        raise ValueError(
            f"--machine_rank must be below the number of machines, {machines}; got {rank}. Change it, or --num_machines."
        )
    try:
        with redirect_stderr(io.StringIO()) as errors:
            options = launch_command_parser().parse_args([*launcher, str(script), *rest])
    except SystemExit:
        fail(errors.getvalue().rpartition("error: ")[2], command)
    os.environ |= {COMMAND: command} if is_verbose else {COMMAND: command, QUIET: "1"}  # of the processes launched
    try:
        launch_command(options)
        status = 0
    except subprocess.CalledProcessError as error:
        status = error.returncode
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
    except (KeyboardInterrupt, SignalException):  # the script was interrupted as well, and reports it
        status = 130
    finally:
        for name in (COMMAND, QUIET):
            os.environ.pop(name, None)
    if status < 0:  # killed before it could report anything
        print(f"{command}: ended by {signal.Signals(-status).name}", file=sys.stderr)
        return 128 - status
    return status


def set_master_port() -> str:
    """
    Set `MASTER_PORT` to a random free port, unless it is set, and return it.

    accelerate and TRL (vLLM in colocate mode) try port 29500 first and bind it later, so that two runs which start at the
    same moment on one machine choose the same one.
    """
    if port := os.environ.get("MASTER_PORT", "").strip():
        return port
    choices = random.SystemRandom()  # the run's own random state is not touched
    while True:
        number = choices.randrange(20_000, 60_000)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
            try:
                candidate.bind(("127.0.0.1", number))
            except OSError:
                continue
        os.environ["MASTER_PORT"] = str(number)
        return str(number)


def split_launcher_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """
    Separate the flags of `accelerate launch` from those of the script.

    Returns:
        `tuple[list[str], list[str]]`: The flags of each, in their order.

    Raises:
        `ValueError`: If a flag lacks its value, or the value is not allowed.

    Examples:
        >>> split_launcher_flags(["--learning_rate", "1e-6", "--num_processes=2"])
        (['--num_processes', '2'], ['--learning_rate', '1e-6'])
    """
    launcher, rest, remaining = [], [], list(argv)
    while remaining:
        word = remaining.pop(0)
        name, equals, value = word.partition("=")
        if name not in LAUNCHER_FLAGS:
            rest.append(word)
            continue
        if not equals:
            if not remaining:
                raise ValueError(f"{name} needs a value.")
            value = remaining.pop(0)
        if name == "--accelerate_config":
            name, value = "--config_file", _accelerate_config(value)
        _check_launcher_flag(name, value)
        launcher += [name, value]
    return launcher, rest


def _check_launcher_flag(name: str, value: str) -> None:
    """Check values that accelerate ignores, or refuses without naming the flag."""
    lowest = {"--num_processes": 1, "--num_machines": 1, "--machine_rank": 0, "--main_process_port": 0}.get(name)
    if lowest is not None and not (value.isdecimal() and int(value) >= lowest):
        raise ValueError(f"{name} must be an integer of at least {lowest}, got {value!r}.")
    if name == "--main_process_port" and int(value) > 65535:
        raise ValueError(f"--main_process_port must be at most 65535, got {value}.")
    if (
        name == "--gpu_ids"
        and value != "all"
        and not re.fullmatch(r"(\d+|(GPU|MIG)-[^,]+)(, *(\d+|(GPU|MIG)-[^,]+))*", value)
    ):
        raise ValueError(f"--gpu_ids takes the numbers or UUIDs of GPUs, such as 0,1, or all; got {value!r}.")


def _with_defaults(launcher: list[str]) -> list[str]:
    """
    Add the defaults of `accelerate launch` if accelerate is not configured; it would otherwise print them in five lines.

    With several devices nothing is added: accelerate uses all of them and prints how to use one.
    """
    import torch
    from accelerate.commands.config.config_args import default_config_file

    if "--config_file" in launcher or Path(default_config_file).is_file():
        return launcher
    defaults = {"--num_machines": "1", "--mixed_precision": "no", "--dynamo_backend": "no"}
    if torch.accelerator.device_count() <= 1:
        defaults["--num_processes"] = "1"
    if "--num_machines" not in launcher:  # the machines of one run share a port
        defaults["--main_process_port"] = set_master_port()
    missing = [part for name, value in defaults.items() if name not in launcher for part in (name, value)]
    return [*launcher, *missing]


def _accelerate_config(name: str) -> str:
    if Path(name).is_file():
        import yaml

        if not isinstance(yaml.safe_load(Path(name).read_text(encoding="utf-8")), dict):  # or JSON, which is YAML
            raise ValueError(f"--accelerate_config {name} must contain a mapping, as `accelerate config` writes it.")
        return name
    shipped = {Path(str(file)).stem: str(file) for file in resources.files("trl.accelerate_configs").iterdir()}
    shipped = {stem: path for stem, path in shipped.items() if path.endswith(".yaml")}
    if name not in shipped:
        raise ValueError(f"--accelerate_config takes a file, or one of {', '.join(sorted(shipped))}; got {name!r}.")
    return shipped[name]


def init(argv: Sequence[str]) -> int:
    """`trl-concise init METHOD`: write the training script of a method, and its recipe, into the current folder."""
    parser = Parser(
        prog="trl-concise init",
        description="Write the training script of a method, and a recipe to go with it, to edit and to run.",
    )
    parser.add_argument("method", metavar="METHOD", help=f"one of {', '.join(TRAINING)}")
    parser.add_argument(
        "--output_dir", type=Path, default=Path(), help="folder to write to (default: the current one)"
    )
    options = parser.parse_args(argv)
    if options.method not in TRAINING:
        close = difflib.get_close_matches(options.method, TRAINING, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(TRAINING)}"
        parser.error(f"no method {options.method!r}; {hint}")
    script, recipes = examples_folder() / f"{options.method}.py", _recipes(options.method)
    copies = {file: options.output_dir / file.name for file in [script, *recipes]}
    check_folder("--output_dir", options.output_dir)
    existing = [copy.name for copy in copies.values() if copy.exists()]
    if existing:
        parser.error(f"{', '.join(existing)} already exist: move them, or choose another --output_dir")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for file, copy in copies.items():
        text = file.read_text(encoding="utf-8")
        for other, there in copies.items():  # the commands in the comments
            name = other.relative_to(examples_folder()).as_posix()
            text = text.replace(f"examples/{name}", shlex.quote(there.as_posix()))
        copy.write_text(text, encoding="utf-8")
        print(f"wrote {copy}")
    config = ["--config", str(copies[recipes[0]])] if recipes else []
    print(f"\nRun it: {shlex.join(['trl-concise', str(copies[script]), *config])}")
    return 0


def _recipes(method: str) -> list[Path]:
    """Return the recipes of a method, without those of methods with the same prefix: `laser_d_paper` is not LASER's."""
    found = (examples_folder() / "configs").glob(f"{method}_*.yaml")
    longer = tuple(f"{other}_" for other in TRAINING if other.startswith(f"{method}_"))
    return sorted(path for path in found if not path.name.startswith(longer))


def env(argv: Sequence[str]) -> int:
    """`trl-concise env`: print the versions and the hardware that a bug report needs."""
    Parser(prog="trl-concise env", description="Print versions and hardware for a bug report.").parse_args(argv)
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    rows = {"platform": platform.platform(), "Python": platform.python_version()}
    for package in (
        "trl-concise",
        "trl",
        "transformers",
        "torch",
        "accelerate",
        "peft",
        "datasets",
        "huggingface_hub",
        "math-verify",
        "bitsandbytes",
        "vllm",
        "deepspeed",
    ):
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            rows[package] = "not installed"
    cuda = torch.cuda.is_available()
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else ["CPU"]
    rows |= {"device": ", ".join(devices), "CUDA": torch.version.cuda if cuda else "not available"}
    print("\n".join(f"- {name}: {value}" for name, value in rows.items()))
    return 0
