# SPDX-License-Identifier: Apache-2.0
"""Write the problem sets of the embedded model, `trl_concise/demo/sets/*.jsonl`: `python -m tests.tools.demo_sets`."""

from __future__ import annotations

import json
from pathlib import Path

from trl_concise.demo import generate_problems
from trl_concise.demo.beyond import generate_beyond
from trl_concise.demo.problems import SETS


BEYOND = 256  # problems
FOLDER = Path(__file__).parents[2] / "trl_concise" / "demo" / "sets"


def content(name: str) -> str:
    """Return what the file of a set must contain."""
    rows = generate_beyond(BEYOND) if name == "beyond" else generate_problems(**SETS[name])
    return "".join(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in (*SETS, "beyond"):
        (FOLDER / f"{name}.jsonl").write_text(content(name), encoding="utf-8")
