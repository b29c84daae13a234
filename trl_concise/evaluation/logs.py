# SPDX-License-Identifier: Apache-2.0
"""The log that a training has left in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


TRAINER_STATE = "trainer_state.json"


def read_log_history(run: Path) -> list[dict[str, Any]]:
    """Return the log of a run: of its folder, else of its latest checkpoint, else nothing."""
    states = sorted(run.glob(f"checkpoint-*/{TRAINER_STATE}"), key=lambda path: int(path.parent.name.split("-")[-1]))
    path = run / TRAINER_STATE
    if not path.is_file():
        if not states:
            return []
        path = states[-1]
    return json.loads(path.read_text(encoding="utf-8"))["log_history"]
