# SPDX-License-Identifier: Apache-2.0
"""The `trl-concise` command, and the base of the training scripts."""

from __future__ import annotations

from .commands import main


__all__ = ["main"]
