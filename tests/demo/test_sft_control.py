# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys

from trl_concise.demo import report, sft_control


def test_the_shipped_results_do_not_change(tmp_path, monkeypatch):
    shipped = report.SFT_CONTROL.read_bytes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sft_control, "EPOCHS", 1)
    monkeypatch.setattr(sft_control, "EVALUATION_PROBLEMS", 2)
    monkeypatch.setattr(sys, "argv", ["sft_control", "--problems", "8", "--seeds", "0"])
    sft_control.main()
    measured = json.loads(sft_control.OUTPUT.read_text())
    assert measured["command"].endswith("--problems 8") and len(measured["runs"]) == 1
    assert report.SFT_CONTROL.read_bytes() == shipped
