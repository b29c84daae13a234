# SPDX-License-Identifier: Apache-2.0
"""
Problems that differ from the training problems of the embedded model in one known way, along the three axes of OMEGA.

Exploratory: more operations, larger operands or larger results. Compositional: two skills in one problem. Transformative: another idea than
step-by-step calculation gives the answer.

Source: Sun et al., "OMEGA: Can LLMs Reason Outside the Box in Math?" (arXiv 2506.18880): the axes. The settings for the embedded model are this
package's.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from .problems import OPERATIONS, Problem, draw_problem, problem_digest, split_of, write_expression


PARTS = ("train", "test_in", "test_out")
MIXED_RANGE = 999  # multiplication alone has too few problems within 99
PAIRS = 3  # pairs of operations that cancel each other
MOST = 64  # problems of a level

Row = tuple[str, int]  # text and answer


class Level(NamedTuple):
    """How problems of one level are drawn; `draw` returns `None` for a problem of another level or setting."""

    name: str
    draw: Callable[[random.Random], Row | None]


def generate_axes(n: int, seed: int = 0, part: str = "test_in") -> list[dict[str, str]]:
    """
    Generate distinct problems of every setting.

    No text is in two parts or two settings. The problems of `train` and `test_in` are of the same levels.

    Args:
        n (`int`): Problems of each level, at most 64.
        seed (`int`, *optional*, defaults to `0`): Seed. A longer list of a level begins with the shorter one.
        part (`str`, *optional*, defaults to `"test_in"`): `"train"`, `"test_in"` or `"test_out"`.

    Returns:
        `list[dict[str, str]]`: As [`generate_problems`] returns, with `axis`, `setting`, `level` and `part` in addition.

    Raises:
        `ValueError`: If `part` is unknown, or `n` is out of range.

    Examples:
        >>> [row["problem"] for row in generate_axes(1, part="test_out") if row["axis"] == "transformative"]
        ['What is 19 + 8 - 8 + 4 - 4 + 4 - 4 - 3?', 'What is (10 - 6 - 3) * 0 + 3?']
    """
    if part not in PARTS:
        raise ValueError(f"Unknown part {part!r}: choose one of {', '.join(map(repr, PARTS))}.")
    if not 0 <= n <= MOST:
        raise ValueError(f"n must be between 0 and {MOST}, got {n}.")
    rows = []
    for (axis, setting), (inside, outside) in SETTINGS.items():
        for level in outside if part == "test_out" else inside:
            for text, answer in _draw_distinct(n, f"axes {setting} {level.name} {part} {seed}", part, level):
                row = {"prompt_id": problem_digest(text), "problem": text, "answer": str(answer)}
                rows.append(row | {"axis": axis, "setting": setting, "level": level.name, "part": part})
    return rows


def _draw_distinct(n: int, seed: str, part: str, level: Level) -> list[Row]:
    rng = random.Random(seed)
    split = "train" if part == "train" else "test"
    found: dict[str, Row] = {}
    while len(found) < n:
        row = level.draw(rng)
        if row is not None and row[0] not in found and split_of(row[0]) == split:
            found[row[0]] = row
    return list(found.values())


def setting_of(text: str) -> str:
    """Return the setting of a plain problem of two or three operations, by the digest of its text: half of them `mixed`, which has the fewest."""
    names = [setting for _, setting in SETTINGS]
    others = [name for name in names if name != "mixed"]
    bucket = int(problem_digest(text), 16) // 10 % (2 * len(others))
    return others[bucket] if bucket < len(others) else "mixed"


def _plain(
    setting: str,
    name: str,
    lengths: tuple[int, ...] = OPERATIONS,
    wanted: Callable[[Problem], bool] = lambda problem: True,
    **limits: Any,
) -> Level:
    def draw(rng: random.Random) -> Row | None:
        problem = draw_problem(rng, lengths, **limits)
        text = problem.text
        shared = len(problem.operations) in OPERATIONS  # by several settings
        if not wanted(problem) or (shared and setting_of(text) != setting):
            return None
        return text, problem.results[-1]

    return Level(name, draw)


def _largest(problem: Problem) -> int:
    return max(problem.start, *problem.results)


def _is_mixed(problem: Problem) -> bool:
    operators = {operator for operator, _ in problem.operations}
    return "*" in operators and len(operators) > 1


def draw_chain(rng: random.Random) -> Row:
    """Draw a problem whose first result has a name: `Let n = 36 * 2. What is n - 3?`."""
    problem = draw_problem(rng)
    at = rng.randint(1, len(problem.operations) - 1)
    first = write_expression(str(problem.start), problem.operations[:at])
    return f"Let n = {first}. What is {write_expression('n', problem.operations[at:])}?", problem.results[-1]


def draw_larger(rng: random.Random) -> Row | None:
    """Draw a comparison of two results: `What is the larger of 80 + 7 and 19 * 5?`."""
    pair = [draw_problem(rng, (1,)) for _ in range(2)]
    results = [problem.results[-1] for problem in pair]
    if results[0] == results[1]:
        return None
    return f"What is the larger of {pair[0].expression} and {pair[1].expression}?", max(results)


def draw_cancel(rng: random.Random) -> Row | None:
    """Draw a chain whose operations cancel each other, but the last one: `What is 55 + 8 - 8 + 4 - 4 + 2 - 2 + 4?`."""
    last = draw_problem(rng, (1,), operators="+-")
    operations: list[tuple[str, int]] = []
    for _ in range(PAIRS):
        operand = rng.randint(2, 9)
        if last.start + operand > 99:
            return None
        operations += [("+", operand), ("-", operand)]
    problem = Problem(last.start, (*operations, *last.operations))
    return problem.text, problem.results[-1]


def draw_zero(rng: random.Random) -> Row:
    """Draw a chain that is multiplied by 0: `What is (6 * 2 - 3) * 0 + 5?`."""
    head = draw_problem(rng)
    problem = Problem(head.start, (*head.operations, ("*", 0), ("+", rng.randint(2, 9))))
    return problem.text, problem.results[-1]


def _single(setting: str) -> list[Level]:
    return [_plain(setting, "single")]


SETTINGS: dict[tuple[str, str], tuple[list[Level], list[Level]]] = {  # levels of train and test_in, and of test_out
    ("exploratory", "ops"): (
        [_plain("ops", f"{count} operations", (count,)) for count in OPERATIONS],
        [_plain("ops", f"{count} operation{'s' * (count > 1)}", (count,)) for count in (1, 4, 5, 6)],
    ),
    ("exploratory", "operand"): (
        [_plain("operand", "to 9")],
        [
            _plain(
                *("operand", "to 19"),
                wanted=lambda problem: max(operand for _, operand in problem.operations) > 9,
                largest_operand=19,
            )
        ],
    ),
    ("exploratory", "range"): (
        [_plain("range", "to 99")],
        [
            _plain("range", "to 199", wanted=lambda problem: _largest(problem) > 99, largest_result=199),
            _plain("range", "to 999", wanted=lambda problem: _largest(problem) > 199, largest_result=999),
        ],
    ),
    ("compositional", "mixed"): (
        [
            _plain("mixed", "+ and -", largest_result=MIXED_RANGE, operators="+-"),
            _plain("mixed", "*", largest_result=MIXED_RANGE, operators="*"),
        ],
        [_plain("mixed", "both", wanted=_is_mixed, largest_result=MIXED_RANGE)],
    ),
    ("compositional", "chain"): (_single("chain"), [Level("chain", draw_chain)]),
    ("compositional", "larger"): (_single("larger"), [Level("larger", draw_larger)]),
    ("transformative", "cancel"): (_single("cancel"), [Level(f"{PAIRS} pairs", draw_cancel)]),
    ("transformative", "zero"): (_single("zero"), [Level("times 0", draw_zero)]),
}
