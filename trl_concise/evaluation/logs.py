# SPDX-License-Identifier: Apache-2.0
"""The log that a training has left in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


TRAINER_STATE = "trainer_state.json"


def read_log_history(run: Path) -> list[dict[str, Any]]:
    """Return the log of a run: of its folder, else of its latest checkpoint, else nothing."""
    found = (
        (path.parent.name.removeprefix("checkpoint-"), path) for path in run.glob(f"checkpoint-*/{TRAINER_STATE}")
    )
    states = [path for _, path in sorted((int(step), path) for step, path in found if step.isdecimal())]
    path = run / TRAINER_STATE
    if not path.is_file():
        if not states:
            return []
        path = states[-1]
    return json.loads(path.read_text(encoding="utf-8"))["log_history"]
