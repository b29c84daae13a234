# SPDX-License-Identifier: Apache-2.0
"""The `trl-concise` command, and what training scripts share."""

from __future__ import annotations

from .commands import main


__all__ = ["main"]
