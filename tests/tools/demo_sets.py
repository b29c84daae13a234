# SPDX-License-Identifier: Apache-2.0
"""Write the problem sets of the embedded model, `trl_concise/demo/sets/*.jsonl`: `python -m tests.tools.demo_sets`."""

from __future__ import annotations

import json
from pathlib import Path

from trl_concise.demo import generate_problems
from trl_concise.demo.axes import generate_axes
from trl_concise.demo.beyond import generate_beyond
from trl_concise.demo.problems import SETS


BEYOND = 256  # problems
OMEGA = 24  # problems of each level
OTHERS = {
    "beyond": lambda: generate_beyond(BEYOND),
    "omega": lambda: [row for part in ("test_in", "test_out") for row in generate_axes(OMEGA, part=part)],
}
FOLDER = Path(__file__).parents[2] / "trl_concise" / "demo" / "sets"


def content(name: str) -> str:
    """Return what the file of a set must contain."""
    rows = OTHERS[name]() if name in OTHERS else generate_problems(**SETS[name])
    return "".join(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in (*SETS, *OTHERS):
        (FOLDER / f"{name}.jsonl").write_text(content(name), encoding="utf-8")
