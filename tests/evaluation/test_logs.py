# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys

from trl_concise.evaluation.logs import TRAINER_STATE, read_log_history


def test_the_log_is_the_folders_else_that_of_the_latest_checkpoint(tmp_path):
    assert read_log_history(tmp_path) == []
    for name in ("checkpoint-best", "checkpoint-1-copy"):  # somebody's copies
        (tmp_path / name).mkdir()
        (tmp_path / name / TRAINER_STATE).write_text(json.dumps({"log_history": [{"step": 99}]}))
    assert read_log_history(tmp_path) == []
    for place, step in (("checkpoint-9", 9), ("checkpoint-10", 10), (".", 12)):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / TRAINER_STATE).write_text(json.dumps({"log_history": [{"step": step}]}))
        assert read_log_history(tmp_path) == [{"step": step}]


def test_a_report_needs_nothing_of_the_hub():
    script = (
        "import sys, trl_concise.evaluation.report; print([name for name in sys.modules if '_concise.hub' in name])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
