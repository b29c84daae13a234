#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
The GPU benchmarks on a machine without network: receive the payload of prepare.sh, start, look, collect.

    python drive.py receive PART.bin ...          # in order, in one call or in many; unpacks each file when it is complete
    python drive.py start [OPTIONS]               # memory.py, then real_model.py with these options, in the background
    python drive.py status                        # the ends of all logs
    python drive.py collect --seconds 300 --output results.tar.xz   # waits, then packs what there is

Everything is kept in $GPU_LANE (default: /tmp/gpu_lane). The script needs nothing but Python and tar. `start` passes options that it
does not know to `real_model.py run`; model and problem files are those of the payload unless they are given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


ROOT = Path(os.environ.get("GPU_LANE", "/tmp/gpu_lane"))
STREAM, OUT, LOGS = ROOT / "stream", ROOT / "out", ROOT / "logs"
PIDS = ROOT / "pids"


def receive(parts: list[Path]) -> None:
    """Append parts to the stream, and unpack every file that is complete. A part that is already there is skipped."""
    for part in parts:
        index = json.loads((part.parent / "index.json").read_text())
        start = index["part_bytes"] * index["parts"].index(part.name)
        have = STREAM.stat().st_size if STREAM.exists() else 0
        if have > start:
            print(f"{part.name}: already received")
            continue
        if have < start:
            missing = index["parts"][have // index["part_bytes"]]
            raise SystemExit(f"{part.name} does not follow what was received. Send {missing} first.")
        with open(STREAM, "ab") as stream, open(part, "rb") as source:
            shutil.copyfileobj(source, stream, 1 << 24)
        have = STREAM.stat().st_size
        print(f"{part.name}: {have / 1e6:.1f} of {index['bytes'] / 1e6:.1f} MB", flush=True)
        for file in index["files"]:
            if file["start"] + file["bytes"] <= have and not (ROOT / f"{file['name']}.received").exists():
                unpack(file)


def unpack(file: dict) -> None:
    """Unpack a complete file of the stream into the lane's folder, after its checksum was compared."""
    digest = hashlib.sha256()
    for block in blocks(file):
        digest.update(block)
    if digest.hexdigest() != file["sha256"]:
        STREAM.unlink()
        raise SystemExit(f"{file['name']} is damaged: its checksum differs. Send all parts again.")
    command = ["tar", "-C", ROOT, "-I", "xz -T0", "-xf", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as tar:
        for block in blocks(file):
            tar.stdin.write(block)
    if tar.returncode:
        raise SystemExit(f"{file['name']} could not be unpacked: tar ended with status {tar.returncode}.")
    (ROOT / f"{file['name']}.received").touch()
    print(f"complete: {file['name']}", flush=True)


def blocks(file: dict) -> Iterator[bytes]:
    """Yield the bytes of a file of the stream."""
    left = file["bytes"]
    with open(STREAM, "rb") as stream:
        stream.seek(file["start"])
        while left:
            block = stream.read(min(left, 1 << 24))
            left -= len(block)
            yield block


def start(argv: list[str]) -> None:
    """Start the benchmarks, one after the other, as a process that outlives this one."""
    parser = argparse.ArgumentParser(prog="drive.py start", allow_abbrev=False)
    parser.add_argument("--skip_memory", action="store_true", help="without memory.py")
    parser.add_argument("--smoke", action="store_true", help="on the CPU, with few steps")
    options, more = parser.parse_known_args(argv)
    lane, data = ROOT / "lane", ROOT / "data"
    smoke = ["--smoke"] if options.smoke else []
    sets = [word for name in ("train", "test", "harder") for word in (f"--{name}", str(data / f"{name}.jsonl"))]
    real = [sys.executable, str(lane / "real_model.py"), "run", "--model", str(ROOT / "model"), *sets]
    commands = {"real_model": [*real, "--output_dir", str(OUT / "real_model"), *smoke, *more]}
    if not options.skip_memory:  # first, because its times are those of an idle card
        memory = [sys.executable, str(lane / "memory.py"), "--output", str(OUT / "memory.json"), *smoke]
        commands = {"memory": memory, **commands}
    path = os.pathsep.join(filter(None, [str(ROOT / "site"), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__, "work", json.dumps(commands)],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    PIDS.write_text(str(process.pid))
    print(f"started: {', '.join(commands)}")


def work(commands: dict[str, list[str]]) -> None:
    """Run the commands one after the other, each with a log. One that fails does not keep the next from starting."""
    for name, command in commands.items():
        with open(LOGS / f"{name}.log", "ab") as log:
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
            log.write(f"exit status {status}\n".encode())


def is_running() -> bool:
    try:
        state = Path(f"/proc/{PIDS.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def status(lines: int = 4) -> None:
    print("running" if is_running() else "not running")
    for log in sorted([*LOGS.glob("*.log"), *OUT.glob("*/logs/*.log")]):
        text = [line[:400] for line in log.read_text(errors="replace").splitlines() if line.strip()]
        print(f"== {log.relative_to(ROOT)}", *text[-lines:], sep="\n", flush=True)


def collect(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="drive.py collect")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long to wait for the end at most")
    parser.add_argument("--output", type=Path, default=Path("results.tar.xz"))
    options = parser.parse_args(argv)
    end = time.time() + options.seconds
    while is_running() and time.time() < end:
        time.sleep(0.5)
    left_out = [f"--exclude={pattern}" for pattern in ("merged", "checkpoint-*", "optimizer.pt")]
    command = ["tar", "-C", ROOT, *left_out, "-cJf", options.output.resolve(), "out", "logs"]
    subprocess.run(command, check=True)
    status(2)


def main(argv: list[str]) -> None:
    verb, rest = (argv[0], argv[1:]) if argv else ("help", [])
    for folder in (ROOT, OUT, LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    if verb == "receive":
        receive([Path(path) for path in rest])
    elif verb == "start":
        start(rest)
    elif verb == "work":
        work(json.loads(rest[0]))
    elif verb == "status":
        status()
    elif verb == "collect":
        collect(rest)
    else:
        print(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
