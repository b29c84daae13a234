# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

from trl_concise.evaluation.measurements import run_names


def test_names_are_as_short_as_possible_but_distinct():
    folders = [Path("/out", *name.split("/")) for name in ("a/x/hapo", "b/x/hapo", "b/y/hapo", "laser")]
    assert run_names(folders) == ["a/x/hapo", "b/x/hapo", "y/hapo", "laser"]
