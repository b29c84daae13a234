# SPDX-License-Identifier: Apache-2.0
"""Code problems with verified tests: inputs from a generator and a validator, outputs from the agreement of candidates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.files import write_rows
from ..state.checkpoint import write_atomically
from .execution import Limits, run_python
from .execution.process import warn_once
from .rstar_coder import (
    HARD_RATING,
    HARD_THRESHOLD,
    THRESHOLD,
    label_outputs,
    run_candidates,
)


LEAST_INPUTS = 50
MAX_INPUT_BYTES = 1 << 20
MAX_INPUTS = 200
LARGEST_POWER = 5  # scales are powers of ten, from 1 to 100,000
REASONS = ("too few inputs", "no agreement", "tie", "empty outputs", "all failed", "unavailable")
VERIFIED, REJECTED, SUMMARY = "verified.jsonl", "rejected.jsonl", "summary.json"

# Calls the generator for each combination of scales, smallest first, and writes the inputs that the validator accepts. What both print is discarded.
_GENERATE = """\
import inspect, itertools, json, os, random, sys
kept = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
names = [{{"__name__": "generator"}}, {{"__name__": "validator"}}]
for space, source in zip(names, {sources!r}):
    exec(compile(source, "<" + space["__name__"] + ">", "exec"), space)
generate, validate = names[0]["generate"], names[1]["validate"]
scales = list(inspect.signature(generate).parameters)
vectors = sorted(itertools.islice(itertools.product(range({powers} + 1), repeat=len(scales)), 10000), key=sum)
seen, large = set(), 0
for attempt in range({attempts}):
    for vector in vectors:
        random.seed(repr((attempt, vector)))
        try:
            text = generate(**{{name: 10 ** power for name, power in zip(scales, vector)}})
            if not isinstance(text, str) or text in seen or not validate(text):
                continue
        except Exception:
            continue
        if len(text.encode()) > {largest}:
            large += 1
            continue
        seen.add(text)
        kept.write(json.dumps([text, large]) + chr(10))
        kept.flush()
        if len(seen) == {most}:
            sys.exit()
kept.write(json.dumps([None, large]) + chr(10))
kept.flush()
"""


@dataclass(frozen=True)
class GeneratedInputs:
    """
    Inputs of a problem.

    Attributes:
        inputs (`list[str]`): Distinct inputs that the validator accepts, smallest scales first.
        too_large (`int`): Inputs that were dropped because they have too many bytes.
        error (`str`): Why the generator ended early; empty if it did not.
    """

    inputs: list[str]
    too_large: int = 0
    error: str = ""


def generate_inputs(
    generator: str,
    validator: str,
    *,
    most: int = MAX_INPUTS,
    attempts: int = 10,
    max_input_bytes: int = MAX_INPUT_BYTES,
    timeout: float = 20.0,
) -> GeneratedInputs:
    """
    Generate inputs of a problem, in one limited process that is **not a security boundary**.

    The generator is called for all combinations of scales, each a power of ten from 1 to 100,000, with the same random numbers in every run. A call
    that raises is skipped.

    Args:
        generator (`str`): Python that defines `generate(**scales) -> str | None`. The names of its parameters are its scales.
        validator (`str`): Python that defines `validate(text) -> bool`.
        most (`int`, *optional*, defaults to `200`): Inputs after which it ends.
        attempts (`int`, *optional*, defaults to `10`): Calls per combination, with other random numbers.
        max_input_bytes (`int`, *optional*, defaults to `1048576`): Larger inputs are dropped and counted.
        timeout (`float`, *optional*, defaults to `20.0`): Seconds for all calls; what was written until then is used.

    Raises:
        `ValueError`: If a number is below 1, or one of the functions is not defined.
    """
    for name, value in {"most": most, "attempts": attempts, "max_input_bytes": max_input_bytes}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    _check_sources(generator, validator)
    warn_once()
    program = _GENERATE.format(
        sources=[generator, validator], powers=LARGEST_POWER, attempts=attempts, largest=max_input_bytes, most=most
    )
    room = 64 << 20
    done = run_python(program, limits=Limits(wall=timeout, file_mb=64, output_bytes=room), hash_seed=0)
    inputs: list[str] = []
    large = 0
    for line in done.stdout.splitlines():
        try:
            text, large = json.loads(line)
        except ValueError:
            break  # the process was killed while it wrote
        inputs += [text] if text is not None else []
    last = done.stderr.strip().splitlines()[-1:]
    return GeneratedInputs(inputs, large, "" if done.status == "ok" else " ".join([done.status, *last]))


def _check_sources(generator: str, validator: str) -> None:
    for source, name in ((generator, "generate"), (validator, "validate")):
        if f"def {name}(" not in source:
            raise ValueError(
                f"The source {source[:80]!r} does not define the function {name!r}. Define it with `def {name}(...)`."
            )


def build_code_problems(
    problems: Sequence[Mapping[str, Any]],
    output_dir: str | Path | None = None,
    *,
    least_inputs: int = LEAST_INPUTS,
    threshold: float = THRESHOLD,
    hard_threshold: float = HARD_THRESHOLD,
    limits: Limits | None = None,
    workers: int | None = None,
    **generation: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """
    Build code problems with tests. Code runs in limited processes only, which are **not a security boundary**.

    Args:
        problems (`Sequence[Mapping]`):
            Rows with `prompt`, `generator`, `validator` and `candidates` (at least two Python programs), and optionally `rating` (above 1600
            the problem is hard) and `solution`, a trusted program whose outputs are then the labels; it needs no candidates.
        output_dir (`str` or `Path`, *optional*):
            Where `verified.jsonl`, `rejected.jsonl` and `summary.json` are written.
        least_inputs (`int`, *optional*, defaults to `50`): Inputs without which a problem is rejected.
        threshold, hard_threshold (`float`, *optional*, default to `0.6` and `0.4`): See [`needed`].
        limits ([`Limits`], *optional*): Of each run.
        workers (`int`, *optional*): Runs at a time.
        **generation: Options of [`generate_inputs`].

    Returns:
        `tuple`: Verified rows (`prompt`, `tests`, `solution`, `share`), rejected rows (`prompt`, `reason`), and the summary: problems, verified,
        constant tests, dropped inputs, and rejected by reason.

    Raises:
        `ValueError`: If a row lacks a part, which is checked before anything runs, or as by the functions above.
    """
    for i, row in enumerate(problems):  # before anything runs
        if missing := [name for name in ("prompt", "generator", "validator") if not row.get(name)]:
            raise ValueError(f"Row {i} of the problems has no {', '.join(missing)}. Each problem needs all of them.")
        if len(row.get("candidates") or []) < 2 and not row.get("solution"):
            raise ValueError(
                f"Row {i} of the problems has {len(row.get('candidates') or [])} candidates. Give at least 2, or a trusted solution."
            )
        _check_sources(row["generator"], row["validator"])
    verified: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    dropped = constant = 0
    for row in problems:
        found = generate_inputs(row["generator"], row["validator"], **generation)
        dropped += found.too_large
        if len(found.inputs) < least_inputs:
            rejected.append({"prompt": row["prompt"], "reason": "too few inputs", "inputs": len(found.inputs)})
            continue
        share = None
        if len(row.get("candidates") or []) >= 2:
            is_hard = (row.get("rating") or 0) > HARD_RATING
            own = hard_threshold if is_hard else threshold
            agreed = label_outputs(row["candidates"], found.inputs, own, limits=limits, workers=workers)
            labels, reason, share = agreed.labels, agreed.reason, agreed.share
            solution = row["candidates"][agreed.kept] if agreed.kept is not None else None
        if row.get("solution"):
            labels, reason = _trusted_labels(row["solution"], found.inputs, limits, workers)
            solution = row["solution"]
        if reason != "accepted":
            rejected.append({"prompt": row["prompt"], "reason": reason, "share": share})
            continue
        constant += len(set(labels)) == 1 < len(labels)
        tests = [{"input": given, "output": label} for given, label in zip(found.inputs, labels, strict=True)]
        verified.append({"prompt": row["prompt"], "tests": tests, "solution": solution, "share": share})
    counts = Counter(row["reason"] for row in rejected)
    summary = {
        "problems": len(problems),
        "verified": len(verified),
        "constant": constant,
        "too_large_inputs": dropped,
        "rejected": {reason: counts[reason] for reason in REASONS},
    }
    if output_dir is not None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(verified, folder / VERIFIED)
        write_rows(rejected, folder / REJECTED)
        write_atomically(folder / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
    return verified, rejected, summary


def _trusted_labels(
    solution: str, inputs: Sequence[str], limits: Limits | None, workers: int | None
) -> tuple[list[str], str]:
    """Return the outputs of a trusted solution, and `"accepted"` or the reason against them."""
    (found,) = run_candidates([solution], inputs, limits=limits, workers=workers)
    labels = [output for output in found.outputs if output is not None]
    if len(labels) < len(inputs):
        return [], "unavailable" if found.unavailable else "all failed"
    return (labels, "accepted") if any(labels) else ([], "empty outputs")
